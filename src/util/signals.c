#include "util/signals.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define STOP_SIGNAL SIGINT /* in the set always; sent to the thread it wakes it */

struct signal_watch {
    sigset_t set;
    void (*take)(void *context, int number);
    void *context;
    atomic_bool is_stopping;
    pthread_t thread;
};

void signals_that_end(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGQUIT);
}

static void *watch_main(void *argument)
{
    struct signal_watch *watch = argument;
    int number;
    while (sigwait(&watch->set, &number) == 0 && !atomic_load(&watch->is_stopping))
        watch->take(watch->context, number);
    return NULL;
}

enum status signal_watch_start(struct signal_watch **out, const sigset_t *set,
                               void (*take)(void *context, int number), void *context,
                               struct error *err)
{
    struct signal_watch *watch = malloc(sizeof *watch);
    if (watch == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory to watch signals");
    *watch = (struct signal_watch){.set = *set, .take = take, .context = context};
    sigaddset(&watch->set, STOP_SIGNAL);
    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    int failure = pthread_create(&watch->thread, NULL, watch_main, watch);
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (failure != 0) {
        free(watch);
        return error_set(err, STATUS_IO, "cannot start the thread that waits for signals: %s",
                         strerror(failure));
    }
    pthread_setname_np(watch->thread, "aerostat-signal");
    *out = watch;
    return STATUS_OK;
}

void signal_watch_stop(struct signal_watch *watch)
{
    if (watch == NULL)
        return;
    atomic_store(&watch->is_stopping, true);
    pthread_kill(watch->thread, STOP_SIGNAL);
    pthread_join(watch->thread, NULL);
    free(watch);
}
