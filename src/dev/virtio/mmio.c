#include "dev/virtio/mmio.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>

#include "dev/platform.h"

#define MMIO_MAGIC   0x74726976u /* "virt" */
#define MMIO_VERSION 2u
#define MMIO_VENDOR  0x4f524541u /* "AERO" */

/* A shared memory region that is not there has this length and base. */
#define SHARED_MEMORY_ABSENT 0xffffffffu

struct virtio_mmio {
    struct virtio_device *device;
    /* Under the device's lock. */
    uint32_t device_features_select;
    uint32_t driver_features_select;
    uint32_t queue_select;
};

static const struct bus_ops mmio_ops = {
    .read = virtio_mmio_read,
    .write = virtio_mmio_write,
};

enum status virtio_mmio_create(struct virtio_mmio **mmio, struct virtio_device *device,
                               struct bus *bus, uint64_t base, const struct irq_line *irq,
                               struct error *err)
{
    struct virtio_mmio *transport = calloc(1, sizeof(*transport));

    if (transport == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a virtio transport");
    transport->device = device;
    if (bus != NULL) {
        enum status status = bus_add(bus, base, PLATFORM_VIRTIO_SIZE, &mmio_ops, transport, err);
        if (status != STATUS_OK) {
            free(transport);
            return status;
        }
    }
    device->irq = *irq;
    *mmio = transport;
    return STATUS_OK;
}

void virtio_mmio_destroy(struct virtio_mmio *mmio)
{
    free(mmio);
}

/* The queue that the driver selected, or NULL: there are fewer. */
static struct virtqueue *selected_queue(const struct virtio_mmio *mmio)
{
    if (mmio->queue_select >= mmio->device->ops->queue_count)
        return NULL;
    return &mmio->device->queues[mmio->queue_select];
}

/* The half of a 64-bit set that `select` names: 0 low, 1 high, others are empty. */
static uint32_t half_read(uint64_t value, uint32_t select)
{
    return select > 1 ? 0 : (uint32_t)(value >> (32 * select));
}

static void half_write(uint64_t *value, uint32_t select, uint32_t half)
{
    if (select > 1)
        return;
    unsigned shift = 32 * select;
    *value = (*value & ~((uint64_t)0xffffffffu << shift)) | (uint64_t)half << shift;
}

static uint32_t register_read(const struct virtio_mmio *mmio, uint64_t offset)
{
    const struct virtio_device *device = mmio->device;
    const struct virtqueue *queue = selected_queue(mmio);

    switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
        return MMIO_MAGIC;
    case VIRTIO_MMIO_VERSION:
        return MMIO_VERSION;
    case VIRTIO_MMIO_DEVICE_ID:
        return device->ops->id;
    case VIRTIO_MMIO_VENDOR_ID:
        return MMIO_VENDOR;
    case VIRTIO_MMIO_DEVICE_FEATURES:
        return half_read(device->features_offered, mmio->device_features_select);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
        return queue == NULL ? 0 : queue->size_max;
    case VIRTIO_MMIO_QUEUE_READY:
        return queue != NULL && queue->ready;
    case VIRTIO_MMIO_STATUS:
        return device->status;
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
        return SHARED_MEMORY_ABSENT;
    case VIRTIO_MMIO_CONFIG_GENERATION:
        return device->config_generation;
    default:
        return 0;
    }
}

uint64_t virtio_mmio_read(void *context, uint64_t offset, unsigned size)
{
    struct virtio_mmio *mmio = context;
    uint64_t value = 0;

    /* Read at every interrupt: no lock. */
    if (offset == VIRTIO_MMIO_INTERRUPT_STATUS && size == 4)
        return mmio->device->interrupt_status;

    virtio_device_access_begin(mmio->device);
    if (offset >= VIRTIO_MMIO_CONFIG)
        value = virtio_device_config_read(mmio->device, offset - VIRTIO_MMIO_CONFIG, size);
    else if (size == 4)
        value = register_read(mmio, offset);
    virtio_device_access_end(mmio->device);
    return value;
}

/* What describes the selected queue; fixed while it is ready. */
static void queue_write(struct virtqueue *queue, uint64_t offset, uint32_t value)
{
    if (queue == NULL || queue->ready)
        return;
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
        /* Any size that does not fit 16 bits is as wrong as 0. */
        queue->size = value > UINT16_MAX ? 0 : (uint16_t)value;
        break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
        half_write(&queue->desc_gpa, offset == VIRTIO_MMIO_QUEUE_DESC_HIGH, value);
        break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
        half_write(&queue->driver_gpa, offset == VIRTIO_MMIO_QUEUE_AVAIL_HIGH, value);
        break;
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
        half_write(&queue->device_gpa, offset == VIRTIO_MMIO_QUEUE_USED_HIGH, value);
        break;
    default:
        break;
    }
}

static void register_write(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
    struct virtio_device *device = mmio->device;

    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        mmio->device_features_select = value;
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        mmio->driver_features_select = value;
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES:
        if (!(device->status & VIRTIO_CONFIG_S_FEATURES_OK))
            half_write(&device->features, mmio->driver_features_select, value);
        break;
    case VIRTIO_MMIO_QUEUE_SEL:
        mmio->queue_select = value;
        break;
    case VIRTIO_MMIO_QUEUE_READY:
        virtio_device_set_queue_ready(device, mmio->queue_select, value & 1);
        break;
    case VIRTIO_MMIO_STATUS:
        virtio_device_set_status(device, value);
        break;
    default:
        queue_write(selected_queue(mmio), offset, value);
        break;
    }
}

void virtio_mmio_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct virtio_mmio *mmio = context;
    struct virtio_device *device = mmio->device;

    /* The two that happen all the time take no lock that the loop holds while it works. */
    if (offset == VIRTIO_MMIO_QUEUE_NOTIFY && size == 4) {
        virtio_stats_add(&device->stats.notifications, 1);
        virtio_device_notify(device, (uint32_t)value);
        return;
    }
    if (offset == VIRTIO_MMIO_INTERRUPT_ACK && size == 4) {
        virtio_device_acknowledge(device, (uint32_t)value);
        return;
    }

    virtio_device_access_begin(device);
    if (offset >= VIRTIO_MMIO_CONFIG)
        virtio_device_config_write(device, offset - VIRTIO_MMIO_CONFIG, size, value);
    else if (size == 4)
        register_write(mmio, offset, (uint32_t)value);
    virtio_device_access_end(device);
}
