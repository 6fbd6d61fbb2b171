#ifndef AEROSTAT_MEM_PAGE_CLEAN_H
#define AEROSTAT_MEM_PAGE_CLEAN_H

/*
 * Clean pages: private ones that are equal to a block of a virtual disk, and of which the first
 * write will be noticed. Their memory can go without being stored anywhere, as PAGE_DISK
 * (page_leave_end). Which block it is is not the map's business: see disk_pages.h. Not for running
 * vCPUs.
 */

#include "mem/pmap.h"

/*
 * Marks pages that are private and pinned once, by the caller: so no device is writing them, but
 * perhaps the caller's. The others leave the list; returns how many stay. When it returns, no TLB
 * lets them be written: whoever writes one, from now on, takes its mark away before that.
 */
unsigned page_clean_begin(struct pmap *map, uint64_t *ppns, unsigned count);

/* Takes the mark away. */
void page_clean_end(struct pmap *map, uint64_t ppn);

/* False too while the page is in state PAGE_DISK. */
bool page_is_clean(const struct pmap *map, uint64_t ppn);

#endif
