/*
 * libslirp wants to be asked, before every sleep, which descriptors it waits for and how long
 * (slirp_pollfds_fill), and to be told afterwards which are ready (slirp_pollfds_poll). Here every
 * such descriptor has an io_source, and whenever libslirp has done something (a frame came in, a
 * descriptor was ready, time passed) the sources and the tick timer are brought up to date with
 * what it wants now: slirp_refresh. libslirp says when it closes a descriptor (unregister_poll_fd),
 * so a source never outlives the descriptor it is for.
 *
 * Lock order: the card's device lock, `lock` here, the card's backlog, the loop's.
 */
#include "dev/virtio/slirp.h"

#include <errno.h>
#include <pthread.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/clock.h"
#include "util/log.h"

#define NS_PER_MS   1000000ull
#define TIMEOUT_MAX 1000000u /* ms: how long to sleep when libslirp does not care */

struct slirp_backend {
    struct net_backend base;
    struct io_loop *loop;
    Slirp *slirp;
    pthread_mutex_t lock; /* around everything of libslirp */
    bool closing;
    struct io_event *wake; /* the first refresh, which must be on the loop */
    struct io_timer *tick;

    /* By descriptor; NULL where libslirp has none, or never wanted to wait for it. */
    struct slirp_watch **watches;
    unsigned watch_count;
    unsigned turn; /* number of the latest refresh */

    /* The descriptors of the latest refresh, by the index that libslirp was told. */
    int *polled;
    unsigned polled_count;
    unsigned polled_capacity;

    /* What slirp_pollfds_poll is being told. */
    int ready_fd;
    uint32_t ready_events;
};

struct slirp_watch {
    struct slirp_backend *backend;
    int fd;
    unsigned turn; /* the latest refresh that wanted it */
    struct io_source *source;
};

struct slirp_timer {
    struct slirp_backend *backend;
    struct io_timer *timer;
    SlirpTimerCb expired;
    void *context;
};

static void slirp_refresh(struct slirp_backend *backend);

/* ---- descriptors ---- */

static const struct {
    int slirp;
    uint32_t epoll;
} event_names[] = {
    {SLIRP_POLL_IN, EPOLLIN},   {SLIRP_POLL_OUT, EPOLLOUT}, {SLIRP_POLL_PRI, EPOLLPRI},
    {SLIRP_POLL_ERR, EPOLLERR}, {SLIRP_POLL_HUP, EPOLLHUP},
};

static uint32_t events_to_epoll(int events)
{
    uint32_t result = 0;

    for (size_t i = 0; i < ARRAY_LENGTH(event_names); i++)
        result |= (events & event_names[i].slirp) ? event_names[i].epoll : 0;
    return result;
}

static int events_from_epoll(uint32_t events)
{
    int result = 0;

    for (size_t i = 0; i < ARRAY_LENGTH(event_names); i++)
        result |= (events & event_names[i].epoll) ? event_names[i].slirp : 0;
    return result;
}

/* The answer to "is descriptor number `index` ready". */
static int get_ready(int index, void *context)
{
    struct slirp_backend *backend = context;

    if (index < 0 || (unsigned)index >= backend->polled_count ||
        backend->polled[index] != backend->ready_fd)
        return 0;
    return events_from_epoll(backend->ready_events);
}

/* One turn of libslirp: fd is ready with events, or (-1) time has passed. */
static void slirp_turn(struct slirp_backend *backend, int fd, uint32_t events)
{
    pthread_mutex_lock(&backend->lock);
    if (!backend->closing) {
        backend->ready_fd = fd;
        backend->ready_events = events;
        slirp_pollfds_poll(backend->slirp, 0, get_ready, backend);
        backend->ready_fd = -1;
        slirp_refresh(backend);
    }
    pthread_mutex_unlock(&backend->lock);
}

static void fd_ready(void *context, uint32_t events)
{
    struct slirp_watch *watch = context;

    slirp_turn(watch->backend, watch->fd, events);
}

static void tick_expired(void *context)
{
    slirp_turn(context, -1, 0);
}

static bool watches_reach(struct slirp_backend *backend, unsigned fd)
{
    if (fd < backend->watch_count)
        return true;
    unsigned count = (fd + 64) & ~63u;
    /* NOLINTBEGIN(bugprone-sizeof-expression): a table of pointers it is */
    struct slirp_watch **grown = realloc(backend->watches, count * sizeof(*grown));
    if (grown == NULL)
        return false;
    memset(grown + backend->watch_count, 0, (count - backend->watch_count) * sizeof(*grown));
    /* NOLINTEND(bugprone-sizeof-expression) */
    backend->watches = grown;
    backend->watch_count = count;
    return true;
}

