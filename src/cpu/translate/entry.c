/*
 * The ways into a translation.
 *
 * entry_host and entry_saved are for either place of the flags. Its first instructions want them in
 * one of the two, and there its body begins; the other way brings them there first.
 *
 * poll_host and poll_saved look at attention first: links that go backward lead here, so that the
 * branch itself is one jump. The check must not spoil flags that are needed, on the way in or, for
 * that matter, on the way out to the dispatcher:
 *   flags in the slot      compare
 *   overwritten by one of the first instructions, before anything can fault: compare as well. The
 *                          way out executes these instructions, and leaves behind them, where the
 *                          flags are right again. So nobody ever sees them spoiled
 *   in the CPU, needed     RCX = jump_mask (which is 0 when attention is raised), and JRCXZ
 * unloaded and its like for links see to it that the vector registers that it begins with are in
 * the CPU: all other entries take that for granted. In relative code unloaded also makes code_page
 * of RIP: who comes by a link is in the same page already (relative.c).
 *
 * Where a translation is made because a backward link wants it, the check is made right before its
 * body; else when the first such link is patched, elsewhere.
 */

#include "cpu/translate/context.h"

#define OVERWRITE_MAX 4    /* instructions that the way out may execute */
#define ELSEWHERE_MAX 128u /* bytes of a way in that is made elsewhere */

static void emit_exit(struct emit *e, const struct translate *translate,
                      const struct translation *t, uint64_t rip, bool is_saved)
{
    emit_rip(e, t, T0, rip);
    emit_jmp_to(e, is_saved ? translate->exit_saved : translate->exit_host);
}

static void emit_compare(struct emit *e, uint32_t away)
{
    emit_alu_immediate(e, 7, 4, rm_vcpu(offsetof(struct vcpu, attention)), 0);
    emit_link(e, emit_jcc(e, CONDITION_NE), away);
}

/* Without touching flags. Returns where it begins. */
static uint32_t emit_careful(struct emit *e, const struct translate *translate,
                             const struct translation *t)
{
    uint32_t away = emit_offset(e);
    emit_mov(e, HOST_RCX, T1);
    emit_exit(e, translate, t, t->rip, false);
    uint32_t poll = emit_offset(e);
    emit_mov(e, T1, HOST_RCX);
    emit_op(e, 0, 0x8b, HOST_RCX, rm_vcpu(offsetof(struct vcpu, mmu.jump_mask)));
    emit_u8(e, 0xe3); /* jrcxz */
    emit_u8(e, (uint8_t)(away - (emit_offset(e) + 1)));
    emit_mov(e, HOST_RCX, T1);
    return poll;
}

/* The first instruction that writes all flags, after others that neither touch flags nor fault;
 * OVERWRITE_MAX where it comes later. */
static unsigned overwriter(const struct block *block)
{
    unsigned i = 0;
    while (i < block->count && i < OVERWRITE_MAX) {
        enum flags_need need = integer_need(&block->insns[i]);
        if (need == FLAGS_OVERWRITTEN)
            return i;
        if (need != FLAGS_INDIFFERENT)
            break;
        i++;
    }
    return OVERWRITE_MAX;
}

/* As an offset within its own code. */
static uint16_t within(const struct translation *t, uint32_t at)
{
    return (uint16_t)(at - t->code);
}

static struct ways *make_ways(struct translate *translate, struct translation *t)
{
    struct ways *ways = ring_allocate(translate, sizeof(*ways));
    *ways = (struct ways){0};
    t->ways = ref_of(translate, ways);
    return ways;
}

void entry_emit_saving(struct context *c)
{
    c->has_saving_entry = true;
    c->translation->entry_host = within(c->translation, emit_offset(&c->e));
    emit_flags_save(&c->e);
}

void entry_emit_loop(struct context *c, const struct block *block, enum flags_need need)
{
    struct emit *e = &c->e;
    struct translation *t = c->translation;
    struct ways *ways = make_ways(c->translate, t);
    uint32_t away = emit_offset(e);
    unsigned last = overwriter(block);
    if (need == FLAGS_SAVED) {
        emit_exit(e, c->translate, t, t->rip, true);
        ways->poll_host = emit_offset(e);
        emit_flags_save(e);
        ways->poll_saved = emit_offset(e);
        emit_compare(e, away);
    } else if (need == FLAGS_OVERWRITTEN && last < OVERWRITE_MAX) {
        const struct flags_recipe recipe = c->recipe;
        bool in_host = c->in_host, in_slot = c->in_slot;
        for (unsigned i = 0; i <= last; i++) {
            c->insn = &block->insns[i];
            c->index = i;
            c->next_rip = c->rip + c->insn->length;
            integer_emit(c);
            c->rip = c->next_rip;
        }
        emit_exit(e, c->translate, t, c->rip, false);
        c->rip = t->rip;
        c->in_host = in_host;
        c->in_slot = in_slot;
        c->recipe = recipe;
        ways->poll_host = emit_offset(e);
        emit_compare(e, away);
    } else {
        ways->poll_host = emit_careful(e, c->translate, t);
    }
}

