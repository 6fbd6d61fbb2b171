#include "control/server.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/folder.h"
#include "util/clock.h"

#define REFILL_NS    (NS_PER_SECOND / 20)
#define REFILL_COUNT (CONTROL_RATE / 20)

/* One connection. It reads while it has no reply to send and the server has tokens. */
struct client {
    struct control_server *server;
    struct io_source *source; /* NULL: a free slot */
    int fd;
    uint64_t last_active; /* counts as the server's turns do */
    char line[CONTROL_LINE_MOST];
    size_t length;
    int descriptor; /* came with the bytes of a request that is not served yet; -1: none */
    char *reply;    /* being sent, with its newline; NULL: none */
    size_t reply_length, reply_sent;
    bool close_after; /* the reply is the last */
};

struct control_server {
    struct control_server_config config;
    uid_t uid;
    struct io_source *listener;
    struct io_timer *refill;
    struct io_event *more; /* clients have further requests that have come already */
    unsigned tokens;
    bool refilling;
    uint64_t turns;
    struct client clients[CONTROL_CLIENTS_MOST];
};

/* Takes a token; false where there is none. Whatever spends makes the refill go on. */
static bool spend(struct control_server *server)
{
    if (!server->refilling) {
        server->refilling = true;
        io_timer_arm(server->refill, clock_monotonic_ns() + REFILL_NS);
    }
    if (server->tokens == 0)
        return false;
    server->tokens--;
    return true;
}

