/*
 * The guest's serial port has one end of a socket pair. What it sends goes into a ring that never
 * refuses; `head` counts all bytes ever, and each client has its own count of what it has been
 * sent. What a client types waits in its `input` until the serial port takes it; until then nothing
 * more is read from that client.
 */
#include "vm/console_relay.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/clock.h"

#define CHUNK         4096u
#define GREETING_MOST 256u
#define LAST_WORDS_NS NS_PER_SECOND

struct client {
    struct console_relay *relay;
    struct io_source *source; /* NULL: a free slot */
    int fd;
    uint64_t sent; /* counts as the relay's head does */
    char greeting[GREETING_MOST];
    size_t greeting_length, greeting_sent;
    char input[CHUNK];
    size_t input_length, input_sent;
    bool leaving; /* it will type no more: gets what has been printed up to `last`, and is closed */
    uint64_t last;
};

struct console_relay {
    struct io_loop *loop;
    int guest_end, end;
    struct io_source *source;
    uint32_t events; /* of source */
    uint64_t head;
    uint8_t ring[CONSOLE_RING_SIZE];
    struct client clients[CONSOLE_CLIENTS_MOST];
};

static void client_drop(struct client *client)
{
    io_source_destroy(client->source);
    client->source = NULL;
    close(client->fd);
}

static bool has_output(const struct client *client)
{
    uint64_t last = client->leaving ? client->last : client->relay->head;
    return client->greeting_sent < client->greeting_length || client->sent < last;
}

static bool has_input(const struct client *client)
{
    return client->input_sent < client->input_length;
}

/* Sends one piece. False: the client is gone. */
static bool client_send(struct client *client)
{
    struct console_relay *relay = client->relay;
    const void *bytes;
    size_t length;
    bool greets = client->greeting_sent < client->greeting_length;
    if (greets) {
        bytes = client->greeting + client->greeting_sent;
        length = client->greeting_length - client->greeting_sent;
    } else {
        if (relay->head - client->sent > CONSOLE_RING_SIZE)
            client->sent = relay->head - CONSOLE_RING_SIZE; /* too slow: the rest is overwritten */
        size_t start = client->sent % CONSOLE_RING_SIZE;
        bytes = relay->ring + start;
        length = CONSOLE_RING_SIZE - start;
        if (length > relay->head - client->sent)
            length = relay->head - client->sent;
    }
    ssize_t count = send(client->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0)
        return errno == EAGAIN || errno == EINTR;
    if (greets)
        client->greeting_sent += (size_t)count;
    else
        client->sent += (uint64_t)count;
    return true;
}

/* Hands what has been typed to the serial port, as far as it takes it. */
static void client_type(struct client *client)
{
    ssize_t count = send(client->relay->end, client->input + client->input_sent,
                         client->input_length - client->input_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count > 0)
        client->input_sent += (size_t)count;
    else if (count < 0 && errno != EAGAIN && errno != EINTR)
        client->input_sent = client->input_length; /* a machine that has ended takes none */
}

/* False: the client is gone. */
static bool client_receive(struct client *client)
{
    ssize_t count = recv(client->fd, client->input, sizeof client->input, MSG_DONTWAIT);
    if (count < 0)
        return errno == EAGAIN || errno == EINTR;
    client->input_length = (size_t)count;
    client->input_sent = 0;
    if (count == 0) {
        client->leaving = true;
        client->last = client->relay->head;
    }
    return true;
}

/* Listens for what can go on now. */
static void update_events(struct console_relay *relay)
{
    uint32_t wanted = EPOLLIN;
    for (unsigned i = 0; i < CONSOLE_CLIENTS_MOST; i++) {
        struct client *client = &relay->clients[i];
        if (client->source == NULL)
            continue;
        if (client->leaving && !has_input(client) && !has_output(client)) {
            client_drop(client);
            continue;
        }
        bool reads = !client->leaving && !has_input(client);
        io_source_set_events(client->source,
                             (reads ? EPOLLIN : 0u) | (has_output(client) ? EPOLLOUT : 0u));
        if (has_input(client))
            wanted |= EPOLLOUT;
    }
    if (wanted != relay->events)
        io_source_set_events(relay->source, wanted);
    relay->events = wanted;
}

