/*
 * Fuzzes what a hostile driver can do to a virtio device: register accesses and the contents of
 * guest memory, in any order. The device runs synchronously, so a run depends on its input alone.
 *
 * Input: one byte chooses the device, then operations of one byte and their operands, little
 * endian. Besides raw register writes and pokes there are short forms of what a driver does
 * (negotiate and set up the queues at fixed places, write a descriptor, make it available), so that
 * small inputs reach deep. At the end the device is destroyed, and must have let go of all memory.
 */

#include <fcntl.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dev/virtio/balloon.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/console.h"
#include "dev/virtio/mmio.h"
#include "dev/virtio/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM_SIZE       0x20000u
#define OPERATIONS_MAX 256u
#define DISK_SIZE      0x8000u

/* Queue q's rings, as set up by the short form: a page each. */
#define RING_PAGE(queue, which) (0x1000u * (1 + 3 * (queue) + (which)))
#define TABLE_GPA               0x10000u /* for indirect tables */

struct input {
    const uint8_t *data;
    size_t size;
};

struct target {
    struct pmap *map;
    struct virtio_device *device;
    struct virtio_mmio *mmio;
    struct net_backend backend;
    uint64_t now; /* the balloon's clock, and its timer */
    uint64_t deadline;
    io_timer_fn *due;
    void *due_context;
    bool packed;
    uint16_t queue_size;
    uint16_t available[VIRTIO_DEVICE_QUEUES_MAX];
};

static uint32_t take(struct input *input, unsigned bytes)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < bytes && input->size > 0; i++) {
        value |= (uint32_t)*input->data++ << (8 * i);
        input->size--;
    }
    return value;
}

static void write_register(struct target *target, uint32_t offset, uint32_t value)
{
    virtio_mmio_write(target->mmio, offset, 4, value);
}

/* ---- the device ---- */

static void wire_send(struct net_backend *backend, const void *frame, size_t length)
{
    /* What is sent comes back: the guest is its own network. */
    if (backend->receive != NULL)
        backend->receive(backend->receive_context, frame, length);
}

static void wire_destroy(struct net_backend *backend)
{
}

static const struct net_backend_ops wire_ops = {.send = wire_send, .destroy = wire_destroy};

static enum status create_disk(struct target *target, bool read_only)
{
    char path[64];
    int fd = memfd_create("disk", MFD_CLOEXEC);
    enum status status = STATUS_IO;

    if (fd < 0)
        return status;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    const struct virtio_blk_options options = {
        .path = path, .read_only = read_only, .synchronous = true};
    if (ftruncate(fd, DISK_SIZE) == 0)
        status = virtio_blk_create(&target->device, target->map, &options, NULL);
    close(fd);
    return status;
}

static enum status create_console(struct target *target)
{
    int in = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    int out = open("/dev/null", O_WRONLY | O_CLOEXEC);
    const struct virtio_console_options options = {.input_fd = in, .output_fd = out};
    enum status status = virtio_console_create(&target->device, target->map, NULL, &options, NULL);

    close(in);
    close(out);
    return status;
}

static uint64_t clock_now(void *context)
{
    return ((struct target *)context)->now;
}

static enum status timer_create_one(void *context, struct device_timer **timer, io_timer_fn *fn,
                                    void *fn_context, struct error *err)
{
    struct target *target = context;

    target->due = fn;
    target->due_context = fn_context;
    target->deadline = UINT64_MAX;
    *timer = context;
    return STATUS_OK;
}

static void timer_arm_one(struct device_timer *timer, uint64_t deadline_ns)
{
    ((struct target *)(void *)timer)->deadline = deadline_ns;
}

static void timer_destroy_one(struct device_timer *timer)
{
}

static void advance(struct target *target, uint64_t ns)
{
    target->now += ns;
    if (target->due != NULL && target->now >= target->deadline) {
        target->deadline = UINT64_MAX;
        target->due(target->due_context);
    }
}

static enum status create_balloon(struct target *target)
{
    const struct device_time time = {
        .context = target,
        .now = clock_now,
        .timer_create = timer_create_one,
        .timer_arm = timer_arm_one,
        .timer_destroy = timer_destroy_one,
    };

