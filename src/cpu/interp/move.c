/* MOV (general registers, memory, immediates), MOVZX MOVSX MOVSXD, CMOVcc, SETcc, LEA, BSWAP,
 * MOVBE, the CBW and CWD families, XLAT. */

#include <Zydis/Zydis.h>

#include "cpu/access.h"
#include "cpu/interp/flags.h"
#include "cpu/interp/interp.h"

static ALWAYS_INLINE uint64_t load_operand(struct vcpu *vcpu, const struct insn *insn,
                                           unsigned size)
{
    return access_load(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), size);
}

/* ------------------------------------------------------------------------- MOV */

enum mov_form { MOV_REG_REG, MOV_REG_IMM, MOV_REG_MEM, MOV_MEM_REG, MOV_MEM_IMM, MOV_FORMS };

static ALWAYS_INLINE void mov_run(struct vcpu *vcpu, const struct insn *insn, unsigned size,
                                  enum mov_form form)
{
    switch (form) {
    case MOV_REG_REG:
        insn_gpr_set(vcpu, insn->op[0].reg, size, vcpu->gpr[insn->op[1].reg]);
        break;
    case MOV_REG_IMM:
        insn_gpr_set(vcpu, insn->op[0].reg, size, insn->immediate);
        break;
    case MOV_REG_MEM:
        insn_gpr_set(vcpu, insn->op[0].reg, size, load_operand(vcpu, insn, size));
        break;
    case MOV_MEM_REG:
        access_store(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), size,
                     vcpu->gpr[insn->op[1].reg]);
        break;
    default:
        access_store(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), size,
                     insn->immediate);
        break;
    }
}

#define MOV_DEFINE(size, form)                                                                     \
    static void mov_##size##_##form(struct vcpu *vcpu, const struct insn *insn)                    \
    {                                                                                              \
        mov_run(vcpu, insn, size, form);                                                           \
    }
#define MOV_DEFINE_SIZE(size)                                                                      \
    MOV_DEFINE(size, MOV_REG_REG)                                                                  \
    MOV_DEFINE(size, MOV_REG_IMM)                                                                  \
    MOV_DEFINE(size, MOV_REG_MEM)                                                                  \
    MOV_DEFINE(size, MOV_MEM_REG)                                                                  \
    MOV_DEFINE(size, MOV_MEM_IMM)

MOV_DEFINE_SIZE(1)
MOV_DEFINE_SIZE(2)
MOV_DEFINE_SIZE(4)
MOV_DEFINE_SIZE(8)

#define MOV_ROW(size)                                                                              \
    {                                                                                              \
        mov_##size##_MOV_REG_REG, mov_##size##_MOV_REG_IMM, mov_##size##_MOV_REG_MEM,              \
            mov_##size##_MOV_MEM_REG, mov_##size##_MOV_MEM_IMM                                     \
    }

static insn_fn *const mov_table[4][MOV_FORMS] = {MOV_ROW(1), MOV_ROW(2), MOV_ROW(4), MOV_ROW(8)};

static void mov_any(struct vcpu *vcpu, const struct insn *insn)
{
    insn_write(vcpu, insn, 0, insn_read(vcpu, insn, 1));
}

insn_fn *mov_bind(const struct insn *insn)
{
    unsigned dst = insn->op[0].kind, src = insn->op[1].kind;
    insn_fn *const *row = mov_table[__builtin_ctz(insn->op[0].size)];
    if (dst == OPERAND_GPR && src == OPERAND_GPR)
        return row[MOV_REG_REG];
    if (dst == OPERAND_GPR && src == OPERAND_IMMEDIATE)
        return row[MOV_REG_IMM];
    if (dst == OPERAND_GPR && src == OPERAND_MEMORY)
        return row[MOV_REG_MEM];
    if (dst == OPERAND_MEMORY && src == OPERAND_GPR)
        return row[MOV_MEM_REG];
    if (dst == OPERAND_MEMORY && src == OPERAND_IMMEDIATE)
        return row[MOV_MEM_IMM];
    return mov_any;
}

void exec_mov(struct vcpu *vcpu, const struct insn *insn)
{
    mov_bind(insn)(vcpu, insn);
}

/* ------------------------------------------------------------------------- MOVZX, MOVSX */

static ALWAYS_INLINE void extend_run(struct vcpu *vcpu, const struct insn *insn, bool sign,
                                     unsigned from, unsigned to, bool memory)
{
    uint64_t value =
        memory ? load_operand(vcpu, insn, from) : insn_gpr_get(vcpu, insn->op[1].reg, from);
    insn_gpr_set(vcpu, insn->op[0].reg, to, sign ? bits_sign_extend(value, from) : value);
}

/* MOVZX to 64 bits is MOVZX to 32 bits. */
#define EXTEND_DEFINE(name, sign, from, to)                                                        \
    static void extend_##name##_##from##_##to##_reg(struct vcpu *vcpu, const struct insn *insn)    \
    {                                                                                              \
        extend_run(vcpu, insn, sign, from, to, false);                                             \
    }                                                                                              \
    static void extend_##name##_##from##_##to##_mem(struct vcpu *vcpu, const struct insn *insn)    \
    {                                                                                              \
        extend_run(vcpu, insn, sign, from, to, true);                                              \
    }

