#include "dev/device_time.h"

#include "util/clock.h"

static uint64_t host_now(void *context)
{
    return clock_monotonic_ns();
}

static uint64_t host_wall(void *context)
{
    return clock_realtime_ns();
}

static uint64_t host_tsc(void *context)
{
    return clock_tsc();
}

/* A device_timer of the host's is an io_timer. */
static enum status host_timer_create(void *context, struct device_timer **timer, io_timer_fn *fn,
                                     void *fn_context, struct error *err)
{
    struct io_timer *made;
    enum status status = io_timer_create(&made, context, fn, fn_context, err);
    *timer = (struct device_timer *)(void *)made;
    return status;
}

static void host_timer_arm(struct device_timer *timer, uint64_t deadline_ns)
{
    io_timer_arm((struct io_timer *)(void *)timer, deadline_ns);
}

static void host_timer_disarm(struct device_timer *timer)
{
    io_timer_disarm((struct io_timer *)(void *)timer);
}

static void host_timer_destroy(struct device_timer *timer)
{
    io_timer_destroy((struct io_timer *)(void *)timer);
}

struct device_time device_time_host(struct io_loop *loop)
{
    return (struct device_time){
        .context = loop,
        .now = host_now,
        .wall = host_wall,
        .tsc = host_tsc,
        .tsc_khz = clock_tsc_khz(),
        .timer_create = host_timer_create,
        .timer_arm = host_timer_arm,
        .timer_disarm = host_timer_disarm,
        .timer_destroy = host_timer_destroy,
    };
}
