/*
 * Integer instructions.
 *
 * plan.c says how one is encoded on the host. generic_emit does the rest: address and TLB probe,
 * flags, registers that live in memory. The instruction itself is the guest's, with other registers
 * and [T0] for its memory operand, so its semantics are the host's.
 */

#include <Zydis/Zydis.h>

#include "cpu/access.h"
#include "cpu/interp/interp.h"
#include "cpu/translate/plan.h"

/* ------------------------------------------------------------------------- emission */

/* A register operand in a host register. Small writes keep the rest of the register. */
static unsigned take_register(struct context *c, const struct operand *op, bool reads,
                              unsigned scratch)
{
    return reads || op->size < 4 ? context_get(c, op->reg, scratch)
                                 : context_place(op->reg, scratch);
}

/* Which of T1 and T2 is for the r/m operand: that which has it, or else has no copy of another. */
static unsigned choose_scratch(const struct context *c, const struct operand *op, unsigned reg)
{
    bool is_taken = c->keeps_copies && (c->e.spoilt >> T1 & 1) == 0;
    bool is_free = (c->e.spoilt >> T2 & 1) != 0;
    if (reg == T2 || context_has_copy(c, op->reg, T1))
        return T1;
    return context_has_copy(c, op->reg, T2) || (is_taken && is_free) ? T2 : T1;
}

/* The r/m operand where it is a register. One that lives in the frame, and of which there is no
 * copy, is used there, if that is the same thing: 32-bit results must clear the rest, bit offsets
 * and XCHG mean something else; what writes both operands may have the same one twice. */
static struct emit_rm take_rm(struct context *c, const struct plan *p, const struct operand *op,
                              unsigned reg)
{
    bool in_place = !(p->effects & ATOMIC) && (p->opcode & ~0x18u) != 0x0fa3 &&
                    !(p->effects & RM_WRITE && (op->size == 4 || p->effects & REG_WRITE));
    if (host_of(op->reg) == HOST_NONE && in_place && !context_has_copy(c, op->reg, T1) &&
        !context_has_copy(c, op->reg, T2))
        return context_in_frame(c, op->reg);
    return rm_reg(take_register(c, op, p->effects & RM_READ, choose_scratch(c, op, reg)));
}

/* After the instruction: what it has only read is where it was. */
static void keep_copies(struct context *c, const struct plan *p, const struct operand *reg_op,
                        unsigned reg, const struct operand *rm_op, struct emit_rm rm)
{
    if (reg_op != NULL && (p->effects & (REG_READ | REG_WRITE)) == REG_READ &&
        host_of(reg_op->reg) == HOST_NONE)
        context_note_copy(c, reg_op->reg, reg);
    if (!rm.is_memory && (p->effects & (RM_READ | RM_WRITE)) == RM_READ &&
        host_of(rm_op->reg) == HOST_NONE)
        context_note_copy(c, rm_op->reg, rm.reg);
}

/* The operand that lives in the frame as r/m: no load of it then. */
static void prefer_place(struct plan *p, const struct insn *insn)
{
    if (!(p->effects & (SWAPS | COMMUTES)) || is_memory(insn, p->rm) ||
        host_of(insn->op[p->reg].reg) != HOST_NONE || host_of(insn->op[p->rm].reg) == HOST_NONE)
        return;
    unsigned rm = p->rm, effects = p->effects;
    p->rm = p->reg;
    p->reg = (uint8_t)rm;
    p->effects = (effects & ~15u) | (effects & 3u) << 2 | (effects & 12u) >> 2;
    if (effects & SWAPS)
        p->opcode ^= PLAN_SWAP_BIT;
}

bool flags_are_dead(const struct context *c)
{
    for (unsigned i = c->index + 1; i < c->count; i++) {
        enum flags_need need = integer_need(&c->insns[i]);
        if (need != FLAGS_INDIFFERENT)
            return need == FLAGS_OVERWRITTEN;
    }
    return false;
}

