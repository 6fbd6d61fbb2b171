/*
 * Resolving an access: the one slow path behind the TLB.
 *
 * The walk and the look-up in the page map are done running, and what they find is put in the TLB.
 * Where something stands in the way (a page or a page table is away; for a write, the page is zero,
 * or code was decoded from it), it is removed with the vCPU parked, and everything begins again
 * from the walk: while parked, anything may have changed. Each time round one page more is at hand,
 * and who takes pages away passes over those that have just been brought.
 */

#include "mmu/domain.h"
#include "mmu/mmu.h"
#include "mmu/tlb.h"
#include "mmu/walk.h"
#include "util/clock.h"

static bool tlb_look_up(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                        enum mmu_privilege privilege, struct mmu_target *target)
{
    uint64_t page = linear & ~PAGE_MASK, offset = linear & PAGE_MASK;
    if (access == MMU_EXECUTE) {
        const struct itlb_entry *entry =
            &mmu->itlb[itlb_index(privilege)][(linear >> PAGE_SHIFT) & (ITLB_ENTRIES - 1)];
        if (entry->tag != page)
            return false;
        target->host = (uint8_t *)(uintptr_t)entry->host + offset;
        target->gpa = (entry->info & ~PAGE_MASK) | offset;
        return true;
    }
    unsigned slot = (unsigned)(linear >> PAGE_SHIFT) & (TLB_ENTRIES - 1);
    const struct tlb_entry *entry = &mmu->tlb[privilege][slot].of[access];
    if (entry->tag != page && !tlb_recall(mmu, privilege, linear, access))
        return false;
    target->host = (uint8_t *)(uintptr_t)(entry->addend + linear);
    target->gpa = (mmu->tlb_info[privilege][slot].of[access] & ~PAGE_MASK) | offset;
    return true;
}

static bool is_watched(const struct mmu *mmu, uint64_t page)
{
    for (unsigned i = 0; i < mmu->watched_count; i++) {
        if (mmu->watched[i] == page)
            return true;
    }
    return false;
}

/* Takes away what keeps ppn, which is RAM, from being written in place. False: lost. */
static bool page_open(struct mmu *mmu, uint64_t ppn)
{
    mmu_park(mmu);
    if (pmap_has_code(mmu->map, ppn)) {
        mmu->stats.code_writes++;
        domain_drop_code(mmu->domain, ppn);
    }
    bool is_open = pmap_page_write(mmu->map, ppn) != NULL;
    mmu_unpark(mmu);
    return is_open;
}

bool mmu_bring(struct mmu *mmu, uint64_t ppn)
{
    mmu->stats.away++;
    mmu_park(mmu);
    bool is_here = pmap_page_bring(mmu->map, ppn) == STATUS_OK;
    mmu_unpark(mmu);
    return is_here;
}

static void fill(struct mmu *mmu, uint64_t page, enum mmu_access access,
                 enum mmu_privilege privilege, const struct walk *walk, const uint8_t *host,
                 bool writable)
{
    struct tlb_page entry = {
        .ppn = walk->gpa >> PAGE_SHIFT,
        .host = host,
        .info = walk->large | (walk->global ? TLB_GLOBAL : 0),
        .writable = writable && walk->may_write && walk->dirty,
    };
    if (access == MMU_EXECUTE) {
        tlb_fill_code(mmu, privilege, page, &entry);
        return;
    }
    if (!walk->may_write)
        entry.info |= TLB_DENIED;
    else if (!walk->dirty)
        entry.info |= TLB_CLEAN;
    if (!writable) {
        if (pmap_has_code(mmu->map, entry.ppn))
            entry.info |= TLB_CODE;
        if (pmap_state(mmu->map, entry.ppn) == PAGE_ZERO)
            entry.info |= TLB_ZERO;
    }
    tlb_fill_data(mmu, privilege, page, access, &entry);
}

/*
 * A page fault takes what was cached for its address along (SDM vol. 3 4.10.4.1), so that what the
 * handler puts there needs no flush. walk_guest has seen to the walk cache. An engine's memory of
 * where jumps lead is left alone: what is found there does not fault, and to look for one page in
 * it is dear for how often new programs fault.
 */
static void forget_address(struct mmu *mmu, uint64_t linear)
{
    tlb_drop_page(mmu, linear);
    if (mmu->is_shadowed)
        shadow_refresh(mmu, linear);
}

/*
 * Once. WALK_OK: *target is good, and in the TLB; or its host is NULL, and it is no RAM.
 * WALK_BLOCKED and WALK_AWAY are of the page itself, too. Parks for the shadow's sake alone; where
 * it may not it is WALK_RACE then.
 */
