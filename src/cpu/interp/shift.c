/* SHL SHR SAR ROL ROR RCL RCR, SHLD SHRD. All flags go in, because a count of 0 keeps them. */

#include <Zydis/Zydis.h>

#include "cpu/interp/flags.h"
#include "cpu/interp/interp.h"
#include "cpu/interp/rmw.h"

enum shift_op {
    SHIFT_SHL,
    SHIFT_SHR,
    SHIFT_SAR,
    SHIFT_ROL,
    SHIFT_ROR,
    SHIFT_RCL,
    SHIFT_RCR,
    SHIFT_OPS
};
enum shift_form { SHIFT_REG, SHIFT_ANY, SHIFT_FORMS };

#define SHIFT_ASM(name, suffix, mod)                                                               \
    __asm__(FLAGS_LOAD name suffix " %%cl, %" mod "[dst]" FLAGS_SAVE                               \
            : [dst] "+r"(dst), "+&a"(packed)                                                       \
            : "c"(count)                                                                           \
            : "cc")
#define SHIFT_SIZES(name)                                                                          \
    do {                                                                                           \
        if (size == 1)                                                                             \
            SHIFT_ASM(name, "b", "b");                                                             \
        else if (size == 2)                                                                        \
            SHIFT_ASM(name, "w", "w");                                                             \
        else if (size == 4)                                                                        \
            SHIFT_ASM(name, "l", "k");                                                             \
        else                                                                                       \
            SHIFT_ASM(name, "q", "q");                                                             \
    } while (0)

static ALWAYS_INLINE uint64_t shift_compute(enum shift_op op, unsigned size, uint64_t dst,
                                            uint8_t count, uint64_t *flags)
{
    uint16_t packed = flags_pack(*flags);
    switch (op) {
    case SHIFT_SHL:
        SHIFT_SIZES("shl");
        break;
    case SHIFT_SHR:
        SHIFT_SIZES("shr");
        break;
    case SHIFT_SAR:
        SHIFT_SIZES("sar");
        break;
    case SHIFT_ROL:
        SHIFT_SIZES("rol");
        break;
    case SHIFT_ROR:
        SHIFT_SIZES("ror");
        break;
    case SHIFT_RCL:
        SHIFT_SIZES("rcl");
        break;
    default:
        SHIFT_SIZES("rcr");
        break;
    }
    *flags = flags_unpack(*flags, packed);
    return dst;
}

/* The count is the last operand: an immediate, or CL. */
static inline uint8_t shift_count(const struct vcpu *vcpu, const struct insn *insn, unsigned n)
{
    return insn->op[n].kind == OPERAND_IMMEDIATE ? (uint8_t)insn->immediate
                                                 : (uint8_t)vcpu->gpr[GPR_RCX];
}

static ALWAYS_INLINE void shift_run(struct vcpu *vcpu, const struct insn *insn, enum shift_op op,
                                    unsigned size, enum shift_form form)
{
    uint8_t count = shift_count(vcpu, insn, 1);
    if (form == SHIFT_REG) {
        uint64_t *dst = &vcpu->gpr[insn->op[0].reg];
        *dst = shift_compute(op, size, *dst, count, &vcpu->rflags);
    } else if (insn->op[0].kind == OPERAND_MEMORY) {
        struct rmw rmw = rmw_begin(vcpu, insn, size);
        uint64_t result = shift_compute(op, size, rmw.old, count, &vcpu->rflags);
        rmw_commit(vcpu, &rmw, size, result, false);
    } else {
        uint64_t value = insn_read(vcpu, insn, 0);
        insn_write(vcpu, insn, 0, shift_compute(op, size, value, count, &vcpu->rflags));
    }
}

#define SHIFT_DEFINE(name, op, size)                                                               \
    static void shift_##name##_##size##_reg(struct vcpu *vcpu, const struct insn *insn)            \
    {                                                                                              \
        shift_run(vcpu, insn, op, size, SHIFT_REG);                                                \
    }                                                                                              \
    static void shift_##name##_##size##_any(struct vcpu *vcpu, const struct insn *insn)            \
    {                                                                                              \
        shift_run(vcpu, insn, op, size, SHIFT_ANY);                                                \
    }
#define SHIFT_DEFINE_OP(name, op)                                                                  \
    SHIFT_DEFINE(name, op, 1)                                                                      \
    SHIFT_DEFINE(name, op, 2)                                                                      \
    SHIFT_DEFINE(name, op, 4)                                                                      \
    SHIFT_DEFINE(name, op, 8)

