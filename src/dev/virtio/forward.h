#ifndef AEROSTAT_DEV_VIRTIO_FORWARD_H
#define AEROSTAT_DEV_VIRTIO_FORWARD_H

/* Forwarding of a host port to a guest port, as the user writes it:
 *
 *     tcp:[ADDR:]HOSTPORT-[GUESTADDR:]GUESTPORT        (or udp:)
 *
 * ADDR is the host's IPv4 address to listen at, 127.0.0.1 unless given: a guest's port is opened to
 * the network only by who asks for it, with 0.0.0.0. GUESTADDR is the guest's, 10.0.2.15 (the first
 * that DHCP gives) unless given. An address may be left empty: "tcp::8080-:80". */

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "util/status.h"

struct forward {
    bool udp;
    struct in_addr host_address;
    uint16_t host_port;
    struct in_addr guest_address;
    uint16_t guest_port;
};

/* INVALID with a line that says what is wrong. */
enum status forward_parse(struct forward *forward, const char *text, struct error *err);

#endif
