/* The estimate of how much memory is in use: against a VM whose use is known. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mem/page_leave.h"
#include "mem/pmap.h"
#include "mem/sample.h"
#include "util/bits.h"
#include "util/clock.h"

enum { PAGES = 4000, PICKED = 250 };
#define PERIOD (30 * NS_PER_SECOND)

struct world {
    struct pmap *map;
    struct sample *sample;
    uint64_t time, host_time;
};

static uint64_t time_of(void *context)
{
    const struct world *world = context;
    return world->time;
}

static uint64_t host_time_of(void *context)
{
    const struct world *world = context;
    return world->host_time;
}

static void world_create(struct world *world)
{
    struct error err = {0};
    struct ram_range range = {0, PAGES << PAGE_SHIFT};
    *world = (struct world){.time = 5};
    assert_int_equal(pmap_create(&world->map, &range, 1, &err), STATUS_OK);
    struct sample_config config = {
        .map = world->map,
        .pages = PICKED,
        .period_ns = PERIOD,
        .idle_ns = 4 * PERIOD,
        .cpus = 1,
        .vm_time_ns = time_of,
        .host_time_ns = host_time_of,
        .context = world,
        .seed = 42,
    };
    assert_int_equal(sample_create(&world->sample, &config, &err), STATUS_OK);
    sample_step(world->sample);
}

static void world_destroy(struct world *world)
{
    sample_destroy(world->sample);
    for (uint64_t ppn = 0; ppn < PAGES; ppn++) { /* no mark is left: a fresh sample takes it */
        struct page_batch batch = {.count = 1, .ppn = {ppn}};
        page_sample_begin(world->map, &batch);
        assert_int_equal(batch.count, 1);
    }
    pmap_destroy(world->map);
}

static void touch(struct world *world, unsigned percent)
{
    bool writable;
    for (uint64_t ppn = 0; ppn < PAGES * percent / 100; ppn++)
        pmap_page_read(world->map, ppn, &writable);
}

static double active(struct world *world)
{
    struct sample_info info;
    sample_get(world->sample, &info);
    return 100.0 * (double)info.active_pages / PAGES;
}

/* With 250 pages the standard deviation is at most 3.2 percent; seeds are fixed. */
static void assert_near(double is, double expected)
{
    if (is < expected - 7 || is > expected + 7)
        fail_msg("%.1f percent are said to be active instead of %.1f", is, expected);
}

static void test_finds_what_is_used(void **state)
{
    (void)state;
    static const unsigned used[] = {0, 10, 50, 100};
    for (unsigned i = 0; i < ARRAY_LENGTH(used); i++) {
        struct world world;
        world_create(&world);
        for (unsigned period = 0; period < 4; period++) {
            touch(&world, used[i]);
            assert_near(active(&world), used[i]); /* at once */
            world.time += PERIOD;
            sample_step(world.sample);
            assert_near(active(&world), used[i]);
        }
        world_destroy(&world);
    }
}

static void test_rises_at_once_and_falls_slowly(void **state)
{
    (void)state;
    struct world world;
    world_create(&world);
    world.time += PERIOD;
    sample_step(world.sample);
    assert_near(active(&world), 0);
    touch(&world, 80);
    assert_near(active(&world), 40); /* half of the step, within the period */
    for (unsigned i = 0; i < 20; i++) {
        touch(&world, 80);
        world.time += PERIOD;
        sample_step(world.sample);
    }
    assert_near(active(&world), 80);
    world.time += PERIOD;
    sample_step(world.sample); /* the last period that it was touched in */
    double before = active(&world);
    for (unsigned i = 0; i < 5; i++) {
        world.time += PERIOD;
        sample_step(world.sample);
        assert_true(active(&world) < before + 1);
        before = active(&world);
    }
    assert_true(before > 30 && before < 55); /* the slow average has halved */
    for (unsigned i = 0; i < 40; i++) {
        world.time += PERIOD;
        sample_step(world.sample);
    }
    assert_near(active(&world), 0);
    world_destroy(&world);
}

/* A VM that does next to nothing is found to: but after more of the host's time. */
static void test_sees_that_nothing_is_done(void **state)
{
    (void)state;
    struct world world;
    world_create(&world);
    struct sample_info info;
    touch(&world, 100); /* its boot */
    world.time += PERIOD;
    sample_step(world.sample);
    assert_near(active(&world), 100);
    for (unsigned period = 1; period <= 40; period++) {
        world.host_time += 4 * PERIOD - 1;
        assert_int_equal(sample_step(world.sample), 1);
        sample_get(world.sample, &info);
        assert_int_equal(info.periods, period);
        world.host_time++;
        assert_true(sample_step(world.sample) <= 4 * PERIOD);
        sample_get(world.sample, &info);
        assert_int_equal(info.periods, period + 1);
    }
    assert_near(active(&world), 0);
    world_destroy(&world);
}

/* Nothing happens while no time passes, and looks get rare. */
static void test_stands_still_with_the_vm(void **state)
{
    (void)state;
    struct world world;
    world_create(&world);
    struct sample_info info;
    touch(&world, 100);
    world.time += PERIOD - 1;
    uint64_t first = sample_step(world.sample), last = 0;
    for (unsigned i = 0; i < 20; i++)
        last = sample_step(world.sample);
    assert_true(first < NS_PER_SECOND && last >= 10 * NS_PER_SECOND);
    sample_get(world.sample, &info);
    assert_int_equal(info.periods, 0);
    world.time++;
    sample_step(world.sample);
    sample_get(world.sample, &info);
    assert_int_equal(info.periods, 1);
    assert_near(100 * info.fast, 100);
    world_destroy(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_what_is_used),
        cmocka_unit_test(test_rises_at_once_and_falls_slowly),
        cmocka_unit_test(test_sees_that_nothing_is_done),
        cmocka_unit_test(test_stands_still_with_the_vm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
