/*
 * Integer instructions.
 *
 * plan_insn says how one is encoded on the host: opcode, which operand is the r/m and which the reg
 * field, what it does to either and to the flags. generic_emit does the rest: address and TLB
 * probe, flags, registers that live in memory. The instruction itself is the guest's, with other
 * registers and [T0] for its memory operand, so its semantics are the host's.
 */

#include <Zydis/Zydis.h>

#include "cpu/access.h"
#include "cpu/interp/interp.h"
#include "cpu/translate/context.h"

enum plan_effect {
    RM_READ = 1 << 0,
    RM_WRITE = 1 << 1,
    REG_READ = 1 << 2,
    REG_WRITE = 1 << 3,
    FLAGS_READ = 1 << 4, /* or keeps some */
    FLAGS_WRITE = 1 << 5,
    ATOMIC = 1 << 6, /* must not be split: aligned operands only */
};

#define NO_OPERAND 0xff

struct plan {
    uint32_t opcode;
    unsigned flags;    /* enum emit_flags */
    unsigned effects;  /* enum plan_effect */
    uint8_t rm, reg;   /* operand numbers, or NO_OPERAND */
    uint8_t extension; /* in the reg field where reg is NO_OPERAND */
    uint8_t immediate_size;
};

static bool is_gpr(const struct insn *insn, unsigned n)
{
    return insn->op[n].kind == OPERAND_GPR;
}

static bool is_memory(const struct insn *insn, unsigned n)
{
    return insn->op[n].kind == OPERAND_MEMORY;
}

static bool is_immediate(const struct insn *insn, unsigned n)
{
    return insn->op[n].kind == OPERAND_IMMEDIATE;
}

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
        return plan_binary(p, insn, op << 3, effects | REG_READ);
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
        if (is_memory(insn, 1)) /* TEST has one order only, and does not care */
            return false;
        return plan_binary(p, insn, 0x84, RM_READ | REG_READ | FLAGS_WRITE);
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
               RM_READ | RM_WRITE | FLAGS_READ | FLAGS_WRITE);
    p->immediate_size = immediate;
    if (immediate && extension >= 4 && (insn->immediate & (size == 8 ? 63 : 31)) != 0)
        p->effects &= ~(unsigned)FLAGS_READ;
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
    p->effects = RM_READ | RM_WRITE | REG_READ | FLAGS_READ | FLAGS_WRITE;
    return true;
}

/* With a register as offset, memory is a bit string: the handler's. */
static bool plan_bit(struct plan *p, const struct insn *insn, unsigned op)
{
    p->flags = emit_size(insn->op[0].size);
    p->rm = 0;
    p->effects = RM_READ | (op == 0 ? 0 : RM_WRITE) | FLAGS_READ | FLAGS_WRITE;
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
        plan_unary(p, size, 0xf6, 5, RM_READ | FLAGS_READ | FLAGS_WRITE);
        return true;
    }
    if (insn->operand_count == 2 && !is_immediate(insn, 1)) {
        plan_from(p, insn, 0x0faf, REG_READ | FLAGS_READ | FLAGS_WRITE);
        return true;
    }
    if (insn->operand_count != 3)
        return false;
    bool small = fits_byte(insn->immediate, size);
    plan_from(p, insn, small ? 0x6b : 0x69, FLAGS_READ | FLAGS_WRITE);
    p->immediate_size = (uint8_t)(small ? 1 : size < 4 ? size : 4);
    return true;
}