EXTEND_DEFINE(zero, false, 1, 4)
EXTEND_DEFINE(zero, false, 2, 4)
EXTEND_DEFINE(sign, true, 1, 4)
EXTEND_DEFINE(sign, true, 2, 4)
EXTEND_DEFINE(sign, true, 1, 8)
EXTEND_DEFINE(sign, true, 2, 8)
EXTEND_DEFINE(sign, true, 4, 8)

static void extend_any(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t value = insn_read(vcpu, insn, 1);
    if (insn->mnemonic != ZYDIS_MNEMONIC_MOVZX)
        value = bits_sign_extend(value, insn->op[1].size);
    insn_write(vcpu, insn, 0, value);
}

insn_fn *extend_bind(const struct insn *insn)
{
    bool memory = insn->op[1].kind == OPERAND_MEMORY;
    unsigned from = insn->op[1].size, to = insn->op[0].size;
    if (to < 4 || insn->op[1].kind == OPERAND_GPR_HIGH)
        return extend_any;
    if (insn->mnemonic == ZYDIS_MNEMONIC_MOVZX) {
        if (from == 1)
            return memory ? extend_zero_1_4_mem : extend_zero_1_4_reg;
        return memory ? extend_zero_2_4_mem : extend_zero_2_4_reg;
    }
    if (to == 8) {
        if (from == 1)
            return memory ? extend_sign_1_8_mem : extend_sign_1_8_reg;
        if (from == 2)
            return memory ? extend_sign_2_8_mem : extend_sign_2_8_reg;
        return memory ? extend_sign_4_8_mem : extend_sign_4_8_reg;
    }
    if (from == 1)
        return memory ? extend_sign_1_4_mem : extend_sign_1_4_reg;
    if (from == 2)
        return memory ? extend_sign_2_4_mem : extend_sign_2_4_reg;
    return extend_any; /* MOVSXD r32, r/m32 */
}

void exec_extend(struct vcpu *vcpu, const struct insn *insn)
{
    extend_bind(insn)(vcpu, insn);
}

/* ------------------------------------------------------------------------- the others */

/* The source is read, and may fault, whatever the condition; a 32-bit destination is zero-extended
 * even when nothing is moved. */
void exec_cmovcc(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t value = insn_read(vcpu, insn, 1);
    if (!flags_condition(vcpu->rflags, insn->condition))
        value = vcpu->gpr[insn->op[0].reg];
    insn_gpr_set(vcpu, insn->op[0].reg, insn->op[0].size, value);
}

void exec_setcc(struct vcpu *vcpu, const struct insn *insn)
{
    insn_write(vcpu, insn, 0, flags_condition(vcpu->rflags, insn->condition));
}

static void lea_8(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu->gpr[insn->op[0].reg] = insn_address(vcpu, insn);
}

static void lea_4(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu->gpr[insn->op[0].reg] = (uint32_t)insn_address(vcpu, insn);
}

static void lea_2(struct vcpu *vcpu, const struct insn *insn)
{
    insn_gpr_set(vcpu, insn->op[0].reg, 2, insn_address(vcpu, insn));
}

insn_fn *lea_bind(const struct insn *insn)
{
    return insn->op[0].size == 8 ? lea_8 : insn->op[0].size == 4 ? lea_4 : lea_2;
}

void exec_lea(struct vcpu *vcpu, const struct insn *insn)
{
    lea_bind(insn)(vcpu, insn);
}

static uint64_t byte_swap(uint64_t value, unsigned size)
{
    if (size == 8)
        return __builtin_bswap64(value);
    if (size == 4)
        return __builtin_bswap32((uint32_t)value);
    return __builtin_bswap16((uint16_t)value);
}

/* BSWAP of 16 bits is undefined; Intel's CPUs clear the word. */
void exec_bswap(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    uint64_t value = size == 2 ? 0 : byte_swap(vcpu->gpr[insn->op[0].reg], size);
    insn_gpr_set(vcpu, insn->op[0].reg, size, value);
}

void exec_movbe(struct vcpu *vcpu, const struct insn *insn)
{
    insn_write(vcpu, insn, 0, byte_swap(insn_read(vcpu, insn, 1), insn->op[0].size));
}

/* CBW CWDE CDQE: the lower half of rAX, sign-extended. */
void exec_convert(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->operand_size;
    insn_gpr_set(vcpu, GPR_RAX, size, bits_sign_extend(vcpu->gpr[GPR_RAX], size / 2));
}

/* CWD CDQ CQO: rDX filled with the sign of rAX. */
void exec_convert_double(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->operand_size;
    uint64_t sign = vcpu->gpr[GPR_RAX] >> (8 * size - 1) & 1;
    insn_gpr_set(vcpu, GPR_RDX, size, 0 - sign);
}

void exec_xlat(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t address =
        bits_truncate(vcpu->gpr[GPR_RBX] + (uint8_t)vcpu->gpr[GPR_RAX], insn->address_size);
    insn_gpr_set(vcpu, GPR_RAX, 1, access_load(vcpu, (enum segment_register)insn->seg, address, 1));
}
