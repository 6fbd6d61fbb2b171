/*
 * See balloon.h. One thing to know about the queues: inflate and deflate are 0 and 1, and for those
 * after them the specification's numbers and those of all drivers in use differ. The specification
 * gives each its fixed number: statistics 2, free page hinting 3, reporting 4. Linux and QEMU count
 * only those that exist, so that without hinting, which we do not offer, reporting is 3; and 2 if
 * the driver has no statistics either. Here a queue's role follows from what was negotiated, and
 * both 3 and 4 report.
 *
 * What the driver sends is bounded in what it costs: a request's page numbers by PFNS_MAX, a report
 * by what a bare chain may have (virtqueue.h), and the loop goes on to other work after each.
 */

#include "dev/virtio/balloon_private.h"

#include <linux/virtio_balloon.h>
#include <stdlib.h>

#include "dev/virtio/iov.h"

#define BALLOON_QUEUE_SIZE 128u /* Linux needs 32 for reports */

enum role { ROLE_NONE, ROLE_INFLATE, ROLE_DEFLATE, ROLE_STATS, ROLE_REPORT };

static enum role queue_role(const struct virtio_device *device, unsigned queue)
{
    if (queue == QUEUE_INFLATE)
        return ROLE_INFLATE;
    if (queue == QUEUE_DEFLATE)
        return ROLE_DEFLATE;
    if (queue == QUEUE_THIRD && virtio_device_has_feature(device, VIRTIO_BALLOON_F_STATS_VQ))
        return ROLE_STATS;
    return virtio_device_has_feature(device, VIRTIO_BALLOON_F_REPORTING) ? ROLE_REPORT : ROLE_NONE;
}

/* ---- pages in and out of the balloon ---- */

static int compare_pfns(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

    return (a > b) - (a < b);
}

/* Moves the pages of balloon->pfns[0, count). Returns how many moved. */
static uint64_t balloon_move(struct virtio_balloon *balloon, enum role role, size_t count)
{
    uint32_t *pfns = balloon->pfns;
    struct pmap *map = balloon->base.map;
    uint64_t moved = 0;

    qsort(pfns, count, sizeof(*pfns), compare_pfns);
    for (size_t i = 0; i < count;) {
        uint64_t first = pfns[i], end = first;
        for (; i < count && pfns[i] <= end; i++)
            end = (uint64_t)pfns[i] + 1;
        moved += role == ROLE_INFLATE ? pmap_balloon_take(map, first, end - first)
                                      : pmap_balloon_give(map, first, end - first);
    }
    balloon->ignored_pages += count - moved;
    return moved;
}

/* An array of 32-bit page numbers. */
static bool balloon_handle_request(struct virtio_device *device, unsigned queue,
                                   struct virtqueue_chain *chain)
{
    struct virtio_balloon *balloon = balloon_of(device);
    enum role role = queue_role(device, queue);
    const size_t size = sizeof(balloon->pfns[0]);
    uint64_t length = chain->out_length;
    uint64_t moved = 0;

    if (length == 0 || length % size != 0 || length > PFNS_MAX * size) {
        virtio_stats_add(&device->stats.errors, 1);
        length = 0;
    }
    for (uint64_t offset = 0; offset < length; offset += sizeof(balloon->pfns)) {
        size_t got =
            iov_read(chain->iov, chain->out_count, offset, balloon->pfns, sizeof(balloon->pfns));
        moved += balloon_move(balloon, role, got / size);
    }
    if (moved > 0)
        balloon->moved_ns = balloon_now(balloon);
    if (role == ROLE_DEFLATE)
        balloon_retry_go_on(balloon);
    if (role == ROLE_INFLATE) {
        balloon->taken_pages += moved;
        virtio_stats_add(&device->stats.bytes_out, moved * PAGE_SIZE);
    } else {
        balloon->given_pages += moved;
        virtio_stats_add(&device->stats.bytes_in, moved * PAGE_SIZE);
    }
    virtio_device_complete(device, queue, chain, 0);
    return true;
}

/* ---- free pages ---- */

