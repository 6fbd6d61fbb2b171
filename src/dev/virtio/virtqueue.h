#ifndef AEROSTAT_DEV_VIRTIO_VIRTQUEUE_H
#define AEROSTAT_DEV_VIRTIO_VIRTQUEUE_H

/*
 * The device's side of a virtqueue, split or packed (virtio 1.2, clauses 2.7 and 2.8).
 *
 * Everything in a ring is the guest's: any number there may be anything and may change at any
 * moment. So each descriptor is copied once and judged by its copy, every walk is bounded by the
 * table's size, and whatever breaks the rules breaks the queue: `broken` is set, nothing more is
 * popped, and the device asks the driver for a reset. A broken queue is never a host's problem.
 *
 * Memory: the ring areas are pinned for writing while the queue is enabled, so that they are
 * private pages at fixed host addresses, contiguous because layer 0 is (see mem/pmap.h). A popped
 * chain has its buffers pinned until it is pushed or dropped.
 *
 * Threads: a virtqueue has no lock of its own; its device's lock guards it (device.h).
 *
 * Example, one request:
 *
 *     if (virtqueue_pop(queue, &chain)) {
 *         size_t length = iov_write(virtqueue_chain_in(&chain), chain.in_count, 0, data, size);
 *         virtqueue_push(queue, &chain, (uint32_t)length);
 *         if (virtqueue_publish(queue))
 *             virtio_device_interrupt(device);
 *     }
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "mem/pmap.h"

/* Bounds of one chain. Descriptors counts those of an indirect table; a direct chain is bounded by
 * the ring. */
#define VIRTQUEUE_CHAIN_DESCRIPTORS_MAX 1024u
#define VIRTQUEUE_CHAIN_BYTES_MAX       (32 * MIB)
#define VIRTQUEUE_BARE_BYTES_MAX        (1024 * MIB)

/* Pages of a chain that may be borrowed: see below. */
#define VIRTQUEUE_BORROWED_MAX 256u

/* One pinned range of guest memory; of a bare chain, any range that the driver named; or a page
 * that was borrowed. */
struct virtqueue_segment {
    uint64_t gpa;
    uint32_t length;
    bool write;
    bool borrowed;
};

/*
 * A chain of buffers that the driver made available. The bytes the device reads are in
 * iov[0, out_count), those it writes in the in_count entries after. The device may narrow the
 * entries (iov.h): the pins are kept apart. All of it is reused by the next pop into the same
 * chain.
 *
 * A page that the device reads and that is away (compressed, swapped, on a disk) is borrowed: its
 * bytes come to memory of the chain's, and the page stays where it is. So what a guest that is
 * short of memory pages out to its disk does not have to be paged in for that first ("double
 * paging").
 *
 * A bare chain is one whose buffers the device will not touch, since what matters is only where
 * they are: it has segments, which are neither pinned nor checked, and no iov.
 */
struct virtqueue_chain {
    struct iovec *iov;
    unsigned out_count;
    unsigned in_count;
    uint64_t out_length;
    uint64_t in_length;
    bool held; /* popped and not yet pushed or dropped */
    bool bare; /* set by the chain's owner, once */

    uint16_t id;    /* the driver's name for it */
    uint16_t slots; /* ring places it takes */
    unsigned iov_capacity;
    struct virtqueue_segment *segments;
    unsigned segment_count;
    unsigned segment_capacity;
    uint8_t *borrowed; /* VIRTQUEUE_BORROWED_MAX pages, when there has been one */
    unsigned borrowed_count;
};

struct virtqueue {
    struct pmap *map;
    uint16_t size_max;

    /* What the driver sets through the transport while the queue is not ready. */
    uint16_t size;
    uint64_t desc_gpa;   /* descriptor table or ring */
    uint64_t driver_gpa; /* split: available ring; packed: driver event suppression */
    uint64_t device_gpa; /* split: used ring; packed: device event suppression */

    bool ready;
    bool broken;
    const char *broken_reason; /* for the log */
    bool starved;              /* the last pop found no host memory for the chain: it stays */

    /* Negotiated, fixed while ready. */
    bool packed;
    bool event_idx;
    bool indirect;

    /* The pinned areas. */
    void *desc;
    void *driver;
    void *device;

    /* Split: free-running counters. Packed: ring positions with their wrap counters. */
    uint16_t next_avail;
    uint16_t next_used;
    bool avail_wrap;
    bool used_wrap;

    uint16_t unsignalled;     /* ring places used since the interrupt was last considered */
    bool batch_open;          /* packed: uses pushed and not yet published... */
    uint16_t batch_slot;      /* ...which begin at this place... */
    uint16_t batch_flags;     /* ...whose flags are written last */
    struct vring_desc *table; /* copy of the indirect table of the chain that is being popped */
};

void virtqueue_init(struct virtqueue *queue, struct pmap *map, uint16_t size_max);
/* The queue must be disabled. */
void virtqueue_finish(struct virtqueue *queue);

/* Checks what the driver set, pins the areas and starts at index 0. False, and broken set, when the
 * numbers are not a ring in RAM. */
bool virtqueue_enable(struct virtqueue *queue, bool packed, bool event_idx, bool indirect);
/* Unpins the areas; any chain still held must have been dropped. The driver's settings are kept.
 * Harmless when not ready. */
void virtqueue_disable(struct virtqueue *queue);

/* Takes the next available chain. False when there is none, when the host has no memory for a page
 * of it (the device is notified again when there may be some), or the queue is or becomes broken.
 */
bool virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain *chain);

/* Records the chain as used, `written` bytes of its writable part filled from the start, and unpins
 * it. The driver sees it at the next publish. */
void virtqueue_push(struct virtqueue *queue, struct virtqueue_chain *chain, uint32_t written);
/* Shows all pushed chains to the driver. True when it wants an interrupt for them. */
bool virtqueue_publish(struct virtqueue *queue);

/* Forgets a held chain without using it: the queue is about to be disabled. Harmless when not
 * held. */
void virtqueue_drop(struct virtqueue *queue, struct virtqueue_chain *chain);

/* Asks the driver not to notify; a hint. */
void virtqueue_mute(struct virtqueue *queue);
/* Asks for a notification of the next available chain; all there are should have been popped. True
 * when chains are there already, which will not be notified. */
bool virtqueue_unmute(struct virtqueue *queue);

/* The writable part's list. NULL only when the chain never had a buffer. */
static inline struct iovec *virtqueue_chain_in(const struct virtqueue_chain *chain)
{
    return chain->iov == NULL ? NULL : chain->iov + chain->out_count;
}

/* Frees what a chain has allocated; it must not be held. An all-zero chain is a valid empty one. */
void virtqueue_chain_finish(struct virtqueue_chain *chain);

#endif
