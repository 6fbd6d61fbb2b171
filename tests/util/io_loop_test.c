/* The event loop: what runs, in what order, how often, and what removing promises. Tests wait for
 * callbacks by semaphores; that something does not happen is shown by a later thing that does. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "util/clock.h"
#include "util/io_loop.h"

/* What a callback did. */
struct record {
    sem_t done;
    _Atomic unsigned calls;
    unsigned *order; /* next place in a common order */
    unsigned place;
    int fd;
};

static void record_init(struct record *record)
{
    memset(record, 0, sizeof *record);
    sem_init(&record->done, 0, 0);
    record->fd = -1;
}

static void record_call(void *context)
{
    struct record *record = context;
    atomic_fetch_add(&record->calls, 1);
    if (record->order != NULL)
        record->place = ++*record->order;
    sem_post(&record->done);
}

static void record_source(void *context, uint32_t events)
{
    struct record *record = context;
    char byte;
    if (events & EPOLLIN)
        assert_int_equal(read(record->fd, &byte, 1), 1);
    record_call(record);
}

static struct io_loop *loop_create(void)
{
    struct io_loop *loop;
    struct error err;
    assert_int_equal(io_loop_create(&loop, "test-loop", &err), STATUS_OK);
    return loop;
}

static void loop_start(struct io_loop *loop)
{
    assert_int_equal(io_loop_start(loop, NULL), STATUS_OK);
}

static struct io_event *event_create(struct io_loop *loop, io_event_fn *fn, void *context)
{
    struct io_event *event;
    assert_int_equal(io_event_create(&event, loop, fn, context, NULL), STATUS_OK);
    return event;
}

static struct io_timer *timer_create_on(struct io_loop *loop, io_timer_fn *fn, void *context)
{
    struct io_timer *timer;
    assert_int_equal(io_timer_create(&timer, loop, fn, context, NULL), STATUS_OK);
    return timer;
}

static struct io_source *source_create(struct io_loop *loop, int fd, uint32_t events,
                                       io_source_fn *fn, void *context)
{
    struct io_source *source;
    assert_int_equal(io_source_create(&source, loop, fd, events, fn, context, NULL), STATUS_OK);
    return source;
}

/* Two whole turns of the loop go by: whatever was ready before has run. */
static void loop_fence(struct io_loop *loop)
{
    struct record record;
    record_init(&record);
    struct io_event *event = event_create(loop, record_call, &record);
    for (unsigned turn = 0; turn < 2; turn++) {
        io_event_signal(event);
        sem_wait(&record.done);
    }
    io_event_destroy(event);
}

static void test_event_signals_merge(void **state)
{
    struct io_loop *loop = loop_create();
    struct record record;
    record_init(&record);
    struct io_event *event = event_create(loop, record_call, &record);
    for (unsigned i = 0; i < 100; i++)
        io_event_signal(event);
    loop_start(loop);
    sem_wait(&record.done);
    loop_fence(loop);
    assert_int_equal(record.calls, 1);
    io_event_signal(event);
    sem_wait(&record.done);
    loop_fence(loop);
    assert_int_equal(record.calls, 2);
    io_loop_destroy(loop);
}

struct resignal {
    struct record record;
    struct io_event *event;
};

static void signal_again(void *context)
{
    struct resignal *resignal = context;
    if (resignal->record.calls < 5)
        io_event_signal(resignal->event);
    record_call(&resignal->record);
}

static void test_event_signal_in_its_callback(void **state)
{
    struct io_loop *loop = loop_create();
    struct resignal resignal;
    record_init(&resignal.record);
    resignal.event = event_create(loop, signal_again, &resignal);
    loop_start(loop);
    io_event_signal(resignal.event);
    for (unsigned i = 0; i < 6; i++)
        sem_wait(&resignal.record.done);
    loop_fence(loop);
    assert_int_equal(resignal.record.calls, 6);
    io_loop_destroy(loop);
}

static void test_timers_run_by_deadline(void **state)
{
    struct io_loop *loop = loop_create();
    static const uint64_t deadlines[] = {30, 10, 20, 0, 25};
    static const unsigned places[] = {5, 2, 3, 1, 4};
    struct record records[5];
    unsigned order = 0;
    for (unsigned i = 0; i < 5; i++) {
        record_init(&records[i]);
        records[i].order = &order;
        io_timer_arm(timer_create_on(loop, record_call, &records[i]), deadlines[i]);
    }
    loop_start(loop);
    for (unsigned i = 0; i < 5; i++) {
        sem_wait(&records[i].done);
        assert_int_equal(records[i].place, places[i]);
        assert_int_equal(records[i].calls, 1);
    }
    io_loop_destroy(loop);
}

