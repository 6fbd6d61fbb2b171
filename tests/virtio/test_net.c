/* The network card against a backend that the test is itself. */

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_net.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dev/virtio/net.h"
#include "virtio/driver.h"

#define HEADER sizeof(struct virtio_net_hdr_mrg_rxbuf)

enum { RECEIVE, TRANSMIT };

struct wire {
    struct net_backend base;
    uint8_t frame[NET_FRAME_MAX]; /* the latest that was sent */
    size_t length;
    unsigned sent, destroyed;
    bool echo; /* what is sent comes back at once, from within send */
};

static void wire_send(struct net_backend *base, const void *frame, size_t length)
{
    struct wire *wire = container_of(base, struct wire, base);

    memcpy(wire->frame, frame, length);
    wire->length = length;
    wire->sent++;
    if (wire->echo)
        wire->base.receive(wire->base.receive_context, frame, length);
}

static void wire_destroy(struct net_backend *base)
{
    container_of(base, struct wire, base)->destroyed++;
}

static const struct net_backend_ops wire_ops = {.send = wire_send, .destroy = wire_destroy};

struct card {
    struct driver driver;
    struct wire wire;
};

static void card_create(struct card *card)
{
    struct virtio_net_options options = {.mac = {2, 3, 4, 5, 6, 7}, .backend = &card->wire.base};
    struct virtio_device *device;

    card->wire = (struct wire){.base.ops = &wire_ops};
    driver_create(&card->driver);
    assert_int_equal(virtio_net_create(&device, card->driver.map, NULL, &options, NULL), STATUS_OK);
    driver_attach(&card->driver, device);
}

static void card_destroy(struct card *card)
{
    driver_destroy(&card->driver);
    assert_int_equal(card->wire.destroyed, 1);
}

static void card_deliver(struct card *card, const void *frame, size_t length)
{
    card->wire.base.receive(card->wire.base.receive_context, frame, length);
    virtio_device_run(card->driver.device);
}

static void make_frame(uint8_t *frame, size_t length, uint8_t seed)
{
    for (size_t i = 0; i < length; i++)
        frame[i] = (uint8_t)(seed + i * 3 + i / 255);
}

static void test_config(void **state)
{
    struct card card;

    card_create(&card);
    struct virtio_mmio *mmio = card.driver.mmio;
    assert_int_equal(driver_read(&card.driver, VIRTIO_MMIO_DEVICE_ID), 1);
    assert_int_equal(virtio_mmio_read(mmio, VIRTIO_MMIO_CONFIG, 4), 0x05040302);
    assert_int_equal(virtio_mmio_read(mmio, VIRTIO_MMIO_CONFIG + 4, 2), 0x0706);
    assert_int_equal(virtio_mmio_read(mmio, VIRTIO_MMIO_CONFIG + 6, 2), VIRTIO_NET_S_LINK_UP);
    assert_int_equal(virtio_mmio_read(mmio, VIRTIO_MMIO_CONFIG + 10, 2), NET_MTU);
    card_destroy(&card);
}

static void test_transmit(void **state)
{
    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        struct card card;
        uint8_t bytes[HEADER + 1514] = {0};
        uint32_t written;
        int id;

        card_create(&card);
        struct driver *driver = &card.driver;
        driver_start(driver, driver_mode(mode), bit(VIRTIO_NET_F_MAC), 16);
        uint64_t gpa = driver_alloc(driver, sizeof(bytes), 16);
        for (unsigned i = 0; i < 50; i++) {
            uint32_t length = 60 + i * 29;
            make_frame(bytes + HEADER, length, (uint8_t)i);
            driver_poke(driver, gpa, bytes, HEADER + length);
            /* Header and data apart, and not. */
            const struct driver_buffer apart[] = {{gpa, HEADER, false},
                                                  {gpa + HEADER, length, false}};
            const struct driver_buffer whole = {gpa, (uint32_t)HEADER + length, false};
            driver_add(driver, TRANSMIT, i % 2 ? apart : &whole, i % 2 ? 2 : 1);
            driver_kick(driver, TRANSMIT);
            assert_true(driver_take(driver, TRANSMIT, &id, &written));
            assert_int_equal(written, 0);
            assert_int_equal(card.wire.sent, i + 1);
            assert_int_equal(card.wire.length, length);
            assert_memory_equal(card.wire.frame, bytes + HEADER, length);
        }
        /* No frame at all, and one that is too long: dropped, completed. */
        const struct driver_buffer empty = {gpa, HEADER, false};
        const struct driver_buffer longest = {gpa, NET_FRAME_MAX + HEADER + 1, false};
        driver_add(driver, TRANSMIT, &empty, 1);
        driver_add(driver, TRANSMIT, &longest, 1);
        driver_kick(driver, TRANSMIT);
        for (unsigned i = 0; i < 2; i++)
            assert_true(driver_take(driver, TRANSMIT, &id, &written));
        assert_int_equal(card.wire.sent, 50);
        assert_int_equal(driver->device->stats.errors, 2);
        card_destroy(&card);
    }
}

