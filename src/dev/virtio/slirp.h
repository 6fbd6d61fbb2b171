#ifndef AEROSTAT_DEV_VIRTIO_SLIRP_H
#define AEROSTAT_DEV_VIRTIO_SLIRP_H

/*
 * User-mode networking through libslirp: the guest's TCP, UDP and ping come out of this process as
 * ordinary sockets, without privileges.
 *
 * The guest's network is 10.0.2.0/24: 10.0.2.2 is the host and gateway, 10.0.2.3 a name server that
 * passes questions on to the host's, and DHCP gives addresses from 10.0.2.15 on. IPv4 only. As with
 * QEMU's user network, a connection to 10.0.2.2 arrives at the host's loopback interface, so a
 * guest can use services that listen there; no other address leads to them. From outside nothing
 * reaches the guest but what `forwards` names.
 *
 * Threads: libslirp knows none. All of it runs on the loop; one lock lets destroy wait for that.
 */

#include "dev/virtio/forward.h"
#include "dev/virtio/net_backend.h"
#include "util/io_loop.h"
#include "util/status.h"

/* Host byte order. */
#define SLIRP_NETWORK    0x0a000200u
#define SLIRP_NETMASK    0xffffff00u
#define SLIRP_HOST       0x0a000202u
#define SLIRP_DNS        0x0a000203u
#define SLIRP_DHCP_FIRST 0x0a00020fu

struct slirp_options {
    const char *hostname; /* told to the guest by DHCP; NULL: none */
    const struct forward *forwards;
    unsigned forward_count;
};

/* BUSY when a forwarded host port is taken, INVALID when it is not permitted or not the host's
 * address. */
enum status slirp_backend_create(struct net_backend **backend, struct io_loop *loop,
                                 const struct slirp_options *options, struct error *err);

#endif
