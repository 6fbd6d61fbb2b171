/* The plans of integer instructions: plan.h. */

#include <Zydis/Zydis.h>

#include "cpu/interp/interp.h"
#include "cpu/translate/plan.h"

/* Opcodes come in pairs: the even one for bytes. */
static uint32_t wide(uint32_t opcode, unsigned size)
{
    return size == 1 ? opcode : opcode | 1;
}

static bool fits_byte(uint64_t immediate, unsigned size)
{
    int64_t value = (int64_t)bits_sign_extend(immediate, size);
    return value == (int8_t)value;
}

/* One register or memory operand, and the reg field an extension of the opcode. */
static void plan_unary(struct plan *p, unsigned size, uint32_t opcode, unsigned extension,
                       unsigned effects)
{
    p->opcode = wide(opcode, size);
    p->flags = emit_size(size);
    p->extension = (uint8_t)extension;
    p->rm = 0;
    p->effects = effects;
}

/* Register and r/m, in the order of the operands: `opcode` has the r/m first, + 2 the reg. */
static bool plan_binary(struct plan *p, const struct insn *insn, uint32_t opcode, unsigned effects)
{
    unsigned size = insn->op[0].size;
    p->flags = emit_size(size);
    p->opcode = wide(opcode, size);
    bool reversed = is_memory(insn, 1);
    if (reversed) {
        p->opcode |= 2;
        unsigned rm = effects & (RM_READ | RM_WRITE), reg = effects & (REG_READ | REG_WRITE);
        effects = (effects & ~15u) | rm << 2 | reg >> 2;
    }
    p->rm = reversed ? 1 : 0;
    p->reg = reversed ? 0 : 1;
    p->effects = effects;
    return is_gpr(insn, p->reg);
}

/* Register from r/m. */
static void plan_from(struct plan *p, const struct insn *insn, uint32_t opcode, unsigned effects)
{
    p->opcode = opcode;
    p->flags = emit_size(insn->op[0].size);
    p->reg = 0;
    p->rm = 1;
    p->effects = RM_READ | REG_WRITE | effects;
}

static bool plan_alu(struct plan *p, const struct insn *insn, unsigned op)
{
    bool compares = op == 7;
    unsigned size = insn->op[0].size;
    unsigned effects = RM_READ | (compares ? 0 : RM_WRITE) | FLAGS_WRITE;
    effects |= op == 2 || op == 3 ? FLAGS_READ : 0;
    if (!is_immediate(insn, 1))
        return plan_binary(p, insn, op << 3, effects | REG_READ | SWAPS);
    bool small = size > 1 && fits_byte(insn->immediate, size);
    plan_unary(p, size, 0x80, op, effects);
    p->opcode |= small ? 2 : 0;
    p->immediate_size = (uint8_t)(small ? 1 : size < 4 ? size : 4);
    return true;
}

static bool plan_test(struct plan *p, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    if (!is_immediate(insn, 1)) {
        bool planned = plan_binary(p, insn, 0x84, RM_READ | REG_READ | FLAGS_WRITE | COMMUTES);
        p->opcode &= ~PLAN_SWAP_BIT; /* it has one order only, and does not care */
        return planned;
    }
    plan_unary(p, size, 0xf6, 0, RM_READ | FLAGS_WRITE);
    p->immediate_size = (uint8_t)(size < 4 ? size : 4);
    return true;
}

/* SHL, SHR and SAR by a count that is not 0 write all flags; all others may keep some. */
static bool plan_shift(struct plan *p, const struct insn *insn, unsigned extension)
{
    unsigned size = insn->op[0].size;
    bool immediate = is_immediate(insn, 1);
    plan_unary(p, size, immediate ? 0xc0 : 0xd2, extension,
               RM_READ | RM_WRITE | FLAGS_KEEP | FLAGS_WRITE);
    p->immediate_size = immediate;
    if (immediate && extension >= 4 && (insn->immediate & (size == 8 ? 63 : 31)) != 0)
        p->effects &= ~(unsigned)FLAGS_KEEP;
    if (extension == 2 || extension == 3) /* through the carry */
        p->effects |= FLAGS_READ;
    return immediate || is_gpr(insn, 1);
}

static bool plan_double_shift(struct plan *p, const struct insn *insn, uint32_t opcode)
{
    bool immediate = is_immediate(insn, 2);
    p->opcode = opcode | (immediate ? 0 : 1);
    p->flags = emit_size(insn->op[0].size);
    p->rm = 0;
    p->reg = 1;
    p->immediate_size = immediate;
    p->effects = RM_READ | RM_WRITE | REG_READ | FLAGS_KEEP | FLAGS_WRITE;
    return true;
}

