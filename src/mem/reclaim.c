/*
 * See reclaim.h.
 *
 * Victims. ESX takes pages at random, so that no pattern of the guest's can be the worst case; so
 * do we, but by groups of 16 neighbours: holes are then punched, and slots written and read, in
 * runs. A page that was brought back or touched while sampled is passed over once (ACTIVE).
 *
 * Second chance. A page that is chosen is LEAVING: no TLB maps it, and whoever touches it has it
 * back at the cost of a look-up (page_leave.h). We keep a queue of such pages, a part of the target
 * long, and only the oldest that nobody has touched go. Their code is kept until then. So what goes
 * has not been used while the whole queue went by, which is nearly what LRU would take, and costs
 * an idle page nothing. (VMS's free list was that.)
 *
 *      all private pages  --random-->  queue, LEAVING  --not touched-->  pager
 *                         <--touched--
 *
 * When to work. Up to `high` the VM is left alone; above, pages go until there are `low`. Above the
 * target, threads that want one more page wait until there are fewer. `low` < `high` < target, with
 * a 64th of the target between low and target. If a whole round through memory takes nothing, we
 * give up: nobody waits, and the next try is when the VM has grown by another MiB.
 *
 * Lock order: the lock is a leaf. The thread holds it for counters and waking alone.
 */

#include "mem/reclaim.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "util/bits.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/xorshift.h"

#define GROUP_PAGES    16u
#define GROUP_TRIES    64u  /* groups looked at for one batch */
#define QUEUE_BATCHES  128u /* of LEAVING pages at most */
#define QUEUE_PART     16u  /* of the target that the queue is long */
#define SLACK_PART     64u
#define SLACK_LEAST    32u
#define SLACK_MOST     2048u
#define RETRY_PAGES    256u /* that the VM grows by before we try again */
#define CACHE_PART     4u   /* of the target that compressed pages may take */
#define PATIENCE_LEAST 8u   /* batches */
#define STACK_BYTES    (128 * KIB)

struct reclaim {
    struct pmap *map;
    struct pager *pager;
    struct zcache *cache;
    uint64_t max_pages;
    uint64_t seed;
    void (*note)(void *context, uint64_t ppn);
    void *note_context;

    pthread_t thread;
    bool has_thread;
    sem_t wake;         /* posted when `woken` becomes true */
    _Atomic bool woken; /* there may be work */
    _Atomic bool stopping;
    _Atomic bool said_refused, blocked;
    _Atomic uint64_t asked; /* target that was set; the host may have less for us */
    _Atomic uint64_t target, chosen, taken, given_up, wait_ns;
    _Atomic uint64_t grown_to; /* after giving up: leave the VM alone up to here. Else 0 */

    struct page_batch queue[QUEUE_BATCHES]; /* a ring, of the thread */
    unsigned queue_first, queue_count;
    uint64_t queue_pages;

    pthread_mutex_t lock;
    pthread_cond_t progress; /* pages went, or it gave up, or is idle */
    uint64_t rounds;         /* of work that have ended */
    bool working;
};

static void wake(struct reclaim *reclaim)
{
    if (!atomic_exchange(&reclaim->woken, true))
        sem_post(&reclaim->wake);
}

/* ------------------------------------------------------------------------- how much */

static uint64_t cache_pages(struct reclaim *reclaim)
{
    struct zcache_stats stats;
    if (reclaim->cache == NULL)
        return 0;
    zcache_get_stats(reclaim->cache, &stats);
    return stats.held_bytes >> PAGE_SHIFT;
}

static uint64_t slack_of(uint64_t target)
{
    uint64_t slack = target / SLACK_PART;
    return slack < SLACK_LEAST ? SLACK_LEAST : slack > SLACK_MOST ? SLACK_MOST : slack;
}

/* Private pages that would be `below` pages less than the target; all, without one. */
static uint64_t private_goal(struct reclaim *reclaim, uint64_t below)
{
    uint64_t target = atomic_load(&reclaim->target), other = cache_pages(reclaim) + below;
    if (target == UINT64_MAX)
        return UINT64_MAX;
    return target > other ? target - other : 0;
}

static uint64_t low_goal(struct reclaim *reclaim)
{
    return private_goal(reclaim, slack_of(atomic_load(&reclaim->target)));
}

