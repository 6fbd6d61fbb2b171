#include "dev/guest_clock.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/queue.h>

#include "util/clock.h"

/* A device_timer of this clock: a host's timer that is armed while the clock runs. */
struct guest_timer {
    struct guest_clock *clock;
    struct io_timer *host;
    bool armed;
    uint64_t deadline; /* on this clock */
    io_timer_fn *fn;
    void *context;
    TAILQ_ENTRY(guest_timer) link;
};

struct guest_clock {
    struct io_loop *loop;
    pthread_mutex_t lock; /* guards everything below */
    bool stopped;
    uint64_t stopped_ns, stopped_tsc; /* what it shows while it is stopped */
    uint64_t ns_lost, ticks_lost;     /* how far it is behind the host's clocks while it runs */
    TAILQ_HEAD(, guest_timer) timers;
};

/* With the lock held. */
static uint64_t now_locked(const struct guest_clock *clock)
{
    return clock->stopped ? clock->stopped_ns : clock_monotonic_ns() - clock->ns_lost;
}

static uint64_t clock_now(void *context)
{
    struct guest_clock *clock = context;
    pthread_mutex_lock(&clock->lock);
    uint64_t now = now_locked(clock);
    pthread_mutex_unlock(&clock->lock);
    return now;
}

static uint64_t clock_ticks(void *context)
{
    struct guest_clock *clock = context;
    pthread_mutex_lock(&clock->lock);
    uint64_t tsc = clock->stopped ? clock->stopped_tsc : clock_tsc() - clock->ticks_lost;
    pthread_mutex_unlock(&clock->lock);
    return tsc;
}

static uint64_t clock_wall(void *context)
{
    (void)context;
    return clock_realtime_ns();
}

/* With the lock held, the clock running and the timer armed. */
static void arm_host(struct guest_timer *timer)
{
    uint64_t deadline;
    if (__builtin_add_overflow(timer->deadline, timer->clock->ns_lost, &deadline))
        deadline = UINT64_MAX;
    io_timer_arm(timer->host, deadline);
}

/* On the loop. What comes too late for a clock that was stopped meanwhile, or for a timer that was
 * armed anew, leaves it armed. */
static void timer_fired(void *context)
{
    struct guest_timer *timer = context;
    struct guest_clock *clock = timer->clock;
    pthread_mutex_lock(&clock->lock);
    bool due = timer->armed && !clock->stopped && timer->deadline <= now_locked(clock);
    if (due)
        timer->armed = false;
    pthread_mutex_unlock(&clock->lock);
    if (due)
        timer->fn(timer->context);
}

static enum status timer_create_guest(void *context, struct device_timer **out, io_timer_fn *fn,
                                      void *fn_context, struct error *err)
{
    struct guest_clock *clock = context;
    struct guest_timer *timer = calloc(1, sizeof *timer);
    *out = NULL;
    if (timer == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a timer");
    *timer = (struct guest_timer){.clock = clock, .fn = fn, .context = fn_context};
    enum status status = io_timer_create(&timer->host, clock->loop, timer_fired, timer, err);
    if (status != STATUS_OK) {
        free(timer);
        return status;
    }
    pthread_mutex_lock(&clock->lock);
    TAILQ_INSERT_TAIL(&clock->timers, timer, link);
    pthread_mutex_unlock(&clock->lock);
    *out = (struct device_timer *)(void *)timer;
    return STATUS_OK;
}

static void timer_arm_guest(struct device_timer *device_timer, uint64_t deadline_ns)
{
    struct guest_timer *timer = (struct guest_timer *)(void *)device_timer;
    pthread_mutex_lock(&timer->clock->lock);
    timer->armed = true;
    timer->deadline = deadline_ns;
    if (!timer->clock->stopped)
        arm_host(timer);
    pthread_mutex_unlock(&timer->clock->lock);
}

static void timer_disarm_guest(struct device_timer *device_timer)
{
    struct guest_timer *timer = (struct guest_timer *)(void *)device_timer;
    pthread_mutex_lock(&timer->clock->lock);
    timer->armed = false;
    io_timer_disarm(timer->host);
    pthread_mutex_unlock(&timer->clock->lock);
}

static void timer_destroy_guest(struct device_timer *device_timer)
{
    struct guest_timer *timer = (struct guest_timer *)(void *)device_timer;
    if (timer == NULL)
        return;
    pthread_mutex_lock(&timer->clock->lock);
    TAILQ_REMOVE(&timer->clock->timers, timer, link);
    pthread_mutex_unlock(&timer->clock->lock);
    io_timer_destroy(timer->host); /* without the lock: a callback that is running takes it */
    free(timer);
}

enum status guest_clock_create(struct guest_clock **out, struct io_loop *loop, struct error *err)
{
    struct guest_clock *clock = calloc(1, sizeof *clock);
    *out = clock;
    if (clock == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a clock");
    clock->loop = loop;
    pthread_mutex_init(&clock->lock, NULL);
    TAILQ_INIT(&clock->timers);
    return STATUS_OK;
}

void guest_clock_destroy(struct guest_clock *clock)
{
    if (clock == NULL)
        return;
    pthread_mutex_destroy(&clock->lock);
    free(clock);
}

struct device_time guest_clock_time(struct guest_clock *clock)
{
    return (struct device_time){
        .context = clock,
        .now = clock_now,
        .wall = clock_wall,
        .tsc = clock_ticks,
        .tsc_khz = clock_tsc_khz(),
        .timer_create = timer_create_guest,
        .timer_arm = timer_arm_guest,
        .timer_disarm = timer_disarm_guest,
        .timer_destroy = timer_destroy_guest,
    };
}

void guest_clock_stop(struct guest_clock *clock)
{
    struct guest_timer *timer;
    pthread_mutex_lock(&clock->lock);
    if (!clock->stopped) {
        clock->stopped_ns = now_locked(clock);
        clock->stopped_tsc = clock_tsc() - clock->ticks_lost;
        clock->stopped = true;
        TAILQ_FOREACH(timer, &clock->timers, link)
        io_timer_disarm(timer->host);
    }
    pthread_mutex_unlock(&clock->lock);
}

void guest_clock_start(struct guest_clock *clock)
{
    struct guest_timer *timer;
    pthread_mutex_lock(&clock->lock);
    if (clock->stopped) {
        clock->ns_lost = clock_monotonic_ns() - clock->stopped_ns;
        clock->ticks_lost = clock_tsc() - clock->stopped_tsc;
        clock->stopped = false;
        TAILQ_FOREACH(timer, &clock->timers, link)
        {
            if (timer->armed)
                arm_host(timer);
        }
    }
    pthread_mutex_unlock(&clock->lock);
}

uint64_t guest_clock_ticks_lost(struct guest_clock *clock)
{
    pthread_mutex_lock(&clock->lock);
    uint64_t lost = clock->ticks_lost;
    pthread_mutex_unlock(&clock->lock);
    return lost;
}
