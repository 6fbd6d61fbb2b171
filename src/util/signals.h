#ifndef AEROSTAT_UTIL_SIGNALS_H
#define AEROSTAT_UTIL_SIGNALS_H

#include <signal.h>

#include "util/status.h"

/* The signals by which users, terminals and service managers end a program in good order. */
void signals_that_end(sigset_t *set);

/* A thread that waits for them, where no signalfd is wanted: whoever polls one is woken by each
 * signal of the process, also by the faults of its threads (mmu/window.h). */
struct signal_watch;

/* Calls take(context, number) on that thread for each signal of the set that the process gets. The
 * caller has blocked them, in all threads. */
enum status signal_watch_start(struct signal_watch **out, const sigset_t *set,
                               void (*take)(void *context, int number), void *context,
                               struct error *err);

/* None is taken after that. NULL does nothing. */
void signal_watch_stop(struct signal_watch *watch);

#endif
