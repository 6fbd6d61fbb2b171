/*
 * See pager.h.
 *
 * A flight is some pages' bytes on the way to a run of slots. They are copies: the pages are still
 * in layer 0 and may be wanted meanwhile; then page_leave_end says so when the write is done, and
 * the slot is free again. A few flights may be under way at once, so that pages are chosen and
 * compressed while the disk works.
 *
 * Lock order: `one_lock`, `demoting`, then those of the stores. Nobody waits for a vCPU under them.
 */

#include "mem/pager.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mem/page_hash.h"
#include "util/bits.h"
#include "util/log.h"
#include "util/sparse.h"

#define FLIGHTS       3u
#define STAGING_BYTES (PAGE_BATCH_MAX * PAGE_SIZE) /* of a flight */
#define STAGINGS      (FLIGHTS + 2)

_Static_assert(FLIGHTS <= SWAP_QUEUE_DEPTH, "the swap file's queue takes all flights");
_Static_assert(ZCACHE_HANDLE_BITS <= PAGE_PAYLOAD_BITS, "handles fit an entry");

struct flight {
    bool flying; /* its write has begun */
    struct page_batch batch;
    uint8_t *staging; /* the bytes of its pages */
    struct swap_write write;
};

struct pager {
    struct pmap *map;
    struct zcache *cache;
    struct swap *swap;
    struct disk_pages *disks;
    _Atomic uint64_t cache_most;

    uint8_t *staging;               /* of all that follows: takes memory while it is used */
    struct flight flights[FLIGHTS]; /* of the thread that queues */
    unsigned next_flight;
    pthread_mutex_t one_lock; /* guards `one`, which serves all others */
    struct flight one;
    pthread_mutex_t demoting; /* guards `moving` */
    struct flight moving;

    atomic_flag said_full, said_failed;
    _Atomic uint64_t zeroed, disk_backed, compressed, swapped, demoted, refused, failed;
};

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* ------------------------------------------------------------------------- the map's store */

static enum status store_get(void *context, enum page_state state, uint64_t payload, uint64_t ppn,
                             uint8_t *page, struct error *err)
{
    struct pager *pager = context;
    (void)ppn;
    if (state == PAGE_SWAPPED && pager->swap != NULL)
        return swap_read(pager->swap, payload, page, err);
    if (state == PAGE_DISK && pager->disks != NULL)
        return disk_pages_get(pager->disks, payload, page, err);
    if (state == PAGE_COMPRESSED && pager->cache != NULL &&
        zcache_get(pager->cache, payload, page) == STATUS_OK)
        return STATUS_OK;
    return error_set(err, STATUS_INTERNAL, "page 0x%llx is not where it was put",
                     (unsigned long long)ppn);
}

static void store_drop(void *context, enum page_state state, uint64_t payload)
{
    struct pager *pager = context;
    if (state == PAGE_SWAPPED && pager->swap != NULL)
        swap_free(pager->swap, payload, 1);
    else if (state == PAGE_COMPRESSED && pager->cache != NULL)
        zcache_drop(pager->cache, payload);
}

static const struct page_store_ops store_ops = {.get = store_get, .drop = store_drop};

