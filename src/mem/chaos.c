/*
 * See chaos.h.
 *
 * The thread works in turns. In each it does one thing to a batch of pages, either a run of
 * neighbours or scattered ones. Some batches are kept for later turns: pages that are leaving and
 * pages in a sample.
 *
 * The guest must get on, too: below a floor of private pages none are taken, until the guest has
 * brought some back. So the pace is the guest's own.
 */

#include "mem/chaos.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "util/bits.h"
#include "util/clock.h"
#include "util/xorshift.h"

#define ACTIVE_TRIES  1024u
#define KEPT          32u     /* batches of either kind */
#define FLOOR_PART    16u     /* of all pages that the guest keeps */
#define BALLOON_PART  4u      /* of all pages that the balloon may get */
#define REST_NS       200000u /* where nothing may be taken */
#define BALLOON_TURNS 1000u
#define CHECK_TURNS   4000u
/* While devices and other threads finish what they do. The host may let one of them wait for long:
 * what is broken is still broken after half a minute. */
#define CHECK_TRIES   15000u
#define CHECK_REST_NS 2000000u
#define STACK_BYTES   (128 * KIB)

struct chaos {
    struct pmap *map;
    struct pager *pager;
    struct chaos_ops ops;
    void *context;
    uint64_t seed, max_pages;
    struct page_batch leaving[KEPT], sampled[KEPT]; /* of the thread; count 0: free */
    pthread_t thread;
    bool has_thread;
    _Atomic bool stopping;
    _Atomic uint64_t taken, brought, sampled_pages, balloons, checks;
};

static uint64_t random_below(struct chaos *chaos, uint64_t limit)
{
    return (xorshift_next(&chaos->seed) >> 11) % limit;
}

static void rest(uint64_t ns)
{
    struct timespec time = {.tv_nsec = (long)ns};
    nanosleep(&time, NULL);
}

/* Pages that have been in use lately, if there are some: the guest will want them at once. */
static bool choose_active(struct chaos *chaos, struct page_batch *batch)
{
    uint64_t first = random_below(chaos, chaos->max_pages);
    uint64_t end =
        first + ACTIVE_TRIES < chaos->max_pages ? first + ACTIVE_TRIES : chaos->max_pages;
    batch->count = 0;
    for (uint64_t n = first; n < end && batch->count < PAGE_BATCH_MAX; n++) {
        uint64_t ppn = pmap_nth_page(chaos->map, n);
        if (page_is_active(chaos->map, ppn))
            batch->ppn[batch->count++] = ppn;
    }
    return batch->count != 0;
}

/* Also a run of neighbours, or pages from everywhere; ascending, each once. */
static void choose(struct chaos *chaos, struct page_batch *batch)
{
    uint64_t stride = 1, first;
    if (random_below(chaos, 3) == 0 && choose_active(chaos, batch))
        return;
    batch->count = 1 + (unsigned)random_below(chaos, PAGE_BATCH_MAX);
    if (batch->count > chaos->max_pages)
        batch->count = (unsigned)chaos->max_pages;
    if (random_below(chaos, 2) == 0)
        stride = 1 + random_below(chaos, chaos->max_pages / batch->count);
    first = random_below(chaos, chaos->max_pages - (batch->count - 1) * stride);
    for (unsigned i = 0; i < batch->count; i++)
        batch->ppn[i] = pmap_nth_page(chaos->map, first + i * stride);
}

/* ------------------------------------------------------------------------- what a turn may do */

static void take(struct chaos *chaos, struct page_batch *batch)
{
    unsigned flags = random_below(chaos, 2) == 0 ? PAGER_COLD : 0;
    page_leave_code(chaos->map, batch);
    atomic_fetch_add(&chaos->taken, pager_take(chaos->pager, batch, flags));
    batch->count = 0;
}

static void give_up(struct chaos *chaos, struct page_batch *batch)
{
    for (unsigned i = 0; i < batch->count; i++)
        page_leave_cancel(chaos->map, batch, i);
    batch->count = 0;
}

static void turn_take(struct chaos *chaos)
{
    struct page_batch batch;
    choose(chaos, &batch);
    page_leave_begin(chaos->map, &batch, PAGE_LEAVE_ACTIVE);
    if (batch.count != 0)
        take(chaos, &batch);
}

/* Out by half; a later turn goes on with it, or gives it up. */
static void turn_linger(struct chaos *chaos)
{
    struct page_batch *batch = &chaos->leaving[random_below(chaos, KEPT)];
    if (batch->count == 0) {
        choose(chaos, batch);
        page_leave_begin(chaos->map, batch,
                         random_below(chaos, 2) ? PAGE_LEAVE_ACTIVE : PAGE_LEAVE_KEEP_CODE);
    } else if (random_below(chaos, 4) == 0) {
        give_up(chaos, batch);
    } else {
        take(chaos, batch);
    }
}

static void turn_sample(struct chaos *chaos)
{
    struct page_batch *batch = &chaos->sampled[random_below(chaos, KEPT)];
    if (batch->count == 0) {
        choose(chaos, batch);
        page_sample_begin(chaos->map, batch);
        atomic_fetch_add(&chaos->sampled_pages, batch->count);
    } else {
        page_sample_end(chaos->map, batch);
        batch->count = 0;
    }
}