static bool plan_mov(struct plan *p, const struct insn *insn)
{
    if (!is_immediate(insn, 1))
        return (is_gpr(insn, 1) || is_memory(insn, 1)) &&
               plan_binary(p, insn, 0x88, RM_WRITE | REG_READ);
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
    plan_from(p, insn, opcode, REG_READ | FLAGS_WRITE | (keeps_flags ? FLAGS_READ : 0));
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
        plan_unary(p, size, 0xfe, 0, modify | FLAGS_READ | FLAGS_WRITE);
        return true;
    case ZYDIS_MNEMONIC_DEC:
        plan_unary(p, size, 0xfe, 1, modify | FLAGS_READ | FLAGS_WRITE);
        return true;
    case ZYDIS_MNEMONIC_NOT:
        plan_unary(p, size, 0xf6, 2, modify);
        return true;
    case ZYDIS_MNEMONIC_NEG:
        plan_unary(p, size, 0xf6, 3, modify | FLAGS_WRITE);
        return true;
    case ZYDIS_MNEMONIC_MUL:
        plan_unary(p, size, 0xf6, 4, RM_READ | FLAGS_READ | FLAGS_WRITE);
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

static bool plan_insn(struct plan *p, const struct insn *insn)
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

/* ------------------------------------------------------------------------- emission */

/* A register operand in a host register. Small writes keep the rest of the register. */
static unsigned take_register(struct context *c, const struct operand *op, bool reads,
                              unsigned scratch)
{
    return reads || op->size < 4 ? context_get(c, op->reg, scratch)
                                 : context_place(op->reg, scratch);
}

static void generic_emit(struct context *c, const struct plan *p)
{
    struct emit *e = &c->e;
    const struct insn *insn = c->insn;
    const struct operand *rm_op = &insn->op[p->rm];
    bool memory = rm_op->kind == OPERAND_MEMORY;
    struct slow_path *slow = NULL;

    if (memory) {
        slow = context_slow_begin(c);
        context_address(c);
        if (p->effects & ATOMIC && rm_op->size > 1) {
            emit_op(e, EMIT_BYTE_RM, 0xf6, 0, rm_reg(T0)); /* test */
            emit_u8(e, rm_op->size - 1u);
            context_slow_jump(c, slow, CONDITION_NE);
        }
        context_probe(c, slow, rm_op->size, p->effects & RM_WRITE);
    }
    if (p->effects & FLAGS_READ)
        context_flags_load(c);

    unsigned reg = p->extension;
    const struct operand *reg_op = NULL;
    if (p->reg != NO_OPERAND) {
        reg_op = &insn->op[p->reg];
        reg = take_register(c, reg_op, p->effects & REG_READ, T2);
    }
    struct emit_rm rm = rm_at(T0, 0);
    if (!memory)
        rm = rm_reg(take_register(c, rm_op, p->effects & RM_READ, T1));
    unsigned flags = p->flags | (memory && insn->prefixes & INSN_LOCK ? EMIT_LOCK : 0);
    emit_op(e, flags, p->opcode, reg, rm);
    if (p->immediate_size != 0)
        emit_immediate(e, insn->immediate, p->immediate_size);

    /* XADD of a register with itself leaves the sum: the r/m is written last. */
    if (reg_op != NULL && p->effects & REG_WRITE)
        context_put(c, reg_op->reg, T2);
    if (!memory && p->effects & RM_WRITE)
        context_put(c, rm_op->reg, T1);
    if (p->effects & FLAGS_WRITE)
        context_flags_written(c);
    if (memory)
        context_slow_end(c, slow);
}

static bool is_load_constant(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_MOV && is_gpr(insn, 0) && is_immediate(insn, 1) &&
           insn->op[0].size >= 4;
}

static void load_constant(struct context *c)
{
    const struct insn *insn = c->insn;
    unsigned to = context_place(insn->op[0].reg, T1);
    emit_constant(&c->e, to, bits_truncate(insn->immediate, insn->op[0].size));
    context_put(c, insn->op[0].reg, to);
}

static bool is_lea(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_LEA && insn->op[0].size >= 4;
}

static void emit_guest_lea(struct context *c)
{
    const struct insn *insn = c->insn;
    struct insn flat = *insn;
    flat.seg = SEG_DS;
    c->insn = &flat;
    unsigned to = context_place(insn->op[0].reg, T0);
    bool direct = insn->op[0].size == insn->address_size;
    context_address_to(c, direct ? to : T0); /* no segment: no flags spoilt */
    c->insn = insn;
    if (!direct)
        emit_op(&c->e, 0, 0x8b, to, rm_reg(T0));
    context_put(c, insn->op[0].reg, to);
}

static bool is_bswap(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_BSWAP && insn->op[0].size >= 4;
}

static void emit_bswap(struct context *c)
{
    const struct operand *op = &c->insn->op[0];
    unsigned reg = context_get(c, op->reg, T1);
    unsigned rex = (op->size == 8 ? 0x48 : 0) | (reg & 8 ? 0x41 : 0);
    if (rex != 0)
        emit_u8(&c->e, rex);
    emit_u8(&c->e, 0x0f);
    emit_u8(&c->e, 0xc8 | (reg & 7));
    context_put(c, op->reg, reg);
}

/* Instructions of one byte and no operands: prefix and opcode, or 0. They use RAX and RDX only. */
static unsigned bare_opcode(const struct insn *insn, unsigned *prefix)
{
    *prefix = 0;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CBW:
        *prefix = 0x66;
        return 0x98;
    case ZYDIS_MNEMONIC_CWDE:
        return 0x98;
    case ZYDIS_MNEMONIC_CDQE:
        *prefix = 0x48;
        return 0x98;
    case ZYDIS_MNEMONIC_CWD:
        *prefix = 0x66;
        return 0x99;
    case ZYDIS_MNEMONIC_CDQ:
        return 0x99;
    case ZYDIS_MNEMONIC_CQO:
        *prefix = 0x48;
        return 0x99;
    default:
        return 0;
    }
}

static bool is_carry_op(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_CLC || insn->mnemonic == ZYDIS_MNEMONIC_STC ||
           insn->mnemonic == ZYDIS_MNEMONIC_CMC;
}

static void emit_carry_op(struct context *c)
{
    context_flags_load(c);
    emit_u8(&c->e, c->insn->mnemonic == ZYDIS_MNEMONIC_CLC   ? 0xf8
                   : c->insn->mnemonic == ZYDIS_MNEMONIC_STC ? 0xf9
                                                             : 0xf5);
    context_flags_written(c);
}

/* ------------------------------------------------------------------------- the stack */

static bool is_push(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_PUSH && insn->operand_size == 8 &&
           (is_gpr(insn, 0) || is_immediate(insn, 0) || is_memory(insn, 0));
}

