/* The balloon: pages in and out, its target, hostile drivers, free page reports. */

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/balloon_driver.h"

#define CONFIG_ACTUAL (VIRTIO_MMIO_CONFIG + offsetof(struct virtio_balloon_config, actual))
#define CONFIG_POISON (VIRTIO_MMIO_CONFIG + offsetof(struct virtio_balloon_config, poison_val))

static void begin(struct balloon_driver *balloon)
{
    balloon_driver_create(balloon, 0);
    balloon_driver_start(balloon, driver_mode(0), BALLOON_FEATURES);
}

static enum page_state state_of(struct balloon_driver *balloon, uint64_t ppn)
{
    return pmap_state(balloon->driver.map, ppn);
}

static uint64_t errors_of(struct balloon_driver *balloon)
{
    struct virtio_stats stats;

    virtio_device_get_stats(balloon->driver.device, &stats);
    return stats.errors;
}

/* ---- pages ---- */

/* Page numbers in any order, in every kind of ring. Neighbours keep what they have. */
static void test_inflate_and_deflate(void **state)
{
    static const uint8_t offsets[] = {9, 3, 4, 5, 20, 6, 1, 21, 19};

    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        struct balloon_driver balloon;
        uint32_t pfns[ARRAY_LENGTH(offsets)];
        balloon_driver_create(&balloon, 0);
        balloon_driver_start(&balloon, driver_mode(mode), BALLOON_FEATURES);
        uint64_t first = balloon.first_ppn;
        for (unsigned i = 0; i < 24; i++)
            balloon_fill(&balloon, first + i, 1 + i);
        for (unsigned i = 0; i < ARRAY_LENGTH(offsets); i++)
            pfns[i] = (uint32_t)first + offsets[i];
        balloon_request(&balloon, INFLATE, pfns, ARRAY_LENGTH(pfns));

        struct balloon_info info = balloon_look(&balloon);
        assert_int_equal(info.actual_pages, ARRAY_LENGTH(pfns));
        assert_int_equal(info.taken_pages, ARRAY_LENGTH(pfns));
        assert_int_equal(info.ignored_pages, 0);
        for (unsigned i = 0; i < 24; i++) {
            bool in = memchr(offsets, (int)i, sizeof(offsets)) != NULL;
            assert_int_equal(state_of(&balloon, first + i) == PAGE_BALLOONED, in);
            if (!in)
                balloon_check(&balloon, first + i, 1 + i);
        }

        balloon_request(&balloon, DEFLATE, pfns, 4);
        info = balloon_look(&balloon);
        assert_int_equal(info.actual_pages, ARRAY_LENGTH(pfns) - 4);
        assert_int_equal(info.given_pages, 4);
        for (unsigned i = 0; i < 4; i++) {
            assert_int_equal(state_of(&balloon, pfns[i]), PAGE_ZERO);
            balloon_check(&balloon, pfns[i], 0);
        }
        assert_int_equal(errors_of(&balloon), 0);
        balloon_driver_destroy(&balloon);
    }
}

/* As many as one request may have: more than are sorted at once. */
static void test_long_request(void **state)
{
    struct balloon_driver balloon;

    begin(&balloon);
    balloon_request_run(&balloon, INFLATE, balloon.first_ppn, 5000);
    assert_int_equal(balloon_look(&balloon).actual_pages, 5000);
    balloon_request_run(&balloon, DEFLATE, balloon.first_ppn, 5000);
    assert_int_equal(balloon_look(&balloon).actual_pages, 0);
    assert_int_equal(balloon_look(&balloon).given_pages, 5000);
    balloon_driver_destroy(&balloon);
}