    return virtio_balloon_create(&target->device, target->map, NULL, &time, 4, NULL);
}

static enum status create_device(struct target *target, uint32_t kind)
{
    struct virtio_net_options net = {.mac = {2, 0, 0, 0, 0, 1}, .backend = &target->backend};

    switch (kind % 5) {
    case 0:
        return create_disk(target, false);
    case 1:
        return create_disk(target, true);
    case 2:
        return create_console(target);
    case 4:
        return create_balloon(target);
    default:
        target->backend.ops = &wire_ops;
        return virtio_net_create(&target->device, target->map, NULL, &net, NULL);
    }
}

/* ---- operations ---- */

/* Reset, all features the device offers but those the operand takes away, queues, DRIVER_OK. */
static void operate_setup(struct target *target, struct input *input)
{
    uint32_t without = take(input, 1);
    uint64_t features = target->device->features_offered;

    target->queue_size = (uint16_t)(1u << (without >> 4) % 9);
    target->packed = !(without & 1);
    if (without & 1)
        features &= ~bit(34); /* RING_PACKED */
    if (without & 2)
        features &= ~bit(VIRTIO_RING_F_EVENT_IDX);
    if (without & 4)
        features &= ~bit(VIRTIO_RING_F_INDIRECT_DESC);
    if (without & 8)
        features &= ~(uint64_t)0xffffff; /* the device's own */
    write_register(target, VIRTIO_MMIO_STATUS, 0);
    write_register(target, VIRTIO_MMIO_STATUS, 3);
    for (uint32_t half = 0; half < 2; half++) {
        write_register(target, VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        write_register(target, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> (32 * half)));
    }
    write_register(target, VIRTIO_MMIO_STATUS, 0xb);
    for (unsigned queue = 0; queue < target->device->ops->queue_count; queue++) {
        write_register(target, VIRTIO_MMIO_QUEUE_SEL, queue);
        write_register(target, VIRTIO_MMIO_QUEUE_NUM, target->queue_size);
        write_register(target, VIRTIO_MMIO_QUEUE_DESC_LOW, RING_PAGE(queue, 0));
        write_register(target, VIRTIO_MMIO_QUEUE_AVAIL_LOW, RING_PAGE(queue, 1));
        write_register(target, VIRTIO_MMIO_QUEUE_USED_LOW, RING_PAGE(queue, 2));
        write_register(target, VIRTIO_MMIO_QUEUE_READY, 1);
        target->available[queue] = 0;
    }
    write_register(target, VIRTIO_MMIO_STATUS, 0xf);
}

/* A descriptor in the ring of queue 0 or 1, of a later one (8 and up), or in the table that
 * indirect descriptors point to (others). */
static void operate_descriptor(struct target *target, struct input *input)
{
    uint32_t where = take(input, 1);
    uint32_t index = take(input, 1);
    uint64_t address = take(input, 3);
    uint32_t length = take(input, 2);
    uint16_t flags = (uint16_t)take(input, 1);
    uint16_t next = (uint16_t)take(input, 1);
    uint64_t gpa = (where & 3) < 2 ? RING_PAGE(where & 3, 0) : TABLE_GPA;
    if (where >= 8)
        gpa = RING_PAGE(2 + where % 3, 0);

    if (flags & VRING_DESC_F_INDIRECT)
        address = TABLE_GPA + (address & 0xff0);
    if (target->packed) {
        /* Bits 3 and 4 of the operand are the two that tell who owns it. */
        struct vring_packed_desc desc = {
            .addr = address,
            .len = length,
            .id = next,
            .flags = (uint16_t)((flags & 7) | (flags & 8) << 4 | (flags & 16) << 11),
        };
        pmap_write(target->map, gpa + index * sizeof(desc), &desc, sizeof(desc));
    } else {
        struct vring_desc desc = {.addr = address, .len = length, .flags = flags, .next = next};
        pmap_write(target->map, gpa + index * sizeof(desc), &desc, sizeof(desc));
    }
}

