/* Split virtqueues, virtio 1.2 clause 2.7: a descriptor table, the driver's available ring, the
 * device's used ring. The two 16-bit indices run freely and are the only words that order matters
 * for: the device reads `avail->idx` with acquire before what it covers, and writes `used->idx`
 * with release after. */

#include "dev/virtio/virtqueue_ring.h"

struct virtqueue_layout split_layout(const struct virtqueue *queue)
{
    uint64_t event = queue->event_idx ? sizeof(uint16_t) : 0;

    return (struct virtqueue_layout){
        .desc = sizeof(struct vring_desc) * queue->size,
        .driver = sizeof(struct vring_avail) + sizeof(uint16_t) * queue->size + event,
        .device = sizeof(struct vring_used) + sizeof(struct vring_used_elem) * queue->size + event,
    };
}

static struct vring_avail *split_avail(const struct virtqueue *queue)
{
    return queue->driver;
}

static struct vring_used *split_used(const struct virtqueue *queue)
{
    return queue->device;
}

/* After the available ring: the used index at which the driver wants its next interrupt. */
static uint16_t split_used_event(const struct virtqueue *queue)
{
    return __atomic_load_n(&split_avail(queue)->ring[queue->size], __ATOMIC_RELAXED);
}

/* After the used ring: the available index at which the device wants its next notification. */
static void split_set_avail_event(const struct virtqueue *queue, uint16_t index)
{
    uint16_t *event = (uint16_t *)(void *)&split_used(queue)->ring[queue->size];

    __atomic_store_n(event, index, __ATOMIC_RELAXED);
}

/* Chains that wait in the available ring. */
static uint16_t split_pending(struct virtqueue *queue)
{
    uint16_t index = __atomic_load_n(&split_avail(queue)->idx, __ATOMIC_ACQUIRE);
    uint16_t pending = (uint16_t)(index - queue->next_avail);

    if (pending > queue->size) {
        virtqueue_break(queue, "available index beyond the ring");
        return 0;
    }
    return pending;
}

/* Walks the chain in queue->table from its first entry. */
static bool split_walk_table(struct virtqueue *queue, struct virtqueue_chain *chain, unsigned count)
{
    unsigned index = 0;

    for (unsigned steps = 0; steps < count; steps++) {
        const struct vring_desc *desc = &queue->table[index];
        if (desc->flags & VRING_DESC_F_INDIRECT)
            return virtqueue_break(queue, "indirect table inside an indirect table");
        if (!virtqueue_chain_add(queue, chain, desc->addr, desc->len,
                                 desc->flags & VRING_DESC_F_WRITE))
            return false;
        if (!(desc->flags & VRING_DESC_F_NEXT))
            return true;
        index = desc->next;
        if (index >= count)
            return virtqueue_break(queue, "next descriptor beyond the indirect table");
    }
    return virtqueue_break(queue, "loop in an indirect table");
}

static bool split_walk(struct virtqueue *queue, struct virtqueue_chain *chain, uint16_t head)
{
    const struct vring_desc *ring = queue->desc;
    unsigned index = head;

    for (unsigned steps = 0; steps < queue->size; steps++) {
        if (index >= queue->size)
            return virtqueue_break(queue, "descriptor index beyond the table");
        /* The driver may write it at any moment: only the copy counts. */
        struct vring_desc desc = *(const volatile struct vring_desc *)&ring[index];
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            if (desc.flags & VRING_DESC_F_NEXT)
                return virtqueue_break(queue, "indirect table with a next descriptor");
            unsigned count = virtqueue_load_table(queue, desc.addr, desc.len);
            return count > 0 && split_walk_table(queue, chain, count);
        }
        if (!virtqueue_chain_add(queue, chain, desc.addr, desc.len,
                                 desc.flags & VRING_DESC_F_WRITE))
            return false;
        if (!(desc.flags & VRING_DESC_F_NEXT))
            return true;
        index = desc.next;
    }
    return virtqueue_break(queue, "loop in a descriptor chain");
}

bool split_pop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
    if (split_pending(queue) == 0)
        return false;
    uint16_t place = queue->next_avail & (uint16_t)(queue->size - 1);
    uint16_t head = __atomic_load_n(&split_avail(queue)->ring[place], __ATOMIC_RELAXED);
    if (!split_walk(queue, chain, head))
        return false;
    chain->id = head;
    chain->slots = 1;
    queue->next_avail++;
    return true;
}

void split_push(struct virtqueue *queue, const struct virtqueue_chain *chain, uint32_t written)
{
    uint16_t place = queue->next_used & (uint16_t)(queue->size - 1);
    struct vring_used_elem *elem = &split_used(queue)->ring[place];

    __atomic_store_n(&elem->id, chain->id, __ATOMIC_RELAXED);
    __atomic_store_n(&elem->len, written, __ATOMIC_RELAXED);
    queue->next_used++;
    queue->unsignalled++;
}

bool split_publish(struct virtqueue *queue)
{
    uint16_t old = (uint16_t)(queue->next_used - queue->unsignalled);

    __atomic_store_n(&split_used(queue)->idx, queue->next_used, __ATOMIC_RELEASE);
    queue->unsignalled = 0;
    /* The index must be visible before the driver's wish is read: it looks once more at the index
     * after it wrote the wish. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!queue->event_idx) {
        uint16_t flags = __atomic_load_n(&split_avail(queue)->flags, __ATOMIC_RELAXED);
        return !(flags & VRING_AVAIL_F_NO_INTERRUPT);
    }
    return vring_need_event(split_used_event(queue), queue->next_used, old);
}

void split_mute(struct virtqueue *queue)
{
    /* With event indices the stale one already keeps the driver quiet. */
    if (!queue->event_idx)
        __atomic_store_n(&split_used(queue)->flags, VRING_USED_F_NO_NOTIFY, __ATOMIC_RELAXED);
}

bool split_unmute(struct virtqueue *queue)
{
    if (queue->event_idx)
        split_set_avail_event(queue, queue->next_avail);
    else
        __atomic_store_n(&split_used(queue)->flags, 0, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return split_pending(queue) > 0;
}
