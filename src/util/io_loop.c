/*
 * The loop's thread sleeps in epoll_wait on three kinds of descriptors: the sources' own, one
 * eventfd (`wake_fd`) that interrupts the sleep for doorbells and for stopping, and one timerfd
 * that is set to the earliest deadline of all timers. One turn of the loop runs the ready sources,
 * then the timers that are due, then the events that were signalled; what callbacks add runs in the
 * next turn, so none can keep the others from running.
 *
 * Lock: one mutex a loop, for every list and handle here; never held while a callback runs, and a
 * leaf: nothing else is locked under it. So arming and signalling are safe under any device's lock.
 * Removing is not, where the callback takes that lock: it waits for a running callback.
 *
 * Lifetime: epoll may already have handed out a source when another thread removes it. So removing
 * marks a handle dead, waits for its callback, and leaves it on the graveyard; the loop frees that
 * just before it sleeps, when it holds no results of an earlier epoll_wait.
 */
#include "util/io_loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/clock.h"
#include "util/signals.h"

#define BATCH    16
#define NO_ALARM UINT64_MAX

/* What sources, events and timers have in common. First member of each. */
struct handle {
    struct io_loop *loop;
    TAILQ_ENTRY(handle) link; /* in loop->handles, then in loop->graveyard */
    bool dead;
};
TAILQ_HEAD(handle_list, handle);

struct io_source {
    struct handle handle;
    int fd;
    uint32_t events; /* 0: not in the epoll set, so that a hung-up descriptor does not spin */
    io_source_fn *fn;
    void *context;
};

struct io_event {
    struct handle handle;
    _Atomic bool signalled;
    bool queued;
    TAILQ_ENTRY(io_event) queue_link;
    io_event_fn *fn;
    void *context;
};
TAILQ_HEAD(event_list, io_event);

struct io_timer {
    struct handle handle;
    uint64_t deadline;
    struct timer_list *list; /* armed or due, NULL when neither */
    TAILQ_ENTRY(io_timer) timer_link;
    io_timer_fn *fn;
    void *context;
};
TAILQ_HEAD(timer_list, io_timer);

struct io_loop {
    int epoll_fd, wake_fd, timer_fd;
    char name[16];
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t callback_done;
    bool started, joined, stopping;
    bool thread_known; /* thread_self is good */
    pthread_t thread_self;
    bool wake_sent;         /* wake_fd is readable */
    struct handle *running; /* whose callback is being called now */
    struct handle_list handles, graveyard;
    struct event_list events;     /* signalled */
    struct timer_list armed, due; /* armed: by deadline; due: to be run in this turn */
    uint64_t alarm;               /* what timer_fd is set to, or NO_ALARM */
};

static bool on_loop_thread(const struct io_loop *loop)
{
    return loop->thread_known && pthread_equal(loop->thread_self, pthread_self());
}

static void loop_wake(struct io_loop *loop)
{
    if (loop->wake_sent || on_loop_thread(loop))
        return; /* the loop looks at its lists again before it sleeps */
    loop->wake_sent = true;
    uint64_t one = 1;
    ssize_t ignored = write(loop->wake_fd, &one, sizeof one);
    (void)ignored; /* cannot fail: the counter is at most 1 */
}

/* Sets the timerfd for the earliest armed timer. A late alarm is only ever moved forward here; one
 * that has become too early rings for nothing, once, which is cheaper than resetting it. */
