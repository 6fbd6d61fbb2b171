#ifndef AEROSTAT_DEV_VIRTIO_CONSOLE_H
#define AEROSTAT_DEV_VIRTIO_CONSOLE_H

/*
 * The console device (virtio 1.2, clause 5.3) with one port, between the guest and two host
 * descriptors. Nothing is lost and nobody is blocked: what the host does not take waits in the
 * guest's own buffers, what the guest does not take waits in the host's descriptor.
 *
 * Descriptors may be terminals, pipes, sockets or files, and need not be non-blocking: writes wait
 * for POLLOUT and are short enough for a pipe that is ready to take them whole. An output that
 * fails for good (closed by its reader) swallows what follows, as an unplugged terminal does.
 */

#include "dev/virtio/device.h"

struct virtio_console_options {
    int input_fd;  /* duplicated; -1: no input */
    int output_fd; /* duplicated; -1: output is dropped */
};

/* loop may be NULL (tests): then the descriptors are looked at in virtio_device_run only. */
enum status virtio_console_create(struct virtio_device **device, struct pmap *map,
                                  struct io_loop *loop,
                                  const struct virtio_console_options *options, struct error *err);

/* The size of the terminal in characters; tells the driver. Any thread. */
void virtio_console_resize(struct virtio_device *device, uint16_t columns, uint16_t rows);

#endif
