#ifndef AEROSTAT_UTIL_IO_LOOP_H
#define AEROSTAT_UTIL_IO_LOOP_H

/*
 * An event loop with a thread of its own, on epoll.
 *
 * Device models do their host I/O here, never on a vCPU's thread: a vCPU that writes a doorbell
 * signals an io_event and runs on. Callbacks of one loop run one at a time, on its thread, so state
 * that only they touch needs no lock. A device that blocks (a disk) has a loop to itself.
 *
 * Sources, events and timers may be added, armed and signalled from any thread. Removing one from
 * another thread returns only when its callback is not running and will not run again; removing it
 * from within its own loop's callbacks is allowed too.
 *
 * Callbacks may be added before the loop runs; the thread starts with io_loop_start, with all
 * signals blocked.
 */

#include <stdbool.h>
#include <stdint.h>

#include "util/status.h"

struct io_loop;
struct io_source;
struct io_event;
struct io_timer;

/* `events` in and out is a set of EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR. */
typedef void io_source_fn(void *context, uint32_t events);
typedef void io_event_fn(void *context);
typedef void io_timer_fn(void *context);

/* `name` (at most 15 characters are used) becomes the thread's name. */
enum status io_loop_create(struct io_loop **loop, const char *name, struct error *err);
enum status io_loop_start(struct io_loop *loop, struct error *err);
/* Ends and joins the thread; nothing runs afterwards. Not from the loop's own thread. Idempotent.
 */
void io_loop_stop(struct io_loop *loop);
/* Stops, then frees the loop and everything still registered. NULL is allowed. */
void io_loop_destroy(struct io_loop *loop);

/* Calls fn whenever the descriptor (not owned) is ready. */
enum status io_source_create(struct io_source **source, struct io_loop *loop, int fd,
                             uint32_t events, io_source_fn *fn, void *context, struct error *err);
void io_source_set_events(struct io_source *source, uint32_t events);
void io_source_destroy(struct io_source *source);

/* A doorbell: any number of signals before the loop gets to it make one call. */
enum status io_event_create(struct io_event **event, struct io_loop *loop, io_event_fn *fn,
                            void *context, struct error *err);
void io_event_signal(struct io_event *event);
void io_event_destroy(struct io_event *event);

/* One-shot timer on CLOCK_MONOTONIC. Arming again replaces the deadline (ns, see clock.h). A
 * deadline in the past fires at once, on the loop's thread. A timer that was disarmed does not fire
 * after io_timer_disarm returned, unless its callback was already running on the loop. */
enum status io_timer_create(struct io_timer **timer, struct io_loop *loop, io_timer_fn *fn,
                            void *context, struct error *err);
void io_timer_arm(struct io_timer *timer, uint64_t deadline_ns);
void io_timer_disarm(struct io_timer *timer);
void io_timer_destroy(struct io_timer *timer);

#endif
