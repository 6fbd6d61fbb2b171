#ifndef AEROSTAT_TESTS_VIRTIO_ECHO_H
#define AEROSTAT_TESTS_VIRTIO_ECHO_H

/* A device for tests of the rings: copies each chain's readable bytes, inverted, to its writable
 * ones. Has two queues and eight bytes of configuration. */

#include "dev/virtio/device.h"

#define ECHO_QUEUE_SIZE 256u
#define ECHO_ID         42u

struct echo_device {
    struct virtio_device base;
    uint8_t config[8];
    unsigned starts, resets, config_writes;
    unsigned hold; /* keep so many chains before all are used, the latest first */
    unsigned held;
    struct virtqueue_chain chains[8];
};

struct echo_device *echo_create(struct pmap *map);

#endif