void entry_emit(struct context *c, enum flags_need need, uint32_t body)
{
    struct translation *t = c->translation;
    t->entry_saved = within(t, body);
    if (!c->has_saving_entry)
        t->entry_host = t->entry_saved;
    t->wants_saved = need == FLAGS_SAVED;
    if (need == FLAGS_HOST) {
        t->entry_saved = within(t, emit_offset(&c->e));
        c->in_host = false;
        c->in_slot = true;
        c->recipe.kind = RECIPE_NONE;
        context_flags_load(c);
        emit_jmp_to(&c->e, body);
    } else if (need == FLAGS_SAVED && !c->has_saving_entry) {
        t->entry_host = within(t, emit_offset(&c->e));
        emit_flags_save(&c->e);
        emit_jmp_to(&c->e, body);
    }
    t->unloaded = t->entry_saved;
    if (t->vectors != VECTORS_NONE || t->is_relative) {
        t->unloaded = within(t, emit_offset(&c->e));
        if (t->is_relative)
            relative_emit_entry(&c->e, t);
        if (t->vectors != VECTORS_NONE)
            vectors_emit_check(&c->e, c->translate, t);
        emit_jmp_to(&c->e, t->code + t->entry_saved);
    }
}

/*
 * What is made elsewhere, later, stands in the rings behind the youngest translation. That
 * is as young as t or younger, so t has been evicted when this place is wanted again.
 */
static bool elsewhere_begin(const struct translate *translate, struct emit *e)
{
    const struct ring *ring = &translate->code_ring;
    *e = emit_begin(translate->code.write, ring->at);
    return ring->limit - ring->at >= ELSEWHERE_MAX;
}

/* A check elsewhere, of flags in either place; 0: no room. */
static uint32_t make_poll(struct translate *translate, const struct translation *t, bool is_saved)
{
    struct emit e;
    uint32_t poll;
    if (!elsewhere_begin(translate, &e))
        return 0;
    if (!is_saved && !t->wants_saved) {
        poll = emit_careful(&e, translate, t);
        emit_jmp_to(&e, t->code + t->entry_host);
    } else {
        uint32_t away = emit_offset(&e);
        emit_exit(&e, translate, t, t->rip, true);
        poll = emit_offset(&e);
        if (!is_saved)
            emit_flags_save(&e);
        emit_compare(&e, away);
        emit_jmp_to(&e, t->code + t->entry_saved);
    }
    ring_append_code(translate, emit_offset(&e));
    return poll;
}

/* A way in that loads vector registers; 0: no room. */
static uint32_t make_unloaded(struct translate *translate, const struct translation *t,
                              const struct link *link)
{
    struct emit e;
    if (!elsewhere_begin(translate, &e))
        return 0;
    uint32_t away = emit_offset(&e);
    emit_exit(&e, translate, t, t->rip, true);
    uint32_t entry = emit_offset(&e);
    if (!link->in_slot)
        emit_flags_save(&e);
    if (link->is_backward)
        emit_compare(&e, away);
    vectors_emit_check(&e, translate, t);
    emit_jmp_to(&e, t->code + t->entry_saved);
    ring_append_code(translate, emit_offset(&e));
    return entry;
}

uint32_t translate_entry(struct translate *translate, struct translation *t,
                         const struct link *link)
{
    bool is_unloaded = link->vectors < t->vectors;
    bool is_saved = link->in_slot && (!link->in_host || t->wants_saved);
    if (!is_unloaded && !link->is_backward)
        return t->code + (is_saved ? t->entry_saved : t->entry_host);
    struct ways *ways = ref_get(translate, t->ways);
    if (ways == NULL) {
        if (translate->data_ring.limit - translate->data_ring.at < sizeof(*ways))
            return 0;
        ways = make_ways(translate, t);
    }
    if (is_unloaded) {
        uint32_t *entry =
            &ways->unloaded_links[(link->in_slot ? 2 : 0) + (link->is_backward ? 1 : 0)];
        if (*entry == 0)
            *entry = make_unloaded(translate, t, link);
        return *entry;
    }
    uint32_t *poll = is_saved ? &ways->poll_saved : &ways->poll_host;
    if (*poll == 0)
        *poll = make_poll(translate, t, is_saved);
    return *poll;
}
