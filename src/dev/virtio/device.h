#ifndef AEROSTAT_DEV_VIRTIO_DEVICE_H
#define AEROSTAT_DEV_VIRTIO_DEVICE_H

/*
 * What every virtio device has, whatever it does and however the driver reaches it (virtio 1.2,
 * clause 2). A device is one file with a structure that begins with a struct virtio_device, and a
 * descriptor of its operations; the transport (mmio.h) knows only this header.
 *
 * Threads and locks
 *
 *   The driver's register accesses come on vCPU threads; the device's work is done on the thread of
 *   its io_loop. One lock a device guards all of it: status, features, queues, the device's own
 *   state. Register accesses have priority: while one waits, the loop gives the lock up after the
 *   request it is at (virtio_device_should_yield), so that a reset or a look at the configuration
 *   waits for one request at most, never for a full queue.
 *
 *   Notifications and interrupts avoid that lock, because they are what happens all the time: a
 *   notification sets a bit and rings the loop's doorbell; the interrupt status has a small lock of
 *   its own (`irq_lock`) that is only ever taken last.
 *
 *   A reset is done by the register access that asks for it, under the device's lock: no request is
 *   being worked on then, the device lets go of the chains it holds, and the rings are unpinned.
 *
 * Life: a device's create function makes it; the transport attaches it to a bus and an interrupt
 * line; vCPUs run; virtio_device_destroy ends it. Attach and destroy happen while no vCPU runs.
 *
 * A device with no loop does nothing by itself: virtio_device_run does the work that was asked for.
 * Tests and the fuzzer drive devices like that.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dev/irq.h"
#include "dev/virtio/virtqueue.h"
#include "util/io_loop.h"
#include "util/status.h"

#define VIRTIO_DEVICE_QUEUES_MAX 5u

struct virtio_device;

/* All run under the device's lock, except destroy. NULL where a device has no need of one. */
struct virtio_device_ops {
    const char *name; /* for people: "blk" */
    uint32_t id;      /* virtio 1.2, clause 5 */
    uint16_t queue_count;
    uint16_t queue_size_max;

    /* Feature bits beside those of the rings, which every device has. */
    uint64_t (*features)(struct virtio_device *device);
    /* The driver wrote [offset, offset + size) of the configuration, which lies inside it. */
    void (*config_write)(struct virtio_device *device, uint32_t offset, unsigned size,
                         uint64_t value);
    /* The driver is ready: features are final, queues are set up. Every queue is notified next. */
    void (*start)(struct virtio_device *device);
    /* Chains may wait in a queue. On the loop; only while the queue runs. */
    void (*notify)(struct virtio_device *device, unsigned queue);
    /* Drop every chain held of this queue: it is about to be disabled. */
    void (*release)(struct virtio_device *device, unsigned queue);
    /* Back to the state after creation; queues are released and disabled by then. */
    void (*reset)(struct virtio_device *device);
    /* Stops what runs, calls virtio_device_finish, frees. */
    void (*destroy)(struct virtio_device *device);
};

/* Counts since creation. Bytes are those of requests' data. */
struct virtio_stats {
    uint64_t notifications; /* doorbells the driver rang */
    uint64_t requests;      /* chains used */
    uint64_t bytes_in;      /* to the guest */
    uint64_t bytes_out;     /* from the guest */
    uint64_t errors;        /* requests that failed, packets dropped */
    uint64_t interrupts;    /* times the line was raised */
};

struct virtio_device {
    const struct virtio_device_ops *ops;
    struct pmap *map;
    struct io_loop *loop; /* not owned; NULL: see virtio_device_run */
    struct io_event *doorbell;

    pthread_mutex_t lock;
    pthread_cond_t calm;       /* no register access waits */
    _Atomic unsigned accesses; /* register accesses that hold or want the lock */

    /* Under the lock. */
    uint32_t status; /* VIRTIO_CONFIG_S_* */
    uint64_t features_offered;
    uint64_t features; /* what the driver accepted; final with FEATURES_OK */
    uint32_t config_generation;
    void *config; /* the device-specific configuration, little endian; in the device's structure */
    uint32_t config_size;
    struct virtqueue queues[VIRTIO_DEVICE_QUEUES_MAX];

    _Atomic uint32_t notified; /* a bit a queue */

