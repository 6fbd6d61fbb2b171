/*
 * See manager_link.h. The states of a link:
 *
 *   HELLO, HOLDS   saying who we are and what we share
 *   WAITING        for WELCOME; nothing is sent
 *   MOVING         the pool is another: what is shared in the old one becomes private, some pages
 *                  at a time; nothing is sent or received
 *   UP
 *
 * One message at a time is on its way out, in `out`; while the socket does not take it nothing else
 * is made, and references that are dropped wait in their queue (sharing.h).
 */

#include "vm/manager_link.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "mem/scan.h"
#include "util/bits.h"
#include "util/clock.h"
#include "util/io_loop.h"
#include "util/log.h"
#include "vm/link_report.h"
#include "vm/link_scan.h"

#define RECEIVE_MOST  16u /* messages a turn */
#define MOVE_PAGES    64u /* made private a turn */
#define MOVE_RETRY_NS (NS_PER_SECOND / 10)
#define REPORT_NS     NS_PER_SECOND
#define REPORT_MOST   (4 * NS_PER_SECOND) /* between two looks at a VM that does not change */

enum link_state { LINK_NONE, LINK_SAYS_HELLO, LINK_SAYS_HOLDS, LINK_WAITS, LINK_MOVES, LINK_UP };

struct manager_link {
    struct manager_link_config config;
    struct sharing *sharing;
    struct io_loop *loop;
    struct io_event *wake;  /* a new link, or references dropped */
    struct io_event *moves; /* the next pages */
    struct io_timer *move_timer, *report_timer, *scan_timer;
    _Atomic int next_fd; /* -1: none */
    _Atomic bool is_started;
    bool said_broken;

    /* Of the loop's thread. */
    enum link_state state;
    int fd;
    struct io_source *source;
    _Alignas(8) uint8_t out[LINK_MOST];
    uint64_t out_length; /* 0: none */
    int out_descriptors[LINK_DESCRIPTORS_MOST];
    unsigned out_descriptor_count;
    _Alignas(8) uint8_t in[LINK_MOST];

    int new_pool; /* while MOVING */
    struct link_welcome welcome;
    uint64_t move_next;

    struct link_scan scan;
    struct link_reporter reporter;
    bool report_is_due;
    uint64_t report_ns; /* until the next look */
};

/* ------------------------------------------------------------------------- life of a link */

static void hang_up(struct manager_link *link)
{
    if (link->state == LINK_NONE)
        return;
    io_source_destroy(link->source);
    link->source = NULL;
    close(link->fd);
    link->fd = -1;
    if (link->state == LINK_MOVES)
        close(link->new_pool);
    link->state = LINK_NONE;
    link->out_length = 0;
    io_timer_disarm(link->scan_timer);
    io_timer_disarm(link->report_timer);
    io_timer_disarm(link->move_timer);
    link_scan_stop(&link->scan);
    sharing_unlink(link->sharing);
    struct machine *machine = vm_slot_hold(link->config.slot);
    if (machine == NULL)
        return;
    scan_enable(machine_scan(machine), false);
    vm_slot_release(link->config.slot);
}

static void breach(struct manager_link *link, const struct error *err)
{
    if (!link->said_broken)
        log_warning("the manager is broken: it sent %s; the VM goes on without it", err->text);
    link->said_broken = true;
    hang_up(link);
}

/* What is to be listened for. */
static void listen_on(struct manager_link *link)
{
    uint32_t events = link->state == LINK_MOVES ? 0 : EPOLLIN;
    io_source_set_events(link->source, link->out_length != 0 ? events | EPOLLOUT : events);
}

/* ------------------------------------------------------------------------- sending */

/* The message that is to be sent next: its body, of `count`. */
static void *compose(struct manager_link *link, enum link_type type, uint32_t count)
{
    struct link_head head = {.type = type, .count = count};
    memcpy(link->out, &head, sizeof head);
    link->out_length = link_size(type, count);
    link->out_descriptor_count = 0;
    return link->out + sizeof head;
}

static void compose_hello(struct manager_link *link)
{
    const struct vm_options *options = link->config.options;
    struct link_hello *hello = compose(link, LINK_HELLO, 1);
    *hello = (struct link_hello){
        .version = LINK_VERSION,
        .pid = (uint32_t)getpid(),
        .shares = options->shares,
        .min = options->min,
        .max = options->memory,
        .span_pages = machine_span_pages(options),
        .overhead = link_report_overhead(options),
    };
    strncpy(hello->name, options->name, sizeof hello->name - 1);
    if (options->group != NULL)
        strncpy(hello->group, options->group, sizeof hello->group - 1);
    link->out_descriptors[link->out_descriptor_count++] = link->config.ram;
    if (sharing_pool(link->sharing) >= 0) {
        hello->pool_key = sharing_key(link->sharing);
        link->out_descriptors[link->out_descriptor_count++] = sharing_pool(link->sharing);
    }
}