static void loop_set_alarm(struct io_loop *loop)
{
    struct io_timer *first = TAILQ_FIRST(&loop->armed);
    if (first == NULL || first->deadline >= loop->alarm)
        return;
    loop->alarm = first->deadline;
    uint64_t ns = first->deadline == 0 ? 1 : first->deadline; /* 0 would disarm */
    if (ns > INT64_MAX)
        ns = INT64_MAX;
    struct itimerspec at = {.it_value = {.tv_sec = (time_t)(ns / NS_PER_SECOND),
                                         .tv_nsec = (long)(ns % NS_PER_SECOND)}};
    timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void handle_add(struct handle *handle, struct io_loop *loop)
{
    handle->loop = loop;
    pthread_mutex_lock(&loop->lock);
    TAILQ_INSERT_TAIL(&loop->handles, handle, link);
    pthread_mutex_unlock(&loop->lock);
}

/* With the lock held, and the handle already off every other list. */
static void handle_bury(struct handle *handle)
{
    struct io_loop *loop = handle->loop;
    handle->dead = true;
    TAILQ_REMOVE(&loop->handles, handle, link);
    TAILQ_INSERT_TAIL(&loop->graveyard, handle, link);
    if (!on_loop_thread(loop)) {
        /* Inserted first: a loop that is being destroyed by its owner still frees it. */
        while (loop->running == handle)
            pthread_cond_wait(&loop->callback_done, &loop->lock);
    }
}

static void free_handles(struct handle_list *list)
{
    struct handle *handle;
    while ((handle = TAILQ_FIRST(list)) != NULL) {
        TAILQ_REMOVE(list, handle, link);
        free(handle); /* the first member: frees the whole */
    }
}

/* Around every callback, which runs without the lock. */
static void callback_begin(struct io_loop *loop, struct handle *handle)
{
    loop->running = handle;
    pthread_mutex_unlock(&loop->lock);
}

static void callback_end(struct io_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop->running = NULL;
    pthread_cond_broadcast(&loop->callback_done);
}

static void drain_fd(int fd)
{
    uint64_t count;
    ssize_t ignored = read(fd, &count, sizeof count);
    (void)ignored; /* non-blocking: EAGAIN where there is nothing */
}

static void run_source(struct io_loop *loop, struct io_source *source, uint32_t events)
{
    uint32_t wanted = events & (source->events | EPOLLHUP | EPOLLERR);
    if (source->handle.dead || source->events == 0 || wanted == 0)
        return;
    callback_begin(loop, &source->handle);
    source->fn(source->context, wanted);
    callback_end(loop);
}

static void run_timers(struct io_loop *loop)
{
    struct io_timer *timer = TAILQ_FIRST(&loop->armed);
    if (timer == NULL)
        return;
    uint64_t now = clock_monotonic_ns();
    while ((timer = TAILQ_FIRST(&loop->armed)) != NULL && timer->deadline <= now) {
        TAILQ_REMOVE(&loop->armed, timer, timer_link);
        TAILQ_INSERT_TAIL(&loop->due, timer, timer_link);
        timer->list = &loop->due;
    }
    while (!loop->stopping && (timer = TAILQ_FIRST(&loop->due)) != NULL) {
        TAILQ_REMOVE(&loop->due, timer, timer_link);
        timer->list = NULL;
        callback_begin(loop, &timer->handle);
        timer->fn(timer->context);
        callback_end(loop);
    }
}

static void run_events(struct io_loop *loop)
{
    struct io_event *last = TAILQ_LAST(&loop->events, event_list);
    struct io_event *event;
    bool more = last != NULL;
    while (more && !loop->stopping && (event = TAILQ_FIRST(&loop->events)) != NULL) {
        more = event != last; /* one removed meanwhile only makes this turn run some more */
        TAILQ_REMOVE(&loop->events, event, queue_link);
        event->queued = false;
        /* Before the call: a signal that comes during it makes another one. */
        atomic_exchange(&event->signalled, false);
        callback_begin(loop, &event->handle);
        event->fn(event->context);
        callback_end(loop);
    }
}

static void *loop_main(void *argument)
{
    struct io_loop *loop = argument;
    struct epoll_event batch[BATCH];

    pthread_mutex_lock(&loop->lock);
    loop->thread_self = pthread_self();
    loop->thread_known = true;
    while (!loop->stopping) {
        free_handles(&loop->graveyard);
        loop_set_alarm(loop);
        int timeout = TAILQ_EMPTY(&loop->events) ? -1 : 0;
        pthread_mutex_unlock(&loop->lock);
        int count = epoll_wait(loop->epoll_fd, batch, BATCH, timeout);
        pthread_mutex_lock(&loop->lock);
        for (int i = 0; i < count && !loop->stopping; i++) {
            if (batch[i].data.ptr == &loop->wake_fd) {
                drain_fd(loop->wake_fd);
                loop->wake_sent = false;
            } else if (batch[i].data.ptr == &loop->timer_fd) {
                drain_fd(loop->timer_fd);
                loop->alarm = NO_ALARM;
            } else {
                run_source(loop, batch[i].data.ptr, batch[i].events);
            }
        }
        run_timers(loop);
        run_events(loop);
    }
    loop->thread_known = false;
    pthread_mutex_unlock(&loop->lock);
    return NULL;
}

static enum status watch_own_fd(struct io_loop *loop, int *fd, struct error *err)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = fd};
    if (*fd < 0 || epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, *fd, &event) != 0)
        return error_set(err, STATUS_IO, "cannot set up an event loop: %s", strerror(errno));
    return STATUS_OK;
}

