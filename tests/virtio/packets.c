#include "virtio/packets.h"

#include <string.h>

enum { ETHERNET = 14, IP = 20, UDP = 8, TCP = 20, ARP = 28 };
enum { TYPE_IP = 0x0800, TYPE_ARP = 0x0806 };
enum { PROTOCOL_TCP = 6, PROTOCOL_UDP = 17 };

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value & 0xffff);
}

static uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static uint32_t sum(const uint8_t *bytes, size_t length, uint32_t start)
{
    for (size_t i = 0; i < length; i++)
        start += i % 2 == 0 ? (uint32_t)bytes[i] << 8 : bytes[i];
    return start;
}

static uint16_t fold(uint32_t total)
{
    while (total > 0xffff)
        total = (total & 0xffff) + (total >> 16);
    return (uint16_t)~total;
}

static void put_ethernet(struct packet *packet, const uint8_t from[6], const uint8_t to[6],
                         uint16_t type)
{
    memcpy(packet->bytes, to, 6);
    memcpy(packet->bytes + 6, from, 6);
    put16(packet->bytes + 12, type);
}

/* Header before, and checksum in, `length` bytes of transport that are in place; `checksum_at` is
 * where the transport has its checksum. */
static void put_ip(struct packet *packet, const struct endpoints *ends, uint8_t protocol,
                   size_t length, size_t checksum_at)
{
    uint8_t *ip = packet->bytes + ETHERNET;
    uint8_t *transport = ip + IP;
    uint8_t pseudo[12] = {0};

    memset(ip, 0, IP);
    ip[0] = 0x45;
    put16(ip + 2, (uint32_t)(IP + length));
    ip[8] = 64;
    ip[9] = protocol;
    put32(ip + 12, ends->from_ip);
    put32(ip + 16, ends->to_ip);
    put16(ip + 10, fold(sum(ip, IP, 0)));

    memcpy(pseudo, ip + 12, 8);
    pseudo[9] = protocol;
    put16(pseudo + 10, (uint32_t)length);
    put16(transport + checksum_at, 0);
    put16(transport + checksum_at, fold(sum(transport, length, sum(pseudo, 12, 0))));
    put_ethernet(packet, ends->from_mac, ends->to_mac, TYPE_IP);
    packet->length = ETHERNET + IP + length;
}

void packet_arp(struct packet *packet, bool reply, const uint8_t from_mac[6], uint32_t from_ip,
                const uint8_t to_mac[6], uint32_t to_ip)
{
    static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    uint8_t *arp = packet->bytes + ETHERNET;

    put_ethernet(packet, from_mac, reply ? to_mac : everybody, TYPE_ARP);
    memset(arp, 0, ARP);
    put16(arp, 1);
    put16(arp + 2, TYPE_IP);
    arp[4] = 6;
    arp[5] = 4;
    put16(arp + 6, reply ? 2 : 1);
    memcpy(arp + 8, from_mac, 6);
    put32(arp + 14, from_ip);
    if (reply)
        memcpy(arp + 18, to_mac, 6);
    put32(arp + 24, to_ip);
    packet->length = ETHERNET + ARP;
}

void packet_udp(struct packet *packet, const struct endpoints *ends, const void *data,
                size_t length)
{
    uint8_t *udp = packet->bytes + ETHERNET + IP;

    put16(udp, ends->from_port);
    put16(udp + 2, ends->to_port);
    put16(udp + 4, (uint32_t)(UDP + length));
    memcpy(udp + UDP, data, length);
    put_ip(packet, ends, PROTOCOL_UDP, UDP + length, 6);
}

void packet_tcp(struct packet *packet, const struct endpoints *ends,
                const struct tcp_segment *segment)
{
    uint8_t *tcp = packet->bytes + ETHERNET + IP;

    memset(tcp, 0, TCP);
    put16(tcp, ends->from_port);
    put16(tcp + 2, ends->to_port);
    put32(tcp + 4, segment->sequence);
    put32(tcp + 8, segment->acknowledge);
    tcp[12] = TCP / 4 << 4;
    tcp[13] = segment->flags;
    put16(tcp + 14, 0xffff);
    if (segment->length > 0)
        memcpy(tcp + TCP, segment->data, segment->length);
    put_ip(packet, ends, PROTOCOL_TCP, TCP + segment->length, 16);
}

bool packet_parse_arp(const struct packet *packet, uint16_t *operation, uint8_t from_mac[6],
                      uint32_t *from_ip, uint32_t *to_ip)
{
    const uint8_t *arp = packet->bytes + ETHERNET;

    if (packet->length < ETHERNET + ARP || get16(packet->bytes + 12) != TYPE_ARP)
        return false;
    *operation = get16(arp + 6);
    memcpy(from_mac, arp + 8, 6);
    *from_ip = get32(arp + 14);
    *to_ip = get32(arp + 24);
    return true;
}

/* The transport's bytes; NULL when the packet is of another kind or damaged. */
static const uint8_t *parse_ip(const struct packet *packet, uint8_t protocol, size_t minimum,
                               struct endpoints *ends, size_t *length)
{
    const uint8_t *ip = packet->bytes + ETHERNET;

    if (packet->length < ETHERNET + IP + minimum || get16(packet->bytes + 12) != TYPE_IP ||
        ip[0] != 0x45 || ip[9] != protocol || fold(sum(ip, IP, 0)) != 0)
        return NULL;
    size_t total = get16(ip + 2);
    if (total < IP + minimum || total > packet->length - ETHERNET)
        return NULL;
    memcpy(ends->to_mac, packet->bytes, 6);
    memcpy(ends->from_mac, packet->bytes + 6, 6);
    ends->from_ip = get32(ip + 12);
    ends->to_ip = get32(ip + 16);
    ends->from_port = get16(ip + IP);
    ends->to_port = get16(ip + IP + 2);
    *length = total - IP;
    return ip + IP;
}

bool packet_parse_udp(const struct packet *packet, struct endpoints *ends, const uint8_t **data,
                      size_t *length)
{
    const uint8_t *udp = parse_ip(packet, PROTOCOL_UDP, UDP, ends, length);

    if (udp == NULL)
        return false;
    *data = udp + UDP;
    *length -= UDP;
    return true;
}

bool packet_parse_tcp(const struct packet *packet, struct endpoints *ends,
                      struct tcp_segment *segment)
{
    size_t length;
    const uint8_t *tcp = parse_ip(packet, PROTOCOL_TCP, TCP, ends, &length);

    if (tcp == NULL || (size_t)(tcp[12] >> 4) * 4 > length)
        return false;
    size_t header = (size_t)(tcp[12] >> 4) * 4;
    *segment = (struct tcp_segment){
        .sequence = get32(tcp + 4),
        .acknowledge = get32(tcp + 8),
        .flags = tcp[13],
        .data = tcp + header,
        .length = length - header,
    };
    return true;
}
