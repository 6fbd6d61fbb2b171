/*
 * ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT.
 *
 * One template, made into a function for every operation, size and operand form: constants fold,
 * and what is left of each is a handful of instructions. alu_bind picks one when decoding.
 */

#include <Zydis/Zydis.h>

#include "cpu/interp/alu.h"
#include "cpu/interp/rmw.h"

enum alu_form {
    FORM_REG_REG,
    FORM_REG_IMM,
    FORM_REG_MEM,
    FORM_MEM_REG,
    FORM_MEM_IMM,
    FORM_HIGH, /* a byte form with AH, CH, DH or BH in it */
    ALU_FORMS
};

static ALWAYS_INLINE void alu_memory(struct vcpu *vcpu, const struct insn *insn, enum alu_op op,
                                     unsigned size, uint64_t src)
{
    uint64_t flags = vcpu->rflags;
    if (op == ALU_CMP || op == ALU_TEST) {
        uint64_t dst =
            access_load(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), size);
        alu_compute(op, size, dst, src, &flags);
    } else {
        struct rmw rmw = rmw_begin(vcpu, insn, size);
        uint64_t result;
        do {
            flags = vcpu->rflags;
            result = alu_compute(op, size, rmw.old, src, &flags);
        } while (!rmw_commit(vcpu, &rmw, size, result, insn->prefixes & INSN_LOCK));
    }
    vcpu->rflags = flags;
}

static ALWAYS_INLINE void alu_run(struct vcpu *vcpu, const struct insn *insn, enum alu_op op,
                                  unsigned size, enum alu_form form)
{
    bool writes = op != ALU_CMP && op != ALU_TEST;
    uint64_t src;
    if (form == FORM_REG_REG || form == FORM_MEM_REG)
        src = vcpu->gpr[insn->op[1].reg];
    else if (form == FORM_REG_MEM)
        src = access_load(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), size);
    else if (form == FORM_HIGH)
        src = insn_read(vcpu, insn, 1);
    else
        src = insn->immediate;

    if (form == FORM_MEM_REG || form == FORM_MEM_IMM ||
        (form == FORM_HIGH && insn->op[0].kind == OPERAND_MEMORY)) {
        alu_memory(vcpu, insn, op, size, src);
    } else if (form == FORM_HIGH) {
        uint64_t result = alu_compute(op, size, insn_read(vcpu, insn, 0), src, &vcpu->rflags);
        if (writes)
            insn_write(vcpu, insn, 0, result);
    } else {
        uint64_t *dst = &vcpu->gpr[insn->op[0].reg];
        uint64_t result = alu_compute(op, size, *dst, src, &vcpu->rflags);
        if (writes)
            *dst = result;
    }
}

#define ALU_DEFINE(name, op, size, form)                                                           \
    static void alu_##name##_##size##_##form(struct vcpu *vcpu, const struct insn *insn)           \
    {                                                                                              \
        alu_run(vcpu, insn, op, size, form);                                                       \
    }
#define ALU_DEFINE_FORMS(name, op, size)                                                           \
    ALU_DEFINE(name, op, size, FORM_REG_REG)                                                       \
    ALU_DEFINE(name, op, size, FORM_REG_IMM)                                                       \
    ALU_DEFINE(name, op, size, FORM_REG_MEM)                                                       \
    ALU_DEFINE(name, op, size, FORM_MEM_REG)                                                       \
    ALU_DEFINE(name, op, size, FORM_MEM_IMM)
#define ALU_DEFINE_OP(name, op)                                                                    \
    ALU_DEFINE_FORMS(name, op, 1)                                                                  \
    ALU_DEFINE(name, op, 1, FORM_HIGH)                                                             \
    ALU_DEFINE_FORMS(name, op, 2)                                                                  \
    ALU_DEFINE_FORMS(name, op, 4)                                                                  \
    ALU_DEFINE_FORMS(name, op, 8)

ALU_DEFINE_OP(add, ALU_ADD)
ALU_DEFINE_OP(or, ALU_OR)
ALU_DEFINE_OP(adc, ALU_ADC)
ALU_DEFINE_OP(sbb, ALU_SBB)
ALU_DEFINE_OP(and, ALU_AND)
ALU_DEFINE_OP(sub, ALU_SUB)
ALU_DEFINE_OP(xor, ALU_XOR)
ALU_DEFINE_OP(cmp, ALU_CMP)
ALU_DEFINE_OP(test, ALU_TEST)