static enum walk_outcome look(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                              enum mmu_privilege privilege, bool may_park, struct walk *walk,
                              struct mmu_target *target)
{
    uint64_t page = linear & ~PAGE_MASK, offset = linear & PAGE_MASK, nested = 0;
    struct walk_way way;
    enum shadow_answer answer = SHADOW_UNKNOWN;
    if (mmu->is_shadowed)
        answer = shadow_look_up(mmu, linear, access, privilege, may_park, walk, &nested);
    if (answer == SHADOW_PARKS)
        return WALK_RACE;
    bool is_known = answer == SHADOW_KNOWN;
    if (!is_known) {
        enum walk_outcome outcome =
            walk_guest(mmu, linear, access, privilege, walk, mmu->is_shadowed ? &way : NULL);
        if (outcome != WALK_OK)
            return outcome;
    }
    uint64_t ppn = walk->gpa >> PAGE_SHIFT;
    if (!is_known)
        nested = walk_nested(mmu, ppn, access == MMU_WRITE);
    bool writable = nested & NESTED_WRITE;
    walk->blocked_ppn = ppn;
    *target = (struct mmu_target){.gpa = walk->gpa | offset};
    if (unlikely(nested == 0))
        return pmap_state(mmu->map, ppn) == PAGE_NONE ? WALK_OK : WALK_AWAY;
    if (access == MMU_WRITE && !writable)
        return WALK_BLOCKED;
    if (mmu->is_shadowed && !is_known)
        shadow_build(mmu, linear, &way, walk->gpa, nested);
    uint8_t *host = (uint8_t *)(uintptr_t)(nested & ~PAGE_MASK);
    if (access == MMU_EXECUTE || likely(mmu->watched_count == 0) || !is_watched(mmu, page))
        fill(mmu, page, access, privilege, walk, host, writable);
    target->host = host + offset;
    return WALK_OK;
}

static enum mmu_outcome resolve_miss(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                                     enum mmu_privilege privilege, struct mmu_target *target,
                                     struct mmu_fault *fault)
{
    for (;;) {
        struct walk walk;
        switch (look(mmu, linear, access, privilege, true, &walk, target)) {
        case WALK_OK:
            return target->host != NULL ? MMU_OK : MMU_MMIO;
        case WALK_FAULT:
            mmu->stats.page_faults++;
            forget_address(mmu, linear);
            *fault = (struct mmu_fault){.address = linear, .error_code = walk.error_code};
            return MMU_FAULT;
        case WALK_RACE:
            break;
        case WALK_BLOCKED:
            if (!page_open(mmu, walk.blocked_ppn))
                return MMU_LOST;
            break;
        case WALK_AWAY:
            if (!mmu_bring(mmu, walk.blocked_ppn))
                return MMU_LOST;
            break;
        }
    }
}

/* MMU_AUTO has an eye on what a miss costs. */
struct measure {
    bool is_sample;
    uint64_t away, begin;
};

static struct measure measure_begin(const struct mmu *mmu)
{
    struct measure measure = {.is_sample = mmu->is_choosing && auto_samples(&mmu->choice),
                              .away = mmu->stats.away};
    if (measure.is_sample)
        measure.begin = clock_tsc();
    return measure;
}

static void measure_end(struct mmu *mmu, const struct measure *measure)
{
    mmu->stats.tlb_misses++;
    if (!mmu->is_choosing)
        return;
    if (measure->is_sample && mmu->stats.away == measure->away)
        auto_measured(&mmu->choice, clock_tsc() - measure->begin);
    auto_missed(&mmu->choice);
    if (auto_is_full(&mmu->choice))
        auto_end_window(mmu);
}

enum mmu_outcome mmu_resolve(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                             enum mmu_privilege privilege, struct mmu_target *target,
                             struct mmu_fault *fault)
{
    if (privilege == MMU_USER_CHECKED)
        privilege = MMU_USER;
    if (tlb_look_up(mmu, linear, access, privilege, target))
        return MMU_OK;
    struct measure measure = measure_begin(mmu);
    enum mmu_outcome outcome = resolve_miss(mmu, linear, access, privilege, target, fault);
    measure_end(mmu, &measure);
    return outcome;
}

uint8_t *mmu_find(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                  enum mmu_privilege privilege)
{
    struct mmu_target target;
    struct walk walk;
    if (mmu->watched_count != 0)
        return NULL;
    if (tlb_look_up(mmu, linear, access, privilege, &target))
        return target.host;
    struct measure measure = measure_begin(mmu);
    if (look(mmu, linear, access, privilege, false, &walk, &target) != WALK_OK ||
        target.host == NULL)
        return NULL;
    measure_end(mmu, &measure);
    return target.host;
}

bool mmu_overwrite(struct mmu *mmu, uint64_t linear, enum mmu_privilege privilege,
                   const uint8_t *bytes)
{
    struct walk walk;
    if (privilege == MMU_USER_CHECKED)
        privilege = MMU_USER;
    if (mmu->watched_count != 0 || !pmap_has_away(mmu->map) ||
        walk_guest(mmu, linear, MMU_WRITE, privilege, &walk, NULL) != WALK_OK ||
        !pmap_is_away(mmu->map, walk.gpa >> PAGE_SHIFT))
        return false;
    /* The tables may change while it is parked; then this is the store of a CPU that has not heard
     * of it yet, as it may be up to the end of the instruction. */
    mmu_park(mmu);
    bool is_done = pmap_write(mmu->map, walk.gpa, bytes, PAGE_SIZE) == STATUS_OK;
    mmu_unpark(mmu);
    return is_done;
}

void mmu_mark_code(struct mmu *mmu, uint64_t ppn)
{
    /*
     * The guard is looked at while running: whoever clears it from then on posts us the request to
     * drop the code we are going to decode. A mark that was cleared while we were still parked left
     * us nothing to drop, so it must be made again.
     */
    while (!pmap_code_is_guarded(mmu->map, ppn) && pmap_state(mmu->map, ppn) != PAGE_NONE) {
        mmu_park(mmu);
        domain_mark_code(mmu->domain, ppn);
        mmu_unpark(mmu);
    }
}
