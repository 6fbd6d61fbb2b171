/*
 * The jump cache: from one translation to another by RIP alone.
 *
 * Returns, indirect branches, branches to other pages and whatever a handler has changed RIP to
 * look for their target here, in generated code. What they do not find the dispatcher finds, and
 * remembers here. There is one table a privilege: RIP and the code to go on at.
 *
 *     slot = ((rip ^ rip >> 12) & jump_mask) >> 1       generated code looks here, in line,
 *     slot ^ 1                                          and then here, out of line (stubs.c)
 *
 * An entry is a translation (of addresses) of its own, beside the ITLB's: it holds as long as the
 * ITLB entry that it was made from would, had nothing taken its place. THE INVARIANT: what is found
 * here, the guest could find in a TLB that forgets only what it is told to. So an entry goes
 *   - when its page is flushed (INVLPG), in the flush itself: jump_flush is called by the MMU;
 *   - with a flush of everything, and with one that spares global pages (a CR3 load) unless its
 *     page is global. Two sets have the slots that are filled, so that a flush costs what has been
 *     filled since the last one;
 *   - with its translation: jump_forget. That is under one RIP at a time, although it may be good
 *     at several (relative.c).
 * What a flush takes is not forgotten but put away: its RIP is made one that nobody looks for here
 * (JUMP_PUT_AWAY), and the dispatcher, which knows by the ITLB where RIP is now, takes it back
 * if that is the page that it was in (jump_recall). Most flushes are of other pages or of an
 * address space that comes back, and so what was known costs the dispatcher neither the tables nor
 * the translation itself, a cache miss each. Only jump_forget takes an entry away for good.
 *
 * Most pages that a kernel flushes are data. The filter `pages` has those that have had entries
 * since the last full flush, and a flush of any other page ends there. An entry from a large page
 * goes with a flush of any page in its GiB: `large_regions` has those. An instruction that crosses
 * into the next page is of both.
 *
 * Attention. jump_mask is JUMP_MASK, or 0 after somebody has raised attention. Then every look-up
 * in line comes to slot 0, where no RIP is ever put, so it misses, and looks at attention itself
 * out of line: that is all that attention costs. Whoever raises it on another thread sets its bits
 * first and jump_mask after that (vcpu_kick, domain.c); the dispatcher sets jump_mask first and
 * looks at the bits after that (jump_arm), all in one total order. So either the dispatcher sees
 * the bits, or its store came before the raiser's, and jump_mask is 0. The vCPU's own thread raises
 * attention in handlers, which leave the block then.
 *
 * RIP 0 belongs in slot 0, is found there always, and its code leaves for the dispatcher. So a
 * table of zeros is an empty one: no other RIP is 0, and nobody looks for 0 anywhere else. Who
 * finds nothing out of line goes by slot 0 as well: the branch itself is done then.
 */

#include <string.h>

#include "cpu/translate/translate.h"

_Static_assert(JUMP_MASK == (TRANSLATE_JUMPS - 1) << 1, "a bit below the slot's");
_Static_assert((JUMP_PUT_AWAY & JUMP_MASK) > 2 && (JUMP_PUT_AWAY >> JUMP_SHIFT & JUMP_MASK) == 0,
               "who looks for a RIP that was put away looks in two other slots");

static unsigned slot_of(uint64_t rip)
{
    return (unsigned)((rip ^ rip >> JUMP_SHIFT) & JUMP_MASK) >> 1;
}

/* Where it is put: where generated code looks first; for slot 0, where it looks second. */
static unsigned home_of(uint64_t rip)
{
    unsigned slot = slot_of(rip);
    return slot == 0 ? 1 : slot;
}

#define REGION_SHIFT 30

#define NO_PPN     0u /* a translation that is not to be recalled: nobody runs much of page 0 */
#define PPN_DIRECT (1u << 31) /* and this bit: it is direct */

static bool is_for(const struct jump *jump, uint64_t rip)
{
    return jump->rip == rip || jump->rip == (rip ^ JUMP_PUT_AWAY);
}