/* May pages that were reported come back as zero? */
static bool reports_wanted(const struct virtio_balloon *balloon)
{
    return !virtio_device_has_feature(&balloon->base, VIRTIO_BALLOON_F_PAGE_POISON) ||
           balloon->config.poison_val == 0;
}

/* The whole pages within the chain's buffers are free. */
static bool balloon_handle_report(struct virtio_device *device, unsigned queue,
                                  struct virtqueue_chain *chain)
{
    struct virtio_balloon *balloon = balloon_of(device);
    bool wanted = queue_role(device, queue) == ROLE_REPORT && reports_wanted(balloon);

    for (unsigned i = 0; wanted && i < chain->segment_count; i++) {
        const struct virtqueue_segment *segment = &chain->segments[i];
        if (!segment->write || !range_fits(segment->gpa, segment->length, (uint64_t)1 << 63))
            continue;
        uint64_t first = align_up(segment->gpa, PAGE_SIZE) >> PAGE_SHIFT;
        uint64_t end = (segment->gpa + segment->length) >> PAGE_SHIFT;
        if (first < end)
            balloon->reported_pages += pmap_release(device->map, first, end - first);
    }
    virtio_device_complete(device, queue, chain, 0);
    return true;
}

/* ---- target and state ---- */

static uint64_t target_limit(const struct virtio_balloon *balloon, uint64_t pages)
{
    struct pmap_stats stats;

    pmap_get_stats(balloon->base.map, &stats);
    if (pages > stats.max_pages)
        pages = stats.max_pages;
    return pages > UINT32_MAX ? UINT32_MAX : pages;
}

void balloon_set_target(struct virtio_device *device, uint64_t pages)
{
    struct virtio_balloon *balloon = balloon_of(device);

    virtio_device_enter(device);
    balloon->config.num_pages = (uint32_t)target_limit(balloon, pages);
    balloon->moved_ns = balloon_now(balloon);
    virtio_device_config_changed(device);
    balloon_retry_begin(balloon);
    virtio_device_leave(device);
}

static uint64_t actual_pages(const struct virtio_balloon *balloon)
{
    struct pmap_stats pages;

    pmap_get_stats(balloon->base.map, &pages);
    return pages.ballooned;
}

/* Since when it has stood still, 0 at its target. */
static uint64_t still_ns(const struct virtio_balloon *balloon)
{
    if (actual_pages(balloon) == balloon->config.num_pages)
        return 0;
    return balloon_now(balloon) - balloon->moved_ns;
}

enum balloon_state balloon_state(const struct virtio_balloon *balloon)
{
    if (!virtio_device_queue_runs(&balloon->base, QUEUE_INFLATE))
        return BALLOON_ABSENT;
    if (actual_pages(balloon) == balloon->config.num_pages)
        return BALLOON_STEADY;
    return still_ns(balloon) < BALLOON_PATIENCE_NS ? BALLOON_MOVING : BALLOON_STALLED;
}

void balloon_get(struct virtio_device *device, struct balloon_info *info)
{
    struct virtio_balloon *balloon = balloon_of(device);

    virtio_device_enter(device);
    *info = (struct balloon_info){
        .target_pages = balloon->config.num_pages,
        .actual_pages = actual_pages(balloon),
        .claimed_pages = balloon->config.actual,
        .taken_pages = balloon->taken_pages,
        .given_pages = balloon->given_pages,
        .reported_pages = balloon->reported_pages,
        .ignored_pages = balloon->ignored_pages,
        .stats_present = balloon->stats_present,
        .stats_age_ns = balloon_now(balloon) - balloon->stats_ns,
        .still_ns = still_ns(balloon),
        .state = balloon_state(balloon),
    };
    for (unsigned i = 0; i < BALLOON_STATS; i++)
        info->stats[i] = balloon->stats[i];
    virtio_device_leave(device);
}

const char *balloon_state_name(enum balloon_state state)
{
    static const char *const names[] = {
        [BALLOON_ABSENT] = "absent",
        [BALLOON_STEADY] = "steady",
        [BALLOON_MOVING] = "moving",
        [BALLOON_STALLED] = "stalled",
    };

    return names[state];
}

