/* The balloon driver's statistics: what they say, and when they are asked for. */

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <pthread.h>

#include "virtio/balloon_driver.h"

struct entry {
    uint16_t tag;
    uint64_t value;
} __attribute__((packed));

static void begin(struct balloon_driver *balloon, unsigned mode)
{
    balloon_driver_create(balloon, 0);
    balloon_driver_start(balloon, driver_mode(mode), BALLOON_FEATURES);
}

/* Makes statistics available; the device keeps the buffer. */
static void offer(struct driver *driver, uint64_t gpa, const void *bytes, uint32_t length)
{
    const struct driver_buffer buffer = {gpa, length, false};

    driver_poke(driver, gpa, bytes, length);
    assert_int_not_equal(driver_add(driver, STATS, &buffer, 1), -1);
    driver_kick(driver, STATS);
}

static void offer_one(struct balloon_driver *balloon, uint64_t value)
{
    const struct entry entry = {BALLOON_STAT_FREE, value};

    offer(&balloon->driver, balloon->array_gpa, &entry, sizeof(entry));
}

/* The device wants news. */
static bool was_asked(struct balloon_driver *balloon)
{
    uint32_t written;
    int id;

    return driver_take(&balloon->driver, STATS, &id, &written);
}

static void test_values(void **state)
{
    struct balloon_driver balloon;
    struct entry entries[BALLOON_STATS + 2];

    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        begin(&balloon, mode);
        assert_int_equal(balloon_look(&balloon).stats_present, 0);
        for (unsigned i = 0; i < BALLOON_STATS; i++)
            entries[i + 1] = (struct entry){(uint16_t)(BALLOON_STATS - 1 - i), UINT64_MAX - i};
        entries[0] = (struct entry){BALLOON_STATS, 1}; /* tags that nobody knows */
        entries[BALLOON_STATS + 1] = (struct entry){UINT16_MAX, 1};
        offer(&balloon.driver, balloon.array_gpa, entries, sizeof(entries));
        struct balloon_info info = balloon_look(&balloon);
        assert_int_equal(info.stats_present, bit(BALLOON_STATS) - 1);
        for (unsigned i = 0; i < BALLOON_STATS; i++)
            assert_int_equal(info.stats[i], UINT64_MAX - (BALLOON_STATS - 1 - i));
        assert_int_equal(info.stats_age_ns, 0);
        fake_time_advance(&balloon.clock, 12345);
        assert_int_equal(balloon_look(&balloon).stats_age_ns, 12345);
        balloon_driver_destroy(&balloon);
    }
}

/* Our tags are virtio's; each has a name. */
static void test_tags(void **state)
{
    assert_int_equal(BALLOON_STAT_SWAP_IN, VIRTIO_BALLOON_S_SWAP_IN);
    assert_int_equal(BALLOON_STAT_SWAP_OUT, VIRTIO_BALLOON_S_SWAP_OUT);
    assert_int_equal(BALLOON_STAT_MAJOR_FAULTS, VIRTIO_BALLOON_S_MAJFLT);
    assert_int_equal(BALLOON_STAT_MINOR_FAULTS, VIRTIO_BALLOON_S_MINFLT);
    assert_int_equal(BALLOON_STAT_FREE, VIRTIO_BALLOON_S_MEMFREE);
    assert_int_equal(BALLOON_STAT_TOTAL, VIRTIO_BALLOON_S_MEMTOT);
    assert_int_equal(BALLOON_STAT_AVAILABLE, VIRTIO_BALLOON_S_AVAIL);
    assert_int_equal(BALLOON_STAT_CACHES, VIRTIO_BALLOON_S_CACHES);
    assert_int_equal(BALLOON_STAT_HUGETLB_ALLOCATIONS, VIRTIO_BALLOON_S_HTLB_PGALLOC);
    assert_int_equal(BALLOON_STAT_HUGETLB_FAILURES, VIRTIO_BALLOON_S_HTLB_PGFAIL);
    assert_int_equal(BALLOON_STATS, 16);
    for (unsigned i = 0; i < BALLOON_STATS; i++)
        assert_non_null(balloon_stat_name(i));
}

/* What the driver leaves out is not there, and what is no whole entry is nothing. */
static void test_short(void **state)
{
    struct balloon_driver balloon;
    const struct entry entries[] = {{BALLOON_STAT_TOTAL, 7}, {BALLOON_STAT_FREE, 8}};

    for (uint32_t length = 1; length <= sizeof(entries); length++) {
        begin(&balloon, length % DRIVER_MODES);
        offer(&balloon.driver, balloon.array_gpa, entries, length);
        struct balloon_info info = balloon_look(&balloon);
        assert_int_equal(info.stats_present, (length >= 10 ? bit(BALLOON_STAT_TOTAL) : 0) |
                                                 (length >= 20 ? bit(BALLOON_STAT_FREE) : 0));
        balloon_driver_destroy(&balloon);
    }
}

