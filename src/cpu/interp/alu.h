#ifndef AEROSTAT_CPU_INTERP_ALU_H
#define AEROSTAT_CPU_INTERP_ALU_H

/* The two-operand arithmetic and logic operations, on values. */

#include "cpu/interp/flags.h"
#include "cpu/interp/interp.h"

enum alu_op {
    ALU_ADD,
    ALU_OR,
    ALU_ADC,
    ALU_SBB,
    ALU_AND,
    ALU_SUB,
    ALU_XOR,
    ALU_CMP,
    ALU_TEST,
    ALU_OPS
};

#define ALU_ASM(before, name, suffix, mod)                                                         \
    __asm__(before name suffix " %" mod "[src], %" mod "[dst]" FLAGS_SAVE                          \
            : [dst] "+r"(dst), "=&a"(packed)                                                       \
            : [src] "r"(src), [flags] "r"(*flags)                                                  \
            : "cc")

#define ALU_SIZES(before, name)                                                                    \
    do {                                                                                           \
        if (size == 1)                                                                             \
            ALU_ASM(before, name, "b", "b");                                                       \
        else if (size == 2)                                                                        \
            ALU_ASM(before, name, "w", "w");                                                       \
        else if (size == 4)                                                                        \
            ALU_ASM(before, name, "l", "k");                                                       \
        else                                                                                       \
            ALU_ASM(before, name, "q", "q");                                                       \
    } while (0)

#define CARRY_IN "btl $0, %k[flags]\n\t"

/* The whole 64-bit destination register after the operation: the host keeps or clears the upper
 * part just as the guest's CPU would. */
static ALWAYS_INLINE uint64_t alu_compute(enum alu_op op, unsigned size, uint64_t dst, uint64_t src,
                                          uint64_t *flags)
{
    uint16_t packed;
    switch (op) {
    case ALU_ADD:
        ALU_SIZES("", "add");
        break;
    case ALU_OR:
        ALU_SIZES("", "or");
        break;
    case ALU_ADC:
        ALU_SIZES(CARRY_IN, "adc");
        break;
    case ALU_SBB:
        ALU_SIZES(CARRY_IN, "sbb");
        break;
    case ALU_AND:
        ALU_SIZES("", "and");
        break;
    case ALU_SUB:
        ALU_SIZES("", "sub");
        break;
    case ALU_XOR:
        ALU_SIZES("", "xor");
        break;
    case ALU_CMP:
        ALU_SIZES("", "cmp");
        break;
    default:
        ALU_SIZES("", "test");
        break;
    }
    *flags = flags_unpack(*flags, packed);
    return dst;
}

#endif