#define ALU_ROW(name, size)                                                                        \
    alu_##name##_##size##_FORM_REG_REG, alu_##name##_##size##_FORM_REG_IMM,                        \
        alu_##name##_##size##_FORM_REG_MEM, alu_##name##_##size##_FORM_MEM_REG,                    \
        alu_##name##_##size##_FORM_MEM_IMM
#define ALU_ROWS(name)                                                                             \
    {                                                                                              \
        {ALU_ROW(name, 1), alu_##name##_1_FORM_HIGH}, {ALU_ROW(name, 2), NULL},                    \
            {ALU_ROW(name, 4), NULL},                                                              \
        {                                                                                          \
            ALU_ROW(name, 8), NULL                                                                 \
        }                                                                                          \
    }

static insn_fn *const alu_table[ALU_OPS][4][ALU_FORMS] = {
    ALU_ROWS(add), ALU_ROWS(or),  ALU_ROWS(adc), ALU_ROWS(sbb),  ALU_ROWS(and),
    ALU_ROWS(sub), ALU_ROWS(xor), ALU_ROWS(cmp), ALU_ROWS(test),
};

static enum alu_op alu_op_of(unsigned mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
        return ALU_ADD;
    case ZYDIS_MNEMONIC_OR:
        return ALU_OR;
    case ZYDIS_MNEMONIC_ADC:
        return ALU_ADC;
    case ZYDIS_MNEMONIC_SBB:
        return ALU_SBB;
    case ZYDIS_MNEMONIC_AND:
        return ALU_AND;
    case ZYDIS_MNEMONIC_SUB:
        return ALU_SUB;
    case ZYDIS_MNEMONIC_XOR:
        return ALU_XOR;
    case ZYDIS_MNEMONIC_CMP:
        return ALU_CMP;
    default:
        return ALU_TEST;
    }
}

insn_fn *alu_bind(const struct insn *insn)
{
    enum operand_kind dst = (enum operand_kind)insn->op[0].kind;
    enum operand_kind src = (enum operand_kind)insn->op[1].kind;
    enum alu_form form;
    if (dst == OPERAND_GPR_HIGH || src == OPERAND_GPR_HIGH)
        form = FORM_HIGH;
    else if (dst == OPERAND_MEMORY)
        form = src == OPERAND_IMMEDIATE ? FORM_MEM_IMM : FORM_MEM_REG;
    else if (src == OPERAND_MEMORY)
        form = FORM_REG_MEM;
    else
        form = src == OPERAND_IMMEDIATE ? FORM_REG_IMM : FORM_REG_REG;
    unsigned size_index = (unsigned)__builtin_ctz(insn->op[0].size);
    return alu_table[alu_op_of(insn->mnemonic)][size_index][form];
}

void exec_alu(struct vcpu *vcpu, const struct insn *insn)
{
    alu_bind(insn)(vcpu, insn);
}

/* ------------------------------------------------------------------------- one operand */

enum unary_op { UNARY_INC, UNARY_DEC, UNARY_NEG, UNARY_NOT, UNARY_OPS };

/* All flags go in, because INC and DEC keep CF and NOT keeps everything. */
#define UNARY_ASM(name, suffix, mod)                                                               \
    __asm__(FLAGS_LOAD name suffix " %" mod "[dst]" FLAGS_SAVE                                     \
            : [dst] "+r"(dst), "+&a"(packed)                                                       \
            :                                                                                      \
            : "cc")

#define UNARY_SIZES(name)                                                                          \
    do {                                                                                           \
        if (size == 1)                                                                             \
            UNARY_ASM(name, "b", "b");                                                             \
        else if (size == 2)                                                                        \
            UNARY_ASM(name, "w", "w");                                                             \
        else if (size == 4)                                                                        \
            UNARY_ASM(name, "l", "k");                                                             \
        else                                                                                       \
            UNARY_ASM(name, "q", "q");                                                             \
    } while (0)

