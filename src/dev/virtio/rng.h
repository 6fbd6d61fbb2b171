#ifndef AEROSTAT_DEV_VIRTIO_RNG_H
#define AEROSTAT_DEV_VIRTIO_RNG_H

/* The entropy device (virtio 1.2, clause 5.4): fills what the driver gives from the host kernel's
 * random number generator. */

#include "dev/virtio/device.h"

enum status virtio_rng_create(struct virtio_device **device, struct pmap *map, struct io_loop *loop,
                              struct error *err);

#endif
