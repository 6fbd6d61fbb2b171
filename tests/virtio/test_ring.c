/* The rings in every mode, driven by a well-behaved driver and by hostile ones. */

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "util/xorshift.h"
#include "virtio/driver.h"
#include "virtio/echo.h"

/* ---- well-behaved ---- */

struct request {
    uint64_t out_gpa, in_gpa;
    uint32_t out_length, in_length;
    bool active;
};

/* xorshift: the same requests in every run. */
static uint32_t next_random(uint64_t *state)
{
    return (uint32_t)(xorshift_next(state) >> 16);
}

/* Cuts [gpa, gpa + length) into up to `pieces` buffers. */
static unsigned cut(struct driver_buffer *buffers, uint64_t gpa, uint32_t length, bool write,
                    unsigned pieces, uint64_t *random)
{
    unsigned count = 0;

    while (length > 0) {
        uint32_t piece = count == pieces - 1 ? length : 1 + next_random(random) % length;
        buffers[count++] = (struct driver_buffer){.gpa = gpa, .length = piece, .write = write};
        gpa += piece;
        length -= piece;
    }
    return count;
}

static void fill(struct driver *driver, uint64_t gpa, uint32_t length, uint8_t seed)
{
    uint8_t bytes[8192];

    for (uint32_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(seed + i * 7);
    driver_poke(driver, gpa, bytes, length);
}

static void verify(struct driver *driver, const struct request *request, uint8_t seed,
                   uint32_t written)
{
    uint8_t bytes[8192];
    uint32_t expected =
        request->out_length < request->in_length ? request->out_length : request->in_length;

    assert_int_equal(written, expected);
    driver_peek(driver, request->in_gpa, bytes, expected);
    for (uint32_t i = 0; i < expected; i++)
        assert_int_equal(bytes[i], (uint8_t) ~(uint8_t)(seed + i * 7));
}

/* Some thousand random requests, several in flight, over many laps of the ring. */
static void exchange(struct driver_mode mode, uint16_t size, unsigned hold)
{
    struct driver driver;
    struct request requests[DRIVER_QUEUE_MAX] = {0};
    unsigned place_of[DRIVER_QUEUE_MAX]; /* of a chain's id: its index in requests */
    struct driver_buffer buffers[16];
    uint64_t random = 0x9e3779b97f4a7c15u + size;
    unsigned finished = 0, in_flight = 0;

    driver_create(&driver);
    struct echo_device *echo = echo_create(driver.map);
    echo->hold = hold;
    driver_attach(&driver, &echo->base);
    driver_start(&driver, mode, 0, size);
    assert_int_equal(echo->starts, 1);
    uint64_t area = driver_alloc(&driver, DRIVER_QUEUE_MAX * 16384ull, PAGE_SIZE);

    while (finished < 1500) {
        int id = 0;
        uint32_t written;
        unsigned burst = hold > 0 ? hold : 1 + next_random(&random) % 5;
        for (unsigned i = 0; i < burst; i++) {
            struct request request = {.active = true,
                                      .out_length = 1 + next_random(&random) % 6000,
                                      .in_length = 1 + next_random(&random) % 6000};
            unsigned pieces = size >= 32 ? 4 : 1;
            unsigned place = 0;
            while (requests[place].active)
                place++;
            request.out_gpa = area + place * 16384ull + 5;
            request.in_gpa = request.out_gpa + 8192;
            unsigned count =
                cut(buffers, request.out_gpa, request.out_length, false, pieces, &random);
            count += cut(buffers + count, request.in_gpa, request.in_length, true, pieces, &random);
            fill(&driver, request.out_gpa, request.out_length, (uint8_t)place);
            id = driver_add(&driver, 1, buffers, count);
            if (id < 0)
                break;
            requests[place] = request;
            place_of[id] = place;
            in_flight++;
        }
        driver_kick(&driver, 1);
        while (driver_take(&driver, 1, &id, &written)) {
            unsigned place = place_of[id];
            assert_true(requests[place].active);
            verify(&driver, &requests[place], (uint8_t)place, written);
            requests[place].active = false;
            finished++;
            in_flight--;
        }
        assert_in_range(in_flight, 0, hold > 0 ? hold - 1 : 0);
        driver_acknowledge(&driver);
    }
    struct virtio_stats stats;
    virtio_device_get_stats(&echo->base, &stats);
    assert_int_equal(stats.requests, finished);
    assert_int_equal(stats.notifications, driver.notifications);
    assert_int_equal(stats.errors, 0);
    driver_destroy(&driver);
}

static void test_exchange(void **state)
{
    for (unsigned i = 0; i < DRIVER_MODES; i++) {
        exchange(driver_mode(i), 64, 0);
        exchange(driver_mode(i), 256, 0);
        exchange(driver_mode(i), 2, 0);
        if (driver_mode(i).packed)
            exchange(driver_mode(i), 37, 0); /* need not be a power of two */
    }
}

static void test_out_of_order(void **state)
{
    for (unsigned i = 0; i < DRIVER_MODES; i++)
        exchange(driver_mode(i), 64, 5);
}

/* Adds one 8-byte request. */
static int add_small(struct driver *driver, uint64_t gpa)
{
    const struct driver_buffer buffers[] = {{gpa, 8, false}, {gpa + 8, 8, true}};

    return driver_add(driver, 0, buffers, 2);
}

static void take_all(struct driver *driver, unsigned expected)
{
    int id;
    uint32_t written;

    for (unsigned i = 0; i < expected; i++)
        assert_true(driver_take(driver, 0, &id, &written));
    assert_false(driver_take(driver, 0, &id, &written));
}

/* The device interrupts when the driver asked to, and not when it asked not to. */
static void interrupts(struct driver_mode mode)
{
    struct driver driver;

    driver_create(&driver);
    driver_attach(&driver, &echo_create(driver.map)->base);
    driver_start(&driver, mode, 0, 32);
    uint64_t gpa = driver_alloc(&driver, 16, 16);
    struct driver_queue *queue = &driver.queues[0];

    add_small(&driver, gpa);
    driver_kick(&driver, 0);
    assert_true(driver.irq);
    assert_int_equal(driver_acknowledge(&driver), VIRTIO_MMIO_INT_VRING);
    assert_false(driver.irq);
    take_all(&driver, 1);

    /* No interrupts at all. */
    if (mode.packed) {
        uint16_t *event = driver_pointer(&driver, queue->driver_gpa);
        event[1] = VRING_PACKED_EVENT_FLAG_DISABLE;
    } else if (mode.event_idx) {
        uint16_t *used_event = driver_pointer(&driver, queue->driver_gpa + 4 + 2 * 32);
        *used_event = (uint16_t)(queue->used - 1);
    } else {
        uint16_t *flags = driver_pointer(&driver, queue->driver_gpa);
        *flags = VRING_AVAIL_F_NO_INTERRUPT;
    }
    for (unsigned i = 0; i < 5; i++) {
        add_small(&driver, gpa);
        driver_kick(&driver, 0);
    }
    assert_false(driver.irq);
    take_all(&driver, 5);

    if (mode.event_idx) {
        /* At the third from now on, not before. */
        unsigned slots = mode.indirect || !mode.packed ? 1 : 2;
        uint16_t at = (uint16_t)(queue->used + 2 * slots);
        if (mode.packed) {
            uint16_t *event = driver_pointer(&driver, queue->driver_gpa);
            event[0] = at | 0x8000;
            event[1] = VRING_PACKED_EVENT_FLAG_DESC;
        } else {
            uint16_t *used_event = driver_pointer(&driver, queue->driver_gpa + 4 + 2 * 32);
            *used_event = at;
        }
        for (unsigned i = 0; i < 4; i++) {
            add_small(&driver, gpa);
            driver_kick(&driver, 0);
            assert_int_equal(driver.irq, i >= 2);
        }
    }
    driver_destroy(&driver);
}

static void test_interrupts(void **state)
{
    for (unsigned i = 0; i < DRIVER_MODES; i++)
        interrupts(driver_mode(i));
}

/* A reset with chains in flight lets go of them; the device works again afterwards. */
static void test_reset_in_flight(void **state)
{
    for (unsigned i = 0; i < DRIVER_MODES; i++) {
        struct driver driver;
        struct pmap_stats stats;

        driver_create(&driver);
        struct echo_device *echo = echo_create(driver.map);
        echo->hold = 4;
        driver_attach(&driver, &echo->base);
        driver_start(&driver, driver_mode(i), 0, 16);
        uint64_t gpa = driver_alloc(&driver, 16, 16);
        for (unsigned k = 0; k < 3; k++)
            add_small(&driver, gpa);
        driver_kick(&driver, 0);
        assert_int_equal(echo->held, 3);
        driver_write(&driver, VIRTIO_MMIO_STATUS, 0);
        assert_int_equal(echo->held, 0);
        pmap_get_stats(driver.map, &stats);
        assert_int_equal(stats.pinned_pages, 0);

        echo->hold = 0;
        driver_start(&driver, driver_mode(i), 0, 16);
        add_small(&driver, gpa);
        driver_kick(&driver, 0);
        take_all(&driver, 1);
        driver_destroy(&driver);
    }
}

/* ---- hostile ---- */

/* What a hostile driver does with the ring it has set up; chain 0 at the start of the ring has two
 * good buffers before. */
typedef void attack_fn(struct driver *driver, struct driver_queue *queue);

struct attack {
    const char *name;
    struct driver_mode mode;
    attack_fn *attack;
};

static void put_desc(struct driver *driver, uint64_t table, unsigned index, uint64_t addr,
                     uint32_t len, uint16_t flags, uint16_t next)
{
    struct vring_desc desc = {.addr = addr, .len = len, .flags = flags, .next = next};

    driver_poke(driver, table + index * 16ull, &desc, sizeof(desc));
}

/* Makes descriptor 0 of a split ring available `count` times. */
static void offer_split(struct driver *driver, struct driver_queue *queue, uint16_t head,
                        uint16_t count)
{
    driver_poke(driver, queue->driver_gpa + 4, &head, 2);
    driver_poke(driver, queue->driver_gpa + 2, &count, 2);
}

static void attack_loop(struct driver *driver, struct driver_queue *queue)
{
    put_desc(driver, queue->desc_gpa, 0, 0x1000, 16, VRING_DESC_F_NEXT, 1);
    put_desc(driver, queue->desc_gpa, 1, 0x1000, 16, VRING_DESC_F_NEXT, 0);
    offer_split(driver, queue, 0, 1);
}

static void attack_next_beyond(struct driver *driver, struct driver_queue *queue)
{
    put_desc(driver, queue->desc_gpa, 0, 0x1000, 16, VRING_DESC_F_NEXT, queue->size);
    offer_split(driver, queue, 0, 1);
}

static void attack_head_beyond(struct driver *driver, struct driver_queue *queue)
{
    offer_split(driver, queue, 0xffff, 1);
}

static void attack_index_jump(struct driver *driver, struct driver_queue *queue)
{
    put_desc(driver, queue->desc_gpa, 0, 0x1000, 16, 0, 0);
    offer_split(driver, queue, 0, (uint16_t)(queue->size + 1));
}

static void attack_order(struct driver *driver, struct driver_queue *queue)
{
    put_desc(driver, queue->desc_gpa, 0, 0x1000, 16, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
    put_desc(driver, queue->desc_gpa, 1, 0x1000, 16, 0, 0);
    offer_split(driver, queue, 0, 1);
}

static void attack_outside(struct driver *driver, struct driver_queue *queue)
{
    put_desc(driver, queue->desc_gpa, 0, DRIVER_RAM_SIZE - 8, 16, VRING_DESC_F_WRITE, 0);
    offer_split(driver, queue, 0, 1);
}

static void attack_wrap(struct driver *driver, struct driver_queue *queue)
{
    put_desc(driver, queue->desc_gpa, 0, UINT64_MAX - 7, 16, 0, 0);
    offer_split(driver, queue, 0, 1);
}

static void attack_length(struct driver *driver, struct driver_queue *queue)
{
    put_desc(driver, queue->desc_gpa, 0, 0, 0xffffffff, 0, 0);
    offer_split(driver, queue, 0, 1);
}

/* Each buffer is fine, together they are more than a chain may have. */
static void attack_total(struct driver *driver, struct driver_queue *queue)
{
    for (uint16_t i = 0; i < queue->size; i++)
        put_desc(driver, queue->desc_gpa, i, 0, 8 * MIB, VRING_DESC_F_NEXT, (uint16_t)(i + 1));
    put_desc(driver, queue->desc_gpa, queue->size - 1u, 0, 8 * MIB, 0, 0);
    offer_split(driver, queue, 0, 1);
}

static void attack_indirect(struct driver *driver, struct driver_queue *queue)
{
    put_desc(driver, queue->desc_gpa, 0, queue->table_gpa, 16, VRING_DESC_F_INDIRECT, 0);
    put_desc(driver, queue->table_gpa, 0, 0x1000, 16, 0, 0);
    offer_split(driver, queue, 0, 1);
}

static void attack_nested(struct driver *driver, struct driver_queue *queue)
{
    attack_indirect(driver, queue);
    put_desc(driver, queue->table_gpa, 0, queue->table_gpa, 16, VRING_DESC_F_INDIRECT, 0);
}

static void attack_table_loop(struct driver *driver, struct driver_queue *queue)
{
    attack_indirect(driver, queue);
    put_desc(driver, queue->table_gpa, 0, 0x1000, 16, VRING_DESC_F_NEXT, 0);
}

static void attack_table_next(struct driver *driver, struct driver_queue *queue)
{
    attack_indirect(driver, queue);
    put_desc(driver, queue->table_gpa, 0, 0x1000, 16, VRING_DESC_F_NEXT, 1);
}

static void attack_table_odd(struct driver *driver, struct driver_queue *queue)
{
    attack_indirect(driver, queue);
    put_desc(driver, queue->desc_gpa, 0, queue->table_gpa, 17, VRING_DESC_F_INDIRECT, 0);
}

static void attack_table_empty(struct driver *driver, struct driver_queue *queue)
{
    attack_indirect(driver, queue);
    put_desc(driver, queue->desc_gpa, 0, queue->table_gpa, 0, VRING_DESC_F_INDIRECT, 0);
}

static void attack_table_huge(struct driver *driver, struct driver_queue *queue)
{
    attack_indirect(driver, queue);
    put_desc(driver, queue->desc_gpa, 0, queue->table_gpa, 0xfffffff0, VRING_DESC_F_INDIRECT, 0);
}

static void attack_table_outside(struct driver *driver, struct driver_queue *queue)
{
    attack_indirect(driver, queue);
    put_desc(driver, queue->desc_gpa, 0, DRIVER_RAM_SIZE, 16, VRING_DESC_F_INDIRECT, 0);
}

static void attack_table_and_next(struct driver *driver, struct driver_queue *queue)
{
    attack_indirect(driver, queue);
    put_desc(driver, queue->desc_gpa, 0, queue->table_gpa, 16,
             VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1);
}

static void put_packed(struct driver *driver, uint64_t table, unsigned index, uint64_t addr,
                       uint32_t len, uint16_t flags)
{
    struct vring_packed_desc desc = {
        .addr = addr, .len = len, .id = (uint16_t)index, .flags = flags};

    driver_poke(driver, table + index * 16ull, &desc, sizeof(desc));
}

#define AVAILABLE ((uint16_t)(1u << VRING_PACKED_DESC_F_AVAIL))

static void attack_packed_endless(struct driver *driver, struct driver_queue *queue)
{
    for (unsigned i = 0; i < queue->size; i++)
        put_packed(driver, queue->desc_gpa, i, 0x1000, 16, AVAILABLE | VRING_DESC_F_NEXT);
}

static void attack_packed_outside(struct driver *driver, struct driver_queue *queue)
{
    put_packed(driver, queue->desc_gpa, 0, DRIVER_RAM_SIZE - 1, 2, AVAILABLE);
}

static void attack_packed_order(struct driver *driver, struct driver_queue *queue)
{
    put_packed(driver, queue->desc_gpa, 0, 0x1000, 2,
               AVAILABLE | VRING_DESC_F_NEXT | VRING_DESC_F_WRITE);
    put_packed(driver, queue->desc_gpa, 1, 0x1000, 2, AVAILABLE);
}

static void attack_packed_indirect(struct driver *driver, struct driver_queue *queue)
{
    put_packed(driver, queue->table_gpa, 0, 0x1000, 16, 0);
    put_packed(driver, queue->desc_gpa, 0, queue->table_gpa, 16, AVAILABLE | VRING_DESC_F_INDIRECT);
}

static void attack_packed_nested(struct driver *driver, struct driver_queue *queue)
{
    attack_packed_indirect(driver, queue);
    put_packed(driver, queue->table_gpa, 0, queue->table_gpa, 16, VRING_DESC_F_INDIRECT);
}

static void attack_packed_table_in_chain(struct driver *driver, struct driver_queue *queue)
{
    put_packed(driver, queue->table_gpa, 0, 0x1000, 16, 0);
    put_packed(driver, queue->desc_gpa, 0, 0x1000, 16, AVAILABLE | VRING_DESC_F_NEXT);
    put_packed(driver, queue->desc_gpa, 1, queue->table_gpa, 16, AVAILABLE | VRING_DESC_F_INDIRECT);
}

static void attack_packed_total(struct driver *driver, struct driver_queue *queue)
{
    for (unsigned i = 0; i < 5; i++)
        put_packed(driver, queue->desc_gpa, i, 0, 8 * MIB,
                   i == 4 ? AVAILABLE : AVAILABLE | VRING_DESC_F_NEXT);
}

static const struct attack attacks[] = {
    {"loop", {0}, attack_loop},
    {"next beyond", {0}, attack_next_beyond},
    {"head beyond", {0}, attack_head_beyond},
    {"index jump", {0}, attack_index_jump},
    {"order", {0}, attack_order},
    {"outside", {0}, attack_outside},
    {"wrap", {0}, attack_wrap},
    {"length", {0}, attack_length},
    {"total", {0}, attack_total},
    {"indirect without feature", {0}, attack_indirect},
    {"nested", {.indirect = true}, attack_nested},
    {"table loop", {.indirect = true}, attack_table_loop},
    {"table next", {.indirect = true}, attack_table_next},
    {"table odd", {.indirect = true}, attack_table_odd},
    {"table empty", {.indirect = true}, attack_table_empty},
    {"table huge", {.indirect = true}, attack_table_huge},
    {"table outside", {.indirect = true}, attack_table_outside},
    {"table and next", {.indirect = true}, attack_table_and_next},
    {"packed endless", {.packed = true}, attack_packed_endless},
    {"packed outside", {.packed = true}, attack_packed_outside},
    {"packed order", {.packed = true}, attack_packed_order},
    {"packed indirect without feature", {.packed = true}, attack_packed_indirect},
    {"packed nested", {.packed = true, .indirect = true}, attack_packed_nested},
    {"packed table in chain", {.packed = true, .indirect = true}, attack_packed_table_in_chain},
    {"packed total", {.packed = true}, attack_packed_total},
};

static void test_attacks(void **state)
{
    for (size_t i = 0; i < ARRAY_LENGTH(attacks); i++) {
        const struct attack *attack = &attacks[i];
        struct driver driver;

        driver_create(&driver);
        struct echo_device *echo = echo_create(driver.map);
        driver_attach(&driver, &echo->base);
        driver_start(&driver, attack->mode, 0, 16);
        uint64_t gpa = driver_alloc(&driver, 16, 16);
        attack->attack(&driver, &driver.queues[0]);
        driver_write(&driver, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        virtio_device_run(&echo->base);

        uint32_t status = driver_read(&driver, VIRTIO_MMIO_STATUS);
        if (!(status & VIRTIO_CONFIG_S_NEEDS_RESET))
            fail_msg("attack '%s' went unnoticed", attack->name);
        assert_true(driver_acknowledge(&driver) & VIRTIO_MMIO_INT_CONFIG);
        assert_int_equal(echo->base.stats.requests, 0);

        /* Nothing works any more, */
        driver_write(&driver, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        virtio_device_run(&echo->base);
        assert_int_equal(echo->base.stats.requests, 0);
        /* until the reset that it asks for. */
        driver_start(&driver, attack->mode, 0, 16);
        add_small(&driver, gpa);
        driver_kick(&driver, 0);
        take_all(&driver, 1);
        driver_destroy(&driver);
    }
}

/* Ring setups that are no rings. Values of -1 keep the good one. */
static void test_bad_setup(void **state)
{
    static const struct {
        bool packed;
        int64_t size, desc, avail, used;
    } setups[] = {
        {false, 0, -1, -1, -1},
        {false, 3, -1, -1, -1},
        {false, 512, -1, -1, -1},
        {false, 0x10004, -1, -1, -1},
        {true, 0, -1, -1, -1},
        {true, 257, -1, -1, -1},
        {true, 0xffffffff, -1, -1, -1},
        {false, -1, 0x1008, -1, -1},
        {false, -1, -1, 0x2001, -1},
        {false, -1, -1, -1, 0x3002},
        {true, -1, -1, 0x2002, -1},
        {false, -1, DRIVER_RAM_SIZE - 16, -1, -1},
        {false, -1, -1, DRIVER_RAM_SIZE, -1},
        {false, -1, -1, -1, INT64_MAX - 3},
        {true, -1, 0x7ffffffffffffff0, -1, -1},
    };

    for (size_t i = 0; i < ARRAY_LENGTH(setups); i++) {
        struct driver driver;
        struct driver_mode mode = {.packed = setups[i].packed};
        uint64_t desc = setups[i].desc < 0 ? 0x1000 : (uint64_t)setups[i].desc;
        uint64_t avail = setups[i].avail < 0 ? 0x2000 : (uint64_t)setups[i].avail;
        uint64_t used = setups[i].used < 0 ? 0x3000 : (uint64_t)setups[i].used;

        driver_create(&driver);
        driver_attach(&driver, &echo_create(driver.map)->base);
        driver_negotiate(&driver, mode, 0);
        driver_write(&driver, VIRTIO_MMIO_QUEUE_SEL, 0);
        driver_write(&driver, VIRTIO_MMIO_QUEUE_NUM,
                     setups[i].size < 0 ? 16 : (uint32_t)setups[i].size);
        driver_write(&driver, VIRTIO_MMIO_QUEUE_DESC_LOW, (uint32_t)desc);
        driver_write(&driver, VIRTIO_MMIO_QUEUE_DESC_HIGH, (uint32_t)(desc >> 32));
        driver_write(&driver, VIRTIO_MMIO_QUEUE_AVAIL_LOW, (uint32_t)avail);
        driver_write(&driver, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, (uint32_t)(avail >> 32));
        driver_write(&driver, VIRTIO_MMIO_QUEUE_USED_LOW, (uint32_t)used);
        driver_write(&driver, VIRTIO_MMIO_QUEUE_USED_HIGH, (uint32_t)(used >> 32));
        driver_write(&driver, VIRTIO_MMIO_QUEUE_READY, 1);
        if (driver_read(&driver, VIRTIO_MMIO_QUEUE_READY) != 0)
            fail_msg("setup %zu was taken", i);
        assert_true(driver_read(&driver, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
        driver_destroy(&driver);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exchange),   cmocka_unit_test(test_out_of_order),
        cmocka_unit_test(test_interrupts), cmocka_unit_test(test_reset_in_flight),
        cmocka_unit_test(test_attacks),    cmocka_unit_test(test_bad_setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
