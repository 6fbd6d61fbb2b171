/* User networking as a guest sees it: ARP, DHCP, a fetch over TCP from a server on the host's
 * loopback, a connection from the host through a forwarded port; and what forwards are refused. */

#include <arpa/inet.h>
#include <linux/virtio_net.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "dev/virtio/net.h"
#include "dev/virtio/slirp.h"
#include "util/io_loop.h"
#include "virtio/driver.h"
#include "virtio/packets.h"

#define HEADER      sizeof(struct virtio_net_hdr_mrg_rxbuf)
#define BUFFERS     32u
#define BUFFER_SIZE 2048u
#define GUEST_IP    SLIRP_DHCP_FIRST

enum { RECEIVE, TRANSMIT };

static const uint8_t guest_mac[6] = {0x52, 0x54, 0, 1, 2, 3};

struct guest {
    struct driver driver;
    struct io_loop *loop;
    uint64_t gpa_of_id[DRIVER_QUEUE_MAX];
    uint64_t transmit_gpa;
    uint8_t host_mac[6];
};

static void add_buffer(struct guest *guest, uint64_t gpa)
{
    const struct driver_buffer buffer = {gpa, BUFFER_SIZE, true};
    int id = driver_add(&guest->driver, RECEIVE, &buffer, 1);

    assert_int_not_equal(id, -1);
    guest->gpa_of_id[id] = gpa;
}

static void guest_create(struct guest *guest, unsigned mode, const struct forward *forwards,
                         unsigned count)
{
    const struct slirp_options options = {
        .hostname = "guest", .forwards = forwards, .forward_count = count};
    struct virtio_net_options card = {0};
    struct virtio_device *device;
    struct error err = {0};

    memset(guest, 0, sizeof(*guest));
    driver_create(&guest->driver);
    assert_int_equal(io_loop_create(&guest->loop, "test", NULL), STATUS_OK);
    if (slirp_backend_create(&card.backend, guest->loop, &options, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    memcpy(card.mac, guest_mac, 6);
    assert_int_equal(virtio_net_create(&device, guest->driver.map, guest->loop, &card, NULL),
                     STATUS_OK);
    assert_int_equal(io_loop_start(guest->loop, NULL), STATUS_OK);
    driver_attach(&guest->driver, device);
    driver_start(&guest->driver, driver_mode(mode), bit(VIRTIO_NET_F_MRG_RXBUF), 64);
    for (unsigned i = 0; i < BUFFERS; i++)
        add_buffer(guest, driver_alloc(&guest->driver, BUFFER_SIZE, 16));
    driver_kick(&guest->driver, RECEIVE);
    guest->transmit_gpa = driver_alloc(&guest->driver, HEADER + PACKET_MAX, 16);
}

static void guest_destroy(struct guest *guest)
{
    driver_destroy(&guest->driver);
    io_loop_destroy(guest->loop);
}

static void guest_send(struct guest *guest, const struct packet *packet)
{
    const struct driver_buffer buffer = {guest->transmit_gpa, (uint32_t)(HEADER + packet->length),
                                         false};
    uint32_t written;
    int id;

    driver_poke(&guest->driver, guest->transmit_gpa + HEADER, packet->bytes, packet->length);
    assert_int_not_equal(driver_add(&guest->driver, TRANSMIT, &buffer, 1), -1);
    driver_kick(&guest->driver, TRANSMIT);
    driver_take_wait(&guest->driver, TRANSMIT, &id, &written);
}

/* The next packet that is not a question of who we are; those are answered. */
static void guest_receive(struct guest *guest, struct packet *packet)
{
    for (;;) {
        uint16_t operation;
        uint32_t written, from_ip, to_ip;
        uint8_t from_mac[6];
        struct packet answer;
        int id;

        driver_take_wait(&guest->driver, RECEIVE, &id, &written);
        assert_in_range(written, HEADER + 1, BUFFER_SIZE);
        packet->length = written - HEADER;
        driver_peek(&guest->driver, guest->gpa_of_id[id] + HEADER, packet->bytes, packet->length);
        add_buffer(guest, guest->gpa_of_id[id]);
        driver_kick(&guest->driver, RECEIVE);
        if (!packet_parse_arp(packet, &operation, from_mac, &from_ip, &to_ip) || operation != 1)
            return;
        if (to_ip == GUEST_IP) {
            packet_arp(&answer, true, guest_mac, GUEST_IP, from_mac, from_ip);
            guest_send(guest, &answer);
        }
    }
}

static void guest_resolve(struct guest *guest)
{
    struct packet packet;
    uint16_t operation;
    uint32_t from_ip, to_ip;

    packet_arp(&packet, false, guest_mac, GUEST_IP, NULL, SLIRP_HOST);
    guest_send(guest, &packet);
    guest_receive(guest, &packet);
    assert_true(packet_parse_arp(&packet, &operation, guest->host_mac, &from_ip, &to_ip));
    assert_int_equal(operation, 2);
    assert_int_equal(from_ip, SLIRP_HOST);
    assert_int_equal(to_ip, GUEST_IP);
}

/* The value of a DHCP option as a number; 0 when it is not there. */
static uint32_t dhcp_option(const uint8_t *options, size_t length, uint8_t wanted)
{
    for (size_t at = 0; at + 1 < length && options[at] != 255;) {
        if (options[at] == 0) {
            at++;
            continue;
        }
        uint32_t value = 0;
        assert_true(at + 2 + options[at + 1] <= length);
        for (unsigned i = 0; i < options[at + 1]; i++)
            value = value << 8 | options[at + 2 + i];
        if (options[at] == wanted)
            return value;
        at += 2u + options[at + 1];
    }
    return 0;
}

/* Magic, message type DISCOVER, end. */
static const uint8_t dhcp_discover[] = {0x63, 0x82, 0x53, 0x63, 53, 1, 1, 255};

static void test_arp_and_dhcp(void **state)
{
    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        struct endpoints ends = {.from_port = 68, .to_port = 67, .to_ip = 0xffffffff};
        uint8_t discover[240 + 4] = {1, 1, 6, 0, 0x12, 0x34, 0x56, 0x78};
        struct packet packet;
        struct guest guest;
        const uint8_t *data;
        size_t length;

        guest_create(&guest, mode, NULL, 0);
        guest_resolve(&guest);

        memcpy(ends.from_mac, guest_mac, 6);
        memset(ends.to_mac, 0xff, 6);
        memcpy(discover + 28, guest_mac, 6);
        memcpy(discover + 236, dhcp_discover, sizeof(dhcp_discover));
        packet_udp(&packet, &ends, discover, sizeof(discover));
        guest_send(&guest, &packet);
        do
            guest_receive(&guest, &packet);
        while (!packet_parse_udp(&packet, &ends, &data, &length));
        assert_int_equal(ends.to_port, 68);
        assert_true(length > 240);
        assert_memory_equal(data + 4, discover + 4, 4);
        assert_memory_equal(data + 16, "\x0a\x00\x02\x0f", 4);
        assert_int_equal(dhcp_option(data + 240, length - 240, 53), 2); /* OFFER */
        assert_int_equal(dhcp_option(data + 240, length - 240, 1), SLIRP_NETMASK);
        assert_int_equal(dhcp_option(data + 240, length - 240, 3), SLIRP_HOST);
        assert_int_equal(dhcp_option(data + 240, length - 240, 6), SLIRP_DNS);
        guest_destroy(&guest);
    }
}

static int listen_loopback(uint16_t *port)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(name);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&name, size), 0);
    assert_int_equal(listen(fd, 4), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&name, &size), 0);
    *port = ntohs(name.sin_port);
    return fd;
}

