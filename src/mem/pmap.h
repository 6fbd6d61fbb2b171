#ifndef AEROSTAT_MEM_PMAP_H
#define AEROSTAT_MEM_PMAP_H

/*
 * The page map: PPN to where the page's bytes are now. It is the only road to guest memory.
 *
 * RAM is layer 0, a sparse memfd mapped once; the private page of PPN p lives at offset p * 4096,
 * always. One 8-byte atomic entry a PPN holds the state and some flags. Every change of state is
 * one function in page_state.c with its accounting beside it; nothing else writes entries.
 *
 *   PAGE_NONE     no RAM at this PPN (a hole in the physical address space, or beyond the end)
 *   PAGE_ZERO     all zero, takes no memory; reads see one common zero page
 *   PAGE_PRIVATE  in layer 0
 *
 * Who may hold a host pointer into guest memory: a vCPU's TLB (its translations are revocable: see
 * the hook below) and a device that has pinned the range. Everybody else uses the copy functions.
 *
 * The revoke hook: before the map changes where a page is that some TLB may hold, and whenever
 * somebody other than a vCPU writes a page that code was decoded from, it calls hook(context, ppn).
 * When that returns, no vCPU holds a translation of ppn, or code decoded from it. It may block
 * until every running vCPU reached a safepoint, so it is called without locks of the map held, and
 * callers of the functions below hold none that a vCPU could wait for.
 *
 * Threads: all functions may be called from any thread, except create, destroy and set_hook.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "util/bits.h"
#include "util/status.h"

struct pmap;

enum page_state { PAGE_NONE, PAGE_ZERO, PAGE_PRIVATE };

/* A range of guest-physical RAM. Both page-aligned. */
struct ram_range {
    uint64_t base;
    uint64_t size;
};

typedef void pmap_revoke_fn(void *context, uint64_t ppn);

struct pmap_stats {
    uint64_t max_pages;     /* RAM the guest has */
    uint64_t zero_pages;    /* in state zero */
    uint64_t private_pages; /* in layer 0 */
    uint64_t pinned_pages;  /* pins held now, counted per page and pin */
    uint64_t faults_zero;   /* zero pages that became private by a write or a pin */
    uint64_t revocations;   /* calls of the revoke hook */
};

/* Ranges are ascending and disjoint, and end at or below 2^46. Memory nobody writes costs nothing.
 */
enum status pmap_create(struct pmap **map, const struct ram_range *ranges, unsigned count,
                        struct error *err);
void pmap_destroy(struct pmap *map);
void pmap_set_revoke_hook(struct pmap *map, pmap_revoke_fn *hook, void *context);

/* PAGE_NONE for any PPN that is not RAM, however large. */
enum page_state pmap_state(const struct pmap *map, uint64_t ppn);

/* The RAM ranges it was made with. */
const struct ram_range *pmap_ranges(const struct pmap *map, unsigned *count);

/*
 * For TLB fills and page walks alone. The address is good until the calling vCPU's next safepoint,
 * or until the page is revoked. NULL where the PPN is not RAM.
 * pmap_page_read: the page's bytes; *writable tells whether they may be written in place: private,
 * and no code marked in it. Never blocks.
 * pmap_page_claim: the same for somebody who wants to write: a zero page that no TLB has seen
 * becomes private at once. Never blocks. pmap_page_write: makes the page private if it is not
 * (revoking others), then gives its address. It leaves a code mark alone.
 */
const uint8_t *pmap_page_read(struct pmap *map, uint64_t ppn, bool *writable);
const uint8_t *pmap_page_claim(struct pmap *map, uint64_t ppn, bool *writable);
uint8_t *pmap_page_write(struct pmap *map, uint64_t ppn);

/*
 * Decoded code; for mmu/domain.c, which has the lock that makes these steps one. From the mark on,
 * no look-up calls the page writable. pmap_code_mark: true when the page is not guarded yet: then
 * the caller takes write permission for it from every TLB and calls pmap_code_guard, which does
 * nothing where somebody has cleared the mark meanwhile. Only from a guarded page may code be
 * decoded. pmap_code_clear: forgets the mark; the caller makes every vCPU drop the code decoded
 * from the page afterwards. pmap_has_code: marked, guarded or not. All are false for a PPN that is
 * not RAM.
 */
bool pmap_code_mark(struct pmap *map, uint64_t ppn);
void pmap_code_guard(struct pmap *map, uint64_t ppn);
bool pmap_code_is_guarded(const struct pmap *map, uint64_t ppn);
void pmap_code_clear(struct pmap *map, uint64_t ppn);
bool pmap_has_code(const struct pmap *map, uint64_t ppn);

/* Copies between guest-physical memory and the host. STATUS_INVALID, and nothing copied, where any
 * byte of the range is not RAM or the range wraps. */
enum status pmap_read(struct pmap *map, uint64_t gpa, void *buffer, uint64_t length);
enum status pmap_write(struct pmap *map, uint64_t gpa, const void *buffer, uint64_t length);

/*
 * Pins for DMA: appends the host pieces of [gpa, gpa + length) to iov, neighbours merged within one
 * call and never with what was in iov before; *count is in and out, `capacity` bounds it. A length
 * of 0 appends nothing. On failure (not RAM: INVALID; no room: NO_SPACE) nothing is pinned and
 * *count is unchanged. Pinned pages are private and stay where they are until unpinned with the
 * same range. `write`: the device will write them; it tells at unpin whether it may have.
 */
enum status pmap_pin(struct pmap *map, uint64_t gpa, uint64_t length, bool write, struct iovec *iov,
                     unsigned *count, unsigned capacity);
void pmap_unpin(struct pmap *map, uint64_t gpa, uint64_t length, bool written);

void pmap_get_stats(const struct pmap *map, struct pmap_stats *stats);

/* Recounts everything against the counters and the memfd; for tests, while nobody else uses the
 * map. STATUS_INTERNAL with the difference in *err. */
enum status pmap_check(struct pmap *map, struct error *err);

#endif
