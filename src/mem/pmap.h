#ifndef AEROSTAT_MEM_PMAP_H
#define AEROSTAT_MEM_PMAP_H

/*
 * The page map: PPN to where the page's bytes are now. It is the only road to guest memory.
 *
 * RAM is layer 0, a sparse memfd mapped once; the private page of PPN p lives at offset p * 4096,
 * always. One 8-byte atomic entry a PPN holds the state, some flags, and what the state needs.
 * Every change of state is one function with its accounting beside it (the essay in pmap_private.h
 * names them); nothing else writes entries.
 *
 *   PAGE_ZERO        all zero, takes no memory; reads see one common zero page
 *   PAGE_PRIVATE     in layer 0
 *   PAGE_BALLOONED   the guest gave it up; as zero, and the first touch makes it so
 *   PAGE_SHARED      in a frame of the pool that several VMs map read-only; a write copies it
 *   PAGE_COMPRESSED  in the compression cache     \
 *   PAGE_SWAPPED     in the swap file              } away: it is brought back before it is used
 *   PAGE_DISK        equal to a disk's block      /
 *   PAGE_NONE        no RAM at this PPN (a hole in the physical address space, or beyond the end)
 *
 * Who may hold a host pointer into guest memory: a vCPU's TLB (its translations are revocable: see
 * the hook below) and a device that has pinned the range. Everybody else uses the copy functions.
 *
 * The revoke hook: before the map changes where pages are that some TLB may hold, and whenever
 * somebody other than a vCPU writes a page that code was decoded from, it calls the hook. When that
 * returns, no vCPU holds what is to be forgotten: translations of pages, code decoded from them. It
 * may block until every running vCPU reached a safepoint, so it is called without locks of the map
 * held, and callers of the functions below hold none that a vCPU could wait for.
 *
 * Threads: all functions may be called from any thread, except create, destroy and the setters. A
 * *running* vCPU (mmu.h) calls only those that are said never to block.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "util/bits.h"
#include "util/status.h"

struct pmap;

enum page_state {
    PAGE_ZERO,
    PAGE_PRIVATE,
    PAGE_BALLOONED,
    PAGE_SHARED,
    PAGE_COMPRESSED,
    PAGE_SWAPPED,
    PAGE_DISK,
    PAGE_NONE,
};
#define PAGE_STATES PAGE_NONE /* that a page of RAM can be in */

/* A range of guest-physical RAM. Both page-aligned. */
struct ram_range {
    uint64_t base;
    uint64_t size;
};

/* What is to be forgotten: translations of some pages, what was decoded from some. Either list may
 * be empty, not both; they are in no order, and need not agree. Who carries it out takes the marks
 * off code_ppns as well, as said at pmap_code_mark. With `keeps_code` what was decoded from them,
 * which are among ppns, is kept, and so are the marks; but who comes to it has to look the page up.
 */
struct pmap_revocation {
    const uint64_t *ppns;
    const uint64_t *code_ppns;
    unsigned count, code_count;
    bool keeps_code;
};

typedef void pmap_revoke_fn(void *context, const struct pmap_revocation *what);

/* Called by whichever thread found out; err says what, in one line. It must not wait for a vCPU.
 * STATUS_NO_MEMORY: the host has no memory for a page; nothing is lost, and whoever wanted the page
 * can try again later. Else a page's bytes are lost: that is told once in a map's life. */
typedef void pmap_trouble_fn(void *context, const struct error *err);

