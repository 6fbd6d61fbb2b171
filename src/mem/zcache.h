#ifndef AEROSTAT_MEM_ZCACHE_H
#define AEROSTAT_MEM_ZCACHE_H

/*
 * The compression cache: pages that were taken from the guest, packed with LZ4, in memory of their
 * own. It remembers in which order they came, so that the oldest can go on to the swap file.
 *
 * All functions may be called from any thread, except create and destroy. None blocks for longer
 * than it takes to pack or copy a page.
 */

#include <stdint.h>

#include "util/status.h"

struct zcache;

/* A handle is below 2^ZCACHE_HANDLE_BITS, and is not given again for very long after it was
 * dropped. */
#define ZCACHE_HANDLE_BITS 44

/* A page is kept if it takes at most this many bytes packed. */
#define ZCACHE_PACKED_MOST 2040u

struct zcache_item {
    uint64_t ppn, handle;
};

struct zcache_stats {
    uint64_t pages;        /* in the cache now */
    uint64_t packed_bytes; /* what they take packed */
    uint64_t held_bytes;   /* memory that it all takes: packed pages, gaps, bookkeeping */
    uint64_t max_bytes;    /* held_bytes stays at or below */
};

/* max_bytes: the most memory it may ever hold. Takes it as pages come, gives it back as they go. */
enum status zcache_create(struct zcache **cache, uint64_t max_bytes, struct error *err);
void zcache_destroy(struct zcache *cache); /* NULL is fine */

/* Packs the PAGE_SIZE bytes at `page`, which nobody changes meanwhile. UNSUPPORTED: takes more than
 * ZCACHE_PACKED_MOST packed. NO_SPACE: full. */
enum status zcache_put(struct zcache *cache, uint64_t ppn, const void *page, uint64_t *handle);

/* Writes the page's PAGE_SIZE bytes; it stays in the cache. NOT_FOUND: no such handle (dropped).
 * INTERNAL: its bytes do not unpack; `page` is then garbage. */
enum status zcache_get(struct zcache *cache, uint64_t handle, void *page);

/* Forgets a page. A handle that was dropped before is ignored. */
void zcache_drop(struct zcache *cache, uint64_t handle);

/* The pages that came first, oldest first, `most` at most; returns how many. They stay, and may be
 * gone by the time the caller looks at one. */
unsigned zcache_oldest(struct zcache *cache, struct zcache_item *items, unsigned most);

void zcache_get_stats(struct zcache *cache, struct zcache_stats *stats);

#endif
