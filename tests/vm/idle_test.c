/* Windows of an idle vCPU, and of others. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "vm/idle.h"

#define MS (NS_PER_SECOND / 1000)

/* Sleeps and works so long, by turns, until idle_look has said true or so much time is over. */
static uint64_t play(struct idle *idle, uint64_t *now, uint64_t sleeps, uint64_t works,
                     uint64_t most)
{
    for (uint64_t began = *now; *now < began + most;) {
        if (idle_look(idle, *now))
            return *now - began;
        idle_slept(idle, *now, *now + sleeps);
        *now += sleeps + works;
    }
    return most;
}

static void test_idle(void **state)
{
    (void)state;
    struct idle idle = {0};
    uint64_t now = 5 * NS_PER_SECOND;
    uint64_t after = play(&idle, &now, 250 * MS, MS / 10, 60 * NS_PER_SECOND);
    assert_in_range(after, IDLE_WINDOW_NS, IDLE_WINDOW_NS + NS_PER_SECOND);
    /* And again, a window later. */
    after = play(&idle, &now, 250 * MS, MS / 10, 60 * NS_PER_SECOND);
    assert_in_range(after, IDLE_WINDOW_NS, IDLE_WINDOW_NS + NS_PER_SECOND);
    /* One that sleeps for longer than a window. */
    after = play(&idle, &now, 3 * IDLE_WINDOW_NS, MS, 10 * IDLE_WINDOW_NS);
    assert_in_range(after, 3 * IDLE_WINDOW_NS, 3 * IDLE_WINDOW_NS + NS_PER_SECOND);
}

static void test_at_work(void **state)
{
    (void)state;
    struct idle idle = {0};
    uint64_t now = 1;
    assert_int_equal(play(&idle, &now, MS, MS, 60 * NS_PER_SECOND), 60 * NS_PER_SECOND);
    assert_int_equal(play(&idle, &now, 96 * MS, 4 * MS, 60 * NS_PER_SECOND), 60 * NS_PER_SECOND);
    /* It was busy at the end of a long sleep's window, which counts for that window. */
    idle_slept(&idle, now, now + 8 * NS_PER_SECOND);
    now += 10 * NS_PER_SECOND;
    assert_false(idle_look(&idle, now));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_at_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
