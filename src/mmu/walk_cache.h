#ifndef AEROSTAT_MMU_WALK_CACHE_H
#define AEROSTAT_MMU_WALK_CACHE_H

/*
 * What a walk need not read again, as CPUs have it (SDM vol. 3 4.10.3, 29.4): where the page tables
 * of linear regions are, with what the entries above them allow; and nested entries. Of one vCPU.
 *
 * A table is remembered once all entries above it are present and accessed. It is forgotten at
 * every flush, also of a single page, as the SDM promises. Where the page's own entry allows an
 * access and what is remembered of those above forbids it, the walk is made again from the root:
 * who allows more need not flush. Nested entries are forgotten when the page map revokes the page.
 */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define WALK_CACHE_TABLES 256u
#define WALK_CACHE_PAGES  1024u

struct walk_cache {
    bool on;
    uint64_t generation; /* of tables that count; begins with 1 */
    struct walk_cache_table {
        uint64_t generation;
        uint64_t region; /* linear address, shifted */
        uint64_t table;  /* guest-physical */
        uint64_t rights; /* of the entries above */
    } tables[WALK_CACHE_TABLES];
    struct walk_cache_page {
        uint64_t ppn;   /* plus 1 */
        uint64_t entry; /* nested.h */
    } pages[WALK_CACHE_PAGES];
};

static inline struct walk_cache_table *walk_cache_table(struct walk_cache *cache, uint64_t region)
{
    return &cache->tables[(region ^ region >> 9) & (WALK_CACHE_TABLES - 1)];
}

static inline struct walk_cache_page *walk_cache_page(struct walk_cache *cache, uint64_t ppn)
{
    return &cache->pages[ppn & (WALK_CACHE_PAGES - 1)];
}

static inline void walk_cache_flush(struct walk_cache *cache)
{
    cache->generation++;
}

static inline void walk_cache_drop_page(struct walk_cache *cache, uint64_t ppn)
{
    struct walk_cache_page *page = walk_cache_page(cache, ppn);
    if (page->ppn == ppn + 1)
        page->ppn = 0;
}

#endif
