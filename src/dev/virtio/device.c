#include "dev/virtio/device.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <string.h>

#include "util/log.h"

/* After this many chains of one queue the loop's other work gets its turn. */
#define DRAIN_BUDGET 128u

#define FEATURES_OF_RINGS                                                                          \
    (bit(VIRTIO_F_VERSION_1) | bit(VIRTIO_F_RING_PACKED) | bit(VIRTIO_RING_F_INDIRECT_DESC) |      \
     bit(VIRTIO_RING_F_EVENT_IDX))

static void device_doorbell(void *context)
{
    virtio_device_run(context);
}

enum status virtio_device_init(struct virtio_device *device, const struct virtio_device_ops *ops,
                               struct pmap *map, struct io_loop *loop, void *config,
                               uint32_t config_size, struct error *err)
{
    device->ops = ops;
    device->map = map;
    device->loop = loop;
    device->config = config;
    device->config_size = config_size;
    if (loop != NULL) {
        enum status status = io_event_create(&device->doorbell, loop, device_doorbell, device, err);
        if (status != STATUS_OK)
            return status;
    }
    pthread_mutex_init(&device->lock, NULL);
    pthread_mutex_init(&device->irq_lock, NULL);
    pthread_cond_init(&device->calm, NULL);
    for (unsigned i = 0; i < ops->queue_count; i++)
        virtqueue_init(&device->queues[i], map, ops->queue_size_max);
    device->features_offered = FEATURES_OF_RINGS;
    if (ops->features != NULL)
        device->features_offered |= ops->features(device);
    return STATUS_OK;
}

void virtio_device_finish(struct virtio_device *device)
{
    virtio_device_reset(device);
    if (device->doorbell != NULL)
        io_event_destroy(device->doorbell);
    for (unsigned i = 0; i < device->ops->queue_count; i++)
        virtqueue_finish(&device->queues[i]);
    pthread_cond_destroy(&device->calm);
    pthread_mutex_destroy(&device->irq_lock);
    pthread_mutex_destroy(&device->lock);
}

void virtio_device_destroy(struct virtio_device *device)
{
    if (device != NULL)
        device->ops->destroy(device);
}

/* ---- interrupts ---- */

static void device_interrupt(struct virtio_device *device, uint32_t cause)
{
    pthread_mutex_lock(&device->irq_lock);
    uint32_t before = device->interrupt_status;
    device->interrupt_status = before | cause;
    if (before == 0) {
        virtio_stats_add(&device->stats.interrupts, 1);
        irq_set(&device->irq, true);
    }
    pthread_mutex_unlock(&device->irq_lock);
}

void virtio_device_acknowledge(struct virtio_device *device, uint32_t causes)
{
    pthread_mutex_lock(&device->irq_lock);
    uint32_t before = device->interrupt_status;
    device->interrupt_status = before & ~causes;
    if (before != 0 && (before & ~causes) == 0)
        irq_set(&device->irq, false);
    pthread_mutex_unlock(&device->irq_lock);
}

void virtio_device_config_changed(struct virtio_device *device)
{
    device->config_generation++;
    if (device->status & VIRTIO_CONFIG_S_DRIVER_OK)
        device_interrupt(device, VIRTIO_MMIO_INT_CONFIG);
}

void virtio_device_fail(struct virtio_device *device, const char *reason)
{
    if (device->status & VIRTIO_CONFIG_S_NEEDS_RESET)
        return;
    log_debug("virtio %s needs a reset: %s", device->ops->name, reason);
    device->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    virtio_stats_add(&device->stats.errors, 1);
    if (device->status & VIRTIO_CONFIG_S_DRIVER_OK)
        device_interrupt(device, VIRTIO_MMIO_INT_CONFIG);
}

/* A queue that was found broken takes the device with it. */
static void device_check_queues(struct virtio_device *device)
{
    for (unsigned i = 0; i < device->ops->queue_count; i++) {
        if (device->queues[i].broken)
            virtio_device_fail(device, device->queues[i].broken_reason);
    }
}

/* ---- the lock ---- */

void virtio_device_enter(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
    while (device->accesses != 0)
        pthread_cond_wait(&device->calm, &device->lock);
}

void virtio_device_leave(struct virtio_device *device)
{
    device_check_queues(device);
    pthread_mutex_unlock(&device->lock);
}

void virtio_device_access_begin(struct virtio_device *device)
{
    device->accesses++;
    pthread_mutex_lock(&device->lock);
}

void virtio_device_access_end(struct virtio_device *device)
{
    device_check_queues(device);
    if (--device->accesses == 0)
        pthread_cond_broadcast(&device->calm);
    pthread_mutex_unlock(&device->lock);
}

/* ---- the loop's side ---- */