enum status io_loop_create(struct io_loop **result, const char *name, struct error *err)
{
    *result = NULL;
    struct io_loop *loop = calloc(1, sizeof *loop);
    if (loop == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for an event loop");
    strncpy(loop->name, name, sizeof loop->name - 1);
    pthread_mutex_init(&loop->lock, NULL);
    pthread_cond_init(&loop->callback_done, NULL);
    TAILQ_INIT(&loop->handles);
    TAILQ_INIT(&loop->graveyard);
    TAILQ_INIT(&loop->events);
    TAILQ_INIT(&loop->armed);
    TAILQ_INIT(&loop->due);
    loop->alarm = NO_ALARM;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);

    enum status status = watch_own_fd(loop, &loop->wake_fd, err);
    if (status == STATUS_OK)
        status = watch_own_fd(loop, &loop->timer_fd, err);
    if (status != STATUS_OK) {
        io_loop_destroy(loop);
        return status;
    }
    *result = loop;
    return STATUS_OK;
}

enum status io_loop_start(struct io_loop *loop, struct error *err)
{
    if (loop->started)
        return error_set(err, STATUS_INVALID, "event loop %s was started before", loop->name);
    enum status status = signals_start_thread(&loop->thread, loop->name, loop_main, loop, err);
    loop->started = status == STATUS_OK;
    return status;
}

void io_loop_stop(struct io_loop *loop)
{
    if (!loop->started || loop->joined)
        return;
    pthread_mutex_lock(&loop->lock);
    loop->stopping = true;
    loop_wake(loop);
    pthread_mutex_unlock(&loop->lock);
    pthread_join(loop->thread, NULL);
    loop->joined = true;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

void io_loop_destroy(struct io_loop *loop)
{
    if (loop == NULL)
        return;
    io_loop_stop(loop);
    free_handles(&loop->handles);
    free_handles(&loop->graveyard);
    close_fd(loop->timer_fd);
    close_fd(loop->wake_fd);
    close_fd(loop->epoll_fd);
    pthread_cond_destroy(&loop->callback_done);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

enum status io_source_create(struct io_source **result, struct io_loop *loop, int fd,
                             uint32_t events, io_source_fn *fn, void *context, struct error *err)
{
    *result = NULL;
    struct io_source *source = calloc(1, sizeof *source);
    if (source == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for an event source");
    source->fd = fd;
    source->events = events;
    source->fn = fn;
    source->context = context;
    handle_add(&source->handle, loop);

    /* Even with no events at first: tells at once whether the descriptor can be watched at all. */
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0) {
        int failure = errno;
        source->events = 0; /* not in the set: another source may have this descriptor */
        io_source_destroy(source);
        return error_set(err, failure == EPERM ? STATUS_UNSUPPORTED : STATUS_IO,
                         "cannot watch descriptor %d: %s", fd, strerror(failure));
    }
    if (events == 0)
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, &event);
    *result = source;
    return STATUS_OK;
}

void io_source_set_events(struct io_source *source, uint32_t events)
{
    struct io_loop *loop = source->handle.loop;
    pthread_mutex_lock(&loop->lock);
    if (events != source->events) {
        struct epoll_event event = {.events = events, .data.ptr = source};
        int operation = source->events == 0 ? EPOLL_CTL_ADD
                        : events == 0       ? EPOLL_CTL_DEL
                                            : EPOLL_CTL_MOD;
        epoll_ctl(loop->epoll_fd, operation, source->fd, &event);
        source->events = events;
    }
    pthread_mutex_unlock(&loop->lock);
}

void io_source_destroy(struct io_source *source)
{
    if (source == NULL)
        return;
    struct io_loop *loop = source->handle.loop;
    pthread_mutex_lock(&loop->lock);
    if (source->events != 0) {
        struct epoll_event event = {0};
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, &event);
    }
    handle_bury(&source->handle);
    pthread_mutex_unlock(&loop->lock);
}