static void emit_push(struct context *c)
{
    const struct insn *insn = c->insn;
    struct emit *e = &c->e;
    struct slow_path *slow = context_slow_begin(c);
    if (is_memory(insn, 0)) {
        context_address(c);
        context_probe(c, slow, 8, false);
        emit_load(e, T0, rm_at(T0, 0));
        emit_store(e, rm_at(HOST_RSP, FRAME_TARGET), T0);
    }
    emit_lea(e, T0, rm_at(HOST_R15, -8));
    context_probe(c, slow, 8, true);
    if (is_immediate(insn, 0)) {
        emit_op(e, EMIT_W, 0xc7, 0, rm_at(T0, 0));
        emit_u32(e, (uint32_t)insn->immediate);
    } else if (is_memory(insn, 0)) {
        emit_load(e, T1, rm_at(HOST_RSP, FRAME_TARGET));
        emit_store(e, rm_at(T0, 0), T1);
    } else {
        emit_store(e, rm_at(T0, 0), context_get(c, insn->op[0].reg, T1));
    }
    emit_lea(e, HOST_R15, rm_at(HOST_R15, -8));
    context_slow_end(c, slow);
}

static bool is_pop(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_POP && insn->operand_size == 8 && is_gpr(insn, 0);
}

static void emit_pop(struct context *c)
{
    struct emit *e = &c->e;
    unsigned gpr = c->insn->op[0].reg;
    struct slow_path *slow = context_slow_begin(c);
    emit_mov(e, T0, HOST_R15);
    context_probe(c, slow, 8, false);
    emit_lea(e, HOST_R15, rm_at(HOST_R15, 8));
    unsigned to = context_place(gpr, T1);
    emit_load(e, to, rm_at(T0, 0));
    context_put(c, gpr, to);
    context_slow_end(c, slow);
}

static bool is_leave(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_LEAVE && insn->operand_size == 8;
}

static void emit_guest_leave(struct context *c)
{
    struct emit *e = &c->e;
    struct slow_path *slow = context_slow_begin(c);
    emit_mov(e, T0, HOST_RBP);
    context_probe(c, slow, 8, false);
    emit_lea(e, HOST_R15, rm_at(HOST_RBP, 8));
    emit_load(e, HOST_RBP, rm_at(T0, 0));
    context_slow_end(c, slow);
}

/* ------------------------------------------------------------------------- all of them */

static bool is_nop(const struct insn *insn)
{
    return insn->exec == exec_nop;
}

bool integer_emit(struct context *c)
{
    const struct insn *insn = c->insn;
    struct plan plan;
    unsigned prefix, bare = bare_opcode(insn, &prefix);
    if (is_nop(insn)) {
        return true;
    } else if (bare != 0) {
        if (prefix != 0)
            emit_u8(&c->e, prefix);
        emit_u8(&c->e, bare);
    } else if (is_load_constant(insn)) {
        load_constant(c);
    } else if (is_lea(insn)) {
        emit_guest_lea(c);
    } else if (is_bswap(insn)) {
        emit_bswap(c);
    } else if (is_carry_op(insn)) {
        emit_carry_op(c);
    } else if (is_push(insn)) {
        emit_push(c);
    } else if (is_pop(insn)) {
        emit_pop(c);
    } else if (is_leave(insn)) {
        emit_guest_leave(c);
    } else if (plan_insn(&plan, insn)) {
        generic_emit(c, &plan);
    } else {
        return false;
    }
    return true;
}

enum flags_need integer_need(const struct insn *insn)
{
    struct plan plan;
    unsigned prefix;
    if (is_nop(insn) || bare_opcode(insn, &prefix) != 0 || is_load_constant(insn) || is_lea(insn) ||
        is_bswap(insn))
        return FLAGS_INDIFFERENT;
    if (is_carry_op(insn))
        return FLAGS_HOST;
    if (is_push(insn) || is_pop(insn) || is_leave(insn) || !plan_insn(&plan, insn) ||
        is_memory(insn, plan.rm))
        return FLAGS_SAVED;
    if (plan.effects & FLAGS_READ)
        return FLAGS_HOST;
    return plan.effects & FLAGS_WRITE ? FLAGS_OVERWRITTEN : FLAGS_INDIFFERENT;
}

unsigned integer_store_size(const struct insn *insn)
{
    struct plan plan;
    unsigned prefix;
    if (is_nop(insn) || bare_opcode(insn, &prefix) != 0 || is_load_constant(insn) || is_lea(insn) ||
        !plan_insn(&plan, insn))
        return 0;
    return is_memory(insn, plan.rm) && plan.effects & RM_WRITE ? insn->op[plan.rm].size : 0;
}

bool translate_is_inline(const struct insn *insn)
{
    struct plan plan;
    unsigned prefix;
    return is_nop(insn) || bare_opcode(insn, &prefix) != 0 || is_load_constant(insn) ||
           is_lea(insn) || is_bswap(insn) || is_carry_op(insn) || is_push(insn) || is_pop(insn) ||
           is_leave(insn) || plan_insn(&plan, insn) || flow_is_inline(insn) ||
           vector_is_inline(insn);
}
