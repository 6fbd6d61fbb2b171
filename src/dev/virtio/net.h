#ifndef AEROSTAT_DEV_VIRTIO_NET_H
#define AEROSTAT_DEV_VIRTIO_NET_H

/* The network card (virtio 1.2, clause 5.1): one pair of queues, mergeable receive buffers, no
 * offloads. What arrives while the guest has no buffers waits, up to a bound, then is dropped as on
 * any wire. */

#include "dev/virtio/device.h"
#include "dev/virtio/net_backend.h"

#define NET_MTU 1500u

struct virtio_net_options {
    uint8_t mac[6];
    struct net_backend *backend; /* owned by the card once it is created; NULL: cable unplugged */
};

enum status virtio_net_create(struct virtio_device **device, struct pmap *map, struct io_loop *loop,
                              const struct virtio_net_options *options, struct error *err);

/* A stable, locally administered address for card number `index` of the VM called `name`. */
void net_mac_derive(uint8_t mac[6], const char *name, unsigned index);

#endif
