/*
 * A driver that has given less than it was asked for, or has taken pages back for want of memory,
 * leaves it at that until the target is set again: Linux looks at it only when the configuration
 * changes. ESX's driver goes on asking. So we do it for Linux's: while the balloon stands still
 * short of its target, the target is told again, at growing intervals, for a guest that has no
 * memory to give must not be kept busy with that. At the target no timer runs.
 */

#include "dev/virtio/balloon_private.h"

static void balloon_retry_arm(struct virtio_balloon *balloon)
{
    balloon->retry_armed = true;
    balloon->time.timer_arm(balloon->retry_timer, balloon_now(balloon) + balloon->retry_ns);
}

static void balloon_retry_due(void *context)
{
    struct virtio_balloon *balloon = context;

    virtio_device_enter(&balloon->base);
    balloon->retry_armed = false;
    enum balloon_state state = balloon_state(balloon);
    if (state == BALLOON_STALLED) {
        virtio_device_config_changed(&balloon->base);
        if (balloon->retry_ns < BALLOON_RETRY_MOST_NS)
            balloon->retry_ns *= 2;
    }
    if (state == BALLOON_STALLED || state == BALLOON_MOVING)
        balloon_retry_arm(balloon);
    virtio_device_leave(&balloon->base);
}

void balloon_retry_begin(struct virtio_balloon *balloon)
{
    balloon->retry_ns = BALLOON_RETRY_FIRST_NS;
    balloon_retry_arm(balloon);
}

void balloon_retry_go_on(struct virtio_balloon *balloon)
{
    if (!balloon->retry_armed)
        balloon_retry_arm(balloon);
}

enum status balloon_retry_init(struct virtio_balloon *balloon, struct error *err)
{
    const struct device_time *time = &balloon->time;
    enum status status =
        time->timer_create(time->context, &balloon->retry_timer, balloon_retry_due, balloon, err);

    balloon->retry_ns = BALLOON_RETRY_FIRST_NS;
    if (status != STATUS_OK)
        balloon->retry_timer = NULL;
    return status;
}

void balloon_retry_stop(struct virtio_balloon *balloon)
{
    balloon->time.timer_destroy(balloon->retry_timer);
    balloon->retry_timer = NULL;
}