bool virtio_device_queue_runs(const struct virtio_device *device, unsigned queue)
{
    const struct virtqueue *vq = &device->queues[queue];

    return (device->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 &&
           (device->status & VIRTIO_CONFIG_S_NEEDS_RESET) == 0 && vq->ready && !vq->broken;
}

void virtio_device_run(struct virtio_device *device)
{
    virtio_device_enter(device);
    uint32_t notified = atomic_exchange(&device->notified, 0);
    for (unsigned i = 0; i < device->ops->queue_count; i++) {
        if ((notified & bit(i)) && virtio_device_queue_runs(device, i))
            device->ops->notify(device, i);
    }
    virtio_device_leave(device);
}

void virtio_device_notify(struct virtio_device *device, unsigned queue)
{
    if (queue >= device->ops->queue_count)
        return;
    atomic_fetch_or(&device->notified, (uint32_t)bit(queue));
    if (device->doorbell != NULL)
        io_event_signal(device->doorbell);
}

void virtio_device_drain(struct virtio_device *device, unsigned queue,
                         struct virtqueue_chain *chain, virtio_chain_fn *handle)
{
    struct virtqueue *vq = &device->queues[queue];
    unsigned handled = 0;

    do {
        virtqueue_mute(vq);
        while (virtqueue_pop(vq, chain)) {
            if (!handle(device, queue, chain))
                return;
            if (++handled == DRAIN_BUDGET || virtio_device_should_yield(device)) {
                virtio_device_notify(device, queue);
                return;
            }
            if (!virtio_device_queue_runs(device, queue))
                return;
        }
    } while (virtqueue_unmute(vq));
}

void virtio_device_publish(struct virtio_device *device, unsigned queue)
{
    if (virtqueue_publish(&device->queues[queue]))
        device_interrupt(device, VIRTIO_MMIO_INT_VRING);
}

void virtio_device_complete(struct virtio_device *device, unsigned queue,
                            struct virtqueue_chain *chain, uint32_t written)
{
    virtqueue_push(&device->queues[queue], chain, written);
    virtio_stats_add(&device->stats.requests, 1);
    virtio_device_publish(device, queue);
}

/* ---- what the driver does ---- */

static void queue_stop(struct virtio_device *device, unsigned queue)
{
    if (device->ops->release != NULL)
        device->ops->release(device, queue);
    virtqueue_disable(&device->queues[queue]);
}

static void device_reset(struct virtio_device *device)
{
    for (unsigned i = 0; i < device->ops->queue_count; i++) {
        queue_stop(device, i);
        virtqueue_finish(&device->queues[i]);
        virtqueue_init(&device->queues[i], device->map, device->ops->queue_size_max);
    }
    device->status = 0;
    device->features = 0;
    device->notified = 0;
    if (device->ops->reset != NULL)
        device->ops->reset(device);
    virtio_device_acknowledge(device, ~(uint32_t)0);
}

void virtio_device_reset(struct virtio_device *device)
{
    virtio_device_access_begin(device);
    device_reset(device);
    virtio_device_access_end(device);
}

static bool features_acceptable(const struct virtio_device *device)
{
    return (device->features & ~device->features_offered) == 0 &&
           (device->features & bit(VIRTIO_F_VERSION_1)) != 0;
}

void virtio_device_set_status(struct virtio_device *device, uint32_t status)
{
    const uint32_t negotiated = VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK;

    if (status == 0) {
        device_reset(device);
        return;
    }
    /* The driver may not take bits back, nor set the device's own. */
    uint32_t before = device->status;
    uint32_t after = before | (status & ~(uint32_t)VIRTIO_CONFIG_S_NEEDS_RESET & 0xff);
    if (!(before & VIRTIO_CONFIG_S_FEATURES_OK) && !features_acceptable(device))
        after &= ~negotiated;
    if (!(after & VIRTIO_CONFIG_S_FEATURES_OK))
        after &= ~(uint32_t)VIRTIO_CONFIG_S_DRIVER_OK;
    device->status = after;
    if ((after & ~before & VIRTIO_CONFIG_S_DRIVER_OK) == 0)
        return;
    if (device->ops->start != NULL)
        device->ops->start(device);
    for (unsigned i = 0; i < device->ops->queue_count; i++)
        virtio_device_notify(device, i);
}

void virtio_device_set_queue_ready(struct virtio_device *device, unsigned queue, bool ready)
{
    if (queue >= device->ops->queue_count)
        return;
    if (!ready) {
        queue_stop(device, queue);
        return;
    }
    if (!(device->status & VIRTIO_CONFIG_S_FEATURES_OK) ||
        (device->status & VIRTIO_CONFIG_S_NEEDS_RESET))
        return;
    virtqueue_enable(&device->queues[queue],
                     virtio_device_has_feature(device, VIRTIO_F_RING_PACKED),
                     virtio_device_has_feature(device, VIRTIO_RING_F_EVENT_IDX),
                     virtio_device_has_feature(device, VIRTIO_RING_F_INDIRECT_DESC));
}

uint64_t virtio_device_config_read(struct virtio_device *device, uint64_t offset, unsigned size)
{
    uint64_t value = 0;

    if (offset < device->config_size) {
        uint64_t left = device->config_size - offset;
        memcpy(&value, (const uint8_t *)device->config + offset, left < size ? left : size);
    }
    return value;
}

void virtio_device_config_write(struct virtio_device *device, uint64_t offset, unsigned size,
                                uint64_t value)
{
    if (device->ops->config_write != NULL && range_fits(offset, size, device->config_size))
        device->ops->config_write(device, (uint32_t)offset, size, value);
}

static uint64_t counter_read(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

void virtio_device_get_stats(const struct virtio_device *device, struct virtio_stats *stats)
{
    *stats = (struct virtio_stats){
        .notifications = counter_read(&device->stats.notifications),
        .requests = counter_read(&device->stats.requests),
        .bytes_in = counter_read(&device->stats.bytes_in),
        .bytes_out = counter_read(&device->stats.bytes_out),
        .errors = counter_read(&device->stats.errors),
        .interrupts = counter_read(&device->stats.interrupts),
    };
}