static void close_descriptor(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* Lets go of the connection without closing it. */
static int client_release(struct client *client)
{
    close_descriptor(&client->descriptor);
    io_source_destroy(client->source);
    client->source = NULL;
    free(client->reply);
    client->reply = NULL;
    return client->fd;
}

static void client_drop(struct client *client)
{
    close(client_release(client));
}

/* Takes over `body`, an object or NULL. False: out of memory. */
static bool client_reply(struct client *client, json_t *body)
{
    char *text = body == NULL ? NULL : json_dumps(body, JSON_COMPACT);
    json_decref(body);
    if (text == NULL)
        return false;
    client->reply_length = strlen(text);
    client->reply_sent = 0;
    text[client->reply_length++] = '\n'; /* in the place of the terminating 0 */
    client->reply = text;
    return true;
}

static json_t *reply_error(const struct error *err)
{
    return json_pack("{s:i, s:b, s:s, s:s}", "version", CONTROL_VERSION, "ok", 0, "code",
                     status_name(err->status), "error", err->text);
}

static json_t *reply_ok(json_t *members)
{
    json_t *body = json_pack("{s:i, s:b}", "version", CONTROL_VERSION, "ok", 1);
    if (body != NULL && json_object_update(body, members) != 0) {
        json_decref(body);
        body = NULL;
    }
    json_decref(members);
    return body;
}

/* Hands the connection on, with the reply to be sent over it first. False: out of memory. */
static bool client_hand_over(struct client *client, const struct control_request *request,
                             json_t *reply, size_t used)
{
    const struct control_server_config *config = &client->server->config;
    if (!client_reply(client, reply))
        return false;
    char *greeting = client->reply;
    greeting[client->reply_length - 1] = '\0'; /* its newline is the taker's to send */
    client->reply = NULL;
    config->take(config->context, request, client_release(client), greeting, client->line + used,
                 client->length - used);
    free(greeting);
    return true;
}

/* Serves the request in the first `length` bytes of the line, of which `used` are taken with it.
 * False: out of memory. */
static bool client_serve(struct client *client, size_t length, size_t used)
{
    const struct control_server_config *config = &client->server->config;
    struct control_request request;
    const struct control_verb *verb;
    struct error err = {0};
    json_t *members = NULL;
    if (control_request_parse(config->language, client->line, length, &request, &verb, &err) ==
        STATUS_OK) {
        if (verb->needs_descriptor != (client->descriptor >= 0)) {
            error_set(&err, STATUS_INVALID, "\"%s\" %s a descriptor", verb->name,
                      verb->needs_descriptor ? "needs" : "has no use for");
        } else {
            request.descriptor = client->descriptor;
            client->descriptor = -1;
            members = config->answer(config->context, &request, &err);
            close_descriptor(&request.descriptor);
        }
    }
    close_descriptor(&client->descriptor);
    if (members == NULL)
        return client_reply(client, reply_error(&err));
    if (verb->takes_connection)
        return client_hand_over(client, &request, reply_ok(members), used);
    return client_reply(client, reply_ok(members));
}

/* Serves one request, if one lies ready and there is a token; then listens for what it needs to go
 * on. Further requests wait until the others have had their turn. False: the connection is to be
 * closed. */
static bool client_work(struct client *client)
{
    bool served = false;
    for (;;) {
        if (client->reply != NULL) {
            ssize_t count =
                send(client->fd, client->reply + client->reply_sent,
                     client->reply_length - client->reply_sent, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (count < 0 && errno != EAGAIN && errno != EINTR)
                return false;
            client->reply_sent += count < 0 ? 0 : (size_t)count;
            if (client->reply_sent < client->reply_length) {
                io_source_set_events(client->source, EPOLLOUT);
                return true;
            }
            free(client->reply);
            client->reply = NULL;
            if (client->close_after)
                return false;
        }
        const char *end = memchr(client->line, '\n', client->length);
        if (end == NULL && client->length < sizeof client->line) {
            io_source_set_events(client->source, EPOLLIN);
            return true;
        }
        if (served || !spend(client->server)) {
            io_source_set_events(client->source, 0); /* until the next turn, or the refill */
            if (served)
                io_event_signal(client->server->more);
            return true;
        }
        served = true;
        if (end == NULL) {
            struct error err;
            error_set(&err, STATUS_INVALID, "a request has at most %u bytes", CONTROL_LINE_MOST);
            client->close_after = true;
            if (!client_reply(client, reply_error(&err)))
                return false;
            continue;
        }
        size_t length = (size_t)(end - client->line), used = length + 1;
        if (!client_serve(client, length, used))
            return false;
        if (client->source == NULL)
            return true; /* somebody else's now */
        memmove(client->line, client->line + used, client->length - used);
        client->length -= used;
    }
}

/* Reads on into the line. A descriptor that comes along is kept for the next request; a second one
 * is more than anybody needs. False: the connection is to be closed. */
static bool client_read(struct client *client)
{
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {client->line + client->length, sizeof client->line - client->length};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = &control,
                            .msg_controllen = CMSG_LEN(sizeof(int))}; /* or two would fit */
    ssize_t count = recvmsg(client->fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (count < 0)
        return errno == EAGAIN || errno == EINTR;
    struct cmsghdr *passed = CMSG_FIRSTHDR(&header);
    bool fits = (header.msg_flags & MSG_CTRUNC) == 0;
    if (passed != NULL && passed->cmsg_level == SOL_SOCKET && passed->cmsg_type == SCM_RIGHTS &&
        passed->cmsg_len == CMSG_LEN(sizeof(int))) {
        fits = fits && client->descriptor < 0;
        close_descriptor(&client->descriptor);
        memcpy(&client->descriptor, CMSG_DATA(passed), sizeof(int));
    }
    client->length += (size_t)count;
    return count != 0 && fits; /* hung up: what was not a whole line is forgotten */
}

static void client_ready(void *context, uint32_t events)
{
    struct client *client = context;
    client->last_active = ++client->server->turns;
    if (client->reply == NULL && client->length < sizeof client->line && !client_read(client)) {
        client_drop(client);
        return;
    }
    if (!client_work(client))
        client_drop(client);
}

/* A slot for a new connection: a free one, or that of the one that was silent longest. */
static struct client *slot_find(struct control_server *server)
{
    struct client *oldest = &server->clients[0];
    for (unsigned i = 0; i < CONTROL_CLIENTS_MOST; i++) {
        struct client *client = &server->clients[i];
        if (client->source == NULL)
            return client;
        if (client->last_active < oldest->last_active)
            oldest = client;
    }
    client_drop(oldest);
    return oldest;
}

static void listener_ready(void *context, uint32_t events)
{
    struct control_server *server = context;
    if (!spend(server)) {
        io_source_set_events(server->listener, 0); /* until the refill */
        return;
    }
    int fd = accept4(server->config.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    pid_t pid;
    uid_t uid;
    if (!control_peer(fd, &pid, &uid) || (uid != server->uid && uid != 0)) {
        close(fd);
        return;
    }
    struct client *client = slot_find(server);
    *client = (struct client){
        .server = server, .fd = fd, .descriptor = -1, .last_active = ++server->turns};
    if (io_source_create(&client->source, server->config.loop, fd, EPOLLIN, client_ready, client,
                         NULL) != STATUS_OK)
        close(fd);
}

/* A turn for each, from another one each time, so that none is always the last when tokens are few.
 */
static void serve_all(struct control_server *server)
{
    unsigned first = (unsigned)(server->turns++ % CONTROL_CLIENTS_MOST);
    for (unsigned i = 0; i < CONTROL_CLIENTS_MOST; i++) {
        struct client *client = &server->clients[(first + i) % CONTROL_CLIENTS_MOST];
        if (client->source != NULL && client->reply == NULL && !client_work(client))
            client_drop(client);
    }
}

static void on_more(void *context)
{
    serve_all(context);
}

static void on_refill(void *context)
{
    struct control_server *server = context;
    server->refilling = false;
    server->tokens += REFILL_COUNT;
    if (server->tokens >= CONTROL_BURST)
        server->tokens = CONTROL_BURST;
    else
        io_timer_arm(server->refill, clock_monotonic_ns() + REFILL_NS);
    server->refilling = server->tokens < CONTROL_BURST;
    io_source_set_events(server->listener, EPOLLIN);
    serve_all(server);
}

enum status control_server_create(struct control_server **out,
                                  const struct control_server_config *config, struct error *err)
{
    struct control_server *server = calloc(1, sizeof *server);
    *out = server;
    if (server == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the control socket");
    server->config = *config;
    server->uid = geteuid();
    server->tokens = CONTROL_BURST;
    enum status status = io_timer_create(&server->refill, config->loop, on_refill, server, err);
    if (status == STATUS_OK)
        status = io_event_create(&server->more, config->loop, on_more, server, err);
    if (status == STATUS_OK)
        status = io_source_create(&server->listener, config->loop, config->listener, EPOLLIN,
                                  listener_ready, server, err);
    if (status != STATUS_OK) {
        control_server_destroy(server);
        *out = NULL;
    }
    return status;
}

void control_server_destroy(struct control_server *server)
{
    if (server == NULL)
        return;
    for (unsigned i = 0; i < CONTROL_CLIENTS_MOST; i++) {
        if (server->clients[i].source != NULL)
            client_drop(&server->clients[i]);
    }
    io_source_destroy(server->listener);
    io_event_destroy(server->more);
    io_timer_destroy(server->refill);
    free(server);
}