enum status pager_create(struct pager **out, struct pmap *map, struct zcache *cache,
                         struct swap *swap, struct disk_pages *disks, struct error *err)
{
    struct pager *pager = calloc(1, sizeof *pager);
    if (pager == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for paging");
    void *staging = sparse_map(STAGINGS * STAGING_BYTES);
    if (staging == NULL) {
        error_set(err, STATUS_NO_MEMORY, "no memory for paging: %s", strerror(errno));
        free(pager);
        return STATUS_NO_MEMORY;
    }
    madvise(staging, STAGINGS * STAGING_BYTES, MADV_DONTDUMP);
    pthread_mutex_init(&pager->demoting, NULL);
    pthread_mutex_init(&pager->one_lock, NULL);
    pager->map = map;
    pager->cache = cache;
    pager->swap = swap;
    pager->disks = disks;
    pager->staging = staging;
    for (unsigned i = 0; i < FLIGHTS; i++)
        pager->flights[i].staging = pager->staging + i * STAGING_BYTES;
    pager->one.staging = pager->staging + FLIGHTS * STAGING_BYTES;
    pager->moving.staging = pager->staging + (FLIGHTS + 1) * STAGING_BYTES;
    atomic_store(&pager->cache_most, UINT64_MAX);
    pmap_set_store(map, &store_ops, pager);
    *out = pager;
    return STATUS_OK;
}

void pager_destroy(struct pager *pager)
{
    if (pager == NULL)
        return;
    sparse_unmap(pager->staging, STAGINGS * STAGING_BYTES);
    pthread_mutex_destroy(&pager->one_lock);
    pthread_mutex_destroy(&pager->demoting);
    free(pager);
}

static void say_full(struct pager *pager)
{
    if (!atomic_flag_test_and_set(&pager->said_full))
        log_warning("%s: guest memory stays as large as it is",
                    pager->swap != NULL ? "the swap file is full" : "there is no swap file");
}

static void say_failed(struct pager *pager, const struct error *err)
{
    if (!atomic_flag_test_and_set(&pager->said_failed))
        log_warning("%s; guest memory stays as large as it is", err->text);
}

/* ------------------------------------------------------------------------- to the swap file */

/* `count` of a flight's pages, from number `from` on, are to be written to slots from `first` on.
 */
static void write_set(struct flight *flight, unsigned from, unsigned count, uint64_t first)
{
    flight->write.first = first;
    flight->write.count = count;
    for (unsigned i = 0; i < count; i++)
        flight->write.pages[i] = flight->staging + (from + i) * PAGE_SIZE;
}

/* The pages from number `from` on that were written to flight->write's slots. `status`: how that
 * ended. Returns how many have gone. */
static unsigned land(struct pager *pager, struct flight *flight, unsigned from, enum status status,
                     const struct error *err)
{
    const struct page_batch *batch = &flight->batch;
    unsigned gone = 0, written = flight->write.count;
    for (unsigned i = 0; i < written; i++) {
        uint64_t slot = flight->write.first + i;
        if (status != STATUS_OK)
            page_leave_cancel(pager->map, batch, from + i);
        else if (page_leave_end(pager->map, batch, from + i, PAGE_SWAPPED, slot)) {
            gone++;
            continue;
        }
        swap_free(pager->swap, slot, 1);
    }
    if (status != STATUS_OK) {
        count(&pager->failed, written);
        say_failed(pager, err);
    }
    count(&pager->swapped, gone);
    page_punch(pager->map, batch->ppn + from, written);
    return gone;
}

static unsigned flight_end(struct pager *pager, struct flight *flight)
{
    struct error err = {0};
    if (!flight->flying)
        return 0;
    flight->flying = false;
    enum status status = swap_write_end(pager->swap, &flight->write, &err);
    return land(pager, flight, flight->batch.count - flight->write.count, status, &err);
}

/* Sends a flight's pages off: the last run of slots may still be under way, if `queue` is set. */
static unsigned flight_begin(struct pager *pager, struct flight *flight, bool queue)
{
    unsigned total = flight->batch.count, done = 0, gone = 0;
    while (pager->swap != NULL && done < total) {
        struct error err = {0};
        uint64_t first;
        unsigned got = swap_allocate(pager->swap, total - done, &first);
        if (got == 0)
            break;
        write_set(flight, done, got, first);
        if (queue && done + got == total) {
            swap_write_begin(pager->swap, &flight->write);
            flight->flying = true;
        } else {
            enum status status = swap_write(pager->swap, &flight->write, &err);
            gone += land(pager, flight, done, status, &err);
        }
        done += got;
    }
    if (done < total) {
        count(&pager->refused, total - done);
        say_full(pager);
    }
    for (unsigned i = done; i < total; i++)
        page_leave_cancel(pager->map, &flight->batch, i);
    return gone;
}

unsigned pager_settle(struct pager *pager)
{
    unsigned gone = 0;
    for (unsigned i = 0; i < FLIGHTS; i++)
        gone += flight_end(pager, &pager->flights[(pager->next_flight + i) % FLIGHTS]);
    sparse_clear(pager->staging, FLIGHTS * STAGING_BYTES);
    return gone;
}

/* ------------------------------------------------------------------------- from cache to swap */

static int by_ppn(const void *left, const void *right)
{
    const struct zcache_item *a = left, *b = right;
    return a->ppn < b->ppn ? -1 : a->ppn > b->ppn;
}

/* The move of an item ends: to `slot`, or (SLOT_NONE) it stays. */
#define SLOT_NONE UINT64_MAX
static bool move_end(struct pager *pager, const struct zcache_item *item, uint64_t slot)
{
    bool stays = slot == SLOT_NONE;
    bool moved = page_move_end(pager->map, item->ppn, PAGE_COMPRESSED, item->handle,
                               stays ? PAGE_COMPRESSED : PAGE_SWAPPED, stays ? item->handle : slot);
    if (!stays && !moved)
        swap_free(pager->swap, slot, 1);
    if (!stays || !moved)
        zcache_drop(pager->cache, item->handle);
    return moved && !stays;
}

/* Writes items, whose moves have begun, to one run of slots. Returns how many it has dealt with; 0:
 * no slot is free. */
static unsigned move_run(struct pager *pager, const struct zcache_item *items, unsigned n,
                         unsigned *moved)
{
    uint8_t *staging = pager->moving.staging;
    struct error err = {0};
    uint64_t first;
    unsigned got = swap_allocate(pager->swap, n, &first);
    if (got == 0)
        return 0;
    bool good = true;
    for (unsigned i = 0; i < got && good; i++)
        good = zcache_get(pager->cache, items[i].handle, staging + i * PAGE_SIZE) == STATUS_OK;
    write_set(&pager->moving, 0, got, first);
    if (!good) /* who wants such a page hears of it: see store_get */
        error_set(&err, STATUS_INTERNAL, "a compressed page does not unpack");
    good = good && swap_write(pager->swap, &pager->moving.write, &err) == STATUS_OK;
    if (!good) {
        swap_free(pager->swap, first, got);
        count(&pager->failed, got);
        say_failed(pager, &err);
    }
    for (unsigned i = 0; i < got; i++)
        *moved += move_end(pager, &items[i], good ? first + i : SLOT_NONE);
    return got;
}

/* Sends the cache's oldest pages on. Returns how many have left the cache's hands. */
static unsigned demote(struct pager *pager)
{
    struct zcache_item items[PAGE_BATCH_MAX];
    unsigned begun = 0, done = 0, moved = 0;
    if (pager->swap == NULL)
        return 0;
    pthread_mutex_lock(&pager->demoting);
    unsigned n = zcache_oldest(pager->cache, items, ARRAY_LENGTH(items));
    for (unsigned i = 0; i < n; i++) {
        if (page_move_begin(pager->map, items[i].ppn, PAGE_COMPRESSED, items[i].handle))
            items[begun++] = items[i];
    }
    /* Neighbours in the guest become neighbours in the file. */
    qsort(items, begun, sizeof items[0], by_ppn);
    while (done < begun) {
        unsigned dealt = move_run(pager, items + done, begun - done, &moved);
        if (dealt == 0)
            break;
        done += dealt;
    }
    for (unsigned i = done; i < begun; i++)
        move_end(pager, &items[i], SLOT_NONE);
    count(&pager->demoted, moved);
    pthread_mutex_unlock(&pager->demoting);
    return moved;
}

static bool cache_is_over(struct pager *pager)
{
    struct zcache_stats stats;
    if (pager->swap == NULL) /* they could go nowhere */
        return false;
    zcache_get_stats(pager->cache, &stats);
    return stats.held_bytes > atomic_load(&pager->cache_most);
}

void pager_set_cache_most(struct pager *pager, uint64_t bytes)
{
    atomic_store(&pager->cache_most, bytes);
}

void pager_trim_cache(struct pager *pager)
{
    while (pager->cache != NULL && cache_is_over(pager) && demote(pager) != 0)
        ;
}

/* ------------------------------------------------------------------------- taking */

static bool compress(struct pager *pager, uint64_t ppn, const uint8_t *bytes, uint64_t *handle)
{
    enum status status = STATUS_NO_SPACE;
    if (!cache_is_over(pager))
        status = zcache_put(pager->cache, ppn, bytes, handle);
    /* What does not pack at all need not wait for room. */
    if (status == STATUS_NO_SPACE && demote(pager) != 0)
        status = zcache_put(pager->cache, ppn, bytes, handle);
    return status == STATUS_OK;
}

/* Ends page i, whose bytes are given, if it needs no disk. True: it has been dealt with; *gone
 * counts it if it has gone. */
static bool take_in_memory(struct pager *pager, const struct page_batch *batch, unsigned i,
                           const uint8_t *bytes, unsigned flags, unsigned *gone)
{
    if (page_is_zero(bytes)) {
        bool left = page_leave_end(pager->map, batch, i, PAGE_ZERO, 0);
        count(&pager->zeroed, left);
        *gone += left;
        return true;
    }
    uint64_t block;
    if (pager->disks != NULL && disk_pages_payload(pager->disks, batch->ppn[i], &block)) {
        bool left = page_leave_end(pager->map, batch, i, PAGE_DISK, block);
        count(&pager->disk_backed, left);
        *gone += left;
        return true;
    }
    uint64_t handle;
    if (pager->cache == NULL || flags & PAGER_COLD ||
        !compress(pager, batch->ppn[i], bytes, &handle))
        return false;
    if (page_leave_end(pager->map, batch, i, PAGE_COMPRESSED, handle)) {
        count(&pager->compressed, 1);
        ++*gone;
    } else {
        zcache_drop(pager->cache, handle);
    }
    return true;
}

/* The pages that need the disk stay in the flight. */
static unsigned fill_flight(struct pager *pager, struct flight *flight,
                            const struct page_batch *batch, unsigned flags)
{
    unsigned gone = 0;
    flight->batch.ticket = batch->ticket;
    flight->batch.count = 0;
    for (unsigned i = 0; i < batch->count; i++) {
        uint8_t *bytes = flight->staging + flight->batch.count * PAGE_SIZE;
        if (!page_leave_copy(pager->map, batch->ppn[i], bytes))
            page_leave_cancel(pager->map, batch, i);
        else if (!take_in_memory(pager, batch, i, bytes, flags, &gone))
            flight->batch.ppn[flight->batch.count++] = batch->ppn[i];
    }
    page_punch(pager->map, batch->ppn, batch->count);
    return gone;
}

unsigned pager_take(struct pager *pager, const struct page_batch *batch, unsigned flags)
{
    bool queue = flags & PAGER_QUEUE;
    struct flight *flight = queue ? &pager->flights[pager->next_flight++ % FLIGHTS] : &pager->one;
    if (!queue)
        pthread_mutex_lock(&pager->one_lock);
    unsigned gone = flight_end(pager, flight);
    gone += fill_flight(pager, flight, batch, flags);
    gone += flight_begin(pager, flight, queue);
    if (!queue)
        pthread_mutex_unlock(&pager->one_lock);
    return gone;
}

void pager_get_stats(const struct pager *pager, struct pager_stats *stats)
{
    *stats = (struct pager_stats){
        .zeroed = atomic_load(&pager->zeroed),
        .disk_backed = atomic_load(&pager->disk_backed),
        .compressed = atomic_load(&pager->compressed),
        .swapped = atomic_load(&pager->swapped),
        .demoted = atomic_load(&pager->demoted),
        .refused = atomic_load(&pager->refused),
        .failed = atomic_load(&pager->failed),
    };
}
