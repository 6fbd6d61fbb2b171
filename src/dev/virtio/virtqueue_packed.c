/* Packed virtqueues, virtio 1.2 clause 2.8: one ring of descriptors that both sides write. A
 * descriptor is available when its AVAIL bit equals the wrap counter of the lap and its USED bit
 * does not; the device makes both equal to its own wrap counter when it has used it. The flags are
 * the only words that order matters for. A chain takes as many places as it has descriptors, and
 * the device skips that many when it uses it. */

#include "dev/virtio/virtqueue_ring.h"

#define DESC_AVAIL ((uint16_t)(1u << VRING_PACKED_DESC_F_AVAIL))
#define DESC_USED  ((uint16_t)(1u << VRING_PACKED_DESC_F_USED))
#define EVENT_WRAP ((uint16_t)(1u << VRING_PACKED_EVENT_F_WRAP_CTR))

struct virtqueue_layout packed_layout(const struct virtqueue *queue)
{
    return (struct virtqueue_layout){
        .desc = sizeof(struct vring_packed_desc) * queue->size,
        .driver = sizeof(struct vring_packed_desc_event),
        .device = sizeof(struct vring_packed_desc_event),
    };
}

/* Moves a ring position on by `slots` places, at most one lap. */
static void packed_advance(const struct virtqueue *queue, uint16_t *position, bool *wrap,
                           uint16_t slots)
{
    unsigned next = (unsigned)*position + slots;

    if (next >= queue->size) {
        next -= queue->size;
        *wrap = !*wrap;
    }
    *position = (uint16_t)next;
}

static bool packed_available(const struct virtqueue *queue)
{
    const struct vring_packed_desc *ring = queue->desc;
    uint16_t flags = __atomic_load_n(&ring[queue->next_avail].flags, __ATOMIC_ACQUIRE);
    bool avail = flags & DESC_AVAIL;
    bool used = flags & DESC_USED;

    return avail == queue->avail_wrap && used != queue->avail_wrap;
}

/* In an indirect table of a packed ring all entries belong to the chain, in order, and their only
 * flag is WRITE. */
static bool packed_walk_table(struct virtqueue *queue, struct virtqueue_chain *chain,
                              unsigned count)
{
    const struct vring_packed_desc *table = (const void *)queue->table;

    for (unsigned i = 0; i < count; i++) {
        if (table[i].flags & VRING_DESC_F_INDIRECT)
            return virtqueue_break(queue, "indirect table inside an indirect table");
        if (!virtqueue_chain_add(queue, chain, table[i].addr, table[i].len,
                                 table[i].flags & VRING_DESC_F_WRITE))
            return false;
    }
    return true;
}

static bool packed_walk(struct virtqueue *queue, struct virtqueue_chain *chain)
{
    const struct vring_packed_desc *ring = queue->desc;
    uint16_t position = queue->next_avail;
    bool wrap = queue->avail_wrap;

    for (uint16_t slots = 1; slots <= queue->size; slots++) {
        /* The driver may write it at any moment: only the copy counts. */
        struct vring_packed_desc desc = *(const volatile struct vring_packed_desc *)&ring[position];
        chain->id = desc.id; /* that of the last one names the chain */
        chain->slots = slots;
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            if (slots > 1 || (desc.flags & VRING_DESC_F_NEXT))
                return virtqueue_break(queue, "indirect table within a chain");
            unsigned count = virtqueue_load_table(queue, desc.addr, desc.len);
            return count > 0 && packed_walk_table(queue, chain, count);
        }
        if (!virtqueue_chain_add(queue, chain, desc.addr, desc.len,
                                 desc.flags & VRING_DESC_F_WRITE))
            return false;
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return true;
        packed_advance(queue, &position, &wrap, 1);
    }
    return virtqueue_break(queue, "chain longer than the ring");
}

bool packed_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
    if (!packed_available(queue) || !packed_walk(queue, chain))
        return false;
    packed_advance(queue, &queue->next_avail, &queue->avail_wrap, chain->slots);
    return true;
}

void packed_push(struct virtqueue *queue, const struct virtqueue_chain *chain, uint32_t written)
{
    struct vring_packed_desc *ring = queue->desc;
    struct vring_packed_desc *desc = &ring[queue->next_used];
    uint16_t flags = queue->used_wrap ? DESC_AVAIL | DESC_USED : 0;

    if (written > 0)
        flags |= VRING_DESC_F_WRITE;
    __atomic_store_n(&desc->id, chain->id, __ATOMIC_RELAXED);
    __atomic_store_n(&desc->len, written, __ATOMIC_RELAXED);
    if (queue->batch_open) {
        __atomic_store_n(&desc->flags, flags, __ATOMIC_RELEASE);
    } else {
        /* The driver sees nothing behind the first use of a batch until that one shows. */
        queue->batch_open = true;
        queue->batch_slot = queue->next_used;
        queue->batch_flags = flags;
    }
    queue->unsignalled = (uint16_t)(queue->unsignalled + chain->slots);
    packed_advance(queue, &queue->next_used, &queue->used_wrap, chain->slots);
}

static bool packed_wants_interrupt(const struct virtqueue *queue, uint16_t used)
{
    const struct vring_packed_desc_event *event = queue->driver;
    uint16_t flags = __atomic_load_n(&event->flags, __ATOMIC_ACQUIRE) & 3;

    if (flags != VRING_PACKED_EVENT_FLAG_DESC || !queue->event_idx)
        return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
    uint16_t off_wrap = __atomic_load_n(&event->off_wrap, __ATOMIC_RELAXED);
    uint16_t wanted = off_wrap & (uint16_t)~EVENT_WRAP;
    bool wrap = off_wrap & EVENT_WRAP;
    /* Places of the lap before count from minus one lap on. */
    if (wrap != queue->used_wrap)
        wanted = (uint16_t)(wanted - queue->size);
    return vring_need_event(wanted, queue->next_used, (uint16_t)(queue->next_used - used));
}

bool packed_publish(struct virtqueue *queue)
{
    struct vring_packed_desc *ring = queue->desc;
    uint16_t used = queue->unsignalled;

    __atomic_store_n(&ring[queue->batch_slot].flags, queue->batch_flags, __ATOMIC_RELEASE);
    queue->batch_open = false;
    queue->unsignalled = 0;
    /* As in split_publish: the use must show before the driver's wish is read. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return packed_wants_interrupt(queue, used);
}

static void packed_set_event(struct virtqueue *queue, uint16_t flags)
{
    struct vring_packed_desc_event *event = queue->device;

    __atomic_store_n(&event->flags, flags, __ATOMIC_RELEASE);
}

void packed_mute(struct virtqueue *queue)
{
    packed_set_event(queue, VRING_PACKED_EVENT_FLAG_DISABLE);
}

bool packed_unmute(struct virtqueue *queue)
{
    struct vring_packed_desc_event *event = queue->device;

    if (queue->event_idx) {
        uint16_t off_wrap = queue->next_avail | (queue->avail_wrap ? EVENT_WRAP : 0);
        __atomic_store_n(&event->off_wrap, off_wrap, __ATOMIC_RELAXED);
        packed_set_event(queue, VRING_PACKED_EVENT_FLAG_DESC);
    } else {
        packed_set_event(queue, VRING_PACKED_EVENT_FLAG_ENABLE);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return packed_available(queue);
}