#define BODY_SIZE 200000u

static uint8_t body_byte(uint32_t at)
{
    return (uint8_t)(at * 13 + at / 251);
}

/* Serves one connection: reads one line, sends the body, closes. */
static void *serve(void *context)
{
    int listener = *(int *)context;
    static uint8_t body[BODY_SIZE];
    char c = 0;

    int fd = accept(listener, NULL, NULL);
    while (c != '\n' && read(fd, &c, 1) == 1)
        ;
    for (uint32_t i = 0; i < BODY_SIZE; i++)
        body[i] = body_byte(i);
    for (size_t done = 0; done < BODY_SIZE;) {
        ssize_t sent = send(fd, body + done, BODY_SIZE - done, MSG_NOSIGNAL);
        if (sent <= 0)
            break;
        done += (size_t)sent;
    }
    close(fd);
    return NULL;
}

static void send_tcp(struct guest *guest, const struct endpoints *ends, uint32_t sequence,
                     uint32_t acknowledge, uint8_t flags, const void *data, size_t length)
{
    const struct tcp_segment segment = {sequence, acknowledge, flags, data, length};
    struct packet packet;

    packet_tcp(&packet, ends, &segment);
    guest_send(guest, &packet);
}

/* The next TCP segment of this conversation. */
static void receive_tcp(struct guest *guest, const struct endpoints *ends, struct packet *packet,
                        struct tcp_segment *segment)
{
    struct endpoints from;

    do
        guest_receive(guest, packet);
    while (!packet_parse_tcp(packet, &from, segment) || from.to_port != ends->from_port ||
           from.from_port != ends->to_port);
}