/* Collects one received frame out of its buffers. Returns its length, 0 when there is none. */
static size_t take_frame(struct driver *driver, const uint64_t *gpa_of_id, uint8_t *frame)
{
    struct virtio_net_hdr_mrg_rxbuf header;
    uint8_t bytes[NET_FRAME_MAX + HEADER];
    uint32_t written;
    size_t total = 0;
    int id;

    header.num_buffers = 1;
    for (unsigned i = 0; i < header.num_buffers; i++) {
        bool there = driver_take(driver, RECEIVE, &id, &written);
        if (i == 0 && !there)
            return 0;
        assert_true(there);
        driver_peek(driver, gpa_of_id[id], bytes + total, written);
        total += written;
        /* The header itself may be in two pieces. */
        if (total >= HEADER)
            memcpy(&header, bytes, HEADER);
        else
            header.num_buffers = (uint16_t)(i + 2);
    }
    assert_true(total >= HEADER);
    assert_int_equal(header.hdr.flags, 0);
    assert_int_equal(header.hdr.gso_type, VIRTIO_NET_HDR_GSO_NONE);
    memcpy(frame, bytes + HEADER, total - HEADER);
    return total - HEADER;
}

static void add_buffers(struct driver *driver, uint64_t *gpa_of_id, unsigned count, uint32_t size)
{
    for (unsigned i = 0; i < count; i++) {
        const struct driver_buffer buffer = {driver_alloc(driver, size, 16), size, true};
        int id = driver_add(driver, RECEIVE, &buffer, 1);
        assert_int_not_equal(id, -1);
        gpa_of_id[id] = buffer.gpa;
    }
    driver_kick(driver, RECEIVE);
}

static void test_receive(void **state)
{
    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        struct card card;
        uint64_t gpa_of_id[DRIVER_QUEUE_MAX];
        uint8_t frame[4000], back[4000];

        card_create(&card);
        struct driver *driver = &card.driver;
        driver_start(driver, driver_mode(mode), bit(VIRTIO_NET_F_MRG_RXBUF), 64);
        for (unsigned i = 0; i < 100; i++) {
            /* Into buffers of 200 bytes: from one to several a frame. */
            size_t length = 60 + i * 39;
            make_frame(frame, length, (uint8_t)i);
            add_buffers(driver, gpa_of_id, (unsigned)((length + HEADER + 199) / 200), 200);
            card_deliver(&card, frame, length);
            assert_int_equal(take_frame(driver, gpa_of_id, back), length);
            assert_memory_equal(frame, back, length);
            assert_int_equal(take_frame(driver, gpa_of_id, back), 0);
        }
        assert_int_equal(driver->device->stats.errors, 0);
        card_destroy(&card);
    }
}

/* Frames wait for buffers; also when some buffers are there, but not yet enough. */
static void test_receive_waits(void **state)
{
    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        struct card card;
        uint64_t gpa_of_id[DRIVER_QUEUE_MAX];
        uint8_t frame[1000], back[1000];

        card_create(&card);
        struct driver *driver = &card.driver;
        driver_start(driver, driver_mode(mode), bit(VIRTIO_NET_F_MRG_RXBUF), 64);
        for (unsigned i = 0; i < 3; i++) {
            make_frame(frame, sizeof(frame), (uint8_t)i);
            card_deliver(&card, frame, sizeof(frame));
        }
        /* One buffer at a time: a frame needs four. The kicks must not be suppressed. */
        for (unsigned i = 1; i <= 12; i++) {
            unsigned notifications = driver->notifications;
            add_buffers(driver, gpa_of_id, 1, 253);
            assert_int_equal(driver->notifications, notifications + 1);
            if (i % 4 != 0) {
                assert_int_equal(take_frame(driver, gpa_of_id, back), 0);
                continue;
            }
            make_frame(frame, sizeof(frame), (uint8_t)(i / 4 - 1));
            assert_int_equal(take_frame(driver, gpa_of_id, back), sizeof(frame));
            assert_memory_equal(frame, back, sizeof(frame));
        }

        /* A reset with held buffers and waiting frames forgets both. */
        card_deliver(&card, frame, sizeof(frame));
        add_buffers(driver, gpa_of_id, 2, 253);
        driver_start(driver, driver_mode(mode), bit(VIRTIO_NET_F_MRG_RXBUF), 64);
        add_buffers(driver, gpa_of_id, 8, 253);
        assert_int_equal(take_frame(driver, gpa_of_id, back), 0);
        card_deliver(&card, frame, 100);
        assert_int_equal(take_frame(driver, gpa_of_id, back), 100);
        card_destroy(&card);
    }
}