/* A page that is touched has left the balloon, and comes back as zeros. */
static void test_touch(void **state)
{
    struct balloon_driver balloon;
    struct pmap_stats stats;

    begin(&balloon);
    uint64_t first = balloon.first_ppn;
    balloon_fill(&balloon, first, 7);
    balloon_request_run(&balloon, INFLATE, first, 3);
    balloon_set_target(balloon.driver.device, 3);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_STEADY);
    bool writable;
    const uint8_t *page = pmap_page_read(balloon.driver.map, first, &writable);
    assert_int_equal(page[0] | page[PAGE_SIZE - 1], 0);
    balloon_fill(&balloon, first + 1, 9);
    balloon_check(&balloon, first + 1, 9);
    assert_int_equal(balloon_look(&balloon).actual_pages, 1);
    pmap_get_stats(balloon.driver.map, &stats);
    assert_int_equal(stats.balloon_popped, 2);

    /* The driver, which knows nothing of it, takes all three out: nothing changes for two. */
    balloon_request_run(&balloon, DEFLATE, first, 3);
    balloon_check(&balloon, first + 1, 9);
    struct balloon_info info = balloon_look(&balloon);
    assert_int_equal(info.actual_pages, 0);
    assert_int_equal(info.given_pages, 1);
    assert_int_equal(info.ignored_pages, 2);
    balloon_driver_destroy(&balloon);
}

/* A new driver finds an empty balloon, all memory usable, and the target that was set. */
static void test_reset(void **state)
{
    struct balloon_driver balloon;

    begin(&balloon);
    balloon_set_target(balloon.driver.device, 40);
    balloon_request_run(&balloon, INFLATE, balloon.first_ppn, 40);
    driver_write(&balloon.driver, CONFIG_ACTUAL, 40);
    assert_int_equal(balloon_look(&balloon).claimed_pages, 40);
    driver_write(&balloon.driver, VIRTIO_MMIO_STATUS, 0);
    struct balloon_info info = balloon_look(&balloon);
    assert_int_equal(info.actual_pages, 0);
    assert_int_equal(info.claimed_pages, 0);
    assert_int_equal(info.target_pages, 40);
    assert_int_equal(info.state, BALLOON_ABSENT);
    assert_int_equal(state_of(&balloon, balloon.first_ppn), PAGE_ZERO);

    balloon_driver_start(&balloon, driver_mode(1), BALLOON_FEATURES);
    assert_int_equal(driver_read(&balloon.driver, VIRTIO_MMIO_CONFIG), 40);
    assert_int_equal(driver_read(&balloon.driver, CONFIG_ACTUAL), 0);
    balloon_request_run(&balloon, INFLATE, balloon.first_ppn + 10, 40);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_STEADY);
    balloon_driver_destroy(&balloon);
}

/* Pages go in and out, are written, and the driver goes and comes, at random: a page has what was
 * written last, or zeros if it was in the balloon since. */
static void test_random(void **state)
{
    enum { PAGES = 64, STEPS = 20000 };
    struct balloon_driver balloon;
    uint64_t contents[PAGES] = {0};
    bool in[PAGES] = {0};

    begin(&balloon);
    srand(1);
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned page = (unsigned)rand() % PAGES, count = 1 + (unsigned)rand() % 12;
        uint32_t pfns[12];
        switch (rand() % 16) {
        case 0:
            driver_write(&balloon.driver, VIRTIO_MMIO_STATUS, 0);
            balloon_driver_start(&balloon, driver_mode((unsigned)rand() % DRIVER_MODES),
                                 BALLOON_FEATURES);
            memset(in, 0, sizeof(in));
            break;
        case 1 ... 6:
            balloon_fill(&balloon, balloon.first_ppn + page, contents[page] = 1 + step);
            in[page] = false;
            break;
        case 7 ... 8:
            balloon_check(&balloon, balloon.first_ppn + page, contents[page]);
            in[page] = false; /* if it was in, it popped */
            break;
        default: {
            bool inflate = rand() % 2;
            for (unsigned i = 0; i < count; i++) {
                unsigned which = rand() % 2 ? (page + i) % PAGES : (unsigned)rand() % PAGES;
                pfns[i] = (uint32_t)(balloon.first_ppn + which);
                in[which] = inflate;
                if (inflate)
                    contents[which] = 0;
            }
            balloon_request(&balloon, inflate ? INFLATE : DEFLATE, pfns, count);
        }
        }
        uint64_t expected = 0;
        for (unsigned i = 0; i < PAGES; i++) {
            expected += in[i];
            assert_int_equal(state_of(&balloon, balloon.first_ppn + i) == PAGE_BALLOONED, in[i]);
        }
        assert_int_equal(balloon_look(&balloon).actual_pages, expected);
    }
    for (unsigned i = 0; i < PAGES; i++)
        balloon_check(&balloon, balloon.first_ppn + i, contents[i]);
    balloon_driver_destroy(&balloon);
}

