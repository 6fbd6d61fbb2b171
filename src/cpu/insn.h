#ifndef AEROSTAT_CPU_INSN_H
#define AEROSTAT_CPU_INSN_H

/*
 * A decoded instruction: Zydis has found out what it is, decode.c has turned that into this compact
 * form, and `exec` runs it.
 */

#include <stdbool.h>
#include <stdint.h>

#include "cpu/vcpu.h"

struct insn;
typedef void insn_fn(struct vcpu *vcpu, const struct insn *insn);

#define INSN_MAX_LENGTH   15
#define INSN_MAX_OPERANDS 4

enum operand_kind {
    OPERAND_NONE,
    OPERAND_GPR,      /* reg 0-15 */
    OPERAND_GPR_HIGH, /* AH, CH, DH, BH: reg 0-3 */
    OPERAND_SEGMENT,  /* reg: enum segment_register */
    OPERAND_CONTROL,  /* reg: CR number */
    OPERAND_DEBUG,    /* reg: DR number */
    OPERAND_MEMORY,   /* the instruction's one memory operand */
    OPERAND_IMMEDIATE,
    OPERAND_VECTOR, /* XMM/YMM/MMX/x87: reg is the number; only thunks use it */
};

struct operand {
    uint8_t kind;
    uint8_t reg;
    uint8_t size; /* bytes; immediates: the size they are extended to */
};

#define INSN_REG_NONE 0xff
#define INSN_REG_RIP  0x10 /* base: address of the next instruction */

enum insn_prefix { INSN_LOCK = 1, INSN_REP = 2, INSN_REPNE = 4 };

struct insn {
    insn_fn *exec;
    uint64_t immediate;   /* sign- or zero-extended as the instruction wants; branches: the
                             displacement, sign-extended; far pointers: the offset */
    int64_t displacement; /* of the memory operand; far pointers: the selector; ENTER: the level */
    const void *extra;    /* the handler's own: a thunk */
    uint16_t mnemonic;    /* ZydisMnemonic */
    uint8_t length;
    uint8_t operand_size;       /* 2, 4 or 8: effective; 1 for byte forms */
    uint8_t address_size;       /* 2, 4 or 8 */
    uint8_t prefixes;           /* enum insn_prefix */
    uint8_t base, index, scale; /* scale: 0-3, a shift */
    uint8_t seg;                /* effective segment of the memory operand */
    uint8_t condition;          /* Jcc, SETcc, CMOVcc: low four bits of the opcode */
    uint8_t operand_count;      /* explicit ones */
    struct operand op[INSN_MAX_OPERANDS];
};

/* One row of an owner's table: which handler runs a mnemonic. Tables end with a NULL exec. */
struct insn_handler {
    uint16_t mnemonic;
    insn_fn *exec;
    uint8_t flags; /* enum insn_handler_flags */
};

enum insn_handler_flags {
    INSN_ENDS_BLOCK = 1, /* branches, and what may change mode, mapping or interrupt state */
    INSN_LOCKABLE = 2,   /* LOCK is allowed with a memory destination; else #UD */
};

extern const struct insn_handler integer_handlers[]; /* cpu/interp */
extern const struct insn_handler system_handlers[];  /* cpu/system */
extern const struct insn_handler state_handlers[];   /* cpu/thunk: FXSAVE, XSAVE and family */

/* Effective address of the memory operand, truncated to the address size; without segment base. */
static inline uint64_t insn_address(const struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t address = (uint64_t)insn->displacement;
    if (insn->base < GPR_COUNT)
        address += vcpu->gpr[insn->base];
    else if (insn->base == INSN_REG_RIP)
        address += vcpu->rip + insn->length;
    if (insn->index < GPR_COUNT)
        address += vcpu->gpr[insn->index] << insn->scale;
    return insn->address_size == 8 ? address : bits_truncate(address, insn->address_size);
}

/* Registers by size: 32-bit writes clear the upper half, smaller ones keep the rest. */
static inline uint64_t insn_gpr_get(const struct vcpu *vcpu, unsigned reg, unsigned size)
{
    return bits_truncate(vcpu->gpr[reg], size);
}

static inline void insn_gpr_set(struct vcpu *vcpu, unsigned reg, unsigned size, uint64_t value)
{
    switch (size) {
    case 1:
        vcpu->gpr[reg] = (vcpu->gpr[reg] & ~(uint64_t)0xff) | (value & 0xff);
        break;
    case 2:
        vcpu->gpr[reg] = (vcpu->gpr[reg] & ~(uint64_t)0xffff) | (value & 0xffff);
        break;
    case 4:
        vcpu->gpr[reg] = (uint32_t)value;
        break;
    default:
        vcpu->gpr[reg] = value;
        break;
    }
}

/* Operand `n` as a zero-extended integer, and its counterpart. Defined in interp/operand.c. */
uint64_t insn_read(struct vcpu *vcpu, const struct insn *insn, unsigned n);
void insn_write(struct vcpu *vcpu, const struct insn *insn, unsigned n, uint64_t value);

/*
 * Decodes the instruction at `bytes` (`available` >= 1 of them readable) for the vCPU's current
 * code size and offered features, and chooses its handler. The result is self-contained.
 *   INSN_DECODED    done
 *   INSN_TRUNCATED  more bytes are needed than available (< 15)
 *   INSN_UNDEFINED  #UD when it is executed; *insn has an exec that raises it
 *   INSN_TOO_LONG   over 15 bytes: #GP; the same
 * *ends_block is set as the handler's flags say.
 */
enum insn_decode_result { INSN_DECODED, INSN_TRUNCATED, INSN_UNDEFINED, INSN_TOO_LONG };
enum insn_decode_result insn_decode(struct vcpu *vcpu, const uint8_t *bytes, unsigned available,
                                    struct insn *insn, bool *ends_block);

#endif