/* Only the thread changes the cache's size upwards, so after its work this holds. */
static void set_limits(struct reclaim *reclaim)
{
    uint64_t slack = slack_of(atomic_load(&reclaim->target));
    uint64_t high = private_goal(reclaim, slack / 2), most = private_goal(reclaim, 0);
    uint64_t grown_to = atomic_load(&reclaim->grown_to);
    if (grown_to != 0) {
        high = high > grown_to ? high : grown_to;
        most = UINT64_MAX;
    }
    pmap_set_limits(reclaim->map, high, most);
}

/* ------------------------------------------------------------------------- the map asks */

static void on_over(void *context)
{
    wake(context);
}

static bool must_wait(struct reclaim *reclaim)
{
    return !atomic_load(&reclaim->stopping) && atomic_load(&reclaim->grown_to) == 0 &&
           pmap_private_pages(reclaim->map) > private_goal(reclaim, 0);
}

static void on_wait(void *context)
{
    struct reclaim *reclaim = context;
    if (!must_wait(reclaim))
        return;
    uint64_t from = clock_monotonic_ns();
    pthread_mutex_lock(&reclaim->lock);
    while (must_wait(reclaim)) {
        wake(reclaim);
        pthread_cond_wait(&reclaim->progress, &reclaim->lock);
    }
    pthread_mutex_unlock(&reclaim->lock);
    atomic_fetch_add(&reclaim->wait_ns, clock_monotonic_ns() - from);
}

void reclaim_set_blocked(struct reclaim *reclaim, bool blocked)
{
    atomic_store(&reclaim->blocked, blocked);
    reclaim_wake(reclaim);
}

void reclaim_wake(struct reclaim *reclaim)
{
    pthread_mutex_lock(&reclaim->lock);
    pthread_cond_broadcast(&reclaim->progress);
    pthread_mutex_unlock(&reclaim->lock);
}

void reclaim_wait_blocked(struct reclaim *reclaim, bool (*is_over)(void *context), void *context)
{
    if (!atomic_load(&reclaim->blocked) || !must_wait(reclaim))
        return;
    uint64_t from = clock_monotonic_ns();
    pthread_mutex_lock(&reclaim->lock);
    while (atomic_load(&reclaim->blocked) && must_wait(reclaim) && !is_over(context)) {
        wake(reclaim);
        pthread_cond_wait(&reclaim->progress, &reclaim->lock);
    }
    pthread_mutex_unlock(&reclaim->lock);
    atomic_fetch_add(&reclaim->wait_ns, clock_monotonic_ns() - from);
}

/* The host has less for us than our target is: that comes down, by what makes it worth it. */
static bool on_refused(void *context)
{
    struct reclaim *reclaim = context;
    uint64_t held = pmap_private_pages(reclaim->map) + cache_pages(reclaim);
    uint64_t step = held / SLACK_PART > RETRY_PAGES ? held / SLACK_PART : RETRY_PAGES;
    uint64_t target = held > step + RECLAIM_TARGET_LEAST ? held - step : RECLAIM_TARGET_LEAST;
    uint64_t before = atomic_load(&reclaim->target), taken = atomic_load(&reclaim->taken);
    while (target < before && !atomic_compare_exchange_weak(&reclaim->target, &before, target))
        ;
    if (!atomic_exchange(&reclaim->said_refused, true))
        log_warning("the host refuses memory: the guest's is kept below %llu MiB",
                    (unsigned long long)(target >> (20 - PAGE_SHIFT)));
    reclaim_wait(reclaim);
    return atomic_load(&reclaim->taken) != taken;
}

static const struct page_pressure_ops pressure_ops = {
    .over = on_over, .wait = on_wait, .refused = on_refused};

/* ------------------------------------------------------------------------- what */

/* Fills a batch with private pages, group by group. */
static void choose(struct reclaim *reclaim, struct page_batch *batch)
{
    batch->count = 0;
    for (unsigned i = 0; i < GROUP_TRIES && batch->count + GROUP_PAGES <= PAGE_BATCH_MAX; i++) {
        uint64_t n = align_down(xorshift_next(&reclaim->seed) % reclaim->max_pages, GROUP_PAGES);
        for (uint64_t end = n + GROUP_PAGES; n < end && n < reclaim->max_pages; n++) {
            uint64_t ppn = pmap_nth_page(reclaim->map, n);
            if (pmap_state(reclaim->map, ppn) == PAGE_PRIVATE)
                batch->ppn[batch->count++] = ppn;
        }
    }
}

