#ifndef AEROSTAT_MMU_WALK_CACHE_H
#define AEROSTAT_MMU_WALK_CACHE_H

/*
 * What a walk need not read again, as CPUs have it (SDM vol. 3 4.10.3, 29.4): where the page tables
 * and page directories of linear regions are, with what the entries above them allow; and nested
 * entries. Of one vCPU. A page of 4 KiB then takes one reference, or two in a region of 2 MiB that
 * no walk came to yet; one of 2 MiB takes one.
 *
 * A table is remembered once all entries above it are present and accessed. It is forgotten at
 * every flush of its address space, as the SDM promises: what counts are the tables of the current
 * generation, and a flush begins another one. While the guest is in the address space of another
 * PCID, those of this one stay, and are good again with its generation (space.h), as far as they
 * have not been overwritten. INVLPG ends all generations: it may be of a page that is global, and a
 * kernel that frees a table of its half wants no vCPU to come through it again. Where the entries
 * that are read allow an access and what is remembered of those above forbids it, the walk is made
 * again from the root: who allows more need not flush. Nested entries are forgotten when the page
 * map revokes the page.
 */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define WALK_CACHE_LEVELS      2u /* of tables that are remembered, if they are not the root */
#define WALK_CACHE_TABLES      256u
#define WALK_CACHE_DIRECTORIES 64u
#define WALK_CACHE_PAGES       1024u

struct walk_cache {
    bool on;
    uint64_t generation; /* of tables that count; begins with 1 */
    uint64_t oldest;     /* generation that may be returned to */
    uint64_t newest;     /* that ever was */
    struct walk_cache_table {
        uint64_t generation;
        uint64_t region; /* linear address, shifted */
        uint64_t table;  /* guest-physical */
        uint64_t rights; /* of the entries above */
    } tables[WALK_CACHE_TABLES], directories[WALK_CACHE_DIRECTORIES];
    struct walk_cache_page {
        uint64_t ppn;   /* plus 1 */
        uint64_t entry; /* nested.h */
    } pages[WALK_CACHE_PAGES];
};

/* Where a region's table would be. Level 0: a page table, 1: a page directory. Programs have much
 * at the same addresses, so it is another place for each. */
static inline struct walk_cache_table *walk_cache_table(struct walk_cache *cache, unsigned level,
                                                        uint64_t region)
{
    uint64_t hash = (region ^ region >> 9) + cache->generation * 37;
    return level == 0 ? &cache->tables[hash & (WALK_CACHE_TABLES - 1)]
                      : &cache->directories[hash & (WALK_CACHE_DIRECTORIES - 1)];
}

static inline bool walk_cache_has(const struct walk_cache *cache,
                                  const struct walk_cache_table *table, uint64_t region)
{
    return table->region == region && table->generation == cache->generation;
}

static inline struct walk_cache_page *walk_cache_page(struct walk_cache *cache, uint64_t ppn)
{
    return &cache->pages[ppn & (WALK_CACHE_PAGES - 1)];
}

/* The tables of the current address space. */
static inline void walk_cache_flush(struct walk_cache *cache)
{
    cache->generation = ++cache->newest;
}

static inline void walk_cache_flush_all(struct walk_cache *cache)
{
    walk_cache_flush(cache);
    cache->oldest = cache->generation;
}

/* To the address space that had this generation. */
static inline void walk_cache_return(struct walk_cache *cache, uint64_t generation)
{
    if (generation >= cache->oldest)
        cache->generation = generation;
    else
        walk_cache_flush(cache);
}

static inline void walk_cache_drop_page(struct walk_cache *cache, uint64_t ppn)
{
    struct walk_cache_page *page = walk_cache_page(cache, ppn);
    if (page->ppn == ppn + 1)
        page->ppn = 0;
}

#endif
