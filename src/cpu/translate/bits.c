/*
 * BT, BTS, BTR and BTC of a bit string: memory, and a register as offset. CMPXCHG8B and 16B.
 *
 * Which bytes of a bit string are meant is arithmetic, done before the probe:
 *
 *      lea  r9, [rdi + 8]              bts [rdi + 8], rax
 *      mov  r10, rax
 *      sar  r10, 6
 *      lea  r9, [r9 + r10 * 8]
 *      the probe of 8 bytes
 *      mov  r10, [r9]
 *      bts  r10, rax                   of a register, where the offset counts modulo 64
 *      mov  [r9], r10
 *
 * A locked one must be a single instruction of the host's, which does the same arithmetic once
 * more. So its address is what leads back to the bytes that were probed.
 */

#include <Zydis/Zydis.h>

#include "cpu/interp/interp.h"
#include "cpu/translate/plan.h"

static bool is_pair(const struct insn *insn)
{
    return insn->exec == exec_cmpxchg8b || insn->exec == exec_cmpxchg16b;
}

bool bits_is_inline(const struct insn *insn)
{
    return is_pair(insn) || (insn->exec == exec_bt && is_memory(insn, 0) && is_gpr(insn, 1) &&
                             insn->op[0].size >= 4 && insn->address_size == 8);
}

/* The flags that the instruction keeps: all that it does not write. Spoils T1 and T2. */
static void load_flags(struct context *c)
{
    if (!flags_are_dead(c))
        context_flags_load(c);
}

static void emit_pair(struct context *c)
{
    bool wide = c->insn->exec == exec_cmpxchg16b;
    unsigned size = wide ? 16 : 8;
    struct slow_path *slow = context_slow_begin_spare(c);
    struct emit_rm rm = context_operand(c, slow, size, true, size - 1);
    load_flags(c);
    unsigned lock = c->insn->prefixes & INSN_LOCK ? EMIT_LOCK : 0;
    emit_op(&c->e, lock | (wide ? EMIT_W : 0), 0x0fc7, 1, rm);
    context_flags_written(c);
    context_slow_end(c, slow);
}

static uint32_t opcode_of(const struct insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_BTS:
        return 0x0fab;
    case ZYDIS_MNEMONIC_BTR:
        return 0x0fb3;
    case ZYDIS_MNEMONIC_BTC:
        return 0x0fbb;
    default:
        return 0x0fa3;
    }
}

/* T1 = the offset in elements. */
static void emit_element(struct context *c, unsigned size)
{
    struct emit *e = &c->e;
    unsigned offset = context_get(c, c->insn->op[1].reg, T1);
    emit_op(e, EMIT_W, size == 8 ? 0x8b : 0x63, T1, rm_reg(offset)); /* mov, movsxd */
    emit_op(e, EMIT_W, 0xc1, 7, rm_reg(T1));                         /* sar */
    emit_u8(e, size == 8 ? 6 : 5);
}

static void emit_bit(struct context *c)
{
    struct emit *e = &c->e;
    const struct insn *insn = c->insn;
    unsigned size = insn->op[0].size, scale = size == 8 ? 3 : 2;
    bool writes = insn->mnemonic != ZYDIS_MNEMONIC_BT, locked = insn->prefixes & INSN_LOCK;
    struct slow_path *slow = context_slow_begin_spare(c);
    context_address(c);
    emit_element(c, size);
    emit_lea(e, T0, (struct emit_rm){1, 0, T0, T1, (uint8_t)scale, 0});
    context_probe(c, slow, size, writes);
    if (locked) {
        emit_op(e, EMIT_BYTE_RM, 0xf6, 0, rm_reg(T0)); /* test */
        emit_u8(e, size - 1);
        context_slow_jump(c, slow, CONDITION_NE);
        emit_element(c, size);
        emit_op(e, EMIT_W, 0xc1, 4, rm_reg(T1)); /* shl */
        emit_u8(e, scale);
        emit_op(e, EMIT_W, 0x2b, T0, rm_reg(T1)); /* sub */
    }
    load_flags(c);
    unsigned offset = context_get(c, insn->op[1].reg, T2);
    if (locked) {
        emit_op(e, EMIT_LOCK | emit_size(size), opcode_of(insn), offset, rm_at(T0, 0));
    } else {
        emit_op(e, emit_size(size), 0x8b, T1, rm_at(T0, 0));
        emit_op(e, emit_size(size), opcode_of(insn), offset, rm_reg(T1));
        if (writes)
            emit_op(e, emit_size(size), 0x89, T1, rm_at(T0, 0));
    }
    context_flags_written(c);
    context_slow_end(c, slow);
}

void bits_emit(struct context *c)
{
    c->held = RUN_NONE;
    if (is_pair(c->insn))
        emit_pair(c);
    else
        emit_bit(c);
}
