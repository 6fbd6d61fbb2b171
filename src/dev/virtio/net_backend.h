#ifndef AEROSTAT_DEV_VIRTIO_NET_BACKEND_H
#define AEROSTAT_DEV_VIRTIO_NET_BACKEND_H

/*
 * What is at the other end of a guest's network cable. The network card sends frames to the
 * backend with `send`, the backend delivers frames to the card with the function it was connected
 * to. Frames are whole Ethernet frames without a checksum.
 *
 * `send` runs on the card's loop. The receive function may be called from any thread, also from
 * within `send`: it only queues the frame.
 */

#include <stddef.h>

#define NET_FRAME_MAX 65550u /* the longest frame in either direction, bytes */

struct net_backend;

struct net_backend_ops {
    void (*send)(struct net_backend *backend, const void *frame, size_t length);
    /* Delivers nothing any more when it returns. Not on the loop's thread. */
    void (*destroy)(struct net_backend *backend);
};

typedef void net_receive_fn(void *context, const void *frame, size_t length);

struct net_backend {
    const struct net_backend_ops *ops;
    net_receive_fn *receive; /* set once by the card, atomically; NULL: nobody listens */
    void *receive_context;
};

#endif
