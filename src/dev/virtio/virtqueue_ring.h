#ifndef AEROSTAT_DEV_VIRTIO_VIRTQUEUE_RING_H
#define AEROSTAT_DEV_VIRTIO_VIRTQUEUE_RING_H

/* Between virtqueue.c and the two ring layouts (virtqueue_split.c, virtqueue_packed.c); not for
 * devices. */

#include <linux/virtio_ring.h>

#include "dev/virtio/virtqueue.h"

/* Marks the queue broken, returns false. `reason` is a literal. */
bool virtqueue_break(struct virtqueue *queue, const char *reason);

/* Adds one descriptor's buffer to the chain: checks order and totals, pins. False: broken or
 * starved. */
bool virtqueue_chain_add(struct virtqueue *queue, struct virtqueue_chain *chain, uint64_t gpa,
                         uint32_t length, bool write);

/* Copies the indirect table at gpa into queue->table. Returns its number of descriptors, 0 when the
 * queue is now broken, or starved. */
unsigned virtqueue_load_table(struct virtqueue *queue, uint64_t gpa, uint32_t length);

/* Sizes of the three areas in bytes. */
struct virtqueue_layout {
    uint64_t desc;
    uint64_t driver;
    uint64_t device;
};

struct virtqueue_layout split_layout(const struct virtqueue *queue);
bool split_pop(struct virtqueue *queue, struct virtqueue_chain *chain);
void split_push(struct virtqueue *queue, const struct virtqueue_chain *chain, uint32_t written);
bool split_publish(struct virtqueue *queue);
void split_mute(struct virtqueue *queue);
bool split_unmute(struct virtqueue *queue);

struct virtqueue_layout packed_layout(const struct virtqueue *queue);
bool packed_pop(struct virtqueue *queue, struct virtqueue_chain *chain);
void packed_push(struct virtqueue *queue, const struct virtqueue_chain *chain, uint32_t written);
bool packed_publish(struct virtqueue *queue);
void packed_mute(struct virtqueue *queue);
bool packed_unmute(struct virtqueue *queue);

#endif