static void slot_set(struct jump_cache *cache, unsigned slot, struct jump jump, uint32_t ppn,
                     bool global)
{
    cache->jumps[slot] = jump;
    cache->ppns[slot] = ppn;
    tlb_use_set(&cache->use, slot, global);
}

/* It is filled. */
static void slot_put_away(struct jump_cache *cache, unsigned slot)
{
    cache->jumps[slot].rip ^= JUMP_PUT_AWAY;
    tlb_use_clear(&cache->use, slot);
}

static void slot_clear(struct jump_cache *cache, unsigned slot)
{
    cache->jumps[slot].rip = 0;
    tlb_use_clear(&cache->use, slot);
}

struct jump *jump_entry(struct translate *translate, unsigned privilege, uint64_t rip)
{
    return &translate->jumps[privilege].jumps[rip == 0 ? 0 : home_of(rip)];
}

/* The instruction at RIP may reach so far, into another page. */
static uint64_t reach(uint64_t rip)
{
    return rip + INSN_MAX_LENGTH - 1;
}

/* Notes that there is an entry from this page. Returns whether it is global, as far as the ITLB
 * knows. */
static bool note_page(struct translate *translate, unsigned privilege, uint64_t linear)
{
    struct jump_cache *cache = &translate->jumps[privilege];
    const struct itlb_entry *entry =
        &translate->vcpu->mmu.itlb[privilege == MMU_SUPERVISOR || privilege == MMU_SUPERVISOR_AC]
                                  [(linear >> PAGE_SHIFT) & (ITLB_ENTRIES - 1)];
    bool is_known = entry->tag == (linear & ~PAGE_MASK);
    tlb_filter_add(&cache->pages, linear, PAGE_SHIFT);
    if (!is_known || entry->info & (TLB_LARGE | TLB_HUGE))
        tlb_filter_add(&cache->large_regions, linear, REGION_SHIFT);
    return is_known && entry->info & TLB_GLOBAL;
}

/* Either of two, as it comes. */
static bool toss(struct translate *translate)
{
    translate->jump_toss = translate->jump_toss * 1103515245u + 12345u;
    return translate->jump_toss >> 16 & 1;
}

/* Who was there before moves to the other slot, where it is found as well. Where that is taken one
 * of the two must go, and nobody knows which is still wanted: chance does not choose wrong for
 * long, as any fixed rule would with some pattern of use. */
void jump_remember(struct translate *translate, struct translation *t, uint64_t rip)
{
    struct jump_cache *cache = &translate->jumps[t->privilege];
    unsigned slot = home_of(rip), other = slot ^ 1;
    const struct jump *jump = &cache->jumps[slot];
    if (t->rip != rip) {
        jump_forget(translate, t);
        t->rip = rip;
    }
    if (t->rip == 0)
        return;
    if (is_for(jump, t->rip) || is_for(&cache->jumps[other], t->rip)) {
        jump_forget(translate, t);
    } else if (other != 0 && tlb_use_has(&cache->use, slot) &&
               (!tlb_use_has(&cache->use, other) || toss(translate))) {
        slot_set(cache, other, *jump, cache->ppns[slot], tlb_set_has(&cache->use.of[true], slot));
    }
    bool is_global = note_page(translate, t->privilege, t->rip);
    uint32_t ppn = t->ppn < PPN_DIRECT ? (uint32_t)t->ppn : NO_PPN;
    if (t->is_crossing) {
        is_global &= note_page(translate, t->privilege, reach(t->rip));
        ppn = NO_PPN; /* where its second page is now, has to be looked at, too */
    }
    slot_set(cache, slot, (struct jump){t->rip, TRANSLATION_ENTRY(translate, t)},
             ppn | (t->is_direct ? PPN_DIRECT : 0), is_global);
}

const void *jump_recall(struct translate *translate, unsigned privilege, uint64_t rip, uint64_t ppn)
{
    struct jump_cache *cache = &translate->jumps[privilege];
    unsigned slot = home_of(rip);
    if (cache->jumps[slot].rip != (rip ^ JUMP_PUT_AWAY))
        slot ^= 1;
    uint64_t kind = direct_may_run(translate, privilege) ? PPN_DIRECT : 0;
    if (cache->jumps[slot].rip != (rip ^ JUMP_PUT_AWAY) || cache->ppns[slot] != (ppn | kind) ||
        ppn == NO_PPN)
        return NULL;
    cache->jumps[slot].rip = rip;
    tlb_use_set(&cache->use, slot, note_page(translate, privilege, rip));
    return cache->jumps[slot].code;
}