static void test_fetch(void **state)
{
    static const char request[] = "GET /\n";
    static const unsigned modes[] = {0, 7};

    for (size_t i = 0; i < ARRAY_LENGTH(modes); i++) {
        struct endpoints ends = {.from_ip = GUEST_IP, .to_ip = SLIRP_HOST, .from_port = 40000};
        struct tcp_segment segment;
        struct packet packet;
        struct guest guest;
        pthread_t server;
        uint32_t ours = 1000, received = 0;

        int listener = listen_loopback(&ends.to_port);
        assert_int_equal(pthread_create(&server, NULL, serve, &listener), 0);
        guest_create(&guest, modes[i], NULL, 0);
        guest_resolve(&guest);
        memcpy(ends.from_mac, guest_mac, 6);
        memcpy(ends.to_mac, guest.host_mac, 6);

        send_tcp(&guest, &ends, ours++, 0, TCP_SYN, NULL, 0);
        receive_tcp(&guest, &ends, &packet, &segment);
        assert_int_equal(segment.flags & (TCP_SYN | TCP_ACK | TCP_RST), TCP_SYN | TCP_ACK);
        assert_int_equal(segment.acknowledge, ours);
        uint32_t start = segment.sequence + 1;
        send_tcp(&guest, &ends, ours, start, TCP_ACK, request, sizeof(request) - 1);
        ours += sizeof(request) - 1;

        /* Take what comes in order, acknowledge all there is so far; what was not in order comes
         * again. */
        bool finished = false;
        while (!finished) {
            receive_tcp(&guest, &ends, &packet, &segment);
            assert_int_equal(segment.flags & TCP_RST, 0);
            if (segment.sequence == start + received) {
                for (size_t k = 0; k < segment.length; k++)
                    assert_int_equal(segment.data[k], body_byte(received + (uint32_t)k));
                received += (uint32_t)segment.length;
                finished = segment.flags & TCP_FIN;
            }
            send_tcp(&guest, &ends, ours, start + received + finished, TCP_ACK, NULL, 0);
        }
        assert_int_equal(received, BODY_SIZE);
        send_tcp(&guest, &ends, ours, start + received + 1, TCP_FIN | TCP_ACK, NULL, 0);
        pthread_join(server, NULL);
        close(listener);
        guest_destroy(&guest);
    }
}

/* A port that nobody listens at. */
static void test_refused(void **state)
{
    struct endpoints ends = {.from_ip = GUEST_IP, .to_ip = SLIRP_HOST, .from_port = 40000};
    struct tcp_segment segment;
    struct packet packet;
    struct guest guest;

    close(listen_loopback(&ends.to_port));
    guest_create(&guest, 0, NULL, 0);
    guest_resolve(&guest);
    memcpy(ends.from_mac, guest_mac, 6);
    memcpy(ends.to_mac, guest.host_mac, 6);
    send_tcp(&guest, &ends, 1, 0, TCP_SYN, NULL, 0);
    receive_tcp(&guest, &ends, &packet, &segment);
    assert_true(segment.flags & TCP_RST);
    guest_destroy(&guest);
}

static void test_forward(void **state)
{
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct endpoints ends = {.from_ip = GUEST_IP, .from_port = 80};
    struct tcp_segment segment;
    struct packet packet;
    struct forward forward;
    struct guest guest;
    char text[64], answer[6] = {0};
    uint16_t port;

    close(listen_loopback(&port));
    snprintf(text, sizeof(text), "tcp:%u-80", port);
    assert_int_equal(forward_parse(&forward, text, NULL), STATUS_OK);
    guest_create(&guest, 0, &forward, 1);
    guest_resolve(&guest);
    memcpy(ends.from_mac, guest_mac, 6);
    memcpy(ends.to_mac, guest.host_mac, 6);

    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    name.sin_port = htons(port);
    assert_int_equal(connect(fd, (struct sockaddr *)&name, sizeof(name)), 0);
    assert_int_equal(send(fd, "ping", 4, 0), 4);

    struct endpoints from;
    do
        guest_receive(&guest, &packet);
    while (!packet_parse_tcp(&packet, &from, &segment));
    assert_int_equal(from.to_ip, GUEST_IP);
    assert_int_equal(from.to_port, 80);
    assert_int_equal(segment.flags & (TCP_SYN | TCP_ACK), TCP_SYN);
    ends.to_ip = from.from_ip;
    ends.to_port = from.from_port;
    uint32_t theirs = segment.sequence + 1;
    send_tcp(&guest, &ends, 500, theirs, TCP_SYN | TCP_ACK, NULL, 0);
    do
        receive_tcp(&guest, &ends, &packet, &segment);
    while (segment.length == 0);
    assert_int_equal(segment.length, 4);
    assert_memory_equal(segment.data, "ping", 4);
    send_tcp(&guest, &ends, 501, theirs + 4, TCP_ACK, "pong!", 5);
    assert_int_equal(recv(fd, answer, 5, MSG_WAITALL), 5);
    assert_string_equal(answer, "pong!");
    close(fd);
    guest_destroy(&guest);

    /* The port is free again with the guest's end. */
    guest_create(&guest, 0, &forward, 1);
    guest_destroy(&guest);
}