/* ---- the device ---- */

static uint64_t balloon_features(struct virtio_device *device)
{
    return bit(VIRTIO_BALLOON_F_STATS_VQ) | bit(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
           bit(VIRTIO_BALLOON_F_PAGE_POISON) | bit(VIRTIO_BALLOON_F_REPORTING);
}

static void balloon_config_write(struct virtio_device *device, uint32_t offset, unsigned size,
                                 uint64_t value)
{
    struct virtio_balloon_config *config = &balloon_of(device)->config;

    if (size != sizeof(uint32_t))
        return;
    if (offset == offsetof(struct virtio_balloon_config, actual))
        config->actual = (uint32_t)value;
    else if (offset == offsetof(struct virtio_balloon_config, poison_val))
        config->poison_val = (uint32_t)value;
}

static void balloon_start(struct virtio_device *device)
{
    struct virtio_balloon *balloon = balloon_of(device);

    balloon->moved_ns = balloon_now(balloon);
    balloon_retry_begin(balloon);
}

static void balloon_notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_balloon *balloon = balloon_of(device);

    switch (queue_role(device, queue)) {
    case ROLE_INFLATE:
    case ROLE_DEFLATE:
        virtio_device_drain(device, queue, &balloon->request, balloon_handle_request);
        break;
    case ROLE_STATS:
        balloon_take_stats(balloon);
        break;
    case ROLE_REPORT:
    case ROLE_NONE:
        virtio_device_drain(device, queue, &balloon->report, balloon_handle_report);
        break;
    }
}

static void balloon_release(struct virtio_device *device, unsigned queue)
{
    if (queue == QUEUE_THIRD)
        virtqueue_drop(&device->queues[queue], &balloon_of(device)->stats_chain);
}

/* The driver that comes next, or the guest without one, has all pages. */
static void balloon_reset(struct virtio_device *device)
{
    struct virtio_balloon *balloon = balloon_of(device);

    pmap_balloon_reset(device->map);
    balloon->config.actual = 0;
    balloon->config.poison_val = 0;
    balloon->moved_ns = balloon_now(balloon);
    balloon_forget_stats(balloon);
}

static void balloon_free(struct virtio_balloon *balloon)
{
    balloon_retry_stop(balloon);
    balloon_stats_finish(balloon);
    virtqueue_chain_finish(&balloon->request);
    virtqueue_chain_finish(&balloon->report);
    free(balloon);
}

static void balloon_destroy(struct virtio_device *device)
{
    struct virtio_balloon *balloon = balloon_of(device);

    balloon_stats_stop(balloon);
    balloon_retry_stop(balloon);
    virtio_device_finish(device);
    balloon_free(balloon);
}

static const struct virtio_device_ops balloon_ops = {
    .name = "balloon",
    .id = VIRTIO_ID_BALLOON,
    .queue_count = QUEUES,
    .queue_size_max = BALLOON_QUEUE_SIZE,
    .features = balloon_features,
    .config_write = balloon_config_write,
    .start = balloon_start,
    .notify = balloon_notify,
    .release = balloon_release,
    .reset = balloon_reset,
    .destroy = balloon_destroy,
};

enum status virtio_balloon_create(struct virtio_device **device, struct pmap *map,
                                  struct io_loop *loop, const struct device_time *time,
                                  uint64_t target_pages, struct error *err)
{
    struct virtio_balloon *balloon = calloc(1, sizeof(*balloon));

    if (balloon == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the balloon");
    balloon->time = *time;
    balloon->report.bare = true;
    enum status status = balloon_stats_init(balloon, err);
    if (status == STATUS_OK)
        status = balloon_retry_init(balloon, err);
    if (status == STATUS_OK)
        status = virtio_device_init(&balloon->base, &balloon_ops, map, loop, &balloon->config,
                                    sizeof(balloon->config), err);
    if (status != STATUS_OK) {
        balloon_free(balloon);
        return status;
    }
    balloon->config.num_pages = (uint32_t)target_limit(balloon, target_pages);
    balloon->moved_ns = balloon_now(balloon);
    *device = &balloon->base;
    return STATUS_OK;
}
