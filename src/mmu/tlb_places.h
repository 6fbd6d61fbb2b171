#ifndef AEROSTAT_MMU_TLB_PLACES_H
#define AEROSTAT_MMU_TLB_PLACES_H

/*
 * From a guest-physical page to the entries of the data TLBs that map it: what a revocation asks
 * for. Else each one would look at every entry that is filled, 100,000 in a guest of 256 MiB, which
 * takes half a millisecond, while the vCPU stands still.
 *
 * A place is where the entries of one linear page are, of all privileges and both accesses: its
 * number in a main table and in a spare one. A page has a few places, for it is mapped at a few
 * linear addresses: by the kernel's direct map, and by a process or some. Pages whose PPNs have the
 * same low bits share their places; there are as many lists as spare entries, so mostly none do.
 *
 * Invariant: an entry in a table is at one of its page's places, or these are many: then whoever
 * looks for it looks everywhere. Places stay when entries go, for flushes have them go by the
 * thousand. Where there is no room for one more, a place that nothing of the page is at is
 * forgotten for it. An address space that was left (space.h) may still have an entry for that one,
 * so its places are noted again when it comes back, if any has been forgotten since (places_lost).
 *
 *     fill:     places_add(mmu, ppn, linear);
 *     revoke:   places = places_of(mmu, ppn);
 *               if (places_are_many(places)) look everywhere; else places_visit(mmu, ppn, visit);
 */

#include "mmu/tlb_tables.h"

#define PLACE_NONE  0u
#define PLACES_MANY UINT32_MAX /* as the first one */

static inline struct tlb_places *places_of(struct mmu *mmu, uint64_t ppn)
{
    return &mmu->tlb_places[ppn & (bit(mmu->tlb_spare_bits) - 1)];
}

static inline bool places_are_many(const struct tlb_places *places)
{
    return places->of[0] == PLACES_MANY;
}

static inline uint32_t place_of(const struct mmu *mmu, uint64_t linear)
{
    return 1u << 31 | main_slot(linear) << 16 | tlb_spare_slot(mmu, linear);
}

/* There are as many places as fit, and this is another. */
void places_make_room(struct mmu *mmu, uint64_t ppn, uint32_t place);

/* Before an entry of the linear page maps ppn. */
static inline void places_add(struct mmu *mmu, uint64_t ppn, uint64_t linear)
{
    struct tlb_places *places = places_of(mmu, ppn);
    uint32_t place = place_of(mmu, linear);
    if (unlikely(places_are_many(places)))
        return;
    for (unsigned i = 0; i < TLB_PLACES; i++) {
        if (places->of[i] == place)
            return;
        if (places->of[i] == PLACE_NONE) {
            places->of[i] = place;
            return;
        }
    }
    places_make_room(mmu, ppn, place);
}

/* Calls visit for each entry that maps ppn, whose places are not many; it may drop the entry. */
typedef void places_visit_fn(const struct data_table *table, unsigned slot);
void places_visit(struct mmu *mmu, uint64_t ppn, places_visit_fn *visit);

/* The page, and those that share its places, have none any more: whoever calls it adds them. */
void places_reset(struct mmu *mmu, uint64_t ppn);

#endif