void jump_forget(struct translate *translate, const struct translation *t)
{
    struct jump_cache *cache = &translate->jumps[t->privilege];
    unsigned slot = home_of(t->rip);
    if (is_for(&cache->jumps[slot], t->rip))
        slot_clear(cache, slot);
    if (is_for(&cache->jumps[slot ^ 1], t->rip))
        slot_clear(cache, slot ^ 1);
}

void jump_put_away(struct translate *translate, const struct translation *t)
{
    struct jump_cache *cache = &translate->jumps[t->privilege];
    unsigned slot = home_of(t->rip);
    if (cache->jumps[slot].rip == t->rip)
        slot_put_away(cache, slot);
    if (cache->jumps[slot ^ 1].rip == t->rip)
        slot_put_away(cache, slot ^ 1);
}

static void clear(struct jump_cache *cache, bool keep_global)
{
    for (unsigned global = 0; global <= !keep_global; global++) {
        struct tlb_set *set = &cache->use.of[global];
        struct tlb_cursor cursor = tlb_set_begin(set);
        for (unsigned slot; tlb_set_next(set, &cursor, &slot);)
            cache->jumps[slot].rip ^= JUMP_PUT_AWAY;
        tlb_set_clear(set);
    }
    if (cache->use.of[true].groups == 0) {
        tlb_filter_clear(&cache->pages);
        tlb_filter_clear(&cache->large_regions);
    }
}

void jump_put_away_all(struct translate *translate, unsigned privilege)
{
    clear(&translate->jumps[privilege], false);
}

/* Everything that may begin or end in the 2^bits bytes around `linear`. */
static void clear_around(struct jump_cache *cache, uint64_t linear, unsigned bits)
{
    for (unsigned global = 0; global <= 1; global++) {
        struct tlb_set *set = &cache->use.of[global];
        struct tlb_cursor cursor = tlb_set_begin(set);
        for (unsigned slot; tlb_set_next(set, &cursor, &slot);) {
            uint64_t rip = cache->jumps[slot].rip;
            if ((rip ^ linear) >> bits == 0 || (reach(rip) ^ linear) >> bits == 0)
                slot_put_away(cache, slot);
        }
    }
}

void jump_flush(void *context, enum mmu_flush_scope scope, uint64_t linear)
{
    struct translate *translate = context;
    if (scope != MMU_FLUSH_PAGE)
        direct_leave(translate);
    if (scope == MMU_FLUSH_SPACE)
        direct_forget(translate, translate->vcpu->mmu.cr3);
    for (unsigned p = 0; p < ARRAY_LENGTH(translate->jumps); p++) {
        struct jump_cache *cache = &translate->jumps[p];
        if (scope != MMU_FLUSH_PAGE)
            clear(cache, scope != MMU_FLUSH_ALL);
        else if (tlb_filter_may_have(&cache->large_regions, linear, REGION_SHIFT))
            clear_around(cache, linear, REGION_SHIFT);
        else if (tlb_filter_may_have(&cache->pages, linear, PAGE_SHIFT))
            clear_around(cache, linear, PAGE_SHIFT);
    }
    translate->stats.jump_flushes++;
}

void jump_arm(struct vcpu *vcpu)
{
    if (atomic_load_explicit(&vcpu->mmu.jump_mask, memory_order_relaxed) != 0)
        return;
    atomic_store(&vcpu->mmu.jump_mask, JUMP_MASK);
    if (atomic_load(&vcpu->attention) != 0)
        atomic_store(&vcpu->mmu.jump_mask, 0);
}

void jump_init(struct translate *translate)
{
    for (unsigned p = 0; p < ARRAY_LENGTH(translate->jumps); p++)
        translate->jumps[p].jumps[0].code = translate->code.execute + translate->exit_saved;
}
