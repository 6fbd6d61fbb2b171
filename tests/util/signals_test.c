/* The thread that waits for signals: takes what the process gets, and nothing when it is stopped.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <semaphore.h>
#include <unistd.h>

#include "util/signals.h"

struct taken {
    sem_t come;
    int number;
    unsigned count;
};

static void take(void *context, int number)
{
    struct taken *taken = context;
    taken->number = number;
    taken->count++;
    sem_post(&taken->come);
}

static void test_each_is_taken(void **state)
{
    struct taken taken = {.count = 0};
    struct signal_watch *watch;
    struct error err;
    sigset_t set;
    signals_that_end(&set);
    sem_init(&taken.come, 0, 0);
    assert_int_equal(signal_watch_start(&watch, &set, take, &taken, &err), STATUS_OK);
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTERM};
    for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        kill(getpid(), numbers[i]);
        sem_wait(&taken.come);
        assert_int_equal(taken.number, numbers[i]);
    }
    signal_watch_stop(watch);
    assert_int_equal(taken.count, sizeof(numbers) / sizeof(numbers[0]));
    sem_destroy(&taken.come);
}

static void test_stop(void **state)
{
    struct taken taken = {.count = 0};
    struct signal_watch *watch;
    struct error err;
    sigset_t set;
    sigemptyset(&set); /* but what stops it */
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(signal_watch_start(&watch, &set, take, &taken, &err), STATUS_OK);
        signal_watch_stop(watch);
    }
    assert_int_equal(taken.count, 0);
    signal_watch_stop(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_is_taken),
        cmocka_unit_test(test_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
