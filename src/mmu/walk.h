#ifndef AEROSTAT_MMU_WALK_H
#define AEROSTAT_MMU_WALK_H

/* Walks of the guest's page tables: SDM vol. 3 ch. 4. */

#include "mmu/mmu.h"

/* Bits of CR0, CR4 and EFER that paging looks at. */
#define PAGING_CR0_WP    ((uint64_t)1 << 16)
#define PAGING_CR0_PG    ((uint64_t)1 << 31)
#define PAGING_CR3_PCID  ((uint64_t)0xfff)
#define PAGING_CR4_PSE   ((uint64_t)1 << 4)
#define PAGING_CR4_PAE   ((uint64_t)1 << 5)
#define PAGING_CR4_PGE   ((uint64_t)1 << 7)
#define PAGING_CR4_PCIDE ((uint64_t)1 << 17)
#define PAGING_CR4_SMEP  ((uint64_t)1 << 20)
#define PAGING_CR4_SMAP  ((uint64_t)1 << 21)
#define PAGING_EFER_LMA  ((uint64_t)1 << 10)
#define PAGING_EFER_NXE  ((uint64_t)1 << 11)

/* Bits of a paging-structure entry. */
#define ENTRY_P  ((uint64_t)1 << 0)
#define ENTRY_W  ((uint64_t)1 << 1)
#define ENTRY_U  ((uint64_t)1 << 2)
#define ENTRY_A  ((uint64_t)1 << 5)
#define ENTRY_D  ((uint64_t)1 << 6)
#define ENTRY_PS ((uint64_t)1 << 7)
#define ENTRY_G  ((uint64_t)1 << 8)
#define ENTRY_NX ((uint64_t)1 << 63)

enum walk_outcome {
    WALK_OK,
    WALK_FAULT,   /* error_code is good; the guest's tables are as they were */
    WALK_RACE,    /* another CPU changed an entry under the walk: walk again */
    WALK_AWAY,    /* the table in page blocked_ppn is away: bring it, walk again */
    WALK_BLOCKED, /* the table in page blocked_ppn has an A or D bit to be set, and cannot be
                     written in place: make it writable, walk again */
};

#define WALK_LEVELS_MAX 4

struct walk {
    uint64_t gpa;   /* of the 4 KiB page that holds the linear address */
    bool may_write; /* the privilege allows writes */
    bool dirty;     /* the dirty flag is set, so that a write needs no walk */
    bool global;    /* with CR4.PGE */
    unsigned large; /* 0, TLB_LARGE or TLB_HUGE */
    uint32_t error_code;
    uint64_t blocked_ppn;
};

/* The way of a walk, from the root: PPNs of tables, and their entries as they are after it. */
struct walk_way {
    unsigned count;
    uint64_t tables[WALK_LEVELS_MAX], entries[WALK_LEVELS_MAX];
};

/* Of an entry with 8 bytes: the address, and what is reserved always. */
#define WALK_ADDRESS_MASK ((bit(MMU_PHYSICAL_BITS) - 1) & ~PAGE_MASK)
#define WALK_RESERVED     ((bit(52) - 1) & ~(bit(MMU_PHYSICAL_BITS) - 1))

/* What all levels together allow: the rights of the entries, ANDed. */
#define RIGHT_USER    ENTRY_U
#define RIGHT_WRITE   ENTRY_W
#define RIGHT_EXECUTE ENTRY_NX

static inline uint64_t walk_entry_rights(uint64_t value)
{
    return value ^ ENTRY_NX;
}

static inline bool walk_allows(const struct mmu *mmu, uint64_t rights, enum mmu_access access,
                               enum mmu_privilege privilege)
{
    if (privilege == MMU_USER) {
        uint64_t wanted = RIGHT_USER;
        if (access != MMU_READ)
            wanted |= access == MMU_WRITE ? RIGHT_WRITE : RIGHT_EXECUTE;
        return (rights & wanted) == wanted;
    }
    if (access == MMU_EXECUTE)
        return rights & RIGHT_EXECUTE && !(rights & RIGHT_USER && mmu->cr4 & PAGING_CR4_SMEP);
    if (rights & RIGHT_USER && privilege == MMU_SUPERVISOR && mmu->cr4 & PAGING_CR4_SMAP)
        return false;
    return access == MMU_READ || rights & RIGHT_WRITE || !(mmu->cr0 & PAGING_CR0_WP);
}

/* Walks for one access and, if it is allowed, sets the accessed and dirty bits it must set. *way is
 * filled by a walk through tables that ends well, unless it is NULL, as it must be where the MMU is
 * not shadowed: such a walk may begin with a remembered table. */
enum walk_outcome walk_guest(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                             enum mmu_privilege privilege, struct walk *walk, struct walk_way *way);

/* The nested entry of ppn (nested.h), from the cache, the table or the page map; one that allows
 * writes, if `write` and that can be had at once. 0: the page is not RAM, or away. Never large. */
uint64_t walk_nested(struct mmu *mmu, uint64_t ppn, bool write);

/* Parks and brings page ppn, which is RAM. False: its bytes are lost. */
bool mmu_bring(struct mmu *mmu, uint64_t ppn);

#endif