/* The recipe for the flags of an instruction that has a register as destination. */
static struct flags_recipe recipe_of(const struct insn *insn)
{
    struct flags_recipe r = {.size = insn->op[0].size, .reg = insn->op[0].reg, .other = r.reg};
    if (!is_gpr(insn, 0))
        return r;
    bool memory = insn->operand_count > 1 && is_memory(insn, 1);
    enum flags_recipe_kind kind = RECIPE_NONE;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
        r.kind = RECIPE_TEST;
        return r;
    case ZYDIS_MNEMONIC_NEG:
        r.kind = RECIPE_NEG;
        return r;
    case ZYDIS_MNEMONIC_CMP:
        kind = RECIPE_CMP;
        break;
    case ZYDIS_MNEMONIC_TEST:
        kind = RECIPE_TEST;
        break;
    case ZYDIS_MNEMONIC_ADD:
        /* A doubled register: the carry is lost. */
        kind = is_gpr(insn, 1) && insn->op[1].reg == r.reg ? RECIPE_NONE : RECIPE_ADD;
        break;
    case ZYDIS_MNEMONIC_SUB:
        kind = RECIPE_SUB;
        break;
    default:
        break;
    }
    if (kind == RECIPE_NONE || memory)
        return r;
    r.kind = (uint8_t)kind;
    r.other = is_gpr(insn, 1) ? insn->op[1].reg : FLAGS_IMMEDIATE;
    r.immediate = insn->immediate;
    return r;
}

/* The same for one that keeps some flags, of which the slot has the rest. */
static struct flags_recipe keeping_recipe_of(const struct insn *insn)
{
    struct flags_recipe r = {.size = insn->op[0].size,
                             .reg = insn->op[0].reg,
                             .other = r.reg,
                             .on_slot = true,
                             .immediate = insn->immediate};
    if (!is_gpr(insn, 0))
        return r;
    bool counts = insn->operand_count > 1 && is_immediate(insn, 1);
    if (insn->mnemonic == ZYDIS_MNEMONIC_INC)
        r.kind = RECIPE_INC;
    else if (insn->mnemonic == ZYDIS_MNEMONIC_DEC)
        r.kind = RECIPE_DEC;
    else if (insn->mnemonic == ZYDIS_MNEMONIC_ROL && counts)
        r.kind = RECIPE_ROL;
    else if (insn->mnemonic == ZYDIS_MNEMONIC_ROR && counts)
        r.kind = RECIPE_ROR;
    return r;
}

/* Before the instruction: the flags that it reads or keeps, and those that its destinations are the
 * recipe of. Returns the recipe for what it leaves. */
static struct flags_recipe prepare_flags(struct context *c, const struct plan *p)
{
    const struct insn *insn = c->insn;
    struct flags_recipe recipe = {.kind = RECIPE_NONE};
    if (p->effects & FLAGS_READ) {
        context_flags_load(c);
    } else if (p->effects & FLAGS_KEEP) {
        if (c->in_slot && !c->in_host)
            recipe = keeping_recipe_of(insn);
        if (recipe.kind == RECIPE_NONE && !flags_are_dead(c))
            context_flags_load(c);
    } else if (p->effects & FLAGS_WRITE) {
        recipe = recipe_of(insn);
    }
    if (p->effects & FLAGS_WRITE)
        return recipe;
    if (p->effects & RM_WRITE && is_gpr(insn, p->rm))
        flags_keep(c, insn->op[p->rm].reg);
    if (p->effects & REG_WRITE)
        flags_keep(c, insn->op[p->reg].reg);
    return recipe;
}