/* Nobody watches: the driver has its peace. Somebody does: once a period, and for a while. */
static void test_watch(void **state)
{
    struct balloon_driver balloon;
    uint64_t asked = 0;

    begin(&balloon, 3);
    offer_one(&balloon, 1);
    fake_time_advance(&balloon.clock, 5 * BALLOON_WATCH_NS);
    assert_false(was_asked(&balloon));
    assert_int_equal(fake_time_armed(&balloon.clock), 0);

    /* Old by now: asked for at once. */
    assert_false(balloon_watch(balloon.driver.device, 0));
    assert_true(was_asked(&balloon));
    offer_one(&balloon, 2);
    assert_int_equal(balloon_look(&balloon).stats[BALLOON_STAT_FREE], 2);
    assert_true(balloon_watch(balloon.driver.device, 0));
    assert_false(was_asked(&balloon));

    for (unsigned i = 0; i < 50; i++) {
        fake_time_advance(&balloon.clock, BALLOON_STATS_PERIOD_NS);
        if (was_asked(&balloon)) {
            asked++;
            assert_int_equal(balloon_look(&balloon).stats_age_ns, BALLOON_STATS_PERIOD_NS);
            offer_one(&balloon, 100 + i);
            assert_int_equal(balloon_look(&balloon).stats[BALLOON_STAT_FREE], 100 + i);
        }
    }
    assert_in_range(asked, BALLOON_WATCH_NS / BALLOON_STATS_PERIOD_NS - 1,
                    BALLOON_WATCH_NS / BALLOON_STATS_PERIOD_NS);
    assert_int_equal(fake_time_armed(&balloon.clock), 0);
    balloon_driver_destroy(&balloon);
}

/* A driver that does not answer is not asked again, and nobody waits for it for ever. */
static void test_silent_driver(void **state)
{
    struct balloon_driver balloon;

    begin(&balloon, 0);
    assert_false(balloon_watch(balloon.driver.device, 1));
    offer_one(&balloon, 1);
    fake_time_advance(&balloon.clock, BALLOON_STATS_PERIOD_NS);
    assert_true(was_asked(&balloon));
    fake_time_advance(&balloon.clock, 3 * BALLOON_STATS_PERIOD_NS);
    assert_false(was_asked(&balloon));
    assert_false(balloon_watch(balloon.driver.device, 1));
    /* A reset while it is asked, and a driver without statistics. */
    balloon_driver_start(&balloon, driver_mode(0), bit(VIRTIO_BALLOON_F_REPORTING));
    assert_int_equal(balloon_look(&balloon).stats_present, 0);
    assert_false(balloon_watch(balloon.driver.device, 1));
    fake_time_advance(&balloon.clock, 3 * BALLOON_STATS_PERIOD_NS);
    balloon_driver_destroy(&balloon);
}

/* More buffers than the one that it may give: the next is looked at when news is wanted. */
static void test_many_buffers(void **state)
{
    struct balloon_driver balloon;

    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        begin(&balloon, mode);
        for (unsigned i = 0; i < 100; i++) {
            const struct entry entry = {BALLOON_STAT_FREE, i};
            offer(&balloon.driver, balloon.array_gpa + 16 * i, &entry, sizeof(entry));
        }
        assert_int_equal(balloon_look(&balloon).stats[BALLOON_STAT_FREE], 0);
        for (unsigned i = 1; i < 5; i++) {
            balloon_watch(balloon.driver.device, 0);
            fake_time_advance(&balloon.clock, BALLOON_STATS_PERIOD_NS);
            assert_true(was_asked(&balloon));
            assert_false(was_asked(&balloon));
            assert_int_equal(balloon_look(&balloon).stats[BALLOON_STAT_FREE], i);
        }
        balloon_driver_destroy(&balloon);
    }
}

/* With a loop: somebody waits for news, and has them when the driver has answered. */
static void *answer(void *context)
{
    struct driver *driver = context;
    const struct entry entry = {BALLOON_STAT_FREE, 43};
    uint32_t written;
    int id;

    driver_take_wait(driver, STATS, &id, &written);
    offer(driver, driver_alloc(driver, sizeof(entry), 1), &entry, sizeof(entry));
    return NULL;
}

static void test_wait(void **state)
{
    const struct entry entry = {BALLOON_STAT_FREE, 42};
    struct virtio_device *device;
    struct balloon_info info;
    struct io_loop *loop;
    struct driver driver;
    struct fake_time clock; /* which does not move but by the test */
    pthread_t thread;

    driver_create(&driver);
    assert_int_equal(io_loop_create(&loop, "test", NULL), STATUS_OK);
    struct device_time time = fake_time_init(&clock);
    assert_int_equal(virtio_balloon_create(&device, driver.map, loop, &time, 0, NULL), STATUS_OK);
    driver_attach(&driver, device);
    driver_start(&driver, driver_mode(2), BALLOON_FEATURES, 16);
    offer(&driver, driver_alloc(&driver, sizeof(entry), 1), &entry, sizeof(entry));
    virtio_device_run(device);
    clock.now += 2 * BALLOON_STATS_PERIOD_NS;
    assert_int_equal(io_loop_start(loop, NULL), STATUS_OK);
    assert_int_equal(pthread_create(&thread, NULL, answer, &driver), 0);
    assert_true(balloon_watch(device, 60 * NS_PER_SECOND));
    pthread_join(thread, NULL);
    balloon_get(device, &info);
    assert_int_equal(info.stats[BALLOON_STAT_FREE], 43);
    driver_destroy(&driver);
    io_loop_destroy(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),        cmocka_unit_test(test_tags),
        cmocka_unit_test(test_short),         cmocka_unit_test(test_watch),
        cmocka_unit_test(test_silent_driver), cmocka_unit_test(test_many_buffers),
        cmocka_unit_test(test_wait),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
