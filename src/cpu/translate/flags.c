/*
 * Where the guest's status flags are.
 *
 * The host's flags are the guest's right after an instruction that writes them, and anybody's after
 * a TLB probe. There are four ways to have them still:
 *
 *   in_host   in the CPU
 *   in_slot   in the slot of the stack frame: LAHF and SETO have put them there
 *   in_parts  CF in a slot of its own, where SETC has put it, the others in the CPU: after a direct
 *             access (direct.c), which spoils no more. Then they are nowhere else, and no recipe is
 *   recipe    nowhere, but an instruction or two would make them again from guest registers
 *
 * At least one holds at any time. The recipe is what makes probes cheap:
 *
 *      and  eax, 0x7fff        ; recipe: TEST EAX, EAX
 *      mov  rcx, [rdx]         ; its probe spoils the flags; nothing is saved for it
 *      add  rcx, rax           ; writes all flags: nobody has ever asked
 *
 * Were the probe to fail, the slow path would do as the recipe says before it calls the handler,
 * out of line. A recipe ends when one of its registers is written (flags_keep); flags that are
 * nowhere else are made before that.
 *
 * Some instructions keep flags: INC keeps CF, a rotation keeps all but CF and OF. While the slot is
 * good, they need not be merged at once either: such a recipe begins with the slot.
 */

#include "cpu/translate/context.h"

/* PUSHF and POPF are slow on some CPUs (PUSHF takes four cycles where this takes one), so the slot
 * has what LAHF and SETO make: OF in its first byte, SF ZF AF PF CF in its second, anything in the
 * others. OF comes back by an addition that overflows where it is set. */
void emit_flags_load(struct emit *e)
{
    emit_mov(e, T2, HOST_RAX);
    emit_op(e, 0, 0x8b, HOST_RAX, rm_at(HOST_RSP, FLAGS_SLOT));
    emit_alu_immediate(e, 0, 1, rm_reg(HOST_RAX), 0x7f); /* add al, 0x7f */
    emit_u8(e, 0x9e);                                    /* sahf */
    emit_mov(e, HOST_RAX, T2);
}

void emit_flags_save(struct emit *e)
{
    emit_mov(e, T2, HOST_RAX);
    emit_u8(e, 0x9f);                           /* lahf */
    emit_op(e, 0, 0x0f90, 0, rm_reg(HOST_RAX)); /* seto al */
    emit_op(e, 0, 0x89, HOST_RAX, rm_at(HOST_RSP, FLAGS_SLOT));
    emit_mov(e, HOST_RAX, T2);
}

void emit_carry_save(struct emit *e)
{
    emit_op(e, 0, 0x0f92, 0, rm_at(HOST_RSP, CARRY_SLOT)); /* setc */
}

void emit_carry_load(struct emit *e)
{
    emit_op(e, 0, 0x0fb6, T2, rm_at(HOST_RSP, CARRY_SLOT)); /* movzx: BT of a byte there is none */
    emit_op(e, 0, 0x0fba, 4, rm_reg(T2));                   /* bt */
    emit_u8(e, 0);
}

#define OF_SHIFT 11
_Static_assert(FLAG_OF == 1u << OF_SHIFT, "where OF is");

void emit_flags_take(struct emit *e, unsigned to, unsigned scratch, int32_t slot)
{
    emit_op(e, 0, 0x0fb6, to, rm_at(HOST_RSP, slot));
    emit_op(e, 0, 0xc1, 4, rm_reg(to)); /* shl */
    emit_u8(e, OF_SHIFT);
    emit_op(e, 0, 0x0fb6, scratch, rm_at(HOST_RSP, slot + 1));
    emit_alu_immediate(e, 4, 4, rm_reg(scratch), FLAGS_STATUS & ~FLAG_OF);
    emit_op(e, 0, 0x0b, to, rm_reg(scratch)); /* or */
}

void emit_flags_give(struct emit *e, unsigned from, unsigned scratch, int32_t slot)
{
    emit_op(e, 0, 0x8b, scratch, rm_reg(from));
    emit_op(e, 0, 0xc1, 5, rm_reg(scratch)); /* shr */
    emit_u8(e, OF_SHIFT);
    emit_alu_immediate(e, 4, 4, rm_reg(scratch), 1);
    emit_op(e, 0, 0xc1, 4, rm_reg(from));
    emit_u8(e, 8);
    emit_op(e, 0, 0x0b, from, rm_reg(scratch));
    emit_op(e, 0, 0x89, from, rm_at(HOST_RSP, slot));
}

/* ------------------------------------------------------------------------- recipes */

static uint32_t wide(uint32_t opcode, unsigned size)
{
    return size == 1 ? opcode : opcode | 1;
}

/* ALU operation `op` (as for emit_alu_immediate; 8 is TEST) on a host register and the second
 * operand, a guest register or an immediate. */