/* False: nothing was found that may leave. */
static bool queue_add(struct reclaim *reclaim)
{
    struct page_batch *batch =
        &reclaim->queue[(reclaim->queue_first + reclaim->queue_count) % QUEUE_BATCHES];
    choose(reclaim, batch);
    page_leave_begin(reclaim->map, batch, PAGE_LEAVE_KEEP_CODE);
    atomic_fetch_add(&reclaim->chosen, batch->count);
    for (unsigned i = 0; reclaim->note != NULL && i < batch->count; i++)
        reclaim->note(reclaim->note_context, batch->ppn[i]);
    if (batch->count != 0) {
        reclaim->queue_count++;
        reclaim->queue_pages += batch->count;
    }
    return batch->count != 0;
}

/* The oldest of the queue go. Returns how many. */
static unsigned queue_take(struct reclaim *reclaim)
{
    const struct page_batch *batch = &reclaim->queue[reclaim->queue_first];
    if (reclaim->queue_count == 0)
        return 0;
    page_leave_code(reclaim->map, batch);
    unsigned taken = pager_take(reclaim->pager, batch, PAGER_QUEUE);
    reclaim->queue_first = (reclaim->queue_first + 1) % QUEUE_BATCHES;
    reclaim->queue_count--;
    reclaim->queue_pages -= batch->count;
    return taken;
}

static void queue_cancel(struct reclaim *reclaim)
{
    for (unsigned i = 0; i < reclaim->queue_count; i++) {
        struct page_batch *batch = &reclaim->queue[(reclaim->queue_first + i) % QUEUE_BATCHES];
        for (unsigned j = 0; j < batch->count; j++)
            page_leave_cancel(reclaim->map, batch, j);
    }
    reclaim->queue_count = 0;
    reclaim->queue_pages = 0;
}

/* ------------------------------------------------------------------------- the thread */

static void tell_progress(struct reclaim *reclaim, unsigned taken)
{
    if (taken == 0)
        return;
    atomic_fetch_add(&reclaim->taken, taken);
    pthread_mutex_lock(&reclaim->lock);
    pthread_cond_broadcast(&reclaim->progress);
    pthread_mutex_unlock(&reclaim->lock);
}

/* True: so few pages are private that it is enough. */
static bool is_low(struct reclaim *reclaim)
{
    return pmap_private_pages(reclaim->map) <= low_goal(reclaim);
}

/* Pages that the pager could do nothing with. */
static uint64_t turned_away(struct reclaim *reclaim)
{
    struct pager_stats stats;
    pager_get_stats(reclaim->pager, &stats);
    return stats.refused + stats.failed;
}

/* Takes pages until few enough are private. False: it cannot be done now. */
static bool bring_down(struct reclaim *reclaim)
{
    /* So many batches see all of memory several times over; less will do where there is no room. */
    uint64_t patience = QUEUE_BATCHES + reclaim->max_pages / (GROUP_PAGES * GROUP_TRIES / 16);
    uint64_t idle = 0, away = turned_away(reclaim);
    while (!is_low(reclaim) && !atomic_load(&reclaim->stopping)) {
        bool found = queue_add(reclaim), is_full = reclaim->queue_count == QUEUE_BATCHES;
        if (found && !is_full && reclaim->queue_pages <= atomic_load(&reclaim->target) / QUEUE_PART)
            continue;
        unsigned taken = queue_take(reclaim);
        tell_progress(reclaim, taken);
        idle = taken != 0 ? 0 : idle + 1;
        if (idle > patience || (idle > PATIENCE_LEAST && turned_away(reclaim) != away))
            return false;
    }
    return true;
}

static void work(struct reclaim *reclaim)
{
    uint64_t target = atomic_load(&reclaim->target);
    pager_set_cache_most(reclaim->pager,
                         target == UINT64_MAX ? UINT64_MAX : (target / CACHE_PART) << PAGE_SHIFT);
    pager_trim_cache(reclaim->pager);
    bool reached = bring_down(reclaim);
    tell_progress(reclaim, pager_settle(reclaim->pager));
    reached = reached || is_low(reclaim);
    if (!reached)
        atomic_fetch_add(&reclaim->given_up, 1);
    atomic_store(&reclaim->grown_to, reached ? 0 : pmap_private_pages(reclaim->map) + RETRY_PAGES);
    set_limits(reclaim);
}

static void set_working(struct reclaim *reclaim, bool working)
{
    pthread_mutex_lock(&reclaim->lock);
    reclaim->working = working;
    reclaim->rounds += !working;
    pthread_cond_broadcast(&reclaim->progress);
    pthread_mutex_unlock(&reclaim->lock);
}