/* The watch of a descriptor, made when it is not there. NULL: no memory, it is never ready. */
static struct slirp_watch *watch_get(struct slirp_backend *backend, int fd)
{
    if (fd < 0 || !watches_reach(backend, (unsigned)fd))
        return NULL;
    if (backend->watches[fd] != NULL)
        return backend->watches[fd];
    struct slirp_watch *watch = calloc(1, sizeof(*watch));
    if (watch == NULL)
        return NULL;
    watch->backend = backend;
    watch->fd = fd;
    if (io_source_create(&watch->source, backend->loop, fd, 0, fd_ready, watch, NULL) !=
        STATUS_OK) {
        free(watch);
        return NULL;
    }
    backend->watches[fd] = watch;
    return watch;
}

static void watch_remove(struct slirp_backend *backend, int fd)
{
    if (fd < 0 || (unsigned)fd >= backend->watch_count || backend->watches[fd] == NULL)
        return;
    io_source_destroy(backend->watches[fd]->source);
    free(backend->watches[fd]);
    backend->watches[fd] = NULL;
}

/* libslirp wants to wait for a descriptor. Returns the index by which it will ask for it. */
static int add_poll(int fd, int events, void *context)
{
    struct slirp_backend *backend = context;

    if (backend->polled_count == backend->polled_capacity) {
        unsigned capacity = backend->polled_capacity == 0 ? 64 : backend->polled_capacity * 2;
        int *grown = realloc(backend->polled, capacity * sizeof(*grown));
        if (grown == NULL)
            return -1;
        backend->polled = grown;
        backend->polled_capacity = capacity;
    }
    struct slirp_watch *watch = watch_get(backend, fd);
    if (watch != NULL) {
        watch->turn = backend->turn;
        io_source_set_events(watch->source, events_to_epoll(events));
    }
    backend->polled[backend->polled_count] = fd;
    return (int)backend->polled_count++;
}

/* Brings sources and timer up to date with what libslirp waits for. Under the lock. */
static void slirp_refresh(struct slirp_backend *backend)
{
    uint32_t timeout = TIMEOUT_MAX;

    backend->turn++;
    backend->polled_count = 0;
    slirp_pollfds_fill(backend->slirp, &timeout, add_poll, backend);
    for (unsigned fd = 0; fd < backend->watch_count; fd++) {
        struct slirp_watch *watch = backend->watches[fd];
        if (watch != NULL && watch->turn != backend->turn)
            io_source_set_events(watch->source, 0);
    }
    if (timeout < TIMEOUT_MAX)
        io_timer_arm(backend->tick, clock_monotonic_ns() + timeout * NS_PER_MS);
    else
        io_timer_disarm(backend->tick);
}

static void wake(void *context)
{
    slirp_turn(context, -1, 0);
}

/* ---- what libslirp calls ---- */

static ssize_t on_send_packet(const void *frame, size_t length, void *context)
{
    struct slirp_backend *backend = context;

    net_receive_fn *receive = __atomic_load_n(&backend->base.receive, __ATOMIC_ACQUIRE);

    if (receive != NULL)
        receive(backend->base.receive_context, frame, length);
    return (ssize_t)length;
}

static void on_guest_error(const char *message, void *context)
{
    log_debug("slirp: %s", message);
}

static int64_t on_clock(void *context)
{
    return (int64_t)clock_monotonic_ns();
}

static void timer_expired(void *context)
{
    struct slirp_timer *timer = context;
    struct slirp_backend *backend = timer->backend;

    pthread_mutex_lock(&backend->lock);
    if (!backend->closing) {
        timer->expired(timer->context);
        slirp_refresh(backend);
    }
    pthread_mutex_unlock(&backend->lock);
}

static void *on_timer_new(SlirpTimerCb expired, void *expired_context, void *context)
{
    struct slirp_backend *backend = context;
    struct slirp_timer *timer = calloc(1, sizeof(*timer));

    if (timer == NULL)
        return NULL;
    timer->backend = backend;
    timer->expired = expired;
    timer->context = expired_context;
    if (io_timer_create(&timer->timer, backend->loop, timer_expired, timer, NULL) != STATUS_OK) {
        free(timer);
        return NULL;
    }
    return timer;
}

static void on_timer_free(void *handle, void *context)
{
    struct slirp_timer *timer = handle;

    if (timer == NULL)
        return;
    io_timer_destroy(timer->timer);
    free(timer);
}

static void on_timer_mod(void *handle, int64_t expire_ms, void *context)
{
    struct slirp_timer *timer = handle;

    if (timer != NULL)
        io_timer_arm(timer->timer, expire_ms < 0 ? 0 : (uint64_t)expire_ms * NS_PER_MS);
}

static void on_register_fd(int fd, void *context)
{
    /* Watched from the first refresh that wants it. */
}

static void on_unregister_fd(int fd, void *context)
{
    watch_remove(context, fd);
}

static void on_notify(void *context)
{
    /* Every turn ends with a refresh as it is. */
}

static const SlirpCb slirp_callbacks = {
    .send_packet = on_send_packet,
    .guest_error = on_guest_error,
    .clock_get_ns = on_clock,
    .timer_new = on_timer_new,
    .timer_free = on_timer_free,
    .timer_mod = on_timer_mod,
    .register_poll_fd = on_register_fd,
    .unregister_poll_fd = on_unregister_fd,
    .notify = on_notify,
};

