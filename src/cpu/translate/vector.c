/*
 * Vector instructions, and those on general registers that came with them (BMI, ADX, CRC32, MOVBE).
 *
 * All of them run as they are: the canonical instruction of their thunk (see thunk.c) with the
 * guest's registers in it. Vector registers keep their numbers, general ones are where they live,
 * or in T0 to T2, and memory is [T0]. Plain moves have no thunk and are made from scratch.
 *
 * Block entry sees to it that vector registers are in the CPU (vector_state.c). What the guest's
 * CPU would check at each instruction, alignment, is checked here; the rest of what may fault is
 * the TLB probe's. SIMD exceptions are masked, or this code is not run.
 */

#include <Zydis/Zydis.h>

#include "cpu/thunk/thunk_internal.h"
#include "cpu/translate/context.h"
#include "cpu/translate/splice.h"

struct vector_plan {
    const struct thunk *thunk; /* NULL: a move */
    struct thunk_move move;
    struct splice_parts parts;
    unsigned level; /* enum vectors_level */
    unsigned memory_size;
    unsigned alignment_mask;
    bool stores, reads_flags, writes_flags;
};

static bool plan_move(struct vector_plan *plan)
{
    const struct thunk_move *move = &plan->move;
    bool memory = move->kind == THUNK_MOVE_LOAD || move->kind == THUNK_MOVE_STORE;
    plan->stores = move->kind == THUNK_MOVE_STORE;
    plan->memory_size = memory ? move->size : 0;
    plan->alignment_mask = move->is_aligned ? move->size - 1u : 0;
    bool vex = move->is_vex || move->kind > THUNK_MOVE_ZERO;
    plan->level = vex ? VECTORS_AVX : VECTORS_SSE;
    return true;
}

static bool plan_integer_move(struct vector_plan *plan, const struct insn *insn)
{
    plan->stores = true;
    plan->memory_size = insn->op[1].size;
    return true;
}

static bool plan_thunk(struct vector_plan *plan, const struct insn *insn)
{
    const struct thunk *thunk = insn->extra;
    if (thunk == NULL || thunk->code == NULL || thunk_unit_is_full((enum thunk_unit)thunk->unit))
        return false;
    bool is_vex = thunk->unit == THUNK_UNIT_AVX || thunk->unit == THUNK_UNIT_VEX_GPR;
    const uint64_t canonical = insn->immediate;
    if (insn->mnemonic == ZYDIS_MNEMONIC_RDRAND || insn->mnemonic == ZYDIS_MNEMONIC_RDSEED ||
        !splice_parse(&plan->parts, (const uint8_t *)&canonical, thunk->length, is_vex) ||
        plan->parts.is_memory != (thunk->memory_size != 0))
        return false;
    for (unsigned gprs = thunk->gprs & ((1u << THUNK_RAX) - 1); gprs != 0; gprs &= gprs - 1) {
        if (insn->op[__builtin_ctz(gprs)].kind != OPERAND_GPR)
            return false;
    }
    plan->thunk = thunk;
    plan->level = thunk->unit == THUNK_UNIT_AVX   ? VECTORS_AVX
                  : thunk->unit == THUNK_UNIT_SSE ? VECTORS_SSE
                                                  : VECTORS_NONE;
    plan->memory_size = thunk->memory_size;
    plan->alignment_mask = thunk->alignment_mask;
    plan->stores = thunk->flags & THUNK_STORES;
    plan->writes_flags = thunk->flags & THUNK_WRITES_FLAGS;
    /* BMI keeps no flags: those that it does not define are undefined. */
    plan->reads_flags = thunk->flags & THUNK_READS_FLAGS && thunk->unit != THUNK_UNIT_VEX_GPR;
    return true;
}

/* False: the handler's. */
static bool plan_insn(struct vector_plan *plan, const struct insn *insn)
{
    *plan = (struct vector_plan){.thunk = NULL};
    if (insn->exec == thunk_exec)
        return plan_thunk(plan, insn);
    if (!thunk_describe_move(insn, &plan->move))
        return false;
    return plan->move.kind == THUNK_MOVE_INTEGER ? plan_integer_move(plan, insn) : plan_move(plan);
}

/* ------------------------------------------------------------------------- emission */

static void emit_move(struct context *c, const struct thunk_move *move, struct emit_rm rm)
{
    struct emit *e = &c->e;
    const struct operand *op = c->insn->op;
    struct vex vex = {.map = 1, .l = move->size == 32};
    unsigned reg = op[0].reg, vvvv = 0;
    switch (move->kind) {
    case THUNK_MOVE_LOAD:
        vex.opcode = 0x10;
        break;
    case THUNK_MOVE_STORE:
        vex.opcode = 0x11;
        reg = op[1].reg;
        break;
    case THUNK_MOVE_COPY:
        vex.opcode = 0x28;
        rm = rm_reg(op[1].reg);
        break;
    case THUNK_MOVE_ZERO:
        vex.opcode = 0x57;
        vex.l = false; /* zeroes all of it */
        vvvv = reg;
        rm = rm_reg(reg);
        break;
    case THUNK_MOVE_ZERO_UPPER:
    case THUNK_MOVE_ZERO_ALL:
        emit_u8(e, 0xc5);
        emit_u8(e, move->kind == THUNK_MOVE_ZERO_ALL ? 0xfc : 0xf8);
        emit_u8(e, 0x77);
        return;
    case THUNK_MOVE_INTEGER: {
        unsigned from = context_get(c, op[1].reg, T1);
        emit_op(e, emit_size(op[1].size), 0x89, from, rm);
        return;
    }
    }
    if (move->is_vex)
        emit_vex(e, vex, reg, vvvv, rm);
    else
        emit_op(e, 0, 0x0f00u | vex.opcode, reg, rm);
}