static void test_busy_port(void **state)
{
    struct net_backend *backend = NULL;
    struct io_loop *loop;

    assert_int_equal(io_loop_create(&loop, "test", NULL), STATUS_OK);
    for (unsigned udp = 0; udp < 2; udp++) {
        struct sockaddr_in name = {.sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t size = sizeof(name);
        struct error err = {0};
        struct forward forward;
        char text[64], port[16];
        int fd = socket(AF_INET, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);

        assert_int_equal(bind(fd, (struct sockaddr *)&name, size), 0);
        if (!udp)
            assert_int_equal(listen(fd, 1), 0);
        assert_int_equal(getsockname(fd, (struct sockaddr *)&name, &size), 0);
        snprintf(port, sizeof(port), "%u", ntohs(name.sin_port));
        snprintf(text, sizeof(text), "%s:%s-80", udp ? "udp" : "tcp", port);
        assert_int_equal(forward_parse(&forward, text, NULL), STATUS_OK);
        const struct slirp_options options = {.forwards = &forward, .forward_count = 1};
        assert_int_equal(slirp_backend_create(&backend, loop, &options, &err), STATUS_BUSY);
        assert_non_null(strstr(err.text, port));
        assert_non_null(strstr(err.text, "in use"));
        close(fd);
        assert_int_equal(slirp_backend_create(&backend, loop, &options, &err), STATUS_OK);
        backend->ops->destroy(backend);
    }
    /* 192.0.2.0/24 is for documentation: nobody's address. */
    struct forward elsewhere;
    struct error err = {0};
    assert_int_equal(forward_parse(&elsewhere, "tcp:192.0.2.1:8080-80", NULL), STATUS_OK);
    const struct slirp_options options = {.forwards = &elsewhere, .forward_count = 1};
    assert_int_equal(slirp_backend_create(&backend, loop, &options, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "192.0.2.1"));
    io_loop_destroy(loop);
}

static void test_forward_parse(void **state)
{
    static const struct {
        const char *text;
        uint32_t host;
        uint32_t guest;
        uint16_t host_port;
        uint16_t guest_port;
        bool udp;
    } good[] = {
        {"tcp:2222-22", INADDR_LOOPBACK, SLIRP_DHCP_FIRST, 2222, 22, false},
        {"udp:5353-53", INADDR_LOOPBACK, SLIRP_DHCP_FIRST, 5353, 53, true},
        {"tcp::8080-:80", INADDR_LOOPBACK, SLIRP_DHCP_FIRST, 8080, 80, false},
        {"tcp:0.0.0.0:1-65535", INADDR_ANY, SLIRP_DHCP_FIRST, 1, 65535, false},
        {"tcp:127.0.0.2:80-10.0.2.16:8080", 0x7f000002, 0x0a000210, 80, 8080, false},
    };
    static const char *const bad[] = {
        "",
        "tcp",
        "tcp:",
        "tcp:80",
        "tcp:80-",
        "tcp:-80",
        "sctp:80-80",
        "tcp:0-80",
        "tcp:80-0",
        "tcp:65536-80",
        "tcp:80-x",
        "tcp:80x-80",
        "tcp: 80-80",
        "tcp:-1-80",
        "tcp:1.2.3:80-80",
        "tcp:a:8-8",
        "tcp:80-1.2.3.4:80",
        "tcp:80-10.0.2.2:80",
        "tcp:80-10.0.2.255:80",
        "tcp:99999999999999999999-80",
    };

    for (size_t i = 0; i < ARRAY_LENGTH(good); i++) {
        struct forward forward;
        assert_int_equal(forward_parse(&forward, good[i].text, NULL), STATUS_OK);
        assert_int_equal(forward.udp, good[i].udp);
        assert_int_equal(ntohl(forward.host_address.s_addr), good[i].host);
        assert_int_equal(forward.host_port, good[i].host_port);
        assert_int_equal(ntohl(forward.guest_address.s_addr), good[i].guest);
        assert_int_equal(forward.guest_port, good[i].guest_port);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        struct forward forward;
        struct error err = {0};
        if (forward_parse(&forward, bad[i], &err) != STATUS_INVALID)
            fail_msg("'%s' was taken", bad[i]);
        assert_true(err.text[0] != '\0');
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arp_and_dhcp), cmocka_unit_test(test_fetch),
        cmocka_unit_test(test_refused),      cmocka_unit_test(test_forward),
        cmocka_unit_test(test_busy_port),    cmocka_unit_test(test_forward_parse),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