/* ---- target and progress ---- */

static void test_target(void **state)
{
    struct balloon_driver balloon;

    balloon_driver_create(&balloon, 77);
    assert_int_equal(balloon_look(&balloon).target_pages, 77);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_ABSENT);
    balloon_driver_start(&balloon, driver_mode(0), BALLOON_FEATURES);
    assert_int_equal(driver_read(&balloon.driver, VIRTIO_MMIO_CONFIG), 77);
    assert_int_equal(driver_acknowledge(&balloon.driver), 0);

    uint32_t generation = driver_read(&balloon.driver, VIRTIO_MMIO_CONFIG_GENERATION);
    balloon_set_target(balloon.driver.device, 1000);
    assert_int_equal(driver_read(&balloon.driver, VIRTIO_MMIO_CONFIG), 1000);
    assert_int_not_equal(driver_read(&balloon.driver, VIRTIO_MMIO_CONFIG_GENERATION), generation);
    assert_int_equal(driver_acknowledge(&balloon.driver), VIRTIO_MMIO_INT_CONFIG);
    /* The same again: a driver that had given up is to try again. */
    balloon_set_target(balloon.driver.device, 1000);
    assert_int_equal(driver_acknowledge(&balloon.driver), VIRTIO_MMIO_INT_CONFIG);
    /* More than there is. */
    balloon_set_target(balloon.driver.device, UINT64_MAX);
    assert_int_equal(balloon_look(&balloon).target_pages, DRIVER_PAGES);
    balloon_driver_destroy(&balloon);
}

/* What moves is moving; what does not, is stalled, in both directions, whatever the driver says. */
static void test_progress(void **state)
{
    struct balloon_driver balloon;

    begin(&balloon);
    fake_time_advance(&balloon.clock, 100 * BALLOON_PATIENCE_NS);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_STEADY);
    assert_int_equal(balloon_look(&balloon).still_ns, 0);
    balloon_set_target(balloon.driver.device, 100);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_MOVING);
    fake_time_advance(&balloon.clock, BALLOON_PATIENCE_NS - 1);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_MOVING);
    balloon_request_run(&balloon, INFLATE, balloon.first_ppn, 60);
    fake_time_advance(&balloon.clock, BALLOON_PATIENCE_NS - 1);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_MOVING);
    assert_int_equal(balloon_look(&balloon).still_ns, BALLOON_PATIENCE_NS - 1);
    /* A request that moves nothing is no progress. */
    balloon_request_run(&balloon, INFLATE, balloon.first_ppn, 60);
    driver_write(&balloon.driver, CONFIG_ACTUAL, 100);
    fake_time_advance(&balloon.clock, 1);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_STALLED);
    assert_int_equal(balloon_look(&balloon).claimed_pages, 100);
    assert_int_equal(balloon_look(&balloon).actual_pages, 60);
    balloon_request_run(&balloon, INFLATE, balloon.first_ppn + 60, 40);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_STEADY);

    /* Deflate on OOM: the guest takes some back, and leaves it at that. */
    balloon_request_run(&balloon, DEFLATE, balloon.first_ppn, 30);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_MOVING);
    fake_time_advance(&balloon.clock, BALLOON_PATIENCE_NS);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_STALLED);
    balloon_set_target(balloon.driver.device, 70);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_STEADY);
    balloon_driver_destroy(&balloon);
}

