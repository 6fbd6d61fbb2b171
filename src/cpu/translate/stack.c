/* PUSH, POP and LEAVE. */

#include <Zydis/Zydis.h>

#include "cpu/translate/plan.h"

static bool is_push(const struct insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_PUSH && insn->operand_size == 8 &&
           (is_gpr(insn, 0) || is_immediate(insn, 0) || is_memory(insn, 0));
}

/* NULL: a later access of a run. */
static struct slow_path *begin(struct context *c)
{
    return context_may_miss(c, 0) ? context_slow_begin_operand(c, 0) : NULL;
}

static void emit_push(struct context *c)
{
    const struct insn *insn = c->insn;
    struct emit *e = &c->e;
    struct slow_path *slow = is_memory(insn, 0) ? context_slow_begin_spare(c) : begin(c);
    if (is_memory(insn, 0)) {
        emit_load(e, T0, context_probe_operand(c, slow, 8, false));
        emit_store(e, rm_at(HOST_RSP, FRAME_TARGET), T0);
    }
    struct emit_rm top = context_stack(c, slow, GPR_RSP, -8, true);
    flags_keep(c, GPR_RSP);
    if (is_immediate(insn, 0)) {
        emit_op(e, EMIT_W, 0xc7, 0, top);
        emit_u32(e, (uint32_t)insn->immediate);
    } else if (is_memory(insn, 0)) {
        emit_load(e, T1, rm_at(HOST_RSP, FRAME_TARGET));
        emit_store(e, top, T1);
    } else {
        emit_store(e, top, context_get(c, insn->op[0].reg, T1));
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
    struct slow_path *slow = begin(c);
    struct emit_rm top = context_stack(c, slow, GPR_RSP, 0, false);
    flags_keep(c, GPR_RSP);
    flags_keep(c, gpr);
    unsigned to = context_place(gpr, T1);
    emit_load(e, to, top);
    if (gpr != GPR_RSP)
        emit_lea(e, HOST_R15, rm_at(HOST_R15, 8));
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
    struct slow_path *slow = begin(c);
    struct emit_rm top = context_stack(c, slow, GPR_RBP, 0, false);
    flags_keep(c, GPR_RSP);
    flags_keep(c, GPR_RBP);
    emit_load(e, T1, top);
    emit_lea(e, HOST_R15, rm_at(HOST_RBP, 8));
    emit_mov(e, HOST_RBP, T1);
    context_slow_end(c, slow);
}

bool stack_is_inline(const struct insn *insn)
{
    return is_push(insn) || is_pop(insn) || is_leave(insn);
}

void stack_emit(struct context *c)
{
    if (is_push(c->insn))
        emit_push(c);
    else if (is_pop(c->insn))
        emit_pop(c);
    else
        emit_guest_leave(c);
}
