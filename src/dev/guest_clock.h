#ifndef AEROSTAT_DEV_GUEST_CLOCK_H
#define AEROSTAT_DEV_GUEST_CLOCK_H

/*
 * The time of one machine: the host's clocks, less the time for which the machine stood still.
 *
 * While the clock is stopped, `now` and `tsc` stand still and no timer fires; timers keep what they
 * had left and go on with it when the clock is started, so that a pause of an hour is no hour's
 * worth of ticks. `wall` is the host's, always: it is the battery-backed clock, which goes on when
 * a machine does not.
 *
 * Any thread. Locks for itself; its lock is below any device's, and above the loop's.
 */

#include "dev/device_time.h"

struct guest_clock;

/* Timers run on `loop`, which outlives the clock. Measures the TSC if nobody has. */
enum status guest_clock_create(struct guest_clock **clock, struct io_loop *loop, struct error *err);
/* After the devices that use it. NULL is allowed. */
void guest_clock_destroy(struct guest_clock *clock);

/* For devices, to be copied. `tsc` is the host's TSC less guest_clock_ticks_lost. */
struct device_time guest_clock_time(struct guest_clock *clock);

/* Stopping a stopped clock and starting a running one change nothing. A timer's callback that was
 * already running goes on. */
void guest_clock_stop(struct guest_clock *clock);
void guest_clock_start(struct guest_clock *clock);

/* Ticks of the host's TSC for which it has stood still, up to the last start. */
uint64_t guest_clock_ticks_lost(struct guest_clock *clock);

#endif
