/*
 * See chaos.h.
 *
 * The guest must get on meanwhile, so after a burst of some operations the thread waits until the
 * vCPUs have had about as much time as it took: for a host with one processor for both this is the
 * difference between a test and a standstill.
 */

#include "vm/chaos.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "util/bits.h"
#include "util/clock.h"

#define RUN_PAGES     32u   /* neighbours that one operation is about, at most */
#define BURST         64u   /* operations between two rests */
#define BALLOON_STEPS 4096u /* operations between two changes of the balloon */

struct chaos {
    struct pmap *map;
    struct pager *pager;
    void (*set_balloon)(void *context, uint64_t bytes);
    void *context;
    uint64_t max_pages, seed;
    pthread_t thread;
    _Atomic bool stopping;
};

static uint64_t random_next(struct chaos *chaos)
{
    chaos->seed ^= chaos->seed << 13;
    chaos->seed ^= chaos->seed >> 7;
    chaos->seed ^= chaos->seed << 17;
    return chaos->seed;
}

static void pick(struct chaos *chaos, struct page_batch *batch)
{
    uint64_t n = random_next(chaos) % chaos->max_pages;
    batch->count = 1 + (unsigned)(random_next(chaos) % RUN_PAGES);
    if (batch->count > chaos->max_pages - n)
        batch->count = (unsigned)(chaos->max_pages - n);
    for (unsigned i = 0; i < batch->count; i++)
        batch->ppn[i] = pmap_nth_page(chaos->map, n + i);
}

static void step(struct chaos *chaos)
{
    struct page_batch batch;
    pick(chaos, &batch);
    switch (random_next(chaos) % 8) {
    case 0: /* taken out of the TLBs, and that is all */
        page_leave_begin(chaos->map, &batch, PAGE_LEAVE_ACTIVE);
        for (unsigned i = 0; i < batch.count; i++)
            page_leave_cancel(chaos->map, &batch, i);
        break;
    case 1:
        page_sample_begin(chaos->map, &batch);
        sched_yield();
        page_sample_end(chaos->map, &batch);
        break;
    case 2:
    case 3: /* a page that is lost is the guest's to stumble over, not ours */
        for (unsigned i = 0; i < batch.count; i++)
            pmap_page_bring(chaos->map, batch.ppn[i]);
        break;
    case 4:
    case 5:
        page_leave_begin(chaos->map, &batch, PAGE_LEAVE_ACTIVE);
        pager_take(chaos->pager, &batch, PAGER_COLD);
        break;
    default:
        page_leave_begin(chaos->map, &batch, PAGE_LEAVE_ACTIVE);
        pager_take(chaos->pager, &batch, 0);
    }
}

static void *run(void *context)
{
    struct chaos *chaos = context;
    pthread_setname_np(pthread_self(), "aerostat-chaos");
    for (uint64_t steps = 1; !atomic_load(&chaos->stopping);) {
        uint64_t from = clock_monotonic_ns();
        for (unsigned i = 0; i < BURST; i++, steps++)
            step(chaos);
        if (chaos->set_balloon != NULL && steps % BALLOON_STEPS <= BURST)
            chaos->set_balloon(
                chaos->context,
                align_down(random_next(chaos) % (chaos->max_pages * PAGE_SIZE / 4), PAGE_SIZE));
        struct timespec rest = {.tv_nsec = (long)(clock_monotonic_ns() - from)};
        if (rest.tv_nsec > 20000000)
            rest.tv_nsec = 20000000;
        nanosleep(&rest, NULL);
    }
    return NULL;
}

enum status chaos_create(struct chaos **out, struct pmap *map, struct pager *pager, uint64_t seed,
                         void (*set_balloon)(void *context, uint64_t bytes), void *context,
                         struct error *err)
{
    struct chaos *chaos = calloc(1, sizeof *chaos);
    if (chaos == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for chaos");
    struct pmap_stats stats;
    pmap_get_stats(map, &stats);
    chaos->map = map;
    chaos->pager = pager;
    chaos->set_balloon = set_balloon;
    chaos->context = context;
    chaos->max_pages = stats.max_pages;
    chaos->seed = seed * 2 + 1; /* not 0 */
    if (pthread_create(&chaos->thread, NULL, run, chaos) != 0) {
        free(chaos);
        return error_set(err, STATUS_NO_MEMORY, "cannot start the thread for --chaos");
    }
    *out = chaos;
    return STATUS_OK;
}

void chaos_destroy(struct chaos *chaos)
{
    if (chaos == NULL)
        return;
    atomic_store(&chaos->stopping, true);
    pthread_join(chaos->thread, NULL);
    free(chaos);
}
