#ifndef AEROSTAT_MEM_PAGER_H
#define AEROSTAT_MEM_PAGER_H

/*
 * Where pages go that are taken from the guest, and where they come back from: dropped if they are
 * zero, or still equal to a block of one of the VM's disks; else into the compression cache, else
 * into the swap file; the cache's oldest go on to the file when the cache is full. It is the page
 * map's store (page_leave.h). Which pages go, and when, is decided by others (reclaim.h).
 *
 * All functions may be called from any thread, but for create and destroy; only one thread may ask
 * for PAGER_QUEUE, and only that thread calls pager_settle.
 *
 * Nothing is lost when there is no room or the host's disk fails: the pages stay where they are. A
 * line in the log says so once, and the counters every time.
 */

#include <stdbool.h>
#include <stdint.h>

#include "mem/disk_pages.h"
#include "mem/page_leave.h"
#include "mem/pmap.h"
#include "mem/swap.h"
#include "mem/zcache.h"

struct pager;

struct pager_stats {
    uint64_t zeroed;      /* pages that were all zero */
    uint64_t disk_backed; /* pages that a disk has */
    uint64_t compressed;  /* pages that went into the cache */
    uint64_t swapped;     /* pages that went to the swap file straight */
    uint64_t demoted;     /* pages that went there from the cache */
    uint64_t refused;     /* pages for which there was no room */
    uint64_t failed;      /* pages that could not be written */
};

/* Becomes the map's store. cache, swap and disks are the caller's; each may be NULL, and they
 * outlive the map. */
enum status pager_create(struct pager **pager, struct pmap *map, struct zcache *cache,
                         struct swap *swap, struct disk_pages *disks, struct error *err);
/* NULL is fine. The map is not used any more. */
void pager_destroy(struct pager *pager);

/* Memory that the cache may hold from now on, where there is a swap file: beyond that its oldest
 * pages go on to it. Its own maximum bounds it as well. */
void pager_set_cache_most(struct pager *pager, uint64_t bytes);
/* Sends on what is beyond that. */
void pager_trim_cache(struct pager *pager);

/*
 * Takes a batch of pages that page_leave_begin has begun; each is ended or cancelled. Returns how
 * many have gone. PAGER_QUEUE: some may be on their way to the disk when it returns; they have gone
 * when pager_settle returns, or a later pager_take, which also counts them.
 * PAGER_COLD: past the cache, for chaos and tests.
 */
enum pager_flags { PAGER_QUEUE = 1, PAGER_COLD = 2 };
unsigned pager_take(struct pager *pager, const struct page_batch *batch, unsigned flags);

/* Waits for what is on its way; returns how many pages have gone. */
unsigned pager_settle(struct pager *pager);

void pager_get_stats(const struct pager *pager, struct pager_stats *stats);

#endif