/* Split rings: makes a head available. */
static void operate_offer(struct target *target, struct input *input)
{
    uint32_t queue = take(input, 1) % VIRTIO_DEVICE_QUEUES_MAX;
    uint16_t head = (uint16_t)take(input, 1);
    uint64_t ring = RING_PAGE(queue, 1);
    unsigned place = target->queue_size == 0 ? 0 : target->available[queue] % target->queue_size;

    pmap_write(target->map, ring + 4 + place * 2u, &head, sizeof(head));
    target->available[queue]++;
    pmap_write(target->map, ring + 2, &target->available[queue], sizeof(uint16_t));
}

static void operate_poke(struct target *target, struct input *input)
{
    uint64_t gpa = take(input, 3) % (2 * RAM_SIZE);
    size_t length = take(input, 1);

    if (length > input->size)
        length = input->size;
    pmap_write(target->map, gpa, input->data, length);
    input->data += length;
    input->size -= length;
}

/* A request header for the disk. */
static void operate_header(struct target *target, struct input *input)
{
    uint32_t header[4] = {take(input, 1), 0, take(input, 2), 0};

    pmap_write(target->map, 0x18000, header, sizeof(header));
}

static void operate_access(struct target *target, struct input *input, bool write)
{
    uint32_t where = take(input, 2);
    unsigned size = 1u << (where >> 12 & 3);
    uint64_t offset = where & 0xfff;

    if (offset + size > 0x1000)
        offset = 0x1000 - size;
    if (write)
        virtio_mmio_write(target->mmio, offset, size, bits_truncate(take(input, 4), size));
    else
        virtio_mmio_read(target->mmio, offset, size);
}

/* Something happens on the host's side: a frame comes; the balloon gets a target, somebody watches
 * it, time goes by. */
static void operate_host(struct target *target, uint32_t operand)
{
    static const uint8_t frame[1514];
    struct balloon_info info;

    if (target->backend.receive != NULL) {
        target->backend.receive(target->backend.receive_context, frame, operand % sizeof(frame));
    } else if (target->due != NULL) {
        if (operand & 0x4000)
            balloon_watch(target->device, 0);
        else
            balloon_set_target(target->device, operand & 0xff);
        advance(target, (operand & 0x3fff) * (BALLOON_PATIENCE_NS / 0x1000));
        balloon_get(target->device, &info);
    }
}

static void operate(struct target *target, struct input *input)
{
    switch (take(input, 1) % 10) {
    case 0:
        operate_setup(target, input);
        break;
    case 1:
        operate_descriptor(target, input);
        break;
    case 2:
        operate_offer(target, input);
        break;
    case 3:
        operate_poke(target, input);
        break;
    case 4:
        operate_header(target, input);
        break;
    case 5:
        operate_access(target, input, true);
        break;
    case 6:
        operate_access(target, input, false);
        break;
    case 7:
        write_register(target, VIRTIO_MMIO_QUEUE_NOTIFY, take(input, 1));
        break;
    case 8:
        virtio_device_run(target->device);
        break;
    default:
        operate_host(target, take(input, 2));
        break;
    }
}

static void check(bool good, const char *what)
{
    if (!good) {
        fprintf(stderr, "fuzz_virtqueue: %s\n", what);
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct ram_range ram = {.base = 0, .size = RAM_SIZE};
    const struct irq_line irq = {0};
    struct input input = {.data = data, .size = size};
    struct target target = {0};
    struct pmap_stats stats;

    check(pmap_create(&target.map, &ram, 1, NULL) == STATUS_OK, "no page map");
    check(create_device(&target, take(&input, 1)) == STATUS_OK, "no device");
    check(virtio_mmio_create(&target.mmio, target.device, NULL, 0, &irq, NULL) == STATUS_OK,
          "no transport");
    for (unsigned i = 0; i < OPERATIONS_MAX && input.size > 0; i++)
        operate(&target, &input);
    virtio_device_run(target.device);

    virtio_device_destroy(target.device);
    virtio_mmio_destroy(target.mmio);
    pmap_get_stats(target.map, &stats);
    check(stats.pinned_pages == 0, "memory stayed pinned");
    check(pmap_check(target.map, NULL) == STATUS_OK, "the page map's books are wrong");
    pmap_destroy(target.map);
    return 0;
}