static ALWAYS_INLINE uint64_t unary_compute(enum unary_op op, unsigned size, uint64_t dst,
                                            uint64_t *flags)
{
    uint16_t packed = flags_pack(*flags);
    switch (op) {
    case UNARY_INC:
        UNARY_SIZES("inc");
        break;
    case UNARY_DEC:
        UNARY_SIZES("dec");
        break;
    case UNARY_NEG:
        UNARY_SIZES("neg");
        break;
    default:
        UNARY_SIZES("not");
        break;
    }
    *flags = flags_unpack(*flags, packed);
    return dst;
}

enum unary_form { UNARY_REG, UNARY_ANY, UNARY_FORMS };

static ALWAYS_INLINE void unary_run(struct vcpu *vcpu, const struct insn *insn, enum unary_op op,
                                    unsigned size, enum unary_form form)
{
    if (form == UNARY_REG) {
        uint64_t *dst = &vcpu->gpr[insn->op[0].reg];
        *dst = unary_compute(op, size, *dst, &vcpu->rflags);
    } else if (insn->op[0].kind == OPERAND_MEMORY) {
        struct rmw rmw = rmw_begin(vcpu, insn, size);
        uint64_t result, flags;
        do {
            flags = vcpu->rflags;
            result = unary_compute(op, size, rmw.old, &flags);
        } while (!rmw_commit(vcpu, &rmw, size, result, insn->prefixes & INSN_LOCK));
        vcpu->rflags = flags;
    } else {
        uint64_t value = insn_read(vcpu, insn, 0);
        insn_write(vcpu, insn, 0, unary_compute(op, size, value, &vcpu->rflags));
    }
}

#define UNARY_DEFINE(name, op, size)                                                               \
    static void unary_##name##_##size##_reg(struct vcpu *vcpu, const struct insn *insn)            \
    {                                                                                              \
        unary_run(vcpu, insn, op, size, UNARY_REG);                                                \
    }                                                                                              \
    static void unary_##name##_##size##_any(struct vcpu *vcpu, const struct insn *insn)            \
    {                                                                                              \
        unary_run(vcpu, insn, op, size, UNARY_ANY);                                                \
    }
#define UNARY_DEFINE_OP(name, op)                                                                  \
    UNARY_DEFINE(name, op, 1)                                                                      \
    UNARY_DEFINE(name, op, 2)                                                                      \
    UNARY_DEFINE(name, op, 4)                                                                      \
    UNARY_DEFINE(name, op, 8)

UNARY_DEFINE_OP(inc, UNARY_INC)
UNARY_DEFINE_OP(dec, UNARY_DEC)
UNARY_DEFINE_OP(neg, UNARY_NEG)
UNARY_DEFINE_OP(invert, UNARY_NOT)

#define UNARY_ROW(name, size)                                                                      \
    {                                                                                              \
        unary_##name##_##size##_reg, unary_##name##_##size##_any                                   \
    }
#define UNARY_ROWS(name)                                                                           \
    {                                                                                              \
        UNARY_ROW(name, 1), UNARY_ROW(name, 2), UNARY_ROW(name, 4), UNARY_ROW(name, 8)             \
    }

static insn_fn *const unary_table[UNARY_OPS][4][UNARY_FORMS] = {
    UNARY_ROWS(inc),
    UNARY_ROWS(dec),
    UNARY_ROWS(neg),
    UNARY_ROWS(invert),
};

insn_fn *unary_bind(const struct insn *insn)
{
    enum unary_op op = insn->mnemonic == ZYDIS_MNEMONIC_INC   ? UNARY_INC
                       : insn->mnemonic == ZYDIS_MNEMONIC_DEC ? UNARY_DEC
                       : insn->mnemonic == ZYDIS_MNEMONIC_NEG ? UNARY_NEG
                                                              : UNARY_NOT;
    unsigned size_index = (unsigned)__builtin_ctz(insn->op[0].size);
    return unary_table[op][size_index][insn->op[0].kind == OPERAND_GPR ? UNARY_REG : UNARY_ANY];
}

void exec_unary(struct vcpu *vcpu, const struct insn *insn)
{
    unary_bind(insn)(vcpu, insn);
}
