#ifndef AEROSTAT_DEV_VIRTIO_BALLOON_PRIVATE_H
#define AEROSTAT_DEV_VIRTIO_BALLOON_PRIVATE_H

/* What balloon.c (the device, pages), balloon_stats.c (the driver's statistics) and balloon_retry.c
 * (asking again) share. */

#include <linux/virtio_balloon.h>
#include <pthread.h>

#include "dev/virtio/balloon.h"

enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_THIRD, QUEUES = 5 };

/* Page numbers that are sorted at once, and the most that one request may have; Linux sends 256. */
#define PFNS_AT_ONCE 1024u
#define PFNS_MAX     (16 * PFNS_AT_ONCE)

struct virtio_balloon {
    struct virtio_device base;
    struct virtio_balloon_config config; /* fields are little endian, as we are */
    struct device_time time;

    /* Under the device's lock. */
    uint64_t moved_ns; /* when a page moved, or the target was set */
    uint64_t taken_pages, given_pages, reported_pages, ignored_pages;
    struct virtqueue_chain request;     /* being handled */
    struct virtqueue_chain report;      /* being handled; bare */
    struct virtqueue_chain stats_chain; /* held, to be used when statistics are wanted */
    uint32_t pfns[PFNS_AT_ONCE];

    uint32_t stats_present;
    uint64_t stats[BALLOON_STATS];
    uint64_t stats_ns;            /* when they came */
    uint64_t stats_count;         /* how often they came, or were forgotten */
    pthread_cond_t stats_arrived; /* the count has changed */

    struct device_timer *stats_timer;
    bool stats_timer_armed;
    uint64_t watched_until_ns;

    struct device_timer *retry_timer;
    bool retry_armed;
    uint64_t retry_ns; /* until the target is told again */
};

static inline struct virtio_balloon *balloon_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_balloon, base);
}

static inline uint64_t balloon_now(const struct virtio_balloon *balloon)
{
    return balloon->time.now(balloon->time.context);
}

/* ---- balloon.c; under the device's lock ---- */

enum balloon_state balloon_state(const struct virtio_balloon *balloon);

/* ---- balloon_retry.c; under the device's lock, but for init and stop ---- */

enum status balloon_retry_init(struct virtio_balloon *balloon, struct error *err);
/* Nothing is told from here on. Not under the lock. */
void balloon_retry_stop(struct virtio_balloon *balloon);

/* There is a new target, or a new driver. */
void balloon_retry_begin(struct virtio_balloon *balloon);
/* The driver has taken pages back. */
void balloon_retry_go_on(struct virtio_balloon *balloon);

/* ---- balloon_stats.c; under the device's lock, but for init, stop and finish ---- */

enum status balloon_stats_init(struct virtio_balloon *balloon, struct error *err);
/* Nothing is asked from here on. Not under the lock. */
void balloon_stats_stop(struct virtio_balloon *balloon);
void balloon_stats_finish(struct virtio_balloon *balloon);

/* A buffer may be there. */
void balloon_take_stats(struct virtio_balloon *balloon);
/* The driver they were of is gone. */
void balloon_forget_stats(struct virtio_balloon *balloon);

#endif