static void compose_refs(struct manager_link *link, enum link_type type,
                         const struct link_ref *refs, unsigned count)
{
    memcpy(compose(link, type, count), refs, count * sizeof *refs);
}

/* False: nothing is to be said. */
static bool compose_next(struct manager_link *link)
{
    struct link_ref refs[LINK_PAGES];
    unsigned count;
    switch (link->state) {
    case LINK_SAYS_HELLO:
        compose_hello(link);
        sharing_holds_begin(link->sharing);
        link->state = LINK_SAYS_HOLDS;
        return true;
    case LINK_SAYS_HOLDS:
        count = sharing_holds(link->sharing, refs, LINK_PAGES);
        if (count != 0) {
            compose_refs(link, LINK_HOLDS, refs, count);
        } else {
            compose(link, LINK_READY, 0);
            link->state = LINK_WAITS;
        }
        return true;
    case LINK_UP:
        count = sharing_drops(link->sharing, refs, LINK_PAGES);
        if (count != 0) {
            compose_refs(link, LINK_DROP, refs, count);
            sharing_told(link->sharing, count);
            return true;
        }
        if (link->report_is_due) {
            link->report_is_due = false;
            *(struct link_report *)compose(link, LINK_REPORT, 1) = link->reporter.last;
            return true;
        }
        count = link_scan_offers(&link->scan);
        if (count != 0) {
            memcpy(compose(link, LINK_OFFER, count), link->scan.offers,
                   count * sizeof link->scan.offers[0]);
            link->scan.offer_count = 0;
            return true;
        }
        return false;
    case LINK_NONE:
    case LINK_WAITS:
    case LINK_MOVES:
        break;
    }
    return false;
}

/* Sends what there is to be sent, as far as the socket takes it. */
static void pump(struct manager_link *link)
{
    struct error err;
    while (link->state != LINK_NONE && (link->out_length != 0 || compose_next(link))) {
        enum status status = link_send(link->fd, link->out, link->out_length, link->out_descriptors,
                                       link->out_descriptor_count, &err);
        if (status == STATUS_BUSY)
            break;
        if (status != STATUS_OK) {
            hang_up(link);
            return;
        }
        link->out_length = 0;
    }
    if (link->state != LINK_NONE)
        listen_on(link);
}

/* ------------------------------------------------------------------------- from WELCOME on */

static void go_up(struct manager_link *link)
{
    struct machine *machine = vm_slot_hold(link->config.slot);
    if (machine == NULL) {
        hang_up(link);
        return;
    }
    link->state = LINK_UP;
    scan_forget_all(machine_scan(machine));
    link_reporter_fill(&link->reporter, machine, link->sharing);
    vm_slot_release(link->config.slot);
    link->report_is_due = true;
    link->report_ns = REPORT_NS;
    io_timer_arm(link->report_timer, clock_monotonic_ns() + REPORT_NS);
}

/* Some more of the old pool's pages become private; then the new one takes its place. */
static void on_move(void *context)
{
    struct manager_link *link = context;
    struct error err;
    if (link->state != LINK_MOVES)
        return;
    struct machine *machine = vm_slot_hold(link->config.slot);
    if (machine == NULL) {
        hang_up(link);
        return;
    }
    struct pmap *map = machine_map(machine);
    uint64_t span = machine_span_pages(link->config.options);
    enum status status = page_unshare_some(map, &link->move_next, MOVE_PAGES);
    bool is_through = status == STATUS_OK && link->move_next >= span;
    if (is_through) {
        link->move_next = 0; /* should some be left: there is a new machine by now */
        status = sharing_set_pool(link->sharing, map, link->new_pool, link->welcome.pool_bytes,
                                  link->welcome.key, &err);
    }
    vm_slot_release(link->config.slot);
    if (status == STATUS_OK && is_through) {
        link->new_pool = -1;
        go_up(link);
        pump(link);
    } else if (status == STATUS_OK) {
        io_event_signal(link->moves);
    } else if (is_through && status != STATUS_BUSY) {
        log_warning("%s; the VM shares no pages", err.text);
        hang_up(link);
    } else {
        /* No memory just now, or a page is still on its way. */
        io_timer_arm(link->move_timer, clock_monotonic_ns() + MOVE_RETRY_NS);
    }
}