/* With a register as offset, memory is a bit string: the handler's. */
static bool plan_bit(struct plan *p, const struct insn *insn, unsigned op)
{
    p->flags = emit_size(insn->op[0].size);
    p->rm = 0;
    p->effects = RM_READ | (op == 0 ? 0 : RM_WRITE) | FLAGS_KEEP | FLAGS_WRITE;
    if (is_immediate(insn, 1)) {
        p->opcode = 0x0fba;
        p->extension = (uint8_t)(4 + op);
        p->immediate_size = 1;
        return true;
    }
    p->opcode = 0x0fa3 | op << 3;
    p->reg = 1;
    p->effects |= REG_READ;
    return is_gpr(insn, 0) && is_gpr(insn, 1);
}

static bool plan_imul(struct plan *p, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    if (insn->operand_count == 1) {
        plan_unary(p, size, 0xf6, 5, RM_READ | FLAGS_KEEP | FLAGS_WRITE);
        return true;
    }
    if (insn->operand_count == 2 && !is_immediate(insn, 1)) {
        plan_from(p, insn, 0x0faf, REG_READ | FLAGS_KEEP | FLAGS_WRITE);
        return true;
    }
    if (insn->operand_count != 3)
        return false;
    bool small = fits_byte(insn->immediate, size);
    plan_from(p, insn, small ? 0x6b : 0x69, FLAGS_KEEP | FLAGS_WRITE);
    p->immediate_size = (uint8_t)(small ? 1 : size < 4 ? size : 4);
    return true;
}

static bool plan_mov(struct plan *p, const struct insn *insn)
{
    if (!is_immediate(insn, 1))
        return (is_gpr(insn, 1) || is_memory(insn, 1)) &&
               plan_binary(p, insn, 0x88, RM_WRITE | REG_READ | SWAPS);
    unsigned size = insn->op[0].size;
    plan_unary(p, size, 0xc6, 0, RM_WRITE);
    p->immediate_size = (uint8_t)(size < 4 ? size : 4);
    /* MOV r64, imm64 is done by load_constant. */
    return true;
}

static bool plan_extend(struct plan *p, const struct insn *insn, uint32_t opcode)
{
    unsigned to = insn->op[0].size, from = insn->op[1].size;
    plan_from(p, insn, opcode | (from == 2 ? 1 : 0), 0);
    p->flags = (emit_size(to) & ~(unsigned)EMIT_BYTE_RM) | (from == 1 ? EMIT_BYTE_RM : 0);
    return from < to;
}

static bool plan_scan(struct plan *p, const struct insn *insn, uint32_t opcode, unsigned prefix,
                      bool keeps_flags)
{
    plan_from(p, insn, opcode, REG_READ | FLAGS_WRITE | (keeps_flags ? FLAGS_KEEP : 0));
    p->flags |= prefix;
    return true;
}

