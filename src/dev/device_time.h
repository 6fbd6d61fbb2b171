#ifndef AEROSTAT_DEV_DEVICE_TIME_H
#define AEROSTAT_DEV_DEVICE_TIME_H

/*
 * Where a device gets time and timers from: the machine's clock in a VM (guest_clock.h), a clock
 * that the test moves by hand in tests. Devices copy the structure.
 */

#include <stdint.h>

#include "util/io_loop.h"
#include "util/status.h"

struct device_timer;

struct device_time {
    void *context;
    uint64_t (*now)(void *context);  /* monotonic, ns */
    uint64_t (*wall)(void *context); /* UTC, ns since the epoch */
    uint64_t (*tsc)(void *context);  /* a counter running at tsc_khz */
    uint64_t tsc_khz;                /* not 0 */

    /* As io_timer_* (util/io_loop.h), with deadlines on `now`. Arming and disarming are allowed
     * under the device's lock; destroying is not. */
    enum status (*timer_create)(void *context, struct device_timer **timer, io_timer_fn *fn,
                                void *fn_context, struct error *err);
    void (*timer_arm)(struct device_timer *timer, uint64_t deadline_ns);
    void (*timer_disarm)(struct device_timer *timer);
    void (*timer_destroy)(struct device_timer *timer); /* NULL is allowed */
};

/* A guest can ask for timers of a nanosecond. A device does not interrupt more often than this:
 * what falls due in between is merged, as on a slow machine. */
#define DEVICE_TIMER_MIN_NS 50000u

#endif