    pthread_mutex_t irq_lock;
    struct irq_line irq;
    _Atomic uint32_t interrupt_status; /* VIRTIO_MMIO_INT_*; written under irq_lock */

    /* Written by one side each, read by anybody. */
    struct virtio_stats stats;
};

/* For device implementations: fills the common part. `loop` may be NULL. */
enum status virtio_device_init(struct virtio_device *device, const struct virtio_device_ops *ops,
                               struct pmap *map, struct io_loop *loop, void *config,
                               uint32_t config_size, struct error *err);
/* Undoes init: resets, removes the doorbell. Not on the loop's thread. */
void virtio_device_finish(struct virtio_device *device);

/* Ends a device of any kind. NULL is allowed. */
void virtio_device_destroy(struct virtio_device *device);

/* ---- for the loop's side: device implementations ---- */

/* Around everything that a callback of the loop, or a thread of the VMM that is no vCPU, does with
 * the device; not around notify, which has it. */
void virtio_device_enter(struct virtio_device *device);
void virtio_device_leave(struct virtio_device *device);

/* A register access waits for the lock. */
static inline bool virtio_device_should_yield(const struct virtio_device *device)
{
    return device->accesses != 0;
}

/* The driver may be given data in this queue. */
bool virtio_device_queue_runs(const struct virtio_device *device, unsigned queue);

static inline bool virtio_device_has_feature(const struct virtio_device *device, unsigned feature)
{
    return device->features & bit(feature);
}

/* Handles one chain. True: it was pushed or completed. False: the device keeps or
 * dropped it and takes no more now. */
typedef bool virtio_chain_fn(struct virtio_device *device, unsigned queue,
                             struct virtqueue_chain *chain);

/* The body of most notify operations: handles what waits in the queue, chain by chain, with the
 * driver's notifications muted meanwhile. Gives way to register accesses and, after a bounded
 * number of chains, to the loop's other work, and continues later. */
void virtio_device_drain(struct virtio_device *device, unsigned queue,
                         struct virtqueue_chain *chain, virtio_chain_fn *handle);

/* Pushes one chain, publishes, interrupts if the driver wants it, counts. */
void virtio_device_complete(struct virtio_device *device, unsigned queue,
                            struct virtqueue_chain *chain, uint32_t written);
/* Publishes chains that were pushed with virtqueue_push, interrupts if wanted. */
void virtio_device_publish(struct virtio_device *device, unsigned queue);

/* Makes the loop call notify for this queue. Any thread, with or without the lock. */
void virtio_device_notify(struct virtio_device *device, unsigned queue);

/* The device's configuration changed: new generation, interrupt. */
void virtio_device_config_changed(struct virtio_device *device);

/* The driver broke the rules: DEVICE_NEEDS_RESET, nothing works until then. The reason is logged at
 * debug level. */
void virtio_device_fail(struct virtio_device *device, const char *reason);

/* Adds to a counter of device->stats. */
/* NOLINTNEXTLINE(readability-non-const-parameter): clang-tidy does not see the atomic write */
static inline void virtio_stats_add(uint64_t *counter, uint64_t amount)
{
    __atomic_fetch_add(counter, amount, __ATOMIC_RELAXED);
}

/* ---- for the transport and the machine ---- */

/* Around register accesses. */
void virtio_device_access_begin(struct virtio_device *device);
void virtio_device_access_end(struct virtio_device *device);

/* The driver wrote the status field: negotiates, starts, or resets (value 0). Within an access. */
void virtio_device_set_status(struct virtio_device *device, uint32_t status);
/* Enables or disables a queue as the driver set it up. Within an access. */
void virtio_device_set_queue_ready(struct virtio_device *device, unsigned queue, bool ready);
/* Reads [offset, offset + size) of the configuration; bytes beyond its end read 0. */
uint64_t virtio_device_config_read(struct virtio_device *device, uint64_t offset, unsigned size);
void virtio_device_config_write(struct virtio_device *device, uint64_t offset, unsigned size,
                                uint64_t value);
void virtio_device_acknowledge(struct virtio_device *device, uint32_t causes);

/* What writing 0 to the status does; a device begins its end with it. Any thread but the loop's. */
void virtio_device_reset(struct virtio_device *device);

/* Does on the calling thread what the loop would do now. For devices without a loop. */
void virtio_device_run(struct virtio_device *device);

void virtio_device_get_stats(const struct virtio_device *device, struct virtio_stats *stats);

#endif
