#ifndef AEROSTAT_UTIL_STREAM_H
#define AEROSTAT_UTIL_STREAM_H

/*
 * A descriptor from outside (a terminal, a pipe, a socket, a file), read or written on an event
 * loop, which must never block.
 *
 * A descriptor that we were given may be shared with other processes (a terminal with the shell),
 * so its O_NONBLOCK is not ours to change; and that it is ready says little, when another process
 * may be quicker, or a terminal takes a part of what is written and blocks for the rest. So pipes
 * and terminals are opened a second time through /proc, which gives an open file of our own;
 * sockets have MSG_DONTWAIT. What can be neither is written in pieces small enough that a
 * descriptor that is ready takes them.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "util/status.h"

struct stream {
    int fd; /* our own; watch this one. -1: none */
    bool is_socket;
    size_t chunk; /* bytes written at once at most */
};

#define STREAM_NONE ((struct stream){.fd = -1})

/* `fd` stays the caller's. `mode` is O_RDONLY or O_WRONLY. On failure *stream is STREAM_NONE. */
enum status stream_open(struct stream *stream, int fd, int mode, struct error *err);
void stream_close(struct stream *stream); /* harmless on STREAM_NONE */

/* As read(2) and write(2), one call of at most `count` bytes; never SIGPIPE from a socket. */
ssize_t stream_read(const struct stream *stream, void *bytes, size_t count);
ssize_t stream_write(const struct stream *stream, const void *bytes, size_t count);

#endif
