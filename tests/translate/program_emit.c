/* Random programs: instructions are put down, and what is known of registers and flags after them.
 */

#include <string.h>

#include "program_generator.h"

bool generator_decode(struct generator *g, const uint8_t *bytes, size_t length, struct decoded *d)
{
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(&g->decoder, bytes, length, &d->insn, d->operands));
}

static void put_raw(struct generator *g, const void *bytes, unsigned length, bool is_pinned)
{
    struct program *p = g->p;
    if (g->at + length > ARENA_CODE_SIZE - 16 || p->piece_count == PROGRAM_PIECES)
        return; /* make_items leaves room: never */
    memcpy(p->code + g->at, bytes, length);
    p->undefined[g->at] = (uint16_t)g->undefined;
    p->pieces[p->piece_count++] =
        (struct program_piece){(uint16_t)g->at, (uint16_t)length, is_pinned};
    g->at += length;
}

/* CMP of a register with a number: every status flag is defined after it. */
void generator_define_flags(struct generator *g)
{
    uint8_t cmp[4] = {0x48 | (uint8_t)below(g, 2), 0x83, 0xf8 | (uint8_t)below(g, 8),
                      (uint8_t)below(g, 256)};
    put_raw(g, cmp, sizeof(cmp), true);
    g->undefined = 0;
}

static unsigned stack_step(const struct decoded *d)
{
    switch (d->insn.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_PUSHF:
    case ZYDIS_MNEMONIC_PUSHFQ:
        return (unsigned)-(d->insn.operand_width / 8);
    case ZYDIS_MNEMONIC_POP:
        return d->insn.operand_width / 8u;
    default:
        return 0;
    }
}

/* What is known of registers and flags after it. */
static void note_effects(struct generator *g, const struct decoded *d, const struct flag_effect *e)
{
    bool knew_stack = g->known & 1u << GPR_RSP;
    bool names_stack = false;
    for (unsigned i = 0; i < d->insn.operand_count; i++) {
        const ZydisDecodedOperand *op = &d->operands[i];
        if (op->type != ZYDIS_OPERAND_TYPE_REGISTER ||
            !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
            continue;
        int gpr = zydis_gpr(op->reg.value);
        if (gpr >= 0)
            g->known &= (uint16_t) ~(1u << gpr);
        if (gpr == GPR_RSP && op->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            names_stack = true;
    }
    int step = (int)stack_step(d);
    if (step != 0 && knew_stack && !names_stack) {
        g->known |= 1u << GPR_RSP;
        g->value[GPR_RSP] += (uint64_t)(int64_t)step;
    }
    g->undefined = (g->undefined & ~e->writes) | e->leaves;
}

void generator_put(struct generator *g, const void *bytes, size_t length, bool is_pinned)
{
    struct decoded d;
    struct flag_effect e;
    if (!generator_decode(g, bytes, length, &d))
        return;
    generator_flag_effect(&d, &e);
    if (e.reads & g->undefined)
        generator_define_flags(g);
    put_raw(g, bytes, d.insn.length, is_pinned);
    note_effects(g, &d, &e);
}

void generator_put_constant(struct generator *g, unsigned reg, uint64_t value)
{
    uint8_t mov[10] = {(uint8_t)(0x48 | (reg & 8) >> 3), (uint8_t)(0xb8 | (reg & 7))};
    memcpy(mov + 2, &value, 8);
    put_raw(g, mov, sizeof(mov), false);
    g->known |= (uint16_t)(1u << reg);
    g->value[reg] = value;
}