static void generic_emit(struct context *c, struct plan *p)
{
    struct emit *e = &c->e;
    const struct insn *insn = c->insn;
    struct slow_path *slow = NULL;
    struct emit_rm operand = rm_at(T0, 0);

    prefer_place(p, insn);
    const struct operand *rm_op = &insn->op[p->rm];
    bool memory = rm_op->kind == OPERAND_MEMORY;
    if (memory) {
        unsigned alignment = p->effects & ATOMIC ? rm_op->size - 1u : 0;
        if (context_may_miss(c, alignment))
            slow = context_slow_begin_operand(c, alignment);
        operand = context_operand(c, slow, rm_op->size, p->effects & RM_WRITE, alignment);
    }
    struct flags_recipe recipe = prepare_flags(c, p);

    unsigned reg = p->extension;
    const struct operand *reg_op = NULL;
    if (p->reg != NO_OPERAND) {
        reg_op = &insn->op[p->reg];
        reg = take_register(c, reg_op, p->effects & REG_READ, T2);
    }
    struct emit_rm rm = memory ? operand : take_rm(c, p, rm_op, reg);
    unsigned flags = p->flags | (memory && insn->prefixes & INSN_LOCK ? EMIT_LOCK : 0);
    emit_op(e, flags, p->opcode, reg, rm);
    if (p->immediate_size != 0)
        emit_immediate(e, insn->immediate, p->immediate_size);

    keep_copies(c, p, reg_op, reg, rm_op, rm);
    /* XADD of a register with itself leaves the sum: the r/m is written last. */
    if (reg_op != NULL && p->effects & REG_WRITE)
        context_put(c, reg_op->reg, T2);
    if (!rm.is_memory && p->effects & RM_WRITE)
        context_put(c, rm_op->reg, rm.reg);
    if (p->effects & FLAGS_WRITE) {
        context_flags_written(c);
        c->recipe = recipe;
        c->in_host = recipe.kind == RECIPE_NONE || !recipe.on_slot;
    }
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
    flags_keep(c, insn->op[0].reg);
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
    flags_keep(c, insn->op[0].reg);
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
    flags_keep(c, op->reg);
    unsigned reg = context_get(c, op->reg, T1);
    unsigned rex = (op->size == 8 ? 0x48 : 0) | (reg & 8 ? 0x41 : 0);
    if (rex != 0)
        emit_u8(&c->e, rex);
    emit_u8(&c->e, 0x0f);
    emit_u8(&c->e, 0xc8 | (reg & 7));
    c->e.spoilt |= 1u << reg;
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
        flags_keep(c, GPR_RAX);
        flags_keep(c, GPR_RDX);
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
    } else if (stack_is_inline(insn)) {
        stack_emit(c);
    } else if (high_is_inline(insn)) {
        high_emit(c);
    } else if (divide_is_inline(insn)) {
        divide_emit(c);
    } else if (integer_plan(&plan, insn)) {
        generic_emit(c, &plan);
    } else if (string_is_inline(insn)) {
        string_emit(c);
    } else if (bits_is_inline(insn)) {
        bits_emit(c);
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
    if (high_is_inline(insn))
        return high_need(insn);
    if (stack_is_inline(insn) || !integer_plan(&plan, insn) || is_memory(insn, plan.rm))
        return FLAGS_SAVED;
    if (plan.effects & (FLAGS_READ | FLAGS_KEEP))
        return FLAGS_HOST;
    return plan.effects & FLAGS_WRITE ? FLAGS_OVERWRITTEN : FLAGS_INDIFFERENT;
}

unsigned integer_store_size(const struct insn *insn)
{
    struct plan plan;
    unsigned prefix;
    if (is_nop(insn) || bare_opcode(insn, &prefix) != 0 || is_load_constant(insn) || is_lea(insn) ||
        !integer_plan(&plan, insn))
        return 0;
    return is_memory(insn, plan.rm) && plan.effects & RM_WRITE ? insn->op[plan.rm].size : 0;
}

static unsigned named_registers(const struct insn *insn)
{
    unsigned named = 0;
    for (unsigned i = 0; i < INSN_MAX_OPERANDS; i++)
        named |= is_gpr(insn, i) ? 1u << insn->op[i].reg : 0;
    named |= insn->base < GPR_COUNT ? 1u << insn->base : 0;
    return named | (insn->index < GPR_COUNT ? 1u << insn->index : 0);
}

bool integer_effects(const struct insn *insn, struct insn_effects *effects)
{
    struct plan plan;
    *effects = (struct insn_effects){.used = named_registers(insn)};
    if (is_nop(insn))
        return true;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_XCHG:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_CMPXCHG:
        return false;
    case ZYDIS_MNEMONIC_IMUL:
        if (insn->operand_count == 1)
            return false;
        break;
    default:
        break;
    }
    if (is_load_constant(insn) || is_lea(insn) || is_bswap(insn)) {
        effects->written = 1u << insn->op[0].reg;
        return true;
    }
    if (!integer_plan(&plan, insn) || plan.effects & ATOMIC)
        return false;
    effects->reads_flags = plan.effects & (FLAGS_READ | FLAGS_KEEP);
    effects->writes_flags = plan.effects & FLAGS_WRITE;
    if (is_memory(insn, plan.rm)) {
        effects->memory_size = insn->op[plan.rm].size;
        effects->loads = plan.effects & RM_READ;
        effects->stores = plan.effects & RM_WRITE;
    } else if (plan.effects & RM_WRITE) {
        effects->written |= 1u << insn->op[plan.rm].reg;
    }
    if (plan.effects & REG_WRITE)
        effects->written |= 1u << insn->op[plan.reg].reg;
    return true;
}

bool translate_is_inline(const struct insn *insn)
{
    struct plan plan;
    unsigned prefix;
    return is_nop(insn) || bare_opcode(insn, &prefix) != 0 || is_load_constant(insn) ||
           is_lea(insn) || is_bswap(insn) || is_carry_op(insn) || stack_is_inline(insn) ||
           high_is_inline(insn) || divide_is_inline(insn) || integer_plan(&plan, insn) ||
           flow_is_inline(insn) || vector_is_inline(insn);
}