/* Without mergeable buffers a frame that is longer than the buffer is dropped, the next arrives. */
static void test_receive_unmerged(void **state)
{
    struct card card;
    uint64_t gpa_of_id[DRIVER_QUEUE_MAX];
    uint8_t frame[1514], back[1514];

    card_create(&card);
    struct driver *driver = &card.driver;
    driver_start(driver, driver_mode(0), 0, 16);
    add_buffers(driver, gpa_of_id, 3, 1000);
    make_frame(frame, sizeof(frame), 1);
    card_deliver(&card, frame, 1514);
    assert_int_equal(take_frame(driver, gpa_of_id, back), 0);
    assert_int_equal(driver->device->stats.errors, 1);
    card_deliver(&card, frame, 900);
    card_deliver(&card, frame, 1000 - HEADER);
    assert_int_equal(take_frame(driver, gpa_of_id, back), 900);
    assert_int_equal(take_frame(driver, gpa_of_id, back), 1000 - HEADER);
    card_destroy(&card);
}

/* Frames of many tiny buffers: more than a frame may be spread over is a drop. */
static void test_receive_tiny_buffers(void **state)
{
    struct card card;
    uint64_t gpa_of_id[DRIVER_QUEUE_MAX];
    uint8_t frame[1514], back[1514];

    card_create(&card);
    struct driver *driver = &card.driver;
    driver_start(driver, driver_mode(1), bit(VIRTIO_NET_F_MRG_RXBUF), 256);
    add_buffers(driver, gpa_of_id, 200, 8);
    make_frame(frame, sizeof(frame), 1);
    card_deliver(&card, frame, 1514);
    assert_int_equal(take_frame(driver, gpa_of_id, back), 0);
    assert_int_equal(driver->device->stats.errors, 1);
    /* Shorter than the header as the first buffer is, the frame comes whole. */
    for (unsigned i = 0; i < 4; i++) {
        card_deliver(&card, frame, 200);
        assert_int_equal(take_frame(driver, gpa_of_id, back), 200);
        assert_memory_equal(frame, back, 200);
    }
    card_destroy(&card);
}

/* A guest that takes nothing costs bounded memory. */
static void test_backlog(void **state)
{
    static uint8_t frame[NET_FRAME_MAX];
    struct card card;

    card_create(&card);
    struct driver *driver = &card.driver;
    driver_start(driver, driver_mode(0), 0, 16);
    for (unsigned i = 0; i < 2000; i++)
        card_deliver(&card, frame, 1514);
    uint64_t dropped = driver->device->stats.errors;
    assert_in_range(dropped, 1000, 1999);
    for (unsigned i = 0; i < 100; i++)
        card_deliver(&card, frame, sizeof(frame));
    assert_in_range(driver->device->stats.errors, dropped + 80, dropped + 100);
    card_destroy(&card);
}

/* A backend that answers from within send. */
static void test_answer_at_once(void **state)
{
    struct card card;
    uint64_t gpa_of_id[DRIVER_QUEUE_MAX];
    uint8_t bytes[HEADER + 100] = {0}, back[1000];
    uint32_t written;
    int id;

    card_create(&card);
    card.wire.echo = true;
    struct driver *driver = &card.driver;
    driver_start(driver, driver_mode(3), bit(VIRTIO_NET_F_MRG_RXBUF), 16);
    add_buffers(driver, gpa_of_id, 4, 500);
    make_frame(bytes + HEADER, 100, 9);
    uint64_t gpa = driver_alloc(driver, sizeof(bytes), 16);
    driver_poke(driver, gpa, bytes, sizeof(bytes));
    const struct driver_buffer buffer = {gpa, sizeof(bytes), false};
    driver_add(driver, TRANSMIT, &buffer, 1);
    driver_kick(driver, TRANSMIT);
    virtio_device_run(driver->device);
    assert_true(driver_take(driver, TRANSMIT, &id, &written));
    assert_int_equal(take_frame(driver, gpa_of_id, back), 100);
    assert_memory_equal(back, bytes + HEADER, 100);
    card_destroy(&card);
}

static void test_mac(void **state)
{
    uint8_t a[6], b[6], c[6], again[6];

    net_mac_derive(a, "web", 0);
    net_mac_derive(b, "web", 1);
    net_mac_derive(c, "wec", 0);
    net_mac_derive(again, "web", 0);
    assert_memory_equal(a, again, 6);
    assert_memory_not_equal(a, b, 6);
    assert_memory_not_equal(a, c, 6);
    assert_int_equal(a[0] & 3, 2); /* local, not a group */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_transmit),
        cmocka_unit_test(test_receive),
        cmocka_unit_test(test_receive_waits),
        cmocka_unit_test(test_receive_unmerged),
        cmocka_unit_test(test_receive_tiny_buffers),
        cmocka_unit_test(test_backlog),
        cmocka_unit_test(test_answer_at_once),
        cmocka_unit_test(test_mac),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