/* ---- the backend ---- */

static void backend_send(struct net_backend *base, const void *frame, size_t length)
{
    struct slirp_backend *backend = container_of(base, struct slirp_backend, base);

    pthread_mutex_lock(&backend->lock);
    if (!backend->closing) {
        slirp_input(backend->slirp, frame, (int)length);
        slirp_refresh(backend);
    }
    pthread_mutex_unlock(&backend->lock);
}

static void backend_destroy(struct net_backend *base)
{
    struct slirp_backend *backend = container_of(base, struct slirp_backend, base);

    /* Callbacks that start after this do nothing; those before have ended. */
    pthread_mutex_lock(&backend->lock);
    backend->closing = true;
    pthread_mutex_unlock(&backend->lock);

    if (backend->wake != NULL)
        io_event_destroy(backend->wake);
    if (backend->tick != NULL)
        io_timer_destroy(backend->tick);
    for (unsigned fd = 0; fd < backend->watch_count; fd++)
        watch_remove(backend, (int)fd);
    if (backend->slirp != NULL)
        slirp_cleanup(backend->slirp);
    free(backend->watches);
    free(backend->polled);
    pthread_mutex_destroy(&backend->lock);
    free(backend);
}

static const struct net_backend_ops backend_ops = {
    .send = backend_send,
    .destroy = backend_destroy,
};

static struct in_addr address(uint32_t host_order)
{
    return (struct in_addr){.s_addr = htonl(host_order)};
}

/* libslirp lets several sockets share a UDP port, and then only one of them hears anything. */
static bool udp_port_free(const struct forward *forward)
{
    struct sockaddr_in name = {
        .sin_family = AF_INET,
        .sin_addr = forward->host_address,
        .sin_port = htons(forward->host_port),
    };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool taken = fd >= 0 && bind(fd, (struct sockaddr *)&name, sizeof(name)) != 0;
    int reason = errno;

    if (fd >= 0)
        close(fd);
    errno = reason;
    return !taken;
}

static enum status forward_add(struct slirp_backend *backend, const struct forward *forward,
                               struct error *err)
{
    const char *protocol = forward->udp ? "udp" : "tcp";
    char text[INET_ADDRSTRLEN];

    if ((!forward->udp || udp_port_free(forward)) &&
        slirp_add_hostfwd(backend->slirp, forward->udp, forward->host_address, forward->host_port,
                          forward->guest_address, forward->guest_port) == 0)
        return STATUS_OK;
    int reason = errno;
    inet_ntop(AF_INET, &forward->host_address, text, sizeof(text));
    switch (reason) {
    case EADDRINUSE:
        return error_set(err, STATUS_BUSY, "hostfwd: %s port %s:%u is already in use", protocol,
                         text, forward->host_port);
    case EACCES:
        return error_set(err, STATUS_INVALID, "hostfwd: no permission to listen at %s port %s:%u",
                         protocol, text, forward->host_port);
    case EADDRNOTAVAIL:
        return error_set(err, STATUS_INVALID, "hostfwd: %s is not an address of this host", text);
    default:
        return error_set(err, STATUS_IO, "hostfwd: cannot listen at %s port %s:%u: %s", protocol,
                         text, forward->host_port, strerror(reason));
    }
}

enum status slirp_backend_create(struct net_backend **result, struct io_loop *loop,
                                 const struct slirp_options *options, struct error *err)
{
    const SlirpConfig config = {
        .version = 4,
        .in_enabled = true,
        .vnetwork = address(SLIRP_NETWORK),
        .vnetmask = address(SLIRP_NETMASK),
        .vhost = address(SLIRP_HOST),
        .vhostname = options->hostname,
        .vdhcp_start = address(SLIRP_DHCP_FIRST),
        .vnameserver = address(SLIRP_DNS),
    };
    struct slirp_backend *backend = calloc(1, sizeof(*backend));
    enum status status;

    if (backend == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for user networking");
    backend->base.ops = &backend_ops;
    backend->loop = loop;
    backend->ready_fd = -1;
    pthread_mutex_init(&backend->lock, NULL);
    status = io_event_create(&backend->wake, loop, wake, backend, err);
    if (status == STATUS_OK)
        status = io_timer_create(&backend->tick, loop, tick_expired, backend, err);
    if (status != STATUS_OK)
        goto fail;
    backend->slirp = slirp_new(&config, &slirp_callbacks, backend);
    if (backend->slirp == NULL) {
        status = error_set(err, STATUS_INTERNAL, "libslirp refused its configuration");
        goto fail;
    }
    for (unsigned i = 0; i < options->forward_count && status == STATUS_OK; i++)
        status = forward_add(backend, &options->forwards[i], err);
    if (status != STATUS_OK)
        goto fail;
    io_event_signal(backend->wake);
    *result = &backend->base;
    return STATUS_OK;
fail:
    backend_destroy(&backend->base);
    return status;
}