static void test_timer_rearm_and_disarm(void **state)
{
    struct io_loop *loop = loop_create();
    struct record moved, disarmed;
    record_init(&moved);
    record_init(&disarmed);
    struct io_timer *timer = timer_create_on(loop, record_call, &moved);
    io_timer_arm(timer, UINT64_MAX);
    io_timer_arm(timer, 1); /* replaces */
    struct io_timer *other = timer_create_on(loop, record_call, &disarmed);
    io_timer_arm(other, 0);
    io_timer_disarm(other);
    io_timer_disarm(other);
    loop_start(loop);
    sem_wait(&moved.done);
    loop_fence(loop);
    assert_int_equal(moved.calls, 1);
    assert_int_equal(disarmed.calls, 0);

    /* While the loop sleeps, with a far deadline set and then a near one. */
    io_timer_arm(other, clock_monotonic_ns() + 3600 * NS_PER_SECOND);
    io_timer_arm(timer, clock_monotonic_ns() + 1000);
    sem_wait(&moved.done);
    assert_int_equal(disarmed.calls, 0);
    io_timer_arm(other, clock_monotonic_ns());
    sem_wait(&disarmed.done);
    io_loop_destroy(loop);
}

struct punctual {
    struct record record;
    uint64_t deadline;
    bool early;
};

static void check_deadline(void *context)
{
    struct punctual *punctual = context;
    punctual->early = clock_monotonic_ns() < punctual->deadline;
    record_call(&punctual->record);
}

static void test_timer_is_never_early(void **state)
{
    struct io_loop *loop = loop_create();
    loop_start(loop);
    struct punctual punctual = {0};
    record_init(&punctual.record);
    struct io_timer *timer = timer_create_on(loop, check_deadline, &punctual);
    for (unsigned i = 0; i < 20; i++) {
        punctual.deadline = clock_monotonic_ns() + 50000 * i;
        io_timer_arm(timer, punctual.deadline);
        sem_wait(&punctual.record.done);
        assert_false(punctual.early);
    }
    io_loop_destroy(loop);
}

struct greedy {
    struct io_timer *timer;
    _Atomic unsigned calls;
};

static void rearm_in_the_past(void *context)
{
    struct greedy *greedy = context;
    atomic_fetch_add(&greedy->calls, 1);
    io_timer_arm(greedy->timer, 0);
}

static void test_greedy_timer_starves_nobody(void **state)
{
    struct io_loop *loop = loop_create();
    struct greedy greedy = {0};
    greedy.timer = timer_create_on(loop, rearm_in_the_past, &greedy);
    io_timer_arm(greedy.timer, 0);
    loop_start(loop);
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    struct record record;
    record_init(&record);
    record.fd = fds[0];
    source_create(loop, fds[0], EPOLLIN, record_source, &record);
    assert_int_equal(write(fds[1], "x", 1), 1);
    sem_wait(&record.done);
    loop_fence(loop);
    assert_true(greedy.calls > 0);
    io_loop_destroy(loop);
    close(fds[0]);
    close(fds[1]);
}

static void test_source_events(void **state)
{
    struct io_loop *loop = loop_create();
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    struct record record;
    record_init(&record);
    record.fd = fds[0];
    struct io_source *source = source_create(loop, fds[0], 0, record_source, &record);
    loop_start(loop);
    assert_int_equal(write(fds[1], "ab", 2), 2);
    loop_fence(loop);
    assert_int_equal(record.calls, 0);
    io_source_set_events(source, EPOLLIN);
    sem_wait(&record.done);
    sem_wait(&record.done);
    loop_fence(loop);
    assert_int_equal(record.calls, 2);

    /* A descriptor that has hung up is quiet while nobody listens, and then tells. */
    io_source_set_events(source, 0);
    close(fds[1]);
    loop_fence(loop);
    assert_int_equal(record.calls, 2);
    io_source_set_events(source, EPOLLIN);
    sem_wait(&record.done);
    io_source_destroy(source);
    unsigned calls = record.calls;
    loop_fence(loop);
    assert_int_equal(record.calls, calls);
    io_loop_destroy(loop);
    close(fds[0]);
}

