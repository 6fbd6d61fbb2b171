#ifndef AEROSTAT_CPU_TRANSLATE_PLAN_H
#define AEROSTAT_CPU_TRANSLATE_PLAN_H

/*
 * How an integer instruction is encoded on the host: opcode, which operand is the r/m and which the
 * reg field, what it does to either and to the flags.
 */

#include "cpu/translate/context.h"

enum plan_effect {
    RM_READ = 1 << 0,
    RM_WRITE = 1 << 1,
    REG_READ = 1 << 2,
    REG_WRITE = 1 << 3,
    FLAGS_READ = 1 << 4,
    FLAGS_WRITE = 1 << 5,
    FLAGS_KEEP = 1 << 6, /* writes some, or perhaps none: keeps the others */
    ATOMIC = 1 << 7,     /* must not be split: aligned operands only */
    SWAPS = 1 << 8,    /* r/m and reg of two registers may change places: opcode ^ PLAN_SWAP_BIT */
    COMMUTES = 1 << 9, /* the same, opcode as it is */
};

#define NO_OPERAND    0xff
#define PLAN_SWAP_BIT 2u

struct plan {
    uint32_t opcode;
    unsigned flags;    /* enum emit_flags */
    unsigned effects;  /* enum plan_effect */
    uint8_t rm, reg;   /* operand numbers, or NO_OPERAND */
    uint8_t extension; /* in the reg field where reg is NO_OPERAND */
    uint8_t immediate_size;
};

/* False: the handler's, or not one that fits in here. */
bool integer_plan(struct plan *p, const struct insn *insn);

/* high.c: the registers AH to BH. */
bool high_is_inline(const struct insn *insn);
enum flags_need high_need(const struct insn *insn);
void high_emit(struct context *c);

static inline bool is_gpr(const struct insn *insn, unsigned n)
{
    return insn->op[n].kind == OPERAND_GPR;
}

static inline bool is_memory(const struct insn *insn, unsigned n)
{
    return insn->op[n].kind == OPERAND_MEMORY;
}

static inline bool is_immediate(const struct insn *insn, unsigned n)
{
    return insn->op[n].kind == OPERAND_IMMEDIATE;
}

#endif