static void client_ready(void *context, uint32_t events)
{
    struct client *client = context;
    struct console_relay *relay = client->relay;
    bool alive = true;
    if ((events & EPOLLIN) != 0 && !client->leaving && !has_input(client))
        alive = client_receive(client);
    if (alive && has_input(client))
        client_type(client);
    if (alive && has_output(client))
        alive = client_send(client);
    if (!alive || (events & EPOLLERR) != 0)
        client_drop(client);
    update_events(relay);
}

/* Takes what the guest has printed. False: there is none now. */
static bool take_output(struct console_relay *relay)
{
    size_t start = relay->head % CONSOLE_RING_SIZE;
    size_t room = CONSOLE_RING_SIZE - start;
    ssize_t count =
        recv(relay->end, relay->ring + start, room < CHUNK ? room : CHUNK, MSG_DONTWAIT);
    if (count > 0)
        relay->head += (uint64_t)count;
    return count > 0;
}

static void guest_ready(void *context, uint32_t events)
{
    struct console_relay *relay = context;
    if ((events & EPOLLIN) != 0)
        take_output(relay);
    for (unsigned i = 0; i < CONSOLE_CLIENTS_MOST; i++) {
        if (relay->clients[i].source != NULL && has_input(&relay->clients[i]))
            client_type(&relay->clients[i]);
    }
    update_events(relay);
}

enum status console_relay_create(struct console_relay **out, struct io_loop *loop, int *guest_end,
                                 struct error *err)
{
    struct console_relay *relay = calloc(1, sizeof *relay);
    int ends[2];
    *out = NULL;
    if (relay == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the console");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
        free(relay);
        return error_set(err, STATUS_NO_MEMORY, "cannot make the console's socket: %s",
                         strerror(errno));
    }
    relay->loop = loop;
    relay->guest_end = ends[0];
    relay->end = ends[1];
    relay->events = EPOLLIN;
    enum status status =
        io_source_create(&relay->source, loop, relay->end, EPOLLIN, guest_ready, relay, err);
    if (status != STATUS_OK) {
        console_relay_destroy(relay);
        return status;
    }
    *guest_end = relay->guest_end;
    *out = relay;
    return STATUS_OK;
}

static struct client *slot_find(struct console_relay *relay)
{
    for (unsigned i = 0; i < CONSOLE_CLIENTS_MOST; i++) {
        if (relay->clients[i].source == NULL)
            return &relay->clients[i];
    }
    return NULL;
}

bool console_relay_has_room(const struct console_relay *relay)
{
    return slot_find((struct console_relay *)relay) != NULL;
}

enum status console_relay_attach(struct console_relay *relay, int fd, const char *greeting,
                                 const char *typed, size_t typed_length)
{
    struct client *client = slot_find(relay);
    if (client == NULL || strlen(greeting) > GREETING_MOST || typed_length > CHUNK)
        return STATUS_NO_SPACE;
    *client = (struct client){
        .relay = relay,
        .fd = fd,
        .sent = relay->head > CONSOLE_RING_SIZE ? relay->head - CONSOLE_RING_SIZE : 0,
        .greeting_length = strlen(greeting),
        .input_length = typed_length,
    };
    memcpy(client->greeting, greeting, client->greeting_length);
    memcpy(client->input, typed, typed_length);
    enum status status =
        io_source_create(&client->source, relay->loop, fd, EPOLLIN, client_ready, client, NULL);
    if (status == STATUS_OK)
        update_events(relay);
    return status;
}

/* Waits for a client that takes more, up to the deadline. */
static void client_finish(struct client *client, uint64_t deadline)
{
    while (has_output(client)) {
        uint64_t now = clock_monotonic_ns();
        struct pollfd ready = {.fd = client->fd, .events = POLLOUT};
        if (now >= deadline || poll(&ready, 1, (int)((deadline - now) / 1000000) + 1) <= 0 ||
            !client_send(client))
            return;
    }
}

void console_relay_destroy(struct console_relay *relay)
{
    if (relay == NULL)
        return;
    while (relay->source != NULL && take_output(relay))
        continue;
    uint64_t deadline = clock_monotonic_ns() + LAST_WORDS_NS;
    for (unsigned i = 0; i < CONSOLE_CLIENTS_MOST; i++) {
        struct client *client = &relay->clients[i];
        if (client->source == NULL)
            continue;
        client_finish(client, deadline);
        client_drop(client);
    }
    io_source_destroy(relay->source);
    close(relay->end);
    close(relay->guest_end);
    free(relay);
}
