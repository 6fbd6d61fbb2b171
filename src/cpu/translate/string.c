/*
 * REP STOS and REP MOVS within a page, or within one page and another.
 *
 * Kernels clear and copy small things with them all the time. One probe for each side, from the
 * first byte to the last, and then it is the host's own instruction, with host addresses in RDI and
 * RSI meanwhile:
 *
 *      test dword gs:[rflags], DF      upwards only
 *      jne  slow
 *      lea  r9, [rcx - 1]
 *      cmp  r9, 4096 / 8 - 1           neither 0 nor more than a page
 *      ja   slow
 *      mov  r9, rdi; the probe of [r9, r9 + rcx * 8)
 *      lea  r10, [rdi + rcx * 8]
 *      mov  rdi, r9
 *      rep  stosq
 *      mov  rdi, r10
 *
 * Where source and destination overlap, their bytes do so on the host, whatever pages they are
 * mapped at: elements are moved one after the other there as well. All else is the handler's: it
 * goes from page to page and looks at attention in between. Here that waits for one page at most.
 */

#include <Zydis/Zydis.h>

#include "cpu/interp/interp.h"
#include "cpu/translate/plan.h"

bool string_is_inline(const struct insn *insn)
{
    bool moves = insn->exec == exec_movs && insn->seg < SEG_FS;
    return (moves || insn->exec == exec_stos) && insn->address_size == 8 &&
           (insn->prefixes & (INSN_REP | INSN_REPNE)) == INSN_REP;
}

static struct emit_rm end_of(unsigned reg, unsigned scale, int32_t displacement)
{
    return (struct emit_rm){1, 0, (uint8_t)reg, HOST_RCX, (uint8_t)scale, displacement};
}

/* T0 = the host address of what begins at reg. */
static void probe_all(struct context *c, struct slow_path *slow, unsigned reg, unsigned scale,
                      bool write)
{
    emit_mov(&c->e, T0, reg);
    context_probe_to(c, slow, end_of(T0, scale, -1), write);
}

void string_emit(struct context *c)
{
    struct emit *e = &c->e;
    bool moves = c->insn->exec == exec_movs;
    unsigned size = c->insn->operand_size, scale = (unsigned)__builtin_ctz(size);
    struct slow_path *slow = context_slow_begin(c);
    c->in_host = false;
    c->recipe.kind = RECIPE_NONE;
    c->held = RUN_NONE;
    emit_op(e, 0, 0xf7, 0, rm_vcpu(offsetof(struct vcpu, rflags))); /* test */
    emit_u32(e, FLAG_DF);
    context_slow_jump(c, slow, CONDITION_NE);
    emit_lea(e, T0, rm_at(HOST_RCX, -1));
    emit_alu_immediate(e, 7, 8, rm_reg(T0), PAGE_SIZE / size - 1);
    context_slow_jump(c, slow, CONDITION_A);
    if (moves) {
        probe_all(c, slow, HOST_RSI, scale, false);
        emit_store(e, rm_at(HOST_RSP, FRAME_TARGET), T0);
    }
    probe_all(c, slow, HOST_RDI, scale, true);
    emit_lea(e, T1, end_of(HOST_RDI, scale, 0));
    emit_mov(e, HOST_RDI, T0);
    if (moves) {
        emit_lea(e, T2, end_of(HOST_RSI, scale, 0));
        emit_load(e, HOST_RSI, rm_at(HOST_RSP, FRAME_TARGET));
    }
    if (size == 2)
        emit_u8(e, 0x66);
    emit_u8(e, 0xf3);
    if (size == 8)
        emit_u8(e, 0x48);
    emit_u8(e, (moves ? 0xa4u : 0xaau) | (size > 1));
    emit_mov(e, HOST_RDI, T1);
    if (moves)
        emit_mov(e, HOST_RSI, T2);
    context_slow_end(c, slow);
}