static void test_source_refused(void **state)
{
    struct io_loop *loop = loop_create();
    struct io_source *source = (void *)loop;
    struct error err;
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(
        io_source_create(&source, loop, fileno(file), EPOLLIN, record_source, NULL, &err),
        STATUS_UNSUPPORTED);
    assert_null(source);
    fclose(file);
    assert_int_equal(io_source_create(&source, loop, -1, EPOLLIN, record_source, NULL, &err),
                     STATUS_IO);

    /* A second source of a descriptor is refused, and the first one lives. */
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    struct record record;
    record_init(&record);
    record.fd = fds[0];
    source_create(loop, fds[0], EPOLLIN, record_source, &record);
    assert_int_equal(io_source_create(&source, loop, fds[0], EPOLLIN, record_source, NULL, &err),
                     STATUS_IO);
    loop_start(loop);
    assert_int_equal(write(fds[1], "x", 1), 1);
    sem_wait(&record.done);
    io_loop_destroy(loop);
    close(fds[0]);
    close(fds[1]);
}

struct duel {
    struct io_source *own, *other;
    struct duel *opponent;
    struct record *record;
};

static void destroy_both(void *context, uint32_t events)
{
    struct duel *duel = context;
    io_source_destroy(duel->other);
    io_source_destroy(duel->own);
    record_call(duel->record);
}

/* Both are ready in one batch; the first to run removes the other and itself. */
static void test_source_destroyed_in_callback(void **state)
{
    struct io_loop *loop = loop_create();
    struct record record;
    record_init(&record);
    int fds[2][2];
    struct duel duels[2] = {{.record = &record}, {.record = &record}};
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pipe(fds[i]), 0);
        assert_int_equal(write(fds[i][1], "x", 1), 1);
        duels[i].own = source_create(loop, fds[i][0], EPOLLIN, destroy_both, &duels[i]);
    }
    duels[0].other = duels[1].own;
    duels[1].other = duels[0].own;
    loop_start(loop);
    sem_wait(&record.done);
    loop_fence(loop);
    assert_int_equal(record.calls, 1);
    io_loop_destroy(loop);
    for (unsigned i = 0; i < 2; i++) {
        close(fds[i][0]);
        close(fds[i][1]);
    }
}

struct pair {
    struct io_timer *timers[2];
    struct io_event *events[2];
    struct record record;
};

static void destroy_timers(void *context)
{
    struct pair *pair = context;
    io_timer_destroy(pair->timers[0]);
    io_timer_destroy(pair->timers[1]);
    record_call(&pair->record);
}

static void destroy_events(void *context)
{
    struct pair *pair = context;
    io_event_destroy(pair->events[0]);
    io_event_destroy(pair->events[1]);
    record_call(&pair->record);
}

/* Timers that are both due, events that are both signalled. */
static void test_others_destroyed_in_callback(void **state)
{
    struct io_loop *loop = loop_create();
    struct pair pair = {0};
    record_init(&pair.record);
    for (unsigned i = 0; i < 2; i++) {
        pair.timers[i] = timer_create_on(loop, destroy_timers, &pair);
        io_timer_arm(pair.timers[i], i);
        pair.events[i] = event_create(loop, destroy_events, &pair);
        io_event_signal(pair.events[i]);
    }
    loop_start(loop);
    sem_wait(&pair.record.done);
    sem_wait(&pair.record.done);
    loop_fence(loop);
    assert_int_equal(pair.record.calls, 2);
    io_loop_destroy(loop);
}

struct slow {
    sem_t entered;
    _Atomic bool being_removed, finished;
};

static void slow_callback(void *context)
{
    struct slow *slow = context;
    sem_post(&slow->entered);
    while (!slow->being_removed)
        sched_yield();
    for (unsigned i = 0; i < 2000; i++)
        sched_yield();
    slow->finished = true;
}

static void test_removal_waits_for_callback(void **state)
{
    struct io_loop *loop = loop_create();
    loop_start(loop);
    struct slow slow = {0};
    sem_init(&slow.entered, 0, 0);
    struct io_event *event = event_create(loop, slow_callback, &slow);
    io_event_signal(event);
    sem_wait(&slow.entered);
    slow.being_removed = true;
    io_event_destroy(event);
    assert_true(slow.finished);

    slow.being_removed = false;
    slow.finished = false;
    struct io_timer *timer = timer_create_on(loop, slow_callback, &slow);
    io_timer_arm(timer, 0);
    sem_wait(&slow.entered);
    slow.being_removed = true;
    io_timer_destroy(timer);
    assert_true(slow.finished);
    io_loop_destroy(loop);
}