/* As somebody who reads, and as a device that writes a part: with what is there. */
static void turn_bring(struct chaos *chaos)
{
    struct page_batch batch;
    choose(chaos, &batch);
    for (unsigned i = 0; i < batch.count; i++) {
        enum page_state state = pmap_state(chaos->map, batch.ppn[i]);
        if (state != PAGE_COMPRESSED && state != PAGE_SWAPPED && state != PAGE_DISK)
            continue;
        pmap_page_bring(chaos->map, batch.ppn[i]);
        atomic_fetch_add(&chaos->brought, 1);
    }
}

static void turn_pin(struct chaos *chaos)
{
    struct page_batch batch;
    choose(chaos, &batch);
    unsigned pages = batch.count < 4 ? batch.count : 4;
    for (unsigned i = 0; i < pages; i++) {
        struct iovec iov;
        unsigned count = 0;
        uint64_t gpa = batch.ppn[i] << PAGE_SHIFT;
        if (pmap_state(chaos->map, batch.ppn[i]) == PAGE_BALLOONED)
            continue; /* popping it would only empty the balloon */
        if (pmap_pin(chaos->map, gpa, PAGE_SIZE, PIN_READ, &iov, &count, 1) == STATUS_OK)
            pmap_unpin(chaos->map, gpa, PAGE_SIZE, false);
    }
}

static void turn_check(struct chaos *chaos)
{
    struct error err = {0};
    if (chaos->ops.stand_still == NULL || !chaos->ops.stand_still(chaos->context))
        return;
    enum status status = STATUS_INTERNAL;
    for (unsigned i = 0; i < CHECK_TRIES && status != STATUS_OK && !atomic_load(&chaos->stopping);
         i++) {
        if (i != 0)
            rest(CHECK_REST_NS);
        status = pmap_check(chaos->map, &err);
    }
    atomic_fetch_add(&chaos->checks, 1);
    if (status != STATUS_OK && !atomic_load(&chaos->stopping) && chaos->ops.wrong != NULL)
        chaos->ops.wrong(chaos->context, &err);
    chaos->ops.go_on(chaos->context);
}

static void *chaos_thread(void *context)
{
    struct chaos *chaos = context;
    uint64_t floor = chaos->max_pages / FLOOR_PART;
    for (uint64_t turn = 1; !atomic_load(&chaos->stopping); turn++) {
        bool may_take = pmap_private_pages(chaos->map) > floor;
        unsigned what = (unsigned)random_below(chaos, 16);
        if (what < 6 && may_take)
            turn_take(chaos);
        else if (what < 10 && may_take)
            turn_linger(chaos);
        else if (what < 12)
            turn_sample(chaos);
        else if (what < 14)
            turn_bring(chaos);
        else if (what < 15)
            turn_pin(chaos);
        else if (!may_take)
            rest(REST_NS);
        if (turn % BALLOON_TURNS == 0 && chaos->ops.balloon != NULL) {
            chaos->ops.balloon(chaos->context,
                               random_below(chaos, chaos->max_pages / BALLOON_PART + 1));
            atomic_fetch_add(&chaos->balloons, 1);
        }
        if (turn % CHECK_TURNS == 0)
            turn_check(chaos);
    }
    for (unsigned i = 0; i < KEPT; i++) {
        if (chaos->leaving[i].count != 0)
            give_up(chaos, &chaos->leaving[i]);
        if (chaos->sampled[i].count != 0)
            page_sample_end(chaos->map, &chaos->sampled[i]);
    }
    return NULL;
}

enum status chaos_create(struct chaos **out, struct pmap *map, struct pager *pager,
                         const struct chaos_ops *ops, void *context, uint64_t seed,
                         struct error *err)
{
    struct chaos *chaos = calloc(1, sizeof *chaos);
    if (chaos == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for --chaos");
    struct pmap_stats stats;
    pmap_get_stats(map, &stats);
    chaos->map = map;
    chaos->pager = pager;
    chaos->ops = *ops;
    chaos->context = context;
    chaos->max_pages = stats.max_pages;
    chaos->seed = seed * 0x9e3779b97f4a7c15ull | 1; /* never 0 */

    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int failure = pthread_create(&chaos->thread, &attributes, chaos_thread, chaos);
    pthread_attr_destroy(&attributes);
    if (failure != 0) {
        free(chaos);
        return error_set(err, STATUS_NO_MEMORY, "cannot start a thread for --chaos");
    }
    chaos->has_thread = true;
    *out = chaos;
    return STATUS_OK;
}

void chaos_stop(struct chaos *chaos)
{
    if (chaos == NULL || !chaos->has_thread)
        return;
    atomic_store(&chaos->stopping, true);
    pthread_join(chaos->thread, NULL);
    chaos->has_thread = false;
}

void chaos_destroy(struct chaos *chaos)
{
    chaos_stop(chaos);
    free(chaos);
}

void chaos_get_stats(const struct chaos *chaos, struct chaos_stats *stats)
{
    *stats = (struct chaos_stats){
        .taken = atomic_load(&chaos->taken),
        .brought = atomic_load(&chaos->brought),
        .sampled = atomic_load(&chaos->sampled_pages),
        .balloons = atomic_load(&chaos->balloons),
        .checks = atomic_load(&chaos->checks),
    };
}
