#ifndef AEROSTAT_TESTS_VIRTIO_PACKETS_H
#define AEROSTAT_TESTS_VIRTIO_PACKETS_H

/* Just enough of Ethernet, ARP, IPv4, UDP and TCP to talk to a network from a test. Addresses are
 * in host byte order. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKET_MAX 2048u

#define TCP_FIN 0x01u
#define TCP_SYN 0x02u
#define TCP_RST 0x04u
#define TCP_ACK 0x10u

struct packet {
    uint8_t bytes[PACKET_MAX];
    size_t length;
};

/* The ends of a conversation, from the sender's side. */
struct endpoints {
    uint8_t from_mac[6], to_mac[6];
    uint32_t from_ip, to_ip;
    uint16_t from_port, to_port;
};

struct tcp_segment {
    uint32_t sequence, acknowledge;
    uint8_t flags;
    const uint8_t *data;
    size_t length;
};

void packet_arp(struct packet *packet, bool reply, const uint8_t from_mac[6], uint32_t from_ip,
                const uint8_t to_mac[6], uint32_t to_ip);
void packet_udp(struct packet *packet, const struct endpoints *ends, const void *data,
                size_t length);
void packet_tcp(struct packet *packet, const struct endpoints *ends,
                const struct tcp_segment *segment);

/* True and fills the rest when the packet is of that kind. */
bool packet_parse_arp(const struct packet *packet, uint16_t *operation, uint8_t from_mac[6],
                      uint32_t *from_ip, uint32_t *to_ip);
bool packet_parse_udp(const struct packet *packet, struct endpoints *ends, const uint8_t **data,
                      size_t *length);
bool packet_parse_tcp(const struct packet *packet, struct endpoints *ends,
                      struct tcp_segment *segment);

#endif
