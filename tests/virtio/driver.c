#include "virtio/driver.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define PACKED_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define PACKED_USED  (1u << VRING_PACKED_DESC_F_USED)
#define EVENT_WRAP   (1u << VRING_PACKED_EVENT_F_WRAP_CTR)

struct driver_mode driver_mode(unsigned index)
{
    return (struct driver_mode){
        .packed = index & 1,
        .event_idx = index & 2,
        .indirect = index & 4,
    };
}

static void driver_set_irq(void *context, unsigned pin, bool level)
{
    struct driver *driver = context;

    assert_int_equal(pin, DRIVER_DEVICE_IRQ);
    pthread_mutex_lock(&driver->lock);
    driver->irq = level;
    driver->irq_count += level;
    pthread_cond_broadcast(&driver->changed);
    pthread_mutex_unlock(&driver->lock);
}

void driver_create(struct driver *driver)
{
    const struct ram_range ram = {.base = 0, .size = DRIVER_RAM_SIZE};

    *driver = (struct driver){.next_gpa = PAGE_SIZE};
    pthread_mutex_init(&driver->lock, NULL);
    pthread_cond_init(&driver->changed, NULL);
    assert_int_equal(pmap_create(&driver->map, &ram, 1, NULL), STATUS_OK);
}

void driver_destroy(struct driver *driver)
{
    struct pmap_stats stats;
    struct error err = {0};

    virtio_device_destroy(driver->device);
    virtio_mmio_destroy(driver->mmio);
    pmap_get_stats(driver->map, &stats);
    assert_int_equal(stats.pinned_pages, 0);
    if (pmap_check(driver->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    pmap_destroy(driver->map);
    pthread_cond_destroy(&driver->changed);
    pthread_mutex_destroy(&driver->lock);
}

void driver_attach(struct driver *driver, struct virtio_device *device)
{
    const struct irq_line irq = {
        .set = driver_set_irq, .context = driver, .pin = DRIVER_DEVICE_IRQ};

    driver->device = device;
    assert_int_equal(virtio_mmio_create(&driver->mmio, device, NULL, 0, &irq, NULL), STATUS_OK);
}

uint32_t driver_read(struct driver *driver, uint32_t offset)
{
    return (uint32_t)virtio_mmio_read(driver->mmio, offset, 4);
}

void driver_write(struct driver *driver, uint32_t offset, uint32_t value)
{
    virtio_mmio_write(driver->mmio, offset, 4, value);
}

static void driver_add_status(struct driver *driver, uint32_t bits)
{
    driver_write(driver, VIRTIO_MMIO_STATUS, driver_read(driver, VIRTIO_MMIO_STATUS) | bits);
}

void driver_negotiate(struct driver *driver, struct driver_mode mode, uint64_t features)
{
    uint64_t offered = 0;

    driver->mode = mode;
    driver_write(driver, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(driver_read(driver, VIRTIO_MMIO_STATUS), 0);
    driver_add_status(driver, VIRTIO_CONFIG_S_ACKNOWLEDGE);
    driver_add_status(driver, VIRTIO_CONFIG_S_DRIVER);

    features |= bit(VIRTIO_F_VERSION_1);
    features |= mode.packed ? bit(VIRTIO_F_RING_PACKED) : 0;
    features |= mode.event_idx ? bit(VIRTIO_RING_F_EVENT_IDX) : 0;
    features |= mode.indirect ? bit(VIRTIO_RING_F_INDIRECT_DESC) : 0;
    for (uint32_t half = 0; half < 2; half++) {
        driver_write(driver, VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
        offered |= (uint64_t)driver_read(driver, VIRTIO_MMIO_DEVICE_FEATURES) << (32 * half);
        driver_write(driver, VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        driver_write(driver, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> (32 * half)));
    }
    assert_int_equal(features & ~offered, 0);
    driver_add_status(driver, VIRTIO_CONFIG_S_FEATURES_OK);
    assert_true(driver_read(driver, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK);
}

static void write_address(struct driver *driver, uint32_t low_register, uint64_t gpa)
{
    driver_write(driver, low_register, (uint32_t)gpa);
    driver_write(driver, low_register + 4, (uint32_t)(gpa >> 32));
}

void driver_queue_setup(struct driver *driver, unsigned index, uint16_t size)
{
    struct driver_queue *queue = &driver->queues[index];
    uint8_t zeros[64] = {0};

    driver_write(driver, VIRTIO_MMIO_QUEUE_SEL, index);
    assert_int_equal(driver_read(driver, VIRTIO_MMIO_QUEUE_READY), 0);
    assert_in_range(size, 1, driver_read(driver, VIRTIO_MMIO_QUEUE_NUM_MAX));
    if (queue->table_gpa == 0) {
        queue->desc_gpa = driver_alloc(driver, DRIVER_QUEUE_MAX * 16, 16);
        queue->driver_gpa = driver_alloc(driver, DRIVER_QUEUE_MAX * 2 + 6, 4);
        queue->device_gpa = driver_alloc(driver, DRIVER_QUEUE_MAX * 8 + 6, 4);
        queue->table_gpa = driver_alloc(driver, DRIVER_QUEUE_MAX * DRIVER_TABLE_MAX * 16, 16);
    }
    for (unsigned i = 0; i < DRIVER_QUEUE_MAX * 16; i += sizeof(zeros))
        driver_poke(driver, queue->desc_gpa + i, zeros, sizeof(zeros));
    driver_poke(driver, queue->driver_gpa, zeros, 4);
    driver_poke(driver, queue->device_gpa, zeros, 4);
    driver_poke(driver, queue->driver_gpa + 4 + 2ull * size, zeros, 2);
    driver_poke(driver, queue->device_gpa + 4 + 8ull * size, zeros, 2);

    queue->size = size;
    queue->avail = queue->used = queue->added = 0;
    queue->avail_wrap = queue->used_wrap = true;
    queue->free_slots = size;
    queue->free_count = size;
    for (uint16_t i = 0; i < size; i++)
        queue->free_ids[i] = (uint16_t)(size - 1 - i);

    driver_write(driver, VIRTIO_MMIO_QUEUE_NUM, size);
    write_address(driver, VIRTIO_MMIO_QUEUE_DESC_LOW, queue->desc_gpa);
    write_address(driver, VIRTIO_MMIO_QUEUE_AVAIL_LOW, queue->driver_gpa);
    write_address(driver, VIRTIO_MMIO_QUEUE_USED_LOW, queue->device_gpa);
    driver_write(driver, VIRTIO_MMIO_QUEUE_READY, 1);
    assert_int_equal(driver_read(driver, VIRTIO_MMIO_QUEUE_READY), 1);
    if (driver->mode.packed && driver->mode.event_idx) {
        struct vring_packed_desc_event *event = driver_pointer(driver, queue->driver_gpa);
        event->off_wrap = (uint16_t)EVENT_WRAP;
        event->flags = VRING_PACKED_EVENT_FLAG_DESC;
    }
}

void driver_start(struct driver *driver, struct driver_mode mode, uint64_t features,
                  uint16_t queue_size)
{
    driver_negotiate(driver, mode, features);
    for (unsigned i = 0; i < driver->device->ops->queue_count; i++)
        driver_queue_setup(driver, i, queue_size);
    driver_add_status(driver, VIRTIO_CONFIG_S_DRIVER_OK);
}

uint64_t driver_alloc(struct driver *driver, uint64_t size, uint64_t alignment)
{
    uint64_t gpa = align_up(driver->next_gpa, alignment);

    /* What is smaller than a page does not cross one. */
    if (size <= PAGE_SIZE && (gpa & PAGE_MASK) + size > PAGE_SIZE)
        gpa = align_up(gpa, PAGE_SIZE);
    assert_true(range_fits(gpa, size, DRIVER_RAM_SIZE));
    driver->next_gpa = gpa + size;
    return gpa;
}

void *driver_pointer(struct driver *driver, uint64_t gpa)
{
    uint8_t *page = pmap_page_write(driver->map, gpa >> PAGE_SHIFT);

    assert_non_null(page);
    return page + (gpa & PAGE_MASK);
}

void driver_poke(struct driver *driver, uint64_t gpa, const void *bytes, size_t length)
{
    assert_int_equal(pmap_write(driver->map, gpa, bytes, length), STATUS_OK);
}

void driver_peek(struct driver *driver, uint64_t gpa, void *bytes, size_t length)
{
    assert_int_equal(pmap_read(driver->map, gpa, bytes, length), STATUS_OK);
}

static uint16_t load16(struct driver *driver, uint64_t gpa)
{
    return __atomic_load_n((uint16_t *)driver_pointer(driver, gpa), __ATOMIC_ACQUIRE);
}

static void store16(struct driver *driver, uint64_t gpa, uint16_t value)
{
    __atomic_store_n((uint16_t *)driver_pointer(driver, gpa), value, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* ---- split ---- */

static int split_add(struct driver *driver, struct driver_queue *queue,
                     const struct driver_buffer *buffers, unsigned count)
{
    bool indirect = driver->mode.indirect && count > 1;
    unsigned needed = indirect ? 1 : count;

    if (needed > queue->free_count)
        return -1;
    uint16_t ids[DRIVER_QUEUE_MAX] = {0};
    for (unsigned i = 0; i < needed; i++)
        ids[i] = queue->free_ids[--queue->free_count];
    for (unsigned i = 0; i < count; i++) {
        bool last = i == count - 1;
        struct vring_desc desc = {
            .addr = buffers[i].gpa,
            .len = buffers[i].length,
            .flags = (uint16_t)((buffers[i].write ? VRING_DESC_F_WRITE : 0) |
                                (last ? 0 : VRING_DESC_F_NEXT)),
            .next = last       ? 0
                    : indirect ? (uint16_t)(i + 1)
                               : ids[i + 1],
        };
        uint64_t gpa = indirect ? queue->table_gpa + (ids[0] * DRIVER_TABLE_MAX + i) * 16ull
                                : queue->desc_gpa + ids[i] * 16ull;
        driver_poke(driver, gpa, &desc, sizeof(desc));
        if (!indirect)
            queue->next[ids[i]] = desc.next;
    }
    if (indirect) {
        struct vring_desc desc = {
            .addr = queue->table_gpa + ids[0] * DRIVER_TABLE_MAX * 16ull,
            .len = count * 16,
            .flags = VRING_DESC_F_INDIRECT,
        };
        driver_poke(driver, queue->desc_gpa + ids[0] * 16ull, &desc, sizeof(desc));
    }
    queue->slots[ids[0]] = (uint16_t)needed;
    driver_poke(driver, queue->driver_gpa + 4 + (queue->avail % queue->size) * 2ull, &ids[0], 2);
    store16(driver, queue->driver_gpa + 2, ++queue->avail);
    queue->added++;
    return ids[0];
}

static bool split_take(struct driver *driver, struct driver_queue *queue, int *id,
                       uint32_t *written)
{
    struct vring_used_elem elem;

    if (load16(driver, queue->device_gpa + 2) == queue->used)
        return false;
    driver_peek(driver, queue->device_gpa + 4 + (queue->used % queue->size) * 8ull, &elem, 8);
    queue->used++;
    assert_in_range(elem.id, 0, queue->size - 1);
    uint16_t desc = (uint16_t)elem.id;
    for (unsigned i = 0; i < queue->slots[elem.id]; i++) {
        queue->free_ids[queue->free_count++] = desc;
        desc = queue->next[desc];
    }
    if (driver->mode.event_idx)
        store16(driver, queue->driver_gpa + 4 + queue->size * 2ull, queue->used);
    *id = (int)elem.id;
    *written = elem.len;
    return true;
}

static bool split_wants_kick(struct driver *driver, struct driver_queue *queue)
{
    uint16_t old = (uint16_t)(queue->avail - queue->added);

    if (!driver->mode.event_idx)
        return !(load16(driver, queue->device_gpa) & VRING_USED_F_NO_NOTIFY);
    return vring_need_event(load16(driver, queue->device_gpa + 4 + queue->size * 8ull),
                            queue->avail, old);
}

/* ---- packed ---- */

static void packed_step(const struct driver_queue *queue, uint16_t *position, bool *wrap,
                        unsigned slots)
{
    unsigned next = *position + slots;

    if (next >= queue->size) {
        next -= queue->size;
        *wrap = !*wrap;
    }
    *position = (uint16_t)next;
}

static void packed_put(struct driver *driver, struct driver_queue *queue, uint16_t position,
                       bool wrap, struct vring_packed_desc desc)
{
    uint64_t gpa = queue->desc_gpa + position * 16ull;
    uint16_t flags = desc.flags | (uint16_t)(wrap ? PACKED_AVAIL : PACKED_USED);

    driver_poke(driver, gpa, &desc, 14);
    store16(driver, gpa + 14, flags);
}

static int packed_add(struct driver *driver, struct driver_queue *queue,
                      const struct driver_buffer *buffers, unsigned count)
{
    bool indirect = driver->mode.indirect && count > 1;
    unsigned needed = indirect ? 1 : count;
    struct vring_packed_desc first = {0};
    uint16_t position = queue->avail;
    bool wrap = queue->avail_wrap;

    if (needed > queue->free_slots || queue->free_count == 0)
        return -1;
    uint16_t id = queue->free_ids[--queue->free_count];
    for (unsigned i = 0; i < count; i++) {
        struct vring_packed_desc desc = {
            .addr = buffers[i].gpa,
            .len = buffers[i].length,
            .id = id,
            .flags = buffers[i].write ? VRING_DESC_F_WRITE : 0,
        };
        if (indirect) {
            driver_poke(driver, queue->table_gpa + (id * DRIVER_TABLE_MAX + i) * 16ull, &desc, 16);
            continue;
        }
        if (i < count - 1)
            desc.flags |= VRING_DESC_F_NEXT;
        if (i == 0)
            first = desc;
        else
            packed_put(driver, queue, position, wrap, desc);
        packed_step(queue, &position, &wrap, 1);
    }
    if (indirect) {
        first = (struct vring_packed_desc){
            .addr = queue->table_gpa + id * DRIVER_TABLE_MAX * 16ull,
            .len = count * 16,
            .id = id,
            .flags = VRING_DESC_F_INDIRECT,
        };
        packed_step(queue, &position, &wrap, 1);
    }
    packed_put(driver, queue, queue->avail, queue->avail_wrap, first);
    queue->avail = position;
    queue->avail_wrap = wrap;
    queue->slots[id] = (uint16_t)needed;
    queue->free_slots -= needed;
    queue->added = (uint16_t)(queue->added + needed);
    return id;
}

static bool packed_take(struct driver *driver, struct driver_queue *queue, int *id,
                        uint32_t *written)
{
    uint64_t gpa = queue->desc_gpa + queue->used * 16ull;
    uint16_t flags = load16(driver, gpa + 14);
    struct vring_packed_desc desc;

    if (!!(flags & PACKED_AVAIL) != queue->used_wrap || !!(flags & PACKED_USED) != queue->used_wrap)
        return false;
    driver_peek(driver, gpa, &desc, sizeof(desc));
    assert_in_range(desc.id, 0, queue->size - 1);
    unsigned slots = queue->slots[desc.id];
    assert_in_range(slots, 1, queue->size);
    queue->slots[desc.id] = 0;
    queue->free_slots += slots;
    queue->free_ids[queue->free_count++] = desc.id;
    packed_step(queue, &queue->used, &queue->used_wrap, slots);
    if (driver->mode.event_idx)
        store16(driver, queue->driver_gpa,
                queue->used | (uint16_t)(queue->used_wrap ? EVENT_WRAP : 0));
    *id = desc.id;
    *written = desc.len;
    return true;
}

static bool packed_wants_kick(struct driver *driver, struct driver_queue *queue)
{
    uint16_t off_wrap = load16(driver, queue->device_gpa);
    uint16_t flags = load16(driver, queue->device_gpa + 2);

    if (flags != VRING_PACKED_EVENT_FLAG_DESC)
        return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
    uint16_t wanted = off_wrap & (uint16_t)~EVENT_WRAP;
    if (!!(off_wrap & EVENT_WRAP) != queue->avail_wrap)
        wanted = (uint16_t)(wanted - queue->size);
    return vring_need_event(wanted, queue->avail, (uint16_t)(queue->avail - queue->added));
}

/* ---- both ---- */

int driver_add(struct driver *driver, unsigned index, const struct driver_buffer *buffers,
               unsigned count)
{
    struct driver_queue *queue = &driver->queues[index];

    assert_in_range(count, 1, DRIVER_TABLE_MAX);
    return driver->mode.packed ? packed_add(driver, queue, buffers, count)
                               : split_add(driver, queue, buffers, count);
}

void driver_kick(struct driver *driver, unsigned index)
{
    struct driver_queue *queue = &driver->queues[index];

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    bool wanted =
        driver->mode.packed ? packed_wants_kick(driver, queue) : split_wants_kick(driver, queue);
    queue->added = 0;
    if (wanted) {
        driver->notifications++;
        driver_write(driver, VIRTIO_MMIO_QUEUE_NOTIFY, index);
    }
    if (driver->device->loop == NULL)
        virtio_device_run(driver->device);
}

bool driver_take(struct driver *driver, unsigned index, int *id, uint32_t *written)
{
    struct driver_queue *queue = &driver->queues[index];

    return driver->mode.packed ? packed_take(driver, queue, id, written)
                               : split_take(driver, queue, id, written);
}

uint32_t driver_acknowledge(struct driver *driver)
{
    uint32_t causes = driver_read(driver, VIRTIO_MMIO_INTERRUPT_STATUS);

    driver_write(driver, VIRTIO_MMIO_INTERRUPT_ACK, causes);
    return causes;
}

uint32_t driver_wait(struct driver *driver)
{
    pthread_mutex_lock(&driver->lock);
    while (!driver->irq)
        pthread_cond_wait(&driver->changed, &driver->lock);
    pthread_mutex_unlock(&driver->lock);
    return driver_acknowledge(driver);
}

void driver_take_wait(struct driver *driver, unsigned index, int *id, uint32_t *written)
{
    while (!driver_take(driver, index, id, written))
        driver_wait(driver);
}
