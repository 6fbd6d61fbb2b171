/*
 * The driver's statistics (virtio 1.2, clause 5.5.6.3). The driver gives a buffer with them; we
 * keep it, and give it back when we want others. So there is one request on its way at most, and a
 * driver that does not answer is not asked again.
 */

#include <time.h>

#include "dev/virtio/balloon_private.h"
#include "dev/virtio/iov.h"

/* Entries of a statistics buffer that are looked at. */
#define STATS_ENTRIES_MAX 64u

static void balloon_parse_stats(struct virtio_balloon *balloon)
{
    const struct virtqueue_chain *chain = &balloon->stats_chain;
    struct virtio_balloon_stat entries[STATS_ENTRIES_MAX];
    size_t length = iov_read(chain->iov, chain->out_count, 0, entries, sizeof(entries));

    balloon->stats_present = 0;
    for (size_t i = 0; i < length / sizeof(entries[0]); i++) {
        if (entries[i].tag >= BALLOON_STATS)
            continue;
        balloon->stats[entries[i].tag] = entries[i].val;
        balloon->stats_present |= (uint32_t)bit(entries[i].tag);
    }
    balloon->stats_ns = balloon_now(balloon);
    balloon->stats_count++;
    pthread_cond_broadcast(&balloon->stats_arrived);
}

void balloon_forget_stats(struct virtio_balloon *balloon)
{
    balloon->stats_present = 0;
    balloon->stats_count++;
    pthread_cond_broadcast(&balloon->stats_arrived);
}

/* The buffer that has statistics is kept until others are wanted: to use it is to ask for them. */
void balloon_take_stats(struct virtio_balloon *balloon)
{
    struct virtqueue *vq = &balloon->base.queues[QUEUE_THIRD];

    if (balloon->stats_chain.held)
        return;
    do {
        if (virtqueue_pop(vq, &balloon->stats_chain)) {
            balloon_parse_stats(balloon);
            return;
        }
    } while (virtqueue_unmute(vq));
}

/* False: there is no driver to ask, or it has not answered yet. */
static bool balloon_ask_stats(struct virtio_balloon *balloon)
{
    if (!balloon->stats_chain.held || !virtio_device_queue_runs(&balloon->base, QUEUE_THIRD))
        return false;
    virtio_device_complete(&balloon->base, QUEUE_THIRD, &balloon->stats_chain, 0);
    balloon_take_stats(balloon);
    return true;
}

static void balloon_arm_stats(struct virtio_balloon *balloon, uint64_t now)
{
    balloon->stats_timer_armed = true;
    balloon->time.timer_arm(balloon->stats_timer, now + BALLOON_STATS_PERIOD_NS);
}

static void balloon_stats_due(void *context)
{
    struct virtio_balloon *balloon = context;

    virtio_device_enter(&balloon->base);
    uint64_t now = balloon_now(balloon);
    balloon->stats_timer_armed = false;
    if (now < balloon->watched_until_ns) {
        balloon_ask_stats(balloon);
        balloon_arm_stats(balloon, now);
    }
    virtio_device_leave(&balloon->base);
}

static bool stats_fresh(const struct virtio_balloon *balloon, uint64_t now)
{
    return balloon->stats_present != 0 && now - balloon->stats_ns <= BALLOON_STATS_PERIOD_NS;
}

/* Waits, on the host's clock, for the answer to what was asked. */
static void balloon_wait_stats(struct virtio_balloon *balloon, uint64_t wait_ns)
{
    uint64_t deadline = clock_monotonic_ns() + wait_ns;
    const struct timespec until = {
        .tv_sec = (time_t)(deadline / NS_PER_SECOND),
        .tv_nsec = (long)(deadline % NS_PER_SECOND),
    };
    uint64_t before = balloon->stats_count;

    while (balloon->stats_count == before &&
           pthread_cond_timedwait(&balloon->stats_arrived, &balloon->base.lock, &until) == 0)
        ;
}

bool balloon_watch(struct virtio_device *device, uint64_t wait_ns)
{
    struct virtio_balloon *balloon = balloon_of(device);

    virtio_device_enter(device);
    uint64_t now = balloon_now(balloon);
    balloon->watched_until_ns = now + BALLOON_WATCH_NS;
    if (!balloon->stats_timer_armed)
        balloon_arm_stats(balloon, now);
    if (!stats_fresh(balloon, now) && balloon_ask_stats(balloon) && !stats_fresh(balloon, now) &&
        wait_ns > 0)
        balloon_wait_stats(balloon, wait_ns);
    bool fresh = stats_fresh(balloon, balloon_now(balloon));
    virtio_device_leave(device);
    return fresh;
}

const char *balloon_stat_name(enum balloon_stat stat)
{
    static const char *const names[BALLOON_STATS] = {
        [BALLOON_STAT_SWAP_IN] = "swap_in",
        [BALLOON_STAT_SWAP_OUT] = "swap_out",
        [BALLOON_STAT_MAJOR_FAULTS] = "major_faults",
        [BALLOON_STAT_MINOR_FAULTS] = "minor_faults",
        [BALLOON_STAT_FREE] = "free",
        [BALLOON_STAT_TOTAL] = "total",
        [BALLOON_STAT_AVAILABLE] = "available",
        [BALLOON_STAT_CACHES] = "caches",
        [BALLOON_STAT_HUGETLB_ALLOCATIONS] = "hugetlb_allocations",
        [BALLOON_STAT_HUGETLB_FAILURES] = "hugetlb_failures",
        [BALLOON_STAT_OOM_KILLS] = "oom_kills",
        [BALLOON_STAT_ALLOC_STALLS] = "alloc_stalls",
        [BALLOON_STAT_ASYNC_SCAN] = "async_scan",
        [BALLOON_STAT_DIRECT_SCAN] = "direct_scan",
        [BALLOON_STAT_ASYNC_RECLAIM] = "async_reclaim",
        [BALLOON_STAT_DIRECT_RECLAIM] = "direct_reclaim",
    };

    return names[stat];
}

static void condition_init(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;

    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

enum status balloon_stats_init(struct virtio_balloon *balloon, struct error *err)
{
    const struct device_time *time = &balloon->time;
    enum status status =
        time->timer_create(time->context, &balloon->stats_timer, balloon_stats_due, balloon, err);

    if (status != STATUS_OK)
        balloon->stats_timer = NULL;
    condition_init(&balloon->stats_arrived);
    return status;
}

void balloon_stats_stop(struct virtio_balloon *balloon)
{
    balloon->time.timer_destroy(balloon->stats_timer);
    balloon->stats_timer = NULL;
}

void balloon_stats_finish(struct virtio_balloon *balloon)
{
    balloon_stats_stop(balloon);
    virtqueue_chain_finish(&balloon->stats_chain);
    pthread_cond_destroy(&balloon->stats_arrived);
}