/* A driver that stands still short of its target is asked again, less and less often. */
static void test_retry(void **state)
{
    struct balloon_driver balloon;

    begin(&balloon);
    balloon_set_target(balloon.driver.device, 100);
    balloon_request_run(&balloon, INFLATE, balloon.first_ppn, 60);
    driver_acknowledge(&balloon.driver);
    fake_time_advance(&balloon.clock, BALLOON_PATIENCE_NS);
    for (uint64_t wait = BALLOON_RETRY_FIRST_NS; wait <= BALLOON_RETRY_MOST_NS; wait *= 2) {
        uint64_t rest = wait == BALLOON_RETRY_FIRST_NS ? wait - BALLOON_PATIENCE_NS : wait;
        fake_time_advance(&balloon.clock, rest - 1);
        assert_int_equal(driver_acknowledge(&balloon.driver), 0);
        fake_time_advance(&balloon.clock, 1);
        assert_int_equal(driver_acknowledge(&balloon.driver), VIRTIO_MMIO_INT_CONFIG);
        assert_int_equal(balloon_look(&balloon).state, BALLOON_STALLED);
    }
    fake_time_advance(&balloon.clock, BALLOON_RETRY_MOST_NS);
    assert_int_equal(driver_acknowledge(&balloon.driver), VIRTIO_MMIO_INT_CONFIG);

    /* At its target it is left alone, until the guest takes pages back. */
    balloon_request_run(&balloon, INFLATE, balloon.first_ppn + 60, 40);
    driver_acknowledge(&balloon.driver);
    fake_time_advance(&balloon.clock, 10 * BALLOON_RETRY_MOST_NS);
    assert_int_equal(driver_acknowledge(&balloon.driver), 0);
    balloon_request_run(&balloon, DEFLATE, balloon.first_ppn, 30);
    driver_acknowledge(&balloon.driver);
    fake_time_advance(&balloon.clock, BALLOON_RETRY_MOST_NS);
    assert_int_equal(driver_acknowledge(&balloon.driver), VIRTIO_MMIO_INT_CONFIG);

    /* A driver that is gone is not asked. The next one is, as often as the first. */
    driver_write(&balloon.driver, VIRTIO_MMIO_STATUS, 0);
    fake_time_advance(&balloon.clock, 10 * BALLOON_RETRY_MOST_NS);
    balloon_driver_start(&balloon, driver_mode(0), BALLOON_FEATURES);
    assert_int_equal(driver_acknowledge(&balloon.driver), 0);
    fake_time_advance(&balloon.clock, BALLOON_RETRY_FIRST_NS);
    assert_int_equal(driver_acknowledge(&balloon.driver), VIRTIO_MMIO_INT_CONFIG);
    balloon_driver_destroy(&balloon);
}

/* Several threads look and order while the driver reads registers: nobody waits for ever. */
#define LOOKS 3000u

static void *look_often(void *context)
{
    struct balloon_info info;

    for (unsigned i = 0; i < LOOKS; i++) {
        balloon_get(context, &info);
        balloon_set_target(context, i);
    }
    return NULL;
}

static void *read_often(void *context)
{
    for (unsigned i = 0; i < LOOKS; i++)
        virtio_mmio_read(context, VIRTIO_MMIO_CONFIG, 4);
    return NULL;
}

static void test_threads(void **state)
{
    struct balloon_driver balloon;
    pthread_t lookers[3], readers[2];

    begin(&balloon);
    for (unsigned i = 0; i < ARRAY_LENGTH(lookers); i++)
        pthread_create(&lookers[i], NULL, look_often, balloon.driver.device);
    for (unsigned i = 0; i < ARRAY_LENGTH(readers); i++)
        pthread_create(&readers[i], NULL, read_often, balloon.driver.mmio);
    for (unsigned i = 0; i < 100; i++) {
        balloon_request_run(&balloon, INFLATE, balloon.first_ppn, 50);
        balloon_request_run(&balloon, DEFLATE, balloon.first_ppn, 50);
    }
    for (unsigned i = 0; i < ARRAY_LENGTH(readers); i++)
        pthread_join(readers[i], NULL);
    for (unsigned i = 0; i < ARRAY_LENGTH(lookers); i++)
        pthread_join(lookers[i], NULL);
    assert_int_equal(balloon_look(&balloon).target_pages, LOOKS - 1);
    assert_int_equal(balloon_look(&balloon).taken_pages, 5000);
    balloon_driver_destroy(&balloon);
}

struct looker {
    struct virtio_device *device;
    _Atomic unsigned started;
};

static void *look_once(void *context)
{
    struct looker *looker = context;
    struct balloon_info info;

    looker->started++;
    balloon_get(looker->device, &info);
    return NULL;
}

