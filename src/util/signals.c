#include "util/signals.h"

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

enum status signals_start_thread(pthread_t *thread, const char *name, void *(*run)(void *argument),
                                 void *argument, struct error *err)
{
    sigset_t all, previous;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    int failure = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (failure != 0)
        return error_set(err, STATUS_IO, "cannot start thread %s: %s", name, strerror(failure));
    pthread_setname_np(*thread, name);
    return STATUS_OK;
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
    pthread_sigmask(SIG_BLOCK, &watch->set, NULL);
    enum status status =
        signals_start_thread(&watch->thread, "aerostat-signal", watch_main, watch, err);
    if (status == STATUS_OK)
        *out = watch;
    else
        free(watch);
    return status;
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
