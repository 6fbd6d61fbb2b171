/*
 * DIV and IDIV of 32 and 64 bits.
 *
 * The host's own division, behind checks that it cannot fault: what does not pass them is the
 * handler's, and so is what is rare. DIV needs an upper half below the divisor, which is not 0
 * then. IDIV needs a dividend that is sign-extended, which all compilers make it, and a divisor
 * that is neither 0 nor -1.
 */

#include <Zydis/Zydis.h>

#include "cpu/translate/plan.h"

bool divide_is_inline(const struct insn *insn)
{
    return (insn->mnemonic == ZYDIS_MNEMONIC_DIV || insn->mnemonic == ZYDIS_MNEMONIC_IDIV) &&
           insn->op[0].size >= 4 && (is_gpr(insn, 0) || is_memory(insn, 0));
}

static unsigned take_divisor(struct context *c, struct slow_path *slow)
{
    const struct operand *op = &c->insn->op[0];
    if (op->kind == OPERAND_GPR && host_of(op->reg) != HOST_NONE)
        return host_of(op->reg);
    struct emit_rm rm = op->kind == OPERAND_MEMORY ? context_operand(c, slow, op->size, false, 0)
                                                   : context_in_frame(c, op->reg);
    emit_op(&c->e, emit_size(op->size), 0x8b, T0, rm);
    c->held = RUN_NONE;
    return T0;
}

static void require_fit(struct context *c, struct slow_path *slow, unsigned divisor)
{
    struct emit *e = &c->e;
    unsigned size = c->insn->op[0].size, flags = emit_size(size);
    if (c->insn->mnemonic == ZYDIS_MNEMONIC_DIV) {
        emit_op(e, flags, 0x3b, HOST_RDX, rm_reg(divisor));
        context_slow_jump(c, slow, CONDITION_AE);
        return;
    }
    emit_op(e, flags, 0x8b, T1, rm_reg(HOST_RAX));
    emit_op(e, flags, 0xc1, 7, rm_reg(T1)); /* sar */
    emit_u8(e, 8 * size - 1);
    emit_op(e, flags, 0x3b, T1, rm_reg(HOST_RDX));
    context_slow_jump(c, slow, CONDITION_NE);
    emit_op(e, flags, 0x8d, T1, rm_at(divisor, 1)); /* lea: 1 of 0, 0 of -1 */
    emit_alu_immediate(e, 7, size, rm_reg(T1), 1);
    context_slow_jump(c, slow, CONDITION_BE);
}

void divide_emit(struct context *c)
{
    const struct insn *insn = c->insn;
    struct slow_path *slow = context_slow_begin_spare(c);
    unsigned divisor = take_divisor(c, slow);
    require_fit(c, slow, divisor);
    c->in_host = false;
    if (!flags_are_dead(c))
        context_flags_load(c); /* undefined, which means: as the host makes them of these */
    emit_op(&c->e, emit_size(insn->op[0].size), 0xf7, insn->mnemonic == ZYDIS_MNEMONIC_DIV ? 6 : 7,
            rm_reg(divisor));
    context_flags_written(c);
    context_slow_end(c, slow);
}