/* Several threads give way to the same register access: all go on after it. */
static void test_waiters(void **state)
{
    struct balloon_driver balloon;
    pthread_t threads[4];

    begin(&balloon);
    for (unsigned round = 0; round < 20; round++) {
        struct looker looker = {.device = balloon.driver.device};
        looker.device->accesses++; /* a vCPU is about to take the lock */
        for (unsigned i = 0; i < ARRAY_LENGTH(threads); i++)
            pthread_create(&threads[i], NULL, look_once, &looker);
        while (looker.started < ARRAY_LENGTH(threads))
            sched_yield();
        for (unsigned i = 0; i < 100; i++) /* most of them wait by then, in most rounds */
            sched_yield();
        pthread_mutex_lock(&looker.device->lock);
        virtio_device_access_end(looker.device);
        for (unsigned i = 0; i < ARRAY_LENGTH(threads); i++)
            pthread_join(threads[i], NULL);
    }
    balloon_driver_destroy(&balloon);
}

/* ---- hostile drivers ---- */

static void test_bad_page_numbers(void **state)
{
    struct balloon_driver balloon;

    begin(&balloon);
    uint32_t first = (uint32_t)balloon.first_ppn;
    uint32_t ring = (uint32_t)(balloon.driver.queues[INFLATE].desc_gpa >> PAGE_SHIFT);
    uint32_t array = (uint32_t)(balloon.array_gpa >> PAGE_SHIFT);
    const uint32_t bad[] = {
        first, first + 1,    first,           DRIVER_PAGES, UINT32_MAX, UINT32_MAX - 1,
        ring,  first + 1,    array,           first,        0x80000000, DRIVER_PAGES - 1,
        ring,  DRIVER_PAGES, DRIVER_PAGES + 1};

    balloon_fill(&balloon, first + 2, 5);
    balloon_request(&balloon, INFLATE, bad, ARRAY_LENGTH(bad));
    struct balloon_info info = balloon_look(&balloon);
    assert_int_equal(info.actual_pages, 3); /* first, first + 1, and RAM's last page */
    assert_int_equal(info.ignored_pages, ARRAY_LENGTH(bad) - 3);
    balloon_request(&balloon, INFLATE, bad, ARRAY_LENGTH(bad));
    assert_int_equal(balloon_look(&balloon).actual_pages, 3);
    assert_int_equal(balloon_look(&balloon).taken_pages, 3);

    /* Out again, with what was never in. */
    const uint32_t never[] = {first + 2, ring, array, UINT32_MAX, first + 2, first};
    balloon_request(&balloon, DEFLATE, never, ARRAY_LENGTH(never));
    balloon_check(&balloon, first + 2, 5);
    assert_int_equal(balloon_look(&balloon).actual_pages, 2);
    assert_int_equal(balloon_look(&balloon).given_pages, 1);
    balloon_driver_destroy(&balloon);
}

/* Requests that are no array of page numbers do nothing, and the device goes on. */
static void test_bad_requests(void **state)
{
    struct balloon_driver balloon;
    static uint32_t many[ARRAY_BYTES / 4];
    uint32_t first;

    begin(&balloon);
    first = (uint32_t)balloon.first_ppn;
    for (unsigned i = 0; i < ARRAY_LENGTH(many); i++)
        many[i] = first;
    balloon_send(&balloon, INFLATE, &first, 3);
    balloon_send(&balloon, DEFLATE, many, 9);
    balloon_send(&balloon, INFLATE, many, sizeof(many)); /* 64 Ki numbers */
    const struct driver_buffer writable = {balloon.array_gpa, 64, true};
    balloon_report(&balloon, INFLATE, &writable, 1);
    assert_int_equal(errors_of(&balloon), 4);
    assert_int_equal(balloon_look(&balloon).actual_pages, 0);
    balloon_request(&balloon, INFLATE, &first, 1);
    assert_int_equal(balloon_look(&balloon).actual_pages, 1);
    balloon_driver_destroy(&balloon);
}

