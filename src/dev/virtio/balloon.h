#ifndef AEROSTAT_DEV_VIRTIO_BALLOON_H
#define AEROSTAT_DEV_VIRTIO_BALLOON_H

/*
 * The memory balloon (virtio 1.2, clause 5.5): the guest's driver allocates pages and tells us
 * their numbers, and we take the memory behind them. So the guest chooses what it can do without.
 *
 * The target is what the balloon is asked to hold, the actual size is what it does hold, counted by
 * the page map and not as the driver says: pages that the driver only claims to have given, or that
 * the guest touched again, are not in it. A driver may give less than it is asked for, or nothing:
 * there is none, it hangs, or the guest is out of memory and needs its pages ("deflate on OOM"). It
 * is asked again and again then, less and less often.
 * balloon_get tells how long the balloon has stood still short of its target, for somebody who then
 * finds the memory in another way.
 *
 * Free page reporting: the driver also names free pages that are large and have been idle for a
 * while. They become zero pages and need no giving back. A guest that fills its free pages with a
 * pattern (PAGE_POISON) may check it later: so nothing is taken from it unless the pattern is zero.
 *
 * A reset of the device empties the balloon. The target stays: it is ours, not the driver's.
 *
 * Threads: the functions below may be called from any thread that is no vCPU and not the loop's.
 * `device` is one that virtio_balloon_create made.
 *
 *     balloon_set_target(device, 64 * MIB / PAGE_SIZE);
 *     ...
 *     balloon_get(device, &info);
 *     if (info.state == BALLOON_STALLED)
 *         ... take info.target_pages - info.actual_pages in another way
 */

#include "dev/device_time.h"
#include "dev/virtio/device.h"
#include "util/clock.h"

/* A balloon that has not come closer to its target for so long is called stalled. Linux tries five
 * times a second to get pages that it could not get. */
#define BALLOON_PATIENCE_NS (2 * NS_PER_SECOND)

/* A stalled balloon's target is told to its driver again after so long, then after twice as long,
 * and so on. */
#define BALLOON_RETRY_FIRST_NS (4 * NS_PER_SECOND)
#define BALLOON_RETRY_MOST_NS  (64 * NS_PER_SECOND)

/* While somebody watches, the driver's statistics are asked for once a period; who has not asked
 * for so long watches no more. */
#define BALLOON_STATS_PERIOD_NS (1 * NS_PER_SECOND)
#define BALLOON_WATCH_NS        (10 * NS_PER_SECOND)

/* What a driver may tell, by virtio's tag. Amounts are in bytes. Counters count from the guest's
 * start. Linux has the first ten since 5.19 or before, all since 6.12. */
enum balloon_stat {
    BALLOON_STAT_SWAP_IN,  /* bytes read from swap */
    BALLOON_STAT_SWAP_OUT, /* bytes written to swap */
    BALLOON_STAT_MAJOR_FAULTS,
    BALLOON_STAT_MINOR_FAULTS,
    BALLOON_STAT_FREE,      /* bytes used for nothing */
    BALLOON_STAT_TOTAL,     /* bytes */
    BALLOON_STAT_AVAILABLE, /* bytes for new programs without swapping, estimated */
    BALLOON_STAT_CACHES,    /* bytes of page cache */
    BALLOON_STAT_HUGETLB_ALLOCATIONS,
    BALLOON_STAT_HUGETLB_FAILURES,
    BALLOON_STAT_OOM_KILLS,      /* processes killed for want of memory */
    BALLOON_STAT_ALLOC_STALLS,   /* allocations that had to reclaim first */
    BALLOON_STAT_ASYNC_SCAN,     /* bytes looked at by kswapd */
    BALLOON_STAT_DIRECT_SCAN,    /* bytes looked at by allocations */
    BALLOON_STAT_ASYNC_RECLAIM,  /* bytes reclaimed by kswapd */
    BALLOON_STAT_DIRECT_RECLAIM, /* bytes reclaimed by allocations */
    BALLOON_STATS,
};

enum balloon_state {
    BALLOON_ABSENT,  /* no driver */
    BALLOON_STEADY,  /* the balloon has the size that it should have */
    BALLOON_MOVING,  /* not yet, and pages moved, or a target was set, a short while ago */
    BALLOON_STALLED, /* not yet, and nothing has happened for BALLOON_PATIENCE_NS */
};

struct balloon_info {
    enum balloon_state state;
    uint64_t target_pages;
    uint64_t actual_pages;
    uint64_t claimed_pages;  /* what the driver says it has given: for people */
    uint64_t still_ns;       /* since a page moved or the target was set; 0 at the target */
    uint64_t taken_pages;    /* by the balloon, since creation */
    uint64_t given_pages;    /* back to the guest by its asking, since creation */
    uint64_t reported_pages; /* of free pages that were reported, since creation */
    uint64_t ignored_pages;  /* named by the driver in vain: no RAM, in use, there already */

    uint32_t stats_present; /* a bit for each of `stats` that this driver tells */
    uint64_t stats[BALLOON_STATS];
    uint64_t stats_age_ns; /* meaningful where some are present */
};

/* A balloon of no pages, with a target. `loop` may be NULL as for all devices; `time`'s timers run
 * on it. */
enum status virtio_balloon_create(struct virtio_device **device, struct pmap *map,
                                  struct io_loop *loop, const struct device_time *time,
                                  uint64_t target_pages, struct error *err);

/* How many pages the balloon is to hold, the guest's RAM at most. To set the same target again
 * makes a driver that had given up, or had taken pages back, try once more. */
void balloon_set_target(struct virtio_device *device, uint64_t pages);

void balloon_get(struct virtio_device *device, struct balloon_info *info);

/* Somebody wants to look at the driver's statistics now and again: keeps them no older than about a
 * period for BALLOON_WATCH_NS from now. If they are older now, waits up to `wait_ns` (host time)
 * for new ones. False: they are old, or there are none. Without watchers the driver is not
 * disturbed. */
bool balloon_watch(struct virtio_device *device, uint64_t wait_ns);

/* "swap_in", ...: never NULL for stat < BALLOON_STATS. */
const char *balloon_stat_name(enum balloon_stat stat);
/* "absent", "steady", "moving", "stalled". */
const char *balloon_state_name(enum balloon_state state);

#endif
