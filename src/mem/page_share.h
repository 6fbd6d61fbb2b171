#ifndef AEROSTAT_MEM_PAGE_SHARE_H
#define AEROSTAT_MEM_PAGE_SHARE_H

/*
 * Pages in frames of a pool that others have mapped as well: for who speaks with the pool's owner
 * (vm/sharing.h), and for tests.
 *
 * A frame's bytes do not change while a page of ours refers to it. `drop` says that one does no
 * longer, and no TLB shows it: from then on the frame may get other bytes. It is called by any
 * thread but a running vCPU, with no lock held; it is quick, and does not call back into the map.
 */

#include "mem/page_leave.h"

struct page_share_ops {
    void (*drop)(void *context, uint64_t ppn, uint32_t frame);
};

/* Before any page is shared. */
void pmap_set_share(struct pmap *map, const struct page_share_ops *ops, void *context);

/* The pool: `frames` pages at `base`, mapped for reading alone; number 0 is none. NULL, 0: there is
 * no pool any more. By one thread, the one that calls page_share; false: pages still refer to
 * frames of the pool before, or `drop` is yet to be called for some. */
bool pmap_set_pool(struct pmap *map, const uint8_t *base, uint64_t frames);

struct page_ref {
    uint64_t ppn;
    uint32_t frame;
};

#define PAGE_SHARE_MAX 256u

/*
 * Compares private pages with frames, and makes those shared that are equal. At most
 * PAGE_SHARE_MAX, with one revocation for all: each looks at all of every vCPU's TLB. They should
 * ascend; neighbours that follow each other make fewer holes.
 * shared[i]: it is, or was, before somebody wrote it and `drop` was called. Else nothing has
 * changed, as with what is no RAM, or no frame, or not private, or pinned. Blocks as
 * page_leave_begin does.
 */
void page_share(struct pmap *map, const struct page_ref *refs, unsigned count, bool *shared);

/* Makes shared pages private, as if they were written, at most `most` of those from *next on, which
 * is moved on, up to the end of RAM. NO_MEMORY: the host has none for one. */
enum status page_unshare_some(struct pmap *map, uint64_t *next, unsigned most);

/* At a map's end: nobody uses it any more. Calls `drop` for all that is shared. */
void page_share_end(struct pmap *map);

/*
 * What a page that might be shared has in it. It is read as it lies there, while others may write
 * it, and that does not count as a touch; a page that is about to leave is none the worse for it.
 * PAGE_LOOK_BUSY: it is pinned, a device may be writing it. PAGE_LOOK_OTHER: not private.
 */
enum page_look { PAGE_LOOK_OTHER, PAGE_LOOK_BUSY, PAGE_LOOK_ZERO, PAGE_LOOK_HASHED };
struct page_look_at {
    uint64_t ppn;
    uint64_t hash; /* XXH3_64bits_withSeed, if HASHED */
    enum page_look look;
};
/* Fills in hash and look. A few dozen at a time: meanwhile no memory is given back. */
void page_look(struct pmap *map, struct page_look_at *pages, unsigned count, uint64_t key);

#endif