SHIFT_DEFINE_OP(shl, SHIFT_SHL)
SHIFT_DEFINE_OP(shr, SHIFT_SHR)
SHIFT_DEFINE_OP(sar, SHIFT_SAR)
SHIFT_DEFINE_OP(rol, SHIFT_ROL)
SHIFT_DEFINE_OP(ror, SHIFT_ROR)
SHIFT_DEFINE_OP(rcl, SHIFT_RCL)
SHIFT_DEFINE_OP(rcr, SHIFT_RCR)

#define SHIFT_ROW(name, size)                                                                      \
    {                                                                                              \
        shift_##name##_##size##_reg, shift_##name##_##size##_any                                   \
    }
#define SHIFT_ROWS(name)                                                                           \
    {                                                                                              \
        SHIFT_ROW(name, 1), SHIFT_ROW(name, 2), SHIFT_ROW(name, 4), SHIFT_ROW(name, 8)             \
    }

static insn_fn *const shift_table[SHIFT_OPS][4][SHIFT_FORMS] = {
    SHIFT_ROWS(shl), SHIFT_ROWS(shr), SHIFT_ROWS(sar), SHIFT_ROWS(rol),
    SHIFT_ROWS(ror), SHIFT_ROWS(rcl), SHIFT_ROWS(rcr),
};

static enum shift_op shift_op_of(unsigned mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
        return SHIFT_SHL;
    case ZYDIS_MNEMONIC_SHR:
        return SHIFT_SHR;
    case ZYDIS_MNEMONIC_SAR:
        return SHIFT_SAR;
    case ZYDIS_MNEMONIC_ROL:
        return SHIFT_ROL;
    case ZYDIS_MNEMONIC_ROR:
        return SHIFT_ROR;
    case ZYDIS_MNEMONIC_RCL:
        return SHIFT_RCL;
    default:
        return SHIFT_RCR;
    }
}

insn_fn *shift_bind(const struct insn *insn)
{
    unsigned size_index = (unsigned)__builtin_ctz(insn->op[0].size);
    enum shift_form form = insn->op[0].kind == OPERAND_GPR ? SHIFT_REG : SHIFT_ANY;
    return shift_table[shift_op_of(insn->mnemonic)][size_index][form];
}

void exec_shift(struct vcpu *vcpu, const struct insn *insn)
{
    shift_bind(insn)(vcpu, insn);
}

/* ------------------------------------------------------------------------- double shifts */

#define DOUBLE_ASM(name, suffix, mod)                                                              \
    __asm__(FLAGS_LOAD name suffix " %%cl, %" mod "[src], %" mod "[dst]" FLAGS_SAVE                \
            : [dst] "+r"(dst), "+&a"(packed)                                                       \
            : [src] "r"(src), "c"(count)                                                           \
            : "cc")
#define DOUBLE_SIZES(name)                                                                         \
    do {                                                                                           \
        if (size == 2)                                                                             \
            DOUBLE_ASM(name, "w", "w");                                                            \
        else if (size == 4)                                                                        \
            DOUBLE_ASM(name, "l", "k");                                                            \
        else                                                                                       \
            DOUBLE_ASM(name, "q", "q");                                                            \
    } while (0)

static ALWAYS_INLINE void double_shift(struct vcpu *vcpu, const struct insn *insn, bool left)
{
    unsigned size = insn->op[0].size;
    uint64_t src = vcpu->gpr[insn->op[1].reg];
    uint8_t count = shift_count(vcpu, insn, 2);
    uint16_t packed = flags_pack(vcpu->rflags);
    bool memory = insn->op[0].kind == OPERAND_MEMORY;
    struct rmw rmw;
    uint64_t dst;

    if (memory) {
        rmw = rmw_begin(vcpu, insn, size);
        dst = rmw.old;
    } else {
        dst = vcpu->gpr[insn->op[0].reg];
    }
    if (left)
        DOUBLE_SIZES("shld");
    else
        DOUBLE_SIZES("shrd");
    if (memory)
        rmw_commit(vcpu, &rmw, size, dst, false);
    else
        vcpu->gpr[insn->op[0].reg] = dst;
    vcpu->rflags = flags_unpack(vcpu->rflags, packed);
}

void exec_shld(struct vcpu *vcpu, const struct insn *insn)
{
    double_shift(vcpu, insn, true);
}

void exec_shrd(struct vcpu *vcpu, const struct insn *insn)
{
    double_shift(vcpu, insn, false);
}
