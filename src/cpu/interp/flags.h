#ifndef AEROSTAT_CPU_INTERP_FLAGS_H
#define AEROSTAT_CPU_INTERP_FLAGS_H

/*
 * Status flags by the host CPU.
 *
 * A handler performs its operation with the same instruction on the host, and takes the flags that
 * the host leaves: LAHF and SETO bring all six of them into AX ("packed"), ADD and SAHF put them
 * back. So flags are exact even where the SDM leaves them undefined. PUSHF is not used: it costs
 * more, and writes below the stack pointer into the red zone.
 *
 *     uint16_t packed;
 *     __asm__("addl %k[src], %k[dst]" FLAGS_SAVE
 *             : [dst] "+r"(dst), "=&a"(packed) : [src] "r"(src) : "cc");
 *     vcpu->rflags = flags_unpack(vcpu->rflags, packed);
 */

#include "cpu/vcpu.h"

/* AL = OF, AH = SF ZF AF PF CF: from AX into the host's flags, and the way back. AL is spoilt by
 * the load, so the packed operand is always an output too. */
#define FLAGS_LOAD "addb $0x7f, %%al\n\tsahf\n\t"
#define FLAGS_SAVE "\n\tlahf\n\tseto %%al"

static inline uint16_t flags_pack(uint64_t rflags)
{
    return (uint16_t)((rflags & 0xff) << 8 | (rflags >> 11 & 1));
}

static inline uint64_t flags_unpack(uint64_t rflags, uint16_t packed)
{
    return (rflags & ~(uint64_t)FLAGS_STATUS) | (packed >> 8 & 0xd5u) | (packed & 1u) << 11;
}

/* The condition of Jcc, SETcc and CMOVcc: the low four bits of their opcodes (SDM vol. 2 B.1.4.7).
 */
static inline bool flags_condition(uint64_t rflags, unsigned condition)
{
    bool sign_differs = (rflags >> 7 & 1) != (rflags >> 11 & 1);
    bool holds;
    switch (condition >> 1) {
    case 0:
        holds = rflags & FLAG_OF;
        break;
    case 1:
        holds = rflags & FLAG_CF;
        break;
    case 2:
        holds = rflags & FLAG_ZF;
        break;
    case 3:
        holds = rflags & (FLAG_CF | FLAG_ZF);
        break;
    case 4:
        holds = rflags & FLAG_SF;
        break;
    case 5:
        holds = rflags & FLAG_PF;
        break;
    case 6:
        holds = sign_differs;
        break;
    default:
        holds = sign_differs || (rflags & FLAG_ZF);
        break;
    }
    return holds != (condition & 1);
}

#endif