/* The host register of the operand in a slot of the encoding, loaded where it lives in memory. */
static unsigned take_slot(struct context *c, const struct thunk *thunk, unsigned slot,
                          unsigned scratch)
{
    const struct operand *op = &c->insn->op[slot];
    if (thunk->vectors >> slot & 1)
        return op->reg;
    if (slot < THUNK_RAX && thunk->gprs >> slot & 1)
        return context_get(c, op->reg, scratch);
    return SPLICE_KEEP;
}

static void put_slot(struct context *c, const struct thunk *thunk, unsigned slot, unsigned scratch)
{
    if (thunk->gprs_out >> slot & 1)
        context_put(c, c->insn->op[slot].reg, scratch);
}

static void emit_thunk(struct context *c, const struct vector_plan *plan, struct emit_rm memory)
{
    const struct thunk *thunk = plan->thunk;
    struct splice splice = {.rm = memory};
    if (plan->memory_size == 0)
        splice.rm = rm_reg(take_slot(c, thunk, SLOT_RM, T0));
    splice.reg = (uint8_t)take_slot(c, thunk, SLOT_REG, T1);
    splice.vvvv = (uint8_t)take_slot(c, thunk, SLOT_VVVV, T2);
    splice.is4 = (uint8_t)take_slot(c, thunk, SLOT_IS4, SPLICE_KEEP);
    splice.is_byte_rm = thunk->gprs >> SLOT_RM & 1 && c->insn->op[SLOT_RM].size == 1;
    splice_emit(&c->e, &plan->parts, &splice);
    /* Where MULX names one register twice, the one in reg is written last. */
    put_slot(c, thunk, SLOT_VVVV, T2);
    put_slot(c, thunk, SLOT_RM, T0);
    put_slot(c, thunk, SLOT_REG, T1);
}

bool vector_emit(struct context *c)
{
    struct vector_plan plan;
    struct slow_path *slow = NULL;
    struct emit_rm rm = rm_at(T0, 0);
    if (!plan_insn(&plan, c->insn))
        return false;
    vectors_require(c, plan.level);
    if (plan.memory_size != 0) {
        if (context_may_miss(c, plan.alignment_mask))
            slow = context_slow_begin_operand(c, plan.alignment_mask);
        rm = context_operand(c, slow, plan.memory_size, plan.stores, plan.alignment_mask);
    }
    if (plan.reads_flags)
        context_flags_load(c);
    if (plan.thunk == NULL)
        emit_move(c, &plan.move, rm);
    else
        emit_thunk(c, &plan, rm);
    if (plan.writes_flags)
        context_flags_written(c);
    if (slow != NULL)
        context_slow_end(c, slow);
    return true;
}

/* ------------------------------------------------------------------------- what it is */

unsigned vector_level(const struct insn *insn)
{
    struct vector_plan plan;
    return plan_insn(&plan, insn) ? plan.level : VECTORS_NONE;
}

bool vector_is_inline(const struct insn *insn)
{
    struct vector_plan plan;
    return plan_insn(&plan, insn);
}

enum flags_need vector_need(const struct insn *insn)
{
    struct vector_plan plan;
    if (!plan_insn(&plan, insn) || plan.memory_size != 0)
        return FLAGS_SAVED;
    if (plan.reads_flags)
        return FLAGS_HOST;
    return plan.writes_flags ? FLAGS_OVERWRITTEN : FLAGS_INDIFFERENT;
}

bool vector_effects(const struct insn *insn, struct insn_effects *effects)
{
    struct vector_plan plan;
    if (!plan_insn(&plan, insn))
        return false;
    *effects = (struct insn_effects){
        .reads_flags = plan.reads_flags,
        .writes_flags = plan.writes_flags,
        .memory_size = (uint8_t)plan.memory_size,
        .alignment_mask = (uint8_t)plan.alignment_mask,
        .stores = plan.stores,
        .loads = plan.memory_size != 0 && !plan.stores,
    };
    if (plan.memory_size != 0) {
        effects->used |= insn->base < GPR_COUNT ? 1u << insn->base : 0;
        effects->used |= insn->index < GPR_COUNT ? 1u << insn->index : 0;
    }
    if (plan.thunk == NULL) {
        if (plan.move.kind == THUNK_MOVE_INTEGER)
            effects->used |= 1u << insn->op[1].reg;
        return true;
    }
    for (unsigned g = 0; g < THUNK_GPR_COUNT; g++) {
        unsigned gpr = g >= THUNK_RAX ? g - THUNK_RAX : insn->op[g].reg;
        effects->used |= plan.thunk->gprs >> g & 1 ? 1u << gpr : 0;
        effects->written |= plan.thunk->gprs_out >> g & 1 ? 1u << gpr : 0;
    }
    return true;
}

unsigned vector_memory_size(const struct insn *insn)
{
    struct vector_plan plan;
    return plan_insn(&plan, insn) ? plan.memory_size : 0;
}

unsigned vector_store_size(const struct insn *insn)
{
    struct vector_plan plan;
    return plan_insn(&plan, insn) && plan.stores ? plan.memory_size : 0;
}