/* Pages in a state now, and counts of events. */
struct pmap_stats {
    uint64_t max_pages;         /* RAM the guest has */
    uint64_t zero_pages;        /* in state zero */
    uint64_t private_pages;     /* in layer 0 */
    uint64_t ballooned;         /* pages */
    uint64_t shared;            /* pages */
    uint64_t compressed;        /* pages */
    uint64_t swapped;           /* pages */
    uint64_t disk_backed;       /* pages */
    uint64_t pinned_pages;      /* pins held now, counted per page and pin */
    uint64_t faults_zero;       /* pages without bytes that became private by a write or a pin */
    uint64_t faults_compressed; /* pages read back from where they were, by state */
    uint64_t faults_swap_in;
    uint64_t faults_disk;
    uint64_t double_paging_seen;    /* whole pages brought back for a device to read them, ... */
    uint64_t double_paging_avoided; /* ... and those that it read without (pmap_peek) */
    uint64_t pages_shared;          /* pages that became shared, ... */
    uint64_t cow_breaks;            /* ... and shared ones that became private */
    uint64_t second_chances;        /* pages wanted again before their memory was gone */
    uint64_t overwritten;           /* pages away that were not read, being overwritten whole */
    uint64_t balloon_popped;        /* ballooned pages that the guest touched */
    uint64_t sample_touches;        /* sampled pages that were touched (page_leave.h) */
    uint64_t reclaim_stall_ns;      /* that parked vCPUs and devices waited for pages, summed */
    uint64_t revocations;           /* calls of the revoke hook */
};

/* Ranges are ascending and disjoint, and end at or below 2^46. Memory nobody writes costs nothing.
 */
enum status pmap_create(struct pmap **map, const struct ram_range *ranges, unsigned count,
                        struct error *err);
/* The same in a layer that the caller has, all holes, which goes on to be the caller's: its size is
 * at least the end of the last range. */
struct layer;
enum status pmap_create_in(struct pmap **map, const struct ram_range *ranges, unsigned count,
                           const struct layer *ram, struct error *err);
void pmap_destroy(struct pmap *map);
void pmap_set_revoke_hook(struct pmap *map, pmap_revoke_fn *hook, void *context);
void pmap_set_trouble_hook(struct pmap *map, pmap_trouble_fn *hook, void *context);

/* PAGE_NONE for any PPN that is not RAM, however large. Never blocks. */
enum page_state pmap_state(const struct pmap *map, uint64_t ppn);

/* Whether the page is away; whether any page is. Neither blocks. */
bool pmap_is_away(const struct pmap *map, uint64_t ppn);
bool pmap_has_away(const struct pmap *map);

/* The RAM ranges it was made with. */
const struct ram_range *pmap_ranges(const struct pmap *map, unsigned *count);

/* The PPN of the n-th page of RAM; n < max_pages. For choosing at random. */
uint64_t pmap_nth_page(const struct pmap *map, uint64_t n);

/*
 * For TLB fills and page walks alone: the page's bytes. Neither ever blocks. The address is good
 * until the calling vCPU's next safepoint or parking, or until the page is revoked. NULL where the
 * PPN is not RAM (pmap_state says PAGE_NONE), or where the bytes are not at hand: then the caller
 * parks, calls pmap_page_bring, and begins again.
 * pmap_page_read: *writable tells whether they may be written in place: private, and no code marked
 * in it. pmap_page_claim: the same for somebody who wants to write: a zero page that no TLB has
 * seen becomes private at once.
 */
const uint8_t *pmap_page_read(struct pmap *map, uint64_t ppn, bool *writable);
const uint8_t *pmap_page_claim(struct pmap *map, uint64_t ppn, bool *writable);

/*
 * Brings the page's bytes to hand, if they are away. By the time the caller looks they may be away
 * again: so it is done in a loop. INVALID: not RAM. IO: the bytes are lost; NO_MEMORY: the host has
 * none for them now; the trouble hook has been called.
 */
enum status pmap_page_bring(struct pmap *map, uint64_t ppn);

/* The bytes of a page that is away or shared, for a device that reads it: it stays where it is.
 * `page` is aligned to PAGE_SIZE, since they may come past the host's page cache. NOT_FOUND: it is
 * neither, or it is away and this has been switched off for such, to see what it saves. IO: lost.
 * pmap_is_shared never blocks. */
enum status pmap_peek(struct pmap *map, uint64_t ppn, uint8_t *page);
bool pmap_is_shared(const struct pmap *map, uint64_t ppn);
void pmap_set_peeking(struct pmap *map, bool on);

/*
 * Makes the page private if it is not (revoking others), for the parked vCPU that is going to write
 * it. Leaves a code mark alone. NULL: not RAM, lost, or no memory. The address is for who knows
 * that nothing takes pages away (tests); all others look again.
 */
