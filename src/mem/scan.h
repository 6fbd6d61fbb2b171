#ifndef AEROSTAT_MEM_SCAN_H
#define AEROSTAT_MEM_SCAN_H

/*
 * Chooses pages that might be shared, and hashes them. What becomes of them is decided by who has
 * the table of hashes; pages that are all zero are dropped here.
 *
 * In this order: what was loaded before the guest began, twice, for much of a kernel changes while
 * it boots, in each guest alike; pages that were noted, because they have just been read from a
 * disk, or are about to be taken away; then all of RAM once as it lies; then round after round in
 * random order, in groups of neighbours. A page whose hash is what it was is not named again, but
 * for every 16th round, in case it was forgotten. Of those that have changed since the round before
 * some are named at once, as many as each tick allows, and the others if they have not changed
 * again in the next: what is as short-lived as that costs more to share and to copy back than it
 * saves. What was loaded, or is about to be taken away, never waits.
 *
 * Threads: scan_note from any; everything else from one.
 */

#include <stdbool.h>
#include <stdint.h>

#include "mem/pmap.h"

struct scan;

struct scan_offer {
    uint64_t ppn, hash;
    bool fresh; /* as yet unseen, and likely to be like others */
};

struct scan_stats {
    uint64_t scanned, zeroed; /* pages */
    uint64_t rounds;
};

/* The map's end of RAM is at most 2^32 pages. */
enum status scan_create(struct scan **scan, struct pmap *map, uint64_t seed, struct error *err);
void scan_destroy(struct scan *scan); /* NULL is fine */

/* Pages [ppn, ppn + count) were loaded: a kernel, an initrd; up to two pieces, before the first
 * step. They are looked at first, however late somebody begins to scan. */
void scan_image(struct scan *scan, uint64_t ppn, uint64_t count);

/* Whether pages are noted. At first they are not: it is off until somebody scans. */
void scan_enable(struct scan *scan, bool enable);

/* Pages that are worth being looked at soon. Quick; forgotten where there are too many. They may be
 * pinned still: then they are looked at later. */
void scan_note(struct scan *scan, uint64_t ppn, uint64_t count, bool fresh);

/* Begins a tick: what is noted from here on, pages that were pinned too, waits for the next. young:
 * so many more pages may be named at once that have changed. */
void scan_tick(struct scan *scan, unsigned young);

/* Looks at some pages, SCAN_STEP at most, with this key. *looked: how many private ones there were;
 * with 0 there was nothing to look at, now. Returns how many offers there are. Blocks as
 * page_leave_begin does. */
#define SCAN_STEP 64u
unsigned scan_step(struct scan *scan, uint64_t key, struct scan_offer offers[SCAN_STEP],
                   unsigned *looked);

/* The page was to be shared: if it is not, or not for long, it has changed. */
void scan_forget(struct scan *scan, uint64_t ppn);
/* Nothing that was named is known any more. */
void scan_forget_all(struct scan *scan);

void scan_get_stats(const struct scan *scan, struct scan_stats *stats);

#endif