static void *run(void *context)
{
    struct reclaim *reclaim = context;
    pthread_setname_np(pthread_self(), "aerostat-page");
    while (!atomic_load(&reclaim->stopping)) {
        while (sem_wait(&reclaim->wake) != 0)
            ;
        atomic_store(&reclaim->woken, false);
        set_working(reclaim, true);
        /* Pages that came after the last look and before the limits were set have told nobody. */
        do
            work(reclaim);
        while (must_wait(reclaim));
        set_working(reclaim, false);
    }
    return NULL;
}

enum status reclaim_create(struct reclaim **out, struct pmap *map, struct pager *pager,
                           struct zcache *cache, struct error *err)
{
    struct reclaim *reclaim = calloc(1, sizeof *reclaim);
    if (reclaim == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for paging");
    struct pmap_stats stats;
    pmap_get_stats(map, &stats);
    reclaim->map = map;
    reclaim->pager = pager;
    reclaim->cache = cache;
    reclaim->max_pages = stats.max_pages;
    reclaim->seed = clock_tsc() | 1;
    atomic_store(&reclaim->target, UINT64_MAX);
    atomic_store(&reclaim->asked, UINT64_MAX);
    sem_init(&reclaim->wake, 0, 0);
    pthread_mutex_init(&reclaim->lock, NULL);
    pthread_cond_init(&reclaim->progress, NULL);
    pmap_set_pressure(map, &pressure_ops, reclaim);

    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    reclaim->has_thread = pthread_create(&reclaim->thread, &attributes, run, reclaim) == 0;
    pthread_attr_destroy(&attributes);
    if (!reclaim->has_thread) {
        reclaim_destroy(reclaim);
        return error_set(err, STATUS_NO_MEMORY, "cannot start the thread for paging");
    }
    *out = reclaim;
    return STATUS_OK;
}

void reclaim_stop(struct reclaim *reclaim)
{
    if (!reclaim->has_thread) /* stopped before: the map may be gone */
        return;
    pmap_set_limits(reclaim->map, UINT64_MAX, UINT64_MAX);
    pthread_mutex_lock(&reclaim->lock);
    atomic_store(&reclaim->stopping, true);
    pthread_cond_broadcast(&reclaim->progress);
    pthread_mutex_unlock(&reclaim->lock);
    sem_post(&reclaim->wake);
    pthread_join(reclaim->thread, NULL);
    reclaim->has_thread = false;
    queue_cancel(reclaim);
    pmap_set_limits(reclaim->map, UINT64_MAX, UINT64_MAX);
}

void reclaim_destroy(struct reclaim *reclaim)
{
    if (reclaim == NULL)
        return;
    reclaim_stop(reclaim);
    pthread_cond_destroy(&reclaim->progress);
    pthread_mutex_destroy(&reclaim->lock);
    sem_destroy(&reclaim->wake);
    free(reclaim);
}

void reclaim_set_note(struct reclaim *reclaim, void (*note)(void *context, uint64_t ppn),
                      void *context)
{
    reclaim->note = note;
    reclaim->note_context = context;
}

void reclaim_set_target(struct reclaim *reclaim, uint64_t pages)
{
    if (pages < RECLAIM_TARGET_LEAST)
        pages = RECLAIM_TARGET_LEAST;
    atomic_store(&reclaim->asked, pages);
    atomic_store(&reclaim->target, pages);
    wake(reclaim);
}

void reclaim_restore_target(struct reclaim *reclaim)
{
    uint64_t asked = atomic_load(&reclaim->asked);
    if (atomic_exchange(&reclaim->target, asked) != asked)
        wake(reclaim);
}

void reclaim_wait(struct reclaim *reclaim)
{
    pthread_mutex_lock(&reclaim->lock);
    /* A round that has begun may not have seen what the caller did: the one after it has. */
    uint64_t until = reclaim->rounds + (reclaim->working ? 2 : 1);
    while (reclaim->rounds < until && !atomic_load(&reclaim->stopping)) {
        wake(reclaim);
        pthread_cond_wait(&reclaim->progress, &reclaim->lock);
    }
    pthread_mutex_unlock(&reclaim->lock);
}

void reclaim_get_stats(struct reclaim *reclaim, struct reclaim_stats *stats)
{
    *stats = (struct reclaim_stats){
        .target = atomic_load(&reclaim->target),
        .chosen = atomic_load(&reclaim->chosen),
        .taken = atomic_load(&reclaim->taken),
        .given_up = atomic_load(&reclaim->given_up),
        .wait_ns = atomic_load(&reclaim->wait_ns),
    };
}