/* Only the driver's own two fields can be written, and only as they are. */
static void test_config_writes(void **state)
{
    struct balloon_driver balloon;
    struct virtio_mmio *mmio;

    begin(&balloon);
    mmio = balloon.driver.mmio;
    balloon_set_target(balloon.driver.device, 5);
    driver_write(&balloon.driver, VIRTIO_MMIO_CONFIG, 1000);
    virtio_mmio_write(mmio, CONFIG_ACTUAL, 1, 0xff);
    virtio_mmio_write(mmio, CONFIG_ACTUAL, 8, UINT64_MAX);
    virtio_mmio_write(mmio, CONFIG_ACTUAL - 2, 4, UINT32_MAX);
    virtio_mmio_write(mmio, CONFIG_POISON + 2, 4, UINT32_MAX);
    virtio_mmio_write(mmio, CONFIG_POISON + 4, 4, UINT32_MAX);
    struct balloon_info info = balloon_look(&balloon);
    assert_int_equal(info.target_pages, 5);
    assert_int_equal(info.claimed_pages, 0);
    assert_int_equal(driver_read(&balloon.driver, CONFIG_POISON), 0);
    driver_write(&balloon.driver, CONFIG_ACTUAL, UINT32_MAX);
    info = balloon_look(&balloon);
    assert_int_equal(info.claimed_pages, UINT32_MAX);
    assert_int_equal(info.actual_pages, 0);
    balloon_driver_destroy(&balloon);
}

/* ---- free page reports ---- */

/* Whole pages within the buffers, and nothing beside them; whatever queue the driver thinks it is.
 */
static void test_report(void **state)
{
    const struct {
        uint64_t features;
        unsigned queue;
    } kinds[] = {
        {BALLOON_FEATURES, REPORT},
        {BALLOON_FEATURES, REPORT_BY_THE_BOOK},
        {bit(VIRTIO_BALLOON_F_REPORTING), STATS},
        {bit(VIRTIO_BALLOON_F_REPORTING), REPORT_BY_THE_BOOK},
    };

    for (unsigned i = 0; i < ARRAY_LENGTH(kinds) * DRIVER_MODES; i++) {
        struct balloon_driver balloon;
        balloon_driver_create(&balloon, 0);
        balloon_driver_start(&balloon, driver_mode(i % DRIVER_MODES),
                             kinds[i / DRIVER_MODES].features);
        uint64_t first = balloon.first_ppn, gpa = first * PAGE_SIZE;
        const struct driver_buffer buffers[] = {
            {gpa + 1, 4 * PAGE_SIZE - 2, true},              /* pages 1 and 2 */
            {gpa + 5 * PAGE_SIZE, 2 * PAGE_SIZE, true},      /* 5 and 6 */
            {gpa + 8 * PAGE_SIZE + 8, PAGE_SIZE, true},      /* none */
            {gpa + 10 * PAGE_SIZE, PAGE_SIZE - 1, true},     /* none */
            {gpa + 11 * PAGE_SIZE - 1, PAGE_SIZE + 1, true}, /* 11 */
        };
        for (unsigned page = 0; page < 13; page++)
            balloon_fill(&balloon, first + page, 1 + page);
        balloon_report(&balloon, kinds[i / DRIVER_MODES].queue, buffers, ARRAY_LENGTH(buffers));
        for (unsigned page = 0; page < 13; page++) {
            bool gone = page == 1 || page == 2 || page == 5 || page == 6 || page == 11;
            assert_int_equal(state_of(&balloon, first + page), gone ? PAGE_ZERO : PAGE_PRIVATE);
            balloon_check(&balloon, first + page, gone ? 0 : 1 + page);
        }
        assert_int_equal(balloon_look(&balloon).reported_pages, 5);
        assert_int_equal(balloon_look(&balloon).actual_pages, 0);
        balloon_driver_destroy(&balloon);
    }
}

/* Pages that are full of a poison other than zero stay as they are. */
static void test_report_with_poison(void **state)
{
    static const uint32_t poisons[] = {0, 0xaaaaaaaa, 1};

    for (unsigned i = 0; i < ARRAY_LENGTH(poisons); i++) {
        struct balloon_driver balloon;
        balloon_driver_create(&balloon, 0);
        balloon_driver_start(&balloon, driver_mode(0),
                             BALLOON_FEATURES | bit(VIRTIO_BALLOON_F_PAGE_POISON));
        driver_write(&balloon.driver, CONFIG_POISON, poisons[i]);
        uint64_t ppn = balloon.first_ppn;
        const struct driver_buffer buffer = {ppn * PAGE_SIZE, PAGE_SIZE, true};
        balloon_fill(&balloon, ppn, 3);
        balloon_report(&balloon, REPORT, &buffer, 1);
        balloon_check(&balloon, ppn, poisons[i] == 0 ? 0 : 3);
        assert_int_equal(balloon_look(&balloon).reported_pages, poisons[i] == 0);
        /* The balloon is another matter: the driver writes its pages when it has them back. */
        balloon_request_run(&balloon, INFLATE, ppn, 1);
        assert_int_equal(balloon_look(&balloon).actual_pages, 1);
        balloon_driver_destroy(&balloon);
    }
}