uint8_t *pmap_page_write(struct pmap *map, uint64_t ppn);

/*
 * Decoded code, and traced page tables; for mmu/domain.c, which has the lock that makes these steps
 * one. From the mark on, no look-up calls the page writable. pmap_code_mark: true when the page is
 * not guarded yet: then the caller takes write permission for it from every TLB and calls
 * pmap_code_guard, which does nothing where somebody has cleared the mark meanwhile. Only from a
 * guarded page may code be decoded. To let it be written: pmap_code_unguard, after which nobody
 * decodes from it; then the caller makes every vCPU drop the code decoded from it; then
 * pmap_code_clear takes the mark off, unless the page has been guarded again. All of that is done
 * under one lock, for all pages, or a mark could go that code was made under since. pmap_has_code:
 * marked, guarded or not. All are false for a PPN that is not RAM. None blocks.
 */
bool pmap_code_mark(struct pmap *map, uint64_t ppn);
void pmap_code_guard(struct pmap *map, uint64_t ppn);
bool pmap_code_is_guarded(const struct pmap *map, uint64_t ppn);
void pmap_code_unguard(struct pmap *map, uint64_t ppn);
void pmap_code_clear(struct pmap *map, uint64_t ppn);
bool pmap_has_code(const struct pmap *map, uint64_t ppn);

/*
 * Copies between guest-physical memory and the host. INVALID, and nothing copied, where any byte of
 * the range is not RAM or the range wraps. IO where a page is lost, NO_MEMORY where the host has
 * none for it: then part may have been copied. A page that is away and overwritten whole is not
 * read back.
 */
enum status pmap_read(struct pmap *map, uint64_t gpa, void *buffer, uint64_t length);
enum status pmap_write(struct pmap *map, uint64_t gpa, const void *buffer, uint64_t length);

/* What a device does with a pinned range. */
enum pmap_pin_use {
    PIN_READ,
    PIN_WRITE,     /* may write it; what it does not write stays as it is */
    PIN_OVERWRITE, /* may write it; what was there need not survive: whole pages of it that are away
                      become zero without being read back */
};

/*
 * Pins for DMA: appends the host pieces of [gpa, gpa + length) to iov, neighbours merged within one
 * call and never with what was in iov before; *count is in and out, `capacity` bounds it. A length
 * of 0 appends nothing. On failure (not RAM: INVALID; no room: NO_SPACE; lost: IO; the
 * host has no memory for a page now: NO_MEMORY) nothing is
 * pinned and *count is unchanged. Pinned pages are private and stay where they are until unpinned
 * with the same range. At unpin a device that might write tells whether it may have.
 */
enum status pmap_pin(struct pmap *map, uint64_t gpa, uint64_t length, enum pmap_pin_use use,
                     struct iovec *iov, unsigned *count, unsigned capacity);
void pmap_unpin(struct pmap *map, uint64_t gpa, uint64_t length, bool written);

/*
 * Pages that the guest can do without. Pages of [first, first + count) that are not RAM, pinned, or
 * being touched at this moment are left alone. All return how many pages changed. Their memory goes
 * back to the host in runs.
 * pmap_balloon_take: the guest gave them up; they become ballooned. pmap_balloon_give: ballooned
 * ones become zero: the guest has them back. pmap_balloon_reset: the same for all. pmap_release:
 * what they contain does not matter; all but ballooned ones become zero.
 */
uint64_t pmap_balloon_take(struct pmap *map, uint64_t first, uint64_t count);
uint64_t pmap_balloon_give(struct pmap *map, uint64_t first, uint64_t count);
void pmap_balloon_reset(struct pmap *map);
uint64_t pmap_release(struct pmap *map, uint64_t first, uint64_t count);

void pmap_get_stats(const struct pmap *map, struct pmap_stats *stats);

/* Recounts everything against the counters and the memfd; for tests, while nobody else uses the
 * map. STATUS_INTERNAL with the difference in *err. */
enum status pmap_check(struct pmap *map, struct error *err);

#endif
