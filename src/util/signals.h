#ifndef AEROSTAT_UTIL_SIGNALS_H
#define AEROSTAT_UTIL_SIGNALS_H

#include <pthread.h>
#include <signal.h>

#include "util/status.h"

/* The signals by which users, terminals and service managers end a program in good order. */
void signals_that_end(sigset_t *set);

/* Starts a thread that gets no signal but those of its own faults. */
enum status signals_start_thread(pthread_t *thread, const char *name, void *(*run)(void *argument),
                                 void *argument, struct error *err);

/* A thread that waits for them, where no signalfd is wanted: whoever polls one is woken by each
 * signal of the process, also by the faults of its threads (mmu/window.h). */
struct signal_watch;

/* Calls take(context, number) on that thread for each signal of the set that the process gets.
 * Blocks them in the calling thread, and those that it starts later; there is no other. */
enum status signal_watch_start(struct signal_watch **out, const sigset_t *set,
                               void (*take)(void *context, int number), void *context,
                               struct error *err);

/* None is taken after that. NULL does nothing. */
void signal_watch_stop(struct signal_watch *watch);

#endif