static void test_report_hostile(void **state)
{
    struct balloon_driver balloon;

    begin(&balloon);
    uint64_t first = balloon.first_ppn, gpa = first * PAGE_SIZE;
    balloon_fill(&balloon, first, 1);
    balloon_fill(&balloon, first + 1, 2);
    balloon_request_run(&balloon, INFLATE, first + 2, 1);
    /* To be read, not RAM, about to wrap, in use by the device itself, in the balloon. */
    const struct driver_buffer bad[] = {
        {gpa, PAGE_SIZE, false},
        {DRIVER_RAM_SIZE, 64 * MIB, true},
        {UINT64_MAX - 10, 4096, true},
        {UINT64_MAX - 4095, 8192, true},
        {(uint64_t)1 << 62, 4096, true},
        {balloon.driver.queues[REPORT].desc_gpa & ~PAGE_MASK, 8 * PAGE_SIZE, true},
        {gpa + 2 * PAGE_SIZE, PAGE_SIZE, true},
    };
    balloon_report(&balloon, REPORT, bad, ARRAY_LENGTH(bad));
    balloon_check(&balloon, first, 1);
    assert_int_equal(balloon_look(&balloon).actual_pages, 1);
    /* The rings still work; RAM's end, and the same page several times. */
    const struct driver_buffer more[] = {
        {DRIVER_RAM_SIZE - PAGE_SIZE, 2 * PAGE_SIZE, true},
        {gpa + PAGE_SIZE, PAGE_SIZE, true},
        {gpa + PAGE_SIZE, PAGE_SIZE, true},
    };
    balloon_report(&balloon, REPORT, more, ARRAY_LENGTH(more));
    balloon_check(&balloon, first + 1, 0);
    balloon_driver_destroy(&balloon);

    /* Without the feature there are no reports. */
    balloon_driver_create(&balloon, 0);
    balloon_driver_start(&balloon, driver_mode(0), bit(VIRTIO_BALLOON_F_STATS_VQ));
    balloon_fill(&balloon, first, 1);
    const struct driver_buffer page = {gpa, PAGE_SIZE, true};
    balloon_report(&balloon, REPORT, &page, 1);
    balloon_report(&balloon, REPORT_BY_THE_BOOK, &page, 1);
    balloon_check(&balloon, first, 1);
    balloon_driver_destroy(&balloon);
}

/* Larger than what a device would pin, as reports are; and larger than any driver's. */
static void test_report_sizes(void **state)
{
    struct balloon_driver balloon;

    begin(&balloon);
    uint64_t gpa = balloon.first_ppn * PAGE_SIZE;
    struct driver_buffer buffers[33];
    for (unsigned i = 0; i < ARRAY_LENGTH(buffers); i++)
        buffers[i] = (struct driver_buffer){gpa, 32 * MIB, true};
    balloon_fill(&balloon, DRIVER_PAGES - 1, 8);
    balloon_report(&balloon, REPORT, buffers, 32);
    balloon_check(&balloon, DRIVER_PAGES - 1, 0);

    assert_int_not_equal(driver_add(&balloon.driver, REPORT, buffers, 33), -1);
    driver_kick(&balloon.driver, REPORT);
    assert_true(driver_read(&balloon.driver, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
    assert_int_equal(balloon_look(&balloon).state, BALLOON_ABSENT);
    balloon_driver_destroy(&balloon);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inflate_and_deflate),
        cmocka_unit_test(test_long_request),
        cmocka_unit_test(test_touch),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_target),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_retry),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_waiters),
        cmocka_unit_test(test_bad_page_numbers),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_config_writes),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_report_with_poison),
        cmocka_unit_test(test_report_hostile),
        cmocka_unit_test(test_report_sizes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
