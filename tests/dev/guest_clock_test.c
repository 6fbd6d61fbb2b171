/* The machine's clock: it stands still while it is stopped, loses what it stood still, and keeps
 * timers for later. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdatomic.h>

#include "dev/guest_clock.h"
#include "util/clock.h"

#define LIMIT_NS   (60 * NS_PER_SECOND)
#define STANDSTILL (NS_PER_SECOND / 200)

struct world {
    struct io_loop *loop;
    struct guest_clock *clock;
    struct device_time time;
    struct io_event *turn;
    _Atomic unsigned fired, turns;
};

static void on_timer(void *context)
{
    ((struct world *)context)->fired++;
}

static void on_turn(void *context)
{
    ((struct world *)context)->turns++;
}

static void world_create(struct world *world)
{
    *world = (struct world){0};
    assert_int_equal(io_loop_create(&world->loop, "clock", NULL), STATUS_OK);
    assert_int_equal(guest_clock_create(&world->clock, world->loop, NULL), STATUS_OK);
    assert_int_equal(io_event_create(&world->turn, world->loop, on_turn, world, NULL), STATUS_OK);
    assert_int_equal(io_loop_start(world->loop, NULL), STATUS_OK);
    world->time = guest_clock_time(world->clock);
}

static void world_destroy(struct world *world)
{
    guest_clock_destroy(world->clock);
    io_loop_destroy(world->loop);
}

static void wait_until(const _Atomic unsigned *counter, unsigned value)
{
    uint64_t end = clock_monotonic_ns() + LIMIT_NS;
    while (*counter != value)
        assert_true(clock_monotonic_ns() < end);
}

/* Two turns of the loop: timers that were due have been run. */
static void let_loop_turn(struct world *world)
{
    for (unsigned i = 0; i < 2; i++) {
        unsigned before = world->turns;
        io_event_signal(world->turn);
        wait_until(&world->turns, before + 1);
    }
}

static void stand_still(void)
{
    uint64_t end = clock_monotonic_ns() + STANDSTILL;
    while (clock_monotonic_ns() < end)
        continue;
}

static uint64_t now(struct world *world)
{
    return world->time.now(world->time.context);
}

static uint64_t ticks(struct world *world)
{
    return world->time.tsc(world->time.context);
}

static void test_runs_with_the_host(void **state)
{
    struct world world;
    world_create(&world);
    uint64_t before = clock_monotonic_ns(), shown = now(&world);
    assert_true(before <= shown && shown <= clock_monotonic_ns());
    before = clock_tsc(), shown = ticks(&world);
    assert_true(before <= shown && shown <= clock_tsc());
    assert_int_equal(guest_clock_ticks_lost(world.clock), 0);
    world_destroy(&world);
}

static void test_stands_still_and_loses_that_time(void **state)
{
    struct world world;
    world_create(&world);
    uint64_t lost = 0;
    for (unsigned i = 0; i < 3; i++) {
        uint64_t behind_before = guest_clock_ticks_lost(world.clock);
        uint64_t tsc_before = ticks(&world), ns_before = now(&world);
        guest_clock_stop(world.clock);
        guest_clock_stop(world.clock);
        uint64_t ns = now(&world), tsc = ticks(&world);
        assert_true(ns >= ns_before && tsc >= tsc_before);
        uint64_t host_tsc = clock_tsc();
        stand_still();
        uint64_t host_ticks = clock_tsc() - host_tsc;
        assert_int_equal(now(&world), ns);
        assert_int_equal(ticks(&world), tsc);
        guest_clock_start(world.clock);
        guest_clock_start(world.clock);
        assert_true(now(&world) >= ns && ticks(&world) >= tsc);
        lost += STANDSTILL;
        assert_true(now(&world) + lost <= clock_monotonic_ns());
        uint64_t behind = guest_clock_ticks_lost(world.clock);
        assert_true(behind >= behind_before + host_ticks);
        assert_true(ticks(&world) + behind <= clock_tsc());
    }
    world_destroy(&world);
}

static void test_timers_wait_for_the_start(void **state)
{
    struct world world;
    world_create(&world);
    struct device_timer *due, *far, *dropped;
    assert_int_equal(world.time.timer_create(world.time.context, &due, on_timer, &world, NULL),
                     STATUS_OK);
    assert_int_equal(world.time.timer_create(world.time.context, &far, on_timer, &world, NULL),
                     STATUS_OK);
    assert_int_equal(world.time.timer_create(world.time.context, &dropped, on_timer, &world, NULL),
                     STATUS_OK);

    world.time.timer_arm(far, UINT64_MAX); /* whatever is lost, it does not wrap around */
    guest_clock_stop(world.clock);
    world.time.timer_arm(due, now(&world));
    world.time.timer_arm(dropped, now(&world));
    world.time.timer_disarm(dropped);
    stand_still();
    let_loop_turn(&world);
    assert_int_equal(world.fired, 0);

    guest_clock_start(world.clock);
    wait_until(&world.fired, 1);
    let_loop_turn(&world);
    assert_int_equal(world.fired, 1); /* once, however long it was */

    /* And on a clock that is behind. */
    world.time.timer_arm(due, now(&world));
    wait_until(&world.fired, 2);
    world.time.timer_destroy(due);
    world.time.timer_destroy(far);
    world.time.timer_destroy(dropped);
    world.time.timer_destroy(NULL);
    world_destroy(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs_with_the_host),
        cmocka_unit_test(test_stands_still_and_loses_that_time),
        cmocka_unit_test(test_timers_wait_for_the_start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
