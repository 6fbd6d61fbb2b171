#ifndef AEROSTAT_MMU_TLB_H
#define AEROSTAT_MMU_TLB_H

/* The software TLB as a data structure. Callers own it: see the essay in mmu.h. */

#include "mmu/mmu.h"

/* Of an MMU that is all zeros, for a guest with so many pages of RAM: there are as many spare
 * entries for each privilege, within bounds. */
void tlb_init(struct mmu *mmu, uint64_t ram_pages);

/* What a fill puts in, beside the linear page. */
struct tlb_page {
    uint64_t ppn;
    const uint8_t *host; /* of the page's first byte */
    unsigned info;       /* enum tlb_reason */
    bool writable;       /* a write may go straight to host */
};

/* `access`: MMU_READ or MMU_WRITE. The other one's entry is filled as well, where it is free. */
void tlb_fill_data(struct mmu *mmu, enum mmu_privilege privilege, uint64_t linear,
                   enum mmu_access access, const struct tlb_page *page);
/* After a miss: true, if the entry was a spare one. It is where a probe looks for it now. */
bool tlb_recall(struct mmu *mmu, enum mmu_privilege privilege, uint64_t linear,
                enum mmu_access access);
void tlb_fill_code(struct mmu *mmu, enum mmu_privilege privilege, uint64_t linear,
                   const struct tlb_page *page);

/* There may be pieces of a large page around linear (TLB_LARGE, TLB_HUGE): a flush of any other
 * page of it has to look for them. */
void tlb_note_large(struct mmu *mmu, uint64_t linear, unsigned info);

void tlb_flush(struct mmu *mmu, bool keep_global);
/* The entries of one linear page. */
void tlb_drop_page(struct mmu *mmu, uint64_t linear);
/* Those, and all pieces of a large page that may hold it. */
void tlb_flush_page(struct mmu *mmu, uint64_t linear);

/* Guest-physical pages to be looked for in a TLB; many are found sooner if they ascend. */
struct tlb_pages {
    const uint64_t *ppns; /* the caller's */
    unsigned count;
    bool sorted;
    uint64_t filter[64]; /* a bit for the low bits of each */
};

void tlb_pages_init(struct tlb_pages *pages, const uint64_t *ppns, unsigned count);

/* Every entry that maps one of the pages, wherever. */
void tlb_drop_mappings(struct mmu *mmu, const struct tlb_pages *pages);
/* The permission to write ppn, because it has code. */
void tlb_drop_writes(struct mmu *mmu, uint64_t ppn);

/* The ITLB of a privilege: fetches know user and supervisor only. */
static inline unsigned itlb_index(enum mmu_privilege privilege)
{
    return privilege == MMU_USER ? MMU_USER : MMU_SUPERVISOR;
}

#endif