/* Takes the descriptor over. */
static enum status take_welcome(struct manager_link *link, int fd, struct error *err)
{
    const struct link_welcome *welcome = &link->welcome;
    enum status status = STATUS_OK;
    if (link->state != LINK_WAITS)
        status = error_set(err, STATUS_INVALID, "a second welcome");
    else if (welcome->version != LINK_VERSION || welcome->key == 0)
        status = error_set(err, STATUS_INVALID, "a welcome of another version");
    if (status == STATUS_OK)
        status = sharing_pool_check(fd, welcome->pool_bytes, err);
    if (status == STATUS_OK && welcome->same_pool &&
        (!sharing_has_pool(link->sharing, fd) || welcome->key != sharing_key(link->sharing)))
        status = error_set(err, STATUS_INVALID, "a pool that is not the same");
    if (status != STATUS_OK || welcome->same_pool) {
        close(fd);
        if (status == STATUS_OK)
            go_up(link);
        return status;
    }
    link->state = LINK_MOVES;
    link->new_pool = fd;
    link->move_next = 0;
    io_event_signal(link->moves);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------- what the manager wants
 */

static void follow_target(struct manager_link *link, const struct link_target *target)
{
    struct machine *machine = vm_slot_hold(link->config.slot);
    uint64_t memory = link->config.options->memory;
    if (machine == NULL)
        return;
    uint64_t resident = target->resident < memory ? target->resident : memory;
    uint64_t balloon = target->balloon < memory ? target->balloon : memory - PAGE_SIZE;
    if (resident < OPTIONS_RESIDENT_LEAST)
        resident = OPTIONS_RESIDENT_LEAST;
    link->report_ns = REPORT_NS; /* it will change */
    machine_set_balloon(machine, align_down(balloon, PAGE_SIZE));
    machine_set_resident(machine, align_down(resident, PAGE_SIZE));
    machine_set_blocked(machine, target->block != 0);
    scan_enable(machine_scan(machine), target->scan_pages != 0 && target->scan_ppm != 0);
    vm_slot_release(link->config.slot);
    link_scan_set(&link->scan, target->scan_pages, target->scan_ppm);
    if (link->scan.is_on)
        io_timer_arm(link->scan_timer, link->scan.next_ns);
    else
        io_timer_disarm(link->scan_timer);
}

static enum status follow_attach(struct manager_link *link, const struct link_ref *refs,
                                 unsigned count, struct error *err)
{
    struct machine *machine = vm_slot_hold(link->config.slot);
    if (machine == NULL)
        return STATUS_OK;
    enum status status = sharing_attach(link->sharing, machine_map(machine), refs, count, err);
    for (unsigned i = 0; i < count; i++)
        scan_forget(machine_scan(machine), refs[i].ppn);
    vm_slot_release(link->config.slot);
    return status;
}

/* link->in has a message in form; a descriptor with it is ours. */
static enum status follow(struct manager_link *link, const int *descriptors, struct error *err)
{
    struct link_head head;
    const uint8_t *body = link->in + sizeof head;
    memcpy(&head, link->in, sizeof head);
    if (head.type == LINK_WELCOME) {
        memcpy(&link->welcome, body, sizeof link->welcome);
        return take_welcome(link, descriptors[0], err);
    }
    if (link->state != LINK_UP)
        return error_set(err, STATUS_INVALID, "orders before a welcome");
    if (head.type == LINK_ATTACH)
        return follow_attach(link, (const struct link_ref *)(const void *)body, head.count, err);
    follow_target(link, (const struct link_target *)(const void *)body);
    return STATUS_OK;
}

static void on_ready(void *context, uint32_t events)
{
    struct manager_link *link = context;
    if (link->state == LINK_MOVES && events & (EPOLLHUP | EPOLLERR)) {
        hang_up(link);
        return;
    }
    for (unsigned i = 0; i < RECEIVE_MOST && link->state != LINK_MOVES; i++) {
        struct error err;
        uint64_t length;
        int descriptors[LINK_DESCRIPTORS_MOST];
        unsigned count;
        enum status status =
            link_receive(link->fd, LINK_MANAGER, link->in, &length, descriptors, &count, &err);
        if (status == STATUS_BUSY)
            break;
        if (status == STATUS_OK)
            status = follow(link, descriptors, &err);
        if (status == STATUS_INVALID)
            breach(link, &err);
        else if (status != STATUS_OK)
            hang_up(link);
        if (link->state == LINK_NONE)
            return;
    }
    pump(link);
}

/* ------------------------------------------------------------------------- from time to time */

static void on_report(void *context)
{
    struct manager_link *link = context;
    if (link->state != LINK_UP)
        return;
    struct machine *machine = vm_slot_hold(link->config.slot);
    if (machine == NULL)
        return;
    sharing_count_cpu(link->sharing, link_scan_cpu_ns());
    bool is_news = link_reporter_look(&link->reporter, machine, link->sharing);
    vm_slot_release(link->config.slot);
    link->report_is_due = link->report_is_due || is_news;
    link->report_ns = is_news ? REPORT_NS : 2 * link->report_ns;
    if (link->report_ns > REPORT_MOST)
        link->report_ns = REPORT_MOST;
    io_timer_arm(link->report_timer, clock_monotonic_ns() + link->report_ns);
    pump(link);
}

static void on_scan(void *context)
{
    struct manager_link *link = context;
    if (link->state != LINK_UP || !link->scan.is_on)
        return;
    pump(link);
    link_scan_begin(&link->scan, clock_monotonic_ns());
    while (link->state == LINK_UP && link->out_length == 0) {
        struct machine *machine = vm_slot_hold(link->config.slot);
        if (machine == NULL)
            return;
        bool goes_on =
            link_scan_run(&link->scan, machine_scan(machine), sharing_key(link->sharing));
        vm_slot_release(link->config.slot);
        pump(link);
        if (!goes_on)
            break;
    }
    sharing_count_cpu(link->sharing, link_scan_cpu_ns());
    if (link->state == LINK_UP)
        io_timer_arm(link->scan_timer, link->scan.next_ns);
}

static void on_wake(void *context)
{
    struct manager_link *link = context;
    int fd = atomic_exchange(&link->next_fd, -1);
    if (fd >= 0) {
        hang_up(link);
        if (io_source_create(&link->source, link->loop, fd, 0, on_ready, link, NULL) != STATUS_OK) {
            close(fd);
            return;
        }
        link->fd = fd;
        link->state = LINK_SAYS_HELLO;
    }
    pump(link);
}

/* From any thread. */
static void on_drop(void *context)
{
    struct manager_link *link = context;
    io_event_signal(link->wake);
}

/* ------------------------------------------------------------------------- its own life */

enum status manager_link_create(struct manager_link **out, const struct manager_link_config *config,
                                struct error *err)
{
    struct manager_link *link = calloc(1, sizeof *link);
    if (link == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the manager's link");
    link->config = *config;
    link->fd = link->new_pool = -1;
    atomic_store(&link->next_fd, -1);
    enum status status = io_loop_create(&link->loop, "aerostat-link", err);
    if (status == STATUS_OK)
        status = io_event_create(&link->wake, link->loop, on_wake, link, err);
    if (status == STATUS_OK)
        status = io_event_create(&link->moves, link->loop, on_move, link, err);
    if (status == STATUS_OK)
        status = io_timer_create(&link->move_timer, link->loop, on_move, link, err);
    if (status == STATUS_OK)
        status = io_timer_create(&link->report_timer, link->loop, on_report, link, err);
    if (status == STATUS_OK)
        status = io_timer_create(&link->scan_timer, link->loop, on_scan, link, err);
    if (status == STATUS_OK)
        status =
            sharing_create(&link->sharing, machine_span_pages(config->options), on_drop, link, err);
    if (status != STATUS_OK) {
        manager_link_destroy(link);
        return status;
    }
    *out = link;
    return STATUS_OK;
}

void manager_link_destroy(struct manager_link *link)
{
    if (link == NULL)
        return;
    if (link->loop != NULL)
        io_loop_stop(link->loop);
    hang_up(link);
    int fd = atomic_exchange(&link->next_fd, -1);
    if (fd >= 0)
        close(fd);
    io_loop_destroy(link->loop);
    sharing_destroy(link->sharing);
    free(link);
}

struct sharing *manager_link_sharing(struct manager_link *link)
{
    return link->sharing;
}

/* A pair of the kind that link.h wants. */
static bool is_link(int fd)
{
    int domain = 0, type = 0;
    socklen_t length = sizeof domain;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_UNIX &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_SEQPACKET;
}

enum status manager_link_adopt(struct manager_link *link, int fd, struct error *err)
{
    enum status status = STATUS_OK;
    if (!is_link(fd))
        status = error_set(err, STATUS_INVALID, "the descriptor is no link");
    else if (!atomic_exchange(&link->is_started, true))
        status = io_loop_start(link->loop, err);
    if (status != STATUS_OK) {
        close(fd);
        return status;
    }
    int before = atomic_exchange(&link->next_fd, fd);
    if (before >= 0)
        close(before);
    io_event_signal(link->wake);
    return STATUS_OK;
}
