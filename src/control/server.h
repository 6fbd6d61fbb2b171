#ifndef AEROSTAT_CONTROL_SERVER_H
#define AEROSTAT_CONTROL_SERVER_H

/*
 * Serves the control socket of a VM or of the manager, on an event loop: takes connections of this
 * user (and of root), reads requests, has them answered. docs/control.md says what goes over the
 * wire and where the limits are.
 *
 * Whoever connects may be broken or hostile. What a connection can hold is bounded: one line, one
 * descriptor, one reply. There are CONTROL_CLIENTS_MOST of them; a newcomer takes the place of the
 * one that has been silent longest. All of them together are served CONTROL_RATE requests and
 * connections a second, beyond a burst.
 */

#include <jansson.h>

#include "control/request.h"
#include "util/io_loop.h"

#define CONTROL_CLIENTS_MOST 16u
#define CONTROL_RATE         200u
#define CONTROL_BURST        50u

struct control_server_config {
    struct io_loop *loop;
    int listener; /* non-blocking; not owned */
    const struct control_language *language;
    /* On the loop's thread: what is asked. The members of the reply, which the server then owns, or
     * NULL with *err. */
    json_t *(*answer)(void *context, struct control_request *request, struct error *err);
    /* After an answer to a request that takes the connection: it is the context's from here on.
     * `greeting`, the reply, goes out first; `typed` came behind the request. NULL where the
     * language has no such request. */
    void (*take)(void *context, const struct control_request *request, int fd, const char *greeting,
                 const char *typed, size_t length);
    void *context;
};

struct control_server;

/* Not in the sandbox, where a process no longer knows its user. */
enum status control_server_create(struct control_server **server,
                                  const struct control_server_config *config, struct error *err);
/* After the loop has stopped. NULL is allowed. */
void control_server_destroy(struct control_server *server);

#endif