enum status io_event_create(struct io_event **result, struct io_loop *loop, io_event_fn *fn,
                            void *context, struct error *err)
{
    struct io_event *event = calloc(1, sizeof *event);
    *result = event;
    if (event == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for an event");
    event->fn = fn;
    event->context = context;
    handle_add(&event->handle, loop);
    return STATUS_OK;
}

void io_event_signal(struct io_event *event)
{
    /* A full barrier: what the caller wrote before is seen by the call that is already due. */
    if (atomic_exchange(&event->signalled, true))
        return;
    struct io_loop *loop = event->handle.loop;
    pthread_mutex_lock(&loop->lock);
    if (!event->queued && !event->handle.dead) {
        event->queued = true;
        TAILQ_INSERT_TAIL(&loop->events, event, queue_link);
        loop_wake(loop);
    }
    pthread_mutex_unlock(&loop->lock);
}

void io_event_destroy(struct io_event *event)
{
    if (event == NULL)
        return;
    struct io_loop *loop = event->handle.loop;
    pthread_mutex_lock(&loop->lock);
    if (event->queued)
        TAILQ_REMOVE(&loop->events, event, queue_link);
    event->queued = false;
    handle_bury(&event->handle);
    pthread_mutex_unlock(&loop->lock);
}

enum status io_timer_create(struct io_timer **result, struct io_loop *loop, io_timer_fn *fn,
                            void *context, struct error *err)
{
    struct io_timer *timer = calloc(1, sizeof *timer);
    *result = timer;
    if (timer == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a timer");
    timer->fn = fn;
    timer->context = context;
    handle_add(&timer->handle, loop);
    return STATUS_OK;
}

static void timer_unlink(struct io_timer *timer)
{
    if (timer->list != NULL)
        TAILQ_REMOVE(timer->list, timer, timer_link);
    timer->list = NULL;
}

void io_timer_arm(struct io_timer *timer, uint64_t deadline_ns)
{
    struct io_loop *loop = timer->handle.loop;
    pthread_mutex_lock(&loop->lock);
    if (!timer->handle.dead) {
        timer_unlink(timer);
        timer->deadline = deadline_ns;
        timer->list = &loop->armed;
        /* From the back: a new deadline is most often the latest. */
        struct io_timer *before = TAILQ_LAST(&loop->armed, timer_list);
        while (before != NULL && before->deadline > deadline_ns)
            before = TAILQ_PREV(before, timer_list, timer_link);
        if (before != NULL)
            TAILQ_INSERT_AFTER(&loop->armed, before, timer, timer_link);
        else
            TAILQ_INSERT_HEAD(&loop->armed, timer, timer_link);
        if (!on_loop_thread(loop)) /* which sets it at the end of its turn */
            loop_set_alarm(loop);
    }
    pthread_mutex_unlock(&loop->lock);
}

void io_timer_disarm(struct io_timer *timer)
{
    struct io_loop *loop = timer->handle.loop;
    pthread_mutex_lock(&loop->lock);
    timer_unlink(timer);
    pthread_mutex_unlock(&loop->lock);
}

void io_timer_destroy(struct io_timer *timer)
{
    if (timer == NULL)
        return;
    struct io_loop *loop = timer->handle.loop;
    pthread_mutex_lock(&loop->lock);
    timer_unlink(timer);
    handle_bury(&timer->handle);
    pthread_mutex_unlock(&loop->lock);
}
