#ifndef AEROSTAT_MEM_PAGE_LEAVE_H
#define AEROSTAT_MEM_PAGE_LEAVE_H

/*
 * Taking pages out of layer 0, and learning which are in use: for reclaim, sampling and chaos
 * alone. No function here is for a running vCPU; page_leave_begin, page_leave_code and
 * page_sample_begin wait until running vCPUs have passed a safepoint.
 *
 *     struct page_batch batch = {.count = n, .ppn = {...}};
 *     page_leave_begin(map, &batch, 0);               // batch.count is now what may leave
 *     for each i of the batch:
 *         page_leave_copy(map, batch.ppn[i], bytes);
 *         put the bytes in a store, which gives a payload, or see that they are zero
 *         if (!page_leave_end(map, &batch, i, PAGE_COMPRESSED, payload))
 *             drop the payload: the page was wanted meanwhile, and nothing has happened
 *     page_punch(map, batch.ppn, batch.count);        // now the memory goes back, in runs
 */

#include "mem/pmap.h"

/*
 * Where pages that are away can be had from. Both are called by any thread that needs the page, at
 * the same time for different pages; neither calls back into the map.
 * get: the PAGE_SIZE bytes of `payload` to `page`, which is aligned; it stays good. May block for
 * the host's storage. Any failure means that the bytes are lost, and *err says why in one line.
 * drop: the payload is no longer needed. Quick.
 */
struct page_store_ops {
    enum status (*get)(void *context, enum page_state state, uint64_t payload, uint64_t ppn,
                       uint8_t *page, struct error *err);
    void (*drop)(void *context, enum page_state state, uint64_t payload);
};

/* Before any page leaves. Payloads that pages still have when the map is destroyed are not dropped:
 * the stores are destroyed after it. */
void pmap_set_store(struct pmap *map, const struct page_store_ops *ops, void *context);

/*
 * How many pages are private is watched, for whoever takes pages away. over: there are more than
 * `tell_above`; called at every page that is too many, also by running vCPUs, so it never blocks
 * and costs next to nothing. wait: there are more than `wait_above`, and the caller, no running
 * vCPU, would like one more: it waits for some to go, as long as that makes sense. refused: the
 * host has no memory for the page that the caller, no running vCPU, would like: waits for some to
 * go. False: none could. No lock of the map is held. Ops are set before any page leaves; the
 * limits, at any time, by one thread. At first both are UINT64_MAX.
 */
struct page_pressure_ops {
    void (*over)(void *context);
    void (*wait)(void *context);
    bool (*refused)(void *context);
};
void pmap_set_pressure(struct pmap *map, const struct page_pressure_ops *ops, void *context);
void pmap_set_limits(struct pmap *map, uint64_t tell_above, uint64_t wait_above);
uint64_t pmap_private_pages(const struct pmap *map);

#define PAGE_BATCH_MAX    64u
#define PAGE_PAYLOAD_BITS 48 /* payloads are below 2^48 */

/* Pages on their way out. The caller fills count and ppn; ascending ones make fewer holes. */
struct page_batch {
    uint64_t ticket; /* page_leave_begin's */
    unsigned count;  /* <= PAGE_BATCH_MAX */
    uint64_t ppn[PAGE_BATCH_MAX];
};

/*
 * Begins to take pages out: private ones, not pinned. Those that may not go leave the batch (the
 * others keep their order). When it returns no TLB maps those of the batch, and until somebody
 * wants one again its bytes do not change. From then on page_leave_end fails for it.
 * PAGE_LEAVE_ACTIVE: also those that are marked active. Else they are passed over, and marked no
 * longer: their second chance.
 * PAGE_LEAVE_KEEP_CODE: what was decoded from them is dropped by page_leave_code, before any of
 * them is ended, and is still there if they are wanted before that. Else it is dropped at once.
 */
enum page_leave_flags { PAGE_LEAVE_ACTIVE = 1, PAGE_LEAVE_KEEP_CODE = 2 };
void page_leave_begin(struct pmap *map, struct page_batch *batch, unsigned flags);
void page_leave_code(struct pmap *map, const struct page_batch *batch);

/* Copies the page's PAGE_SIZE bytes from layer 0, by a system call: if somebody has wanted the page
 * meanwhile, and it was released after that, reading it in place would give it memory again. Then
 * what has been copied is useless, and page_leave_end says so. False: the host failed, cancel. */
bool page_leave_copy(const struct pmap *map, uint64_t ppn, uint8_t *to);

/*
 * Ends it for page i of the batch: it is now in state `to`, one of PAGE_ZERO (its bytes are all
 * zero), PAGE_COMPRESSED, PAGE_SWAPPED and PAGE_DISK, whose store has it as `payload`. False: it
 * was wanted meanwhile, it is private, and the payload is still the caller's.
 */
bool page_leave_end(struct pmap *map, const struct page_batch *batch, unsigned i,
                    enum page_state to, uint64_t payload);

/* Takes back what page_leave_begin has done for page i. Every page of a batch is ended or
 * cancelled. */
void page_leave_cancel(struct pmap *map, const struct page_batch *batch, unsigned i);

/* Gives the memory of pages that have left back to the host; a page that was wanted again keeps its
 * own. Until then they can come back without being read. */
void page_punch(struct pmap *map, const uint64_t *ppns, unsigned count);

/*
 * Moving a page from one store to another (the cache's oldest to swap). If begin says true, the
 * payload is the caller's to read and, in the end, to drop, whatever page_move_end says. True from
 * page_move_end: the page is now in state `to` with `next`. False: it came back, or was overwritten
 * or released, and `next` is the caller's as well. In between it can be brought back at any time.
 */
bool page_move_begin(struct pmap *map, uint64_t ppn, enum page_state state, uint64_t payload);
bool page_move_end(struct pmap *map, uint64_t ppn, enum page_state state, uint64_t payload,
                   enum page_state to, uint64_t next);

/*
 * Sampling: marks pages, in any state, so that their next touch (by a vCPU, a device or a copy) is
 * noticed; then it counts in pmap_stats.sample_touches, and the page is active. Pages that are not
 * RAM, or in a sample already, leave the batch. page_sample_end takes the marks off and returns how
 * many of the batch have been touched.
 */
void page_sample_begin(struct pmap *map, struct page_batch *batch);
unsigned page_sample_end(struct pmap *map, const struct page_batch *batch);

/* Whether the page is marked active: brought back, or touched while sampled, and not passed over
 * since. */
bool page_is_active(const struct pmap *map, uint64_t ppn);

#endif