static void check_signals(void *context)
{
    struct record *record = context;
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    if (sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGINT) &&
        sigismember(&blocked, SIGPIPE))
        record->place = 1;
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    if (strcmp(name, "a-name-that-is-") == 0)
        record->place++;
    record_call(record);
}

static void test_thread(void **state)
{
    struct io_loop *loop;
    assert_int_equal(io_loop_create(&loop, "a-name-that-is-too-long", NULL), STATUS_OK);
    loop_start(loop);
    struct error err;
    assert_int_equal(io_loop_start(loop, &err), STATUS_INVALID);
    struct record record;
    record_init(&record);
    io_event_signal(event_create(loop, check_signals, &record));
    sem_wait(&record.done);
    assert_int_equal(record.place, 2);
    io_loop_stop(loop);
    io_loop_stop(loop);
    io_loop_destroy(loop);
    io_loop_destroy(NULL);
}

/* After stop nothing runs, and handles can still be removed. */
static void test_stopped(void **state)
{
    struct io_loop *loop = loop_create();
    struct record record;
    record_init(&record);
    struct io_event *event = event_create(loop, record_call, &record);
    struct io_timer *timer = timer_create_on(loop, record_call, &record);
    loop_start(loop);
    io_loop_stop(loop);
    io_event_signal(event);
    io_timer_arm(timer, 0);
    io_event_destroy(event);
    io_timer_disarm(timer);
    io_timer_destroy(timer);
    assert_int_equal(record.calls, 0);
    io_loop_destroy(loop);

    /* One that never ran, with things registered. */
    loop = loop_create();
    io_event_signal(event_create(loop, record_call, &record));
    io_timer_arm(timer_create_on(loop, record_call, &record), 0);
    io_loop_destroy(loop);
    assert_int_equal(record.calls, 0);
}

struct stress {
    struct io_loop *loop;
    _Atomic unsigned calls;
    unsigned seed;
};

static void stress_call(void *context)
{
    struct stress *stress = context;
    atomic_fetch_add(&stress->calls, 1);
}

static void *stress_thread(void *context)
{
    struct stress *stress = context;
    for (unsigned i = 0; i < 2000; i++) {
        struct io_event *event = event_create(stress->loop, stress_call, stress);
        struct io_timer *timer = timer_create_on(stress->loop, stress_call, stress);
        stress->seed = stress->seed * 1103515245 + 12345;
        if (stress->seed >> 16 & 1)
            io_timer_arm(timer, clock_monotonic_ns() + (stress->seed >> 20 & 0x3ff));
        if (stress->seed >> 17 & 1)
            io_event_signal(event);
        if (stress->seed >> 18 & 1)
            io_timer_disarm(timer);
        if (stress->seed >> 19 & 1)
            sched_yield();
        io_timer_destroy(timer);
        io_event_destroy(event);
        unsigned calls = stress->calls;
        (void)calls;
    }
    return NULL;
}

/* For the sanitizers: handles come and go on four threads while the loop runs. */
static void test_stress(void **state)
{
    struct io_loop *loop = loop_create();
    loop_start(loop);
    struct stress stress[4];
    pthread_t threads[4];
    for (unsigned i = 0; i < 4; i++) {
        stress[i] = (struct stress){.loop = loop, .seed = i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, stress_thread, &stress[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    loop_fence(loop);
    io_loop_destroy(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_event_signals_merge),
        cmocka_unit_test(test_event_signal_in_its_callback),
        cmocka_unit_test(test_timers_run_by_deadline),
        cmocka_unit_test(test_timer_rearm_and_disarm),
        cmocka_unit_test(test_timer_is_never_early),
        cmocka_unit_test(test_greedy_timer_starves_nobody),
        cmocka_unit_test(test_source_events),
        cmocka_unit_test(test_source_refused),
        cmocka_unit_test(test_source_destroyed_in_callback),
        cmocka_unit_test(test_others_destroyed_in_callback),
        cmocka_unit_test(test_removal_waits_for_callback),
        cmocka_unit_test(test_thread),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_stress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
