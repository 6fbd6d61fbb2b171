#ifndef AEROSTAT_DEV_VIRTIO_BLK_H
#define AEROSTAT_DEV_VIRTIO_BLK_H

/*
 * The block device (virtio 1.2, clause 5.2) on an image: read, write, flush, discard, write
 * zeroes, identify; a write cache that the driver may turn off (F_CONFIG_WCE).
 *
 * Every disk has an I/O loop of its own, so it may block in the host's file system; requests are
 * done one after the other in the order the driver gave them. Whatever goes wrong with the host's
 * file is the guest's I/O error and nobody else's: the machine goes on.
 */

#include "dev/virtio/device.h"
#include "dev/virtio/image.h"
#include "mem/disk_pages.h"

struct virtio_blk_options {
    const char *path;
    bool read_only;
    struct image *image; /* instead: one that is open, stays the caller's and outlives the device */
    struct disk_pages
        *pages;         /* is told which guest memory the disk has read and written; or NULL */
    const char *serial; /* at most 20 bytes are used; NULL: "aerostat" */
    bool synchronous;   /* no loop of its own: virtio_device_run does the work (tests) */
};

/* Opens and locks the image, if it is not open (see image_open for the errors), and starts the
 * disk's loop. */
enum status virtio_blk_create(struct virtio_device **device, struct pmap *map,
                              const struct virtio_blk_options *options, struct error *err);

#endif
