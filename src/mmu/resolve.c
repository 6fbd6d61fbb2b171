/*
 * Resolving an access: the one slow path behind the TLB.
 *
 * The walk and the look-up in the page map are done running, and what they find is put in the TLB.
 * Where something stands in the way of a write (the page is zero, code was decoded from it), it is
 * removed with the vCPU parked, and everything begins again from the walk: while parked, anything
 * may have changed.
 */

#include "mmu/domain.h"
#include "mmu/mmu.h"
#include "mmu/tlb.h"
#include "mmu/walk.h"

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

/* Takes away what keeps ppn, which is RAM, from being written in place. */
static void page_open(struct mmu *mmu, uint64_t ppn)
{
    mmu_park(mmu);
    if (pmap_has_code(mmu->map, ppn)) {
        mmu->stats.code_writes++;
        domain_drop_code(mmu->domain, ppn);
    }
    pmap_page_write(mmu->map, ppn);
    mmu_unpark(mmu);
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

enum mmu_outcome mmu_resolve(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                             enum mmu_privilege privilege, struct mmu_target *target,
                             struct mmu_fault *fault)
{
    if (privilege == MMU_USER_CHECKED)
        privilege = MMU_USER;
    if (tlb_look_up(mmu, linear, access, privilege, target))
        return MMU_OK;
    mmu->stats.tlb_misses++;
    uint64_t page = linear & ~PAGE_MASK, offset = linear & PAGE_MASK;
    for (;;) {
        struct walk walk;
        switch (walk_guest(mmu, linear, access, privilege, &walk)) {
        case WALK_FAULT:
            mmu->stats.page_faults++;
            *fault = (struct mmu_fault){.address = linear, .error_code = walk.error_code};
            return MMU_FAULT;
        case WALK_RACE:
            continue;
        case WALK_BLOCKED:
            page_open(mmu, walk.blocked_ppn);
            continue;
        case WALK_OK:
            break;
        }

        uint64_t ppn = walk.gpa >> PAGE_SHIFT;
        bool writable;
        mmu->stats.walk_references++;
        const uint8_t *host = access == MMU_WRITE ? pmap_page_claim(mmu->map, ppn, &writable)
                                                  : pmap_page_read(mmu->map, ppn, &writable);
        target->gpa = walk.gpa | offset;
        if (host == NULL) {
            target->host = NULL;
            return MMU_MMIO;
        }
        if (access == MMU_WRITE && !writable) {
            page_open(mmu, ppn);
            continue;
        }
        if (access == MMU_EXECUTE || likely(mmu->watched_count == 0) || !is_watched(mmu, page))
            fill(mmu, page, access, privilege, &walk, host, writable);
        target->host = (uint8_t *)(uintptr_t)host + offset;
        return MMU_OK;
    }
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