static void emit_alu(struct context *c, const struct flags_recipe *r, unsigned op, unsigned to)
{
    struct emit *e = &c->e;
    if (r->other != FLAGS_IMMEDIATE) {
        uint32_t opcode = op == 8 ? 0x84 : op << 3;
        emit_op(e, emit_size(r->size), wide(opcode, r->size), context_get(c, r->other, T2),
                rm_reg(to));
    } else if (op == 8) {
        emit_op(e, emit_size(r->size), wide(0xf6, r->size), 0, rm_reg(to));
        emit_immediate(e, r->immediate, r->size);
    } else {
        emit_alu_immediate(e, op, r->size, rm_reg(to), r->immediate);
    }
}

/* One operand: an opcode and its extension; rotations with their count. */
static void emit_unary(struct context *c, const struct flags_recipe *r, uint32_t opcode,
                       unsigned extension)
{
    emit_op(&c->e, emit_size(r->size), wide(opcode, r->size), extension, rm_reg(T1));
    if (opcode == 0xc0)
        emit_u8(&c->e, (uint8_t)r->immediate);
}

/* Makes the flags in the CPU. Registers that are to be undone and done again are so in T1. */
void flags_emit_recipe(struct context *c, const struct flags_recipe *r)
{
    struct emit *e = &c->e;
    if (r->on_slot)
        emit_flags_load(e);
    unsigned reg = context_get(c, r->reg, T1);
    if (r->kind >= RECIPE_ADD && reg != T1)
        emit_mov(e, T1, reg);
    switch ((enum flags_recipe_kind)r->kind) {
    case RECIPE_NONE:
        break;
    case RECIPE_CMP:
        emit_alu(c, r, 7, reg);
        break;
    case RECIPE_TEST:
        emit_alu(c, r, 8, reg);
        break;
    case RECIPE_ADD:
        emit_alu(c, r, 5, T1);
        emit_alu(c, r, 0, T1);
        break;
    case RECIPE_SUB:
        emit_alu(c, r, 0, T1);
        emit_alu(c, r, 5, T1);
        break;
    case RECIPE_NEG:
        emit_unary(c, r, 0xf6, 3);
        emit_unary(c, r, 0xf6, 3);
        break;
    case RECIPE_INC:
        emit_unary(c, r, 0xfe, 1);
        emit_unary(c, r, 0xfe, 0);
        break;
    case RECIPE_DEC:
        emit_unary(c, r, 0xfe, 0);
        emit_unary(c, r, 0xfe, 1);
        break;
    case RECIPE_ROL:
        emit_unary(c, r, 0xc0, 1);
        emit_unary(c, r, 0xc0, 0);
        break;
    case RECIPE_ROR:
        emit_unary(c, r, 0xc0, 0);
        emit_unary(c, r, 0xc0, 1);
        break;
    }
}

/* ------------------------------------------------------------------------- the state */

void context_flags_make(struct context *c)
{
    if (c->in_host || c->in_slot)
        return;
    if (c->in_parts)
        emit_carry_load(&c->e);
    else
        flags_emit_recipe(c, &c->recipe);
    c->in_host = true;
    c->in_parts = false;
}

void context_flags_settle(struct context *c)
{
    if (!c->in_parts)
        context_flags_make(c);
    c->recipe.kind = RECIPE_NONE;
}

void context_flags_save(struct context *c)
{
    if (c->in_slot)
        return;
    context_flags_make(c);
    emit_flags_save(&c->e);
    c->in_slot = true;
}

void context_flags_load(struct context *c)
{
    if (c->in_host)
        return;
    context_flags_make(c);
    if (c->in_host)
        return;
    emit_flags_load(&c->e);
    c->in_host = true;
}

void flags_keep(struct context *c, unsigned gpr)
{
    if (c->recipe.kind == RECIPE_NONE || (c->recipe.reg != gpr && c->recipe.other != gpr))
        return;
    context_flags_settle(c);
}

void flags_spare(struct context *c, struct slow_path *slow)
{
    if (!c->in_slot && c->recipe.kind != RECIPE_NONE)
        slow->recipe = c->recipe;
    else
        context_flags_save(c);
}

void flags_spare_carry(struct context *c, struct slow_path *slow, bool spoils)
{
    if (c->in_slot)
        return;
    if (c->recipe.kind != RECIPE_NONE) {
        slow->recipe = c->recipe;
        return;
    }
    if (spoils && c->in_host) {
        emit_carry_save(&c->e);
        c->in_parts = true;
        c->in_host = false;
    }
    slow->in_parts = c->in_parts;
    slow->in_host = c->in_host;
}

void flags_emit_slow(struct context *c, const struct slow_path *slow)
{
    if (slow->in_parts)
        emit_carry_load(&c->e);
    else if (slow->recipe.kind != RECIPE_NONE)
        flags_emit_recipe(c, &slow->recipe);
    else if (!slow->in_host)
        return;
    emit_flags_save(&c->e);
}
