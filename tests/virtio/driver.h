#ifndef AEROSTAT_TESTS_VIRTIO_DRIVER_H
#define AEROSTAT_TESTS_VIRTIO_DRIVER_H

/*
 * The driver's side of virtio, as a guest kernel would do it, for tests: it sees the device through
 * the transport's registers and guest memory alone. Split and packed rings, indirect tables, event
 * indices. Failures of the model itself are cmocka assertions.
 *
 * A device without a loop is run by driver_kick, on the test's thread. With a loop, driver_wait
 * sleeps until an interrupt came.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "dev/virtio/mmio.h"
#include "mem/pmap.h"

#define DRIVER_RAM_SIZE   (64 * MIB)
#define DRIVER_QUEUE_MAX  256u
#define DRIVER_TABLE_MAX  64u /* entries of an indirect table */
#define DRIVER_DEVICE_IRQ 7u

/* How the rings are used. */
struct driver_mode {
    bool packed;
    bool event_idx;
    bool indirect;
};

#define DRIVER_MODES 8u
struct driver_mode driver_mode(unsigned index); /* all combinations, index < DRIVER_MODES */

struct driver_buffer {
    uint64_t gpa;
    uint32_t length;
    bool write;
};

struct driver_queue {
    uint16_t size;
    uint64_t desc_gpa, driver_gpa, device_gpa, table_gpa;
    uint16_t free_ids[DRIVER_QUEUE_MAX];
    unsigned free_count;              /* ids */
    unsigned free_slots;              /* packed: ring places */
    uint16_t slots[DRIVER_QUEUE_MAX]; /* by id: places or descriptors that it takes */
    uint16_t next[DRIVER_QUEUE_MAX];  /* split: the chain of each id */
    uint16_t avail, used;             /* split: free-running; packed: positions */
    bool avail_wrap, used_wrap;
    uint16_t added; /* since the last kick: chains (split) or places (packed) */
};

struct driver {
    struct pmap *map;
    struct virtio_device *device;
    struct virtio_mmio *mmio;
    struct driver_mode mode;
    uint64_t next_gpa;
    struct driver_queue queues[VIRTIO_DEVICE_QUEUES_MAX];
    unsigned notifications; /* that the device did not suppress */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool irq;
    unsigned irq_count;
};

/* A machine with RAM at [0, DRIVER_RAM_SIZE) and nothing else. */
void driver_create(struct driver *driver);
/* Ends the device, checks that nothing stayed pinned and the map's own books. */
void driver_destroy(struct driver *driver);
/* Puts a device on the bus. */
void driver_attach(struct driver *driver, struct virtio_device *device);

uint32_t driver_read(struct driver *driver, uint32_t offset);
void driver_write(struct driver *driver, uint32_t offset, uint32_t value);

/* Reset, negotiation of `features` and those of the mode, queues of `queue_size`, DRIVER_OK. */
void driver_start(struct driver *driver, struct driver_mode mode, uint64_t features,
                  uint16_t queue_size);
/* The same in steps. */
void driver_negotiate(struct driver *driver, struct driver_mode mode, uint64_t features);
void driver_queue_setup(struct driver *driver, unsigned queue, uint16_t size);

/* Guest memory that nobody uses yet. */
uint64_t driver_alloc(struct driver *driver, uint64_t size, uint64_t alignment);
/* The host's view of one page's rest; for words that both sides touch. */
void *driver_pointer(struct driver *driver, uint64_t gpa);
void driver_poke(struct driver *driver, uint64_t gpa, const void *bytes, size_t length);
void driver_peek(struct driver *driver, uint64_t gpa, void *bytes, size_t length);

/* Makes a chain available. Returns its id, -1 when the ring is full. */
int driver_add(struct driver *driver, unsigned queue, const struct driver_buffer *buffers,
               unsigned count);
/* Notifies the device unless it asked for silence, and runs it if it has no loop. */
void driver_kick(struct driver *driver, unsigned queue);
/* Takes one used chain. False when there is none. */
bool driver_take(struct driver *driver, unsigned queue, int *id, uint32_t *written);
/* Sleeps until an interrupt, acknowledges it. For devices with a loop. Returns its causes. */
uint32_t driver_wait(struct driver *driver);
/* As driver_take, and waits for interrupts until there is one. */
void driver_take_wait(struct driver *driver, unsigned queue, int *id, uint32_t *written);
/* Acknowledges what is pending. */
uint32_t driver_acknowledge(struct driver *driver);

#endif