/* False: the handler's. */
static bool plan_mnemonic(struct plan *p, const struct insn *insn)
{
    unsigned size = insn->op[0].size;
    const unsigned modify = RM_READ | RM_WRITE;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
        return plan_alu(p, insn, 0);
    case ZYDIS_MNEMONIC_OR:
        return plan_alu(p, insn, 1);
    case ZYDIS_MNEMONIC_ADC:
        return plan_alu(p, insn, 2);
    case ZYDIS_MNEMONIC_SBB:
        return plan_alu(p, insn, 3);
    case ZYDIS_MNEMONIC_AND:
        return plan_alu(p, insn, 4);
    case ZYDIS_MNEMONIC_SUB:
        return plan_alu(p, insn, 5);
    case ZYDIS_MNEMONIC_XOR:
        return plan_alu(p, insn, 6);
    case ZYDIS_MNEMONIC_CMP:
        return plan_alu(p, insn, 7);
    case ZYDIS_MNEMONIC_TEST:
        return plan_test(p, insn);
    case ZYDIS_MNEMONIC_INC:
        plan_unary(p, size, 0xfe, 0, modify | FLAGS_KEEP | FLAGS_WRITE);
        return true;
    case ZYDIS_MNEMONIC_DEC:
        plan_unary(p, size, 0xfe, 1, modify | FLAGS_KEEP | FLAGS_WRITE);
        return true;
    case ZYDIS_MNEMONIC_NOT:
        plan_unary(p, size, 0xf6, 2, modify);
        return true;
    case ZYDIS_MNEMONIC_NEG:
        plan_unary(p, size, 0xf6, 3, modify | FLAGS_WRITE);
        return true;
    case ZYDIS_MNEMONIC_MUL:
        plan_unary(p, size, 0xf6, 4, RM_READ | FLAGS_KEEP | FLAGS_WRITE);
        return true;
    case ZYDIS_MNEMONIC_IMUL:
        return plan_imul(p, insn);
    case ZYDIS_MNEMONIC_ROL:
        return plan_shift(p, insn, 0);
    case ZYDIS_MNEMONIC_ROR:
        return plan_shift(p, insn, 1);
    case ZYDIS_MNEMONIC_RCL:
        return plan_shift(p, insn, 2);
    case ZYDIS_MNEMONIC_RCR:
        return plan_shift(p, insn, 3);
    case ZYDIS_MNEMONIC_SHL:
        return plan_shift(p, insn, 4);
    case ZYDIS_MNEMONIC_SHR:
        return plan_shift(p, insn, 5);
    case ZYDIS_MNEMONIC_SAR:
        return plan_shift(p, insn, 7);
    case ZYDIS_MNEMONIC_SHLD:
        return plan_double_shift(p, insn, 0x0fa4);
    case ZYDIS_MNEMONIC_SHRD:
        return plan_double_shift(p, insn, 0x0fac);
    case ZYDIS_MNEMONIC_BT:
        return plan_bit(p, insn, 0);
    case ZYDIS_MNEMONIC_BTS:
        return plan_bit(p, insn, 1);
    case ZYDIS_MNEMONIC_BTR:
        return plan_bit(p, insn, 2);
    case ZYDIS_MNEMONIC_BTC:
        return plan_bit(p, insn, 3);
    case ZYDIS_MNEMONIC_BSF:
        return plan_scan(p, insn, 0x0fbc, 0, true);
    case ZYDIS_MNEMONIC_BSR:
        return plan_scan(p, insn, 0x0fbd, 0, true);
    case ZYDIS_MNEMONIC_TZCNT:
        return plan_scan(p, insn, 0x0fbc, EMIT_F3, true);
    case ZYDIS_MNEMONIC_LZCNT:
        return plan_scan(p, insn, 0x0fbd, EMIT_F3, true);
    case ZYDIS_MNEMONIC_POPCNT:
        return plan_scan(p, insn, 0x0fb8, EMIT_F3, false);
    case ZYDIS_MNEMONIC_MOV:
        return plan_mov(p, insn);
    case ZYDIS_MNEMONIC_MOVZX:
        return plan_extend(p, insn, 0x0fb6);
    case ZYDIS_MNEMONIC_MOVSX:
        return plan_extend(p, insn, 0x0fbe);
    case ZYDIS_MNEMONIC_MOVSXD:
        plan_from(p, insn, 0x63, 0);
        return size == 8;
    case ZYDIS_MNEMONIC_XCHG:
        if (!plan_binary(p, insn, 0x86, modify | REG_READ | REG_WRITE | ATOMIC))
            return false;
        p->opcode = wide(0x86, size); /* either way round */
        return true;
    case ZYDIS_MNEMONIC_XADD:
        return plan_binary(p, insn, 0x0fc0, modify | REG_READ | REG_WRITE | FLAGS_WRITE);
    case ZYDIS_MNEMONIC_CMPXCHG:
        return plan_binary(p, insn, 0x0fb0, modify | REG_READ | FLAGS_WRITE);
    default:
        break;
    }
    if (insn->exec == exec_cmovcc) {
        plan_from(p, insn, 0x0f40u | insn->condition, REG_READ | FLAGS_READ);
        return true;
    }
    if (insn->exec == exec_setcc) {
        plan_unary(p, 1, 0x0f90, 0, RM_WRITE | FLAGS_READ);
        p->opcode = 0x0f90u | insn->condition;
        return true;
    }
    return false;
}

bool integer_plan(struct plan *p, const struct insn *insn)
{
    *p = (struct plan){.rm = NO_OPERAND, .reg = NO_OPERAND};
    if (!plan_mnemonic(p, insn))
        return false;
    if (!is_gpr(insn, p->rm) && !is_memory(insn, p->rm))
        return false;
    if (p->reg != NO_OPERAND && !is_gpr(insn, p->reg))
        return false;
    if (is_memory(insn, p->rm) && insn->prefixes & INSN_LOCK)
        p->effects |= ATOMIC;
    return insn->prefixes & INSN_LOCK ? is_memory(insn, p->rm) : true;
}
