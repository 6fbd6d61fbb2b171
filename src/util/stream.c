#include "util/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SMALL_CHUNK 256u

/* An open file of our own for the same pipe or terminal, or -1. */
static int open_again(int fd, int mode)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

/* A pipe or terminal. Not a terminal's master: to open /dev/ptmx again makes another terminal. */
static bool can_open_again(const struct stat *info)
{
    bool is_master = S_ISCHR(info->st_mode) && info->st_rdev == makedev(5, 2);
    return S_ISFIFO(info->st_mode) || (S_ISCHR(info->st_mode) && !is_master);
}

enum status stream_open(struct stream *stream, int fd, int mode, struct error *err)
{
    struct stat info;
    *stream = STREAM_NONE;
    stream->chunk = PIPE_BUF;
    if (fstat(fd, &info) != 0)
        return error_set(err, STATUS_IO, "cannot examine descriptor %d: %s", fd, strerror(errno));
    stream->is_socket = S_ISSOCK(info.st_mode);
    if (can_open_again(&info) && (fcntl(fd, F_GETFL) & O_NONBLOCK) == 0) {
        stream->fd = open_again(fd, mode);
        if (stream->fd < 0)
            stream->chunk = SMALL_CHUNK;
    }
    if (stream->fd < 0)
        stream->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (stream->fd < 0)
        return error_set(err, STATUS_IO, "cannot use descriptor %d: %s", fd, strerror(errno));
    return STATUS_OK;
}

void stream_close(struct stream *stream)
{
    if (stream->fd >= 0)
        close(stream->fd);
    *stream = STREAM_NONE;
}

ssize_t stream_read(const struct stream *stream, void *bytes, size_t count)
{
    if (stream->is_socket)
        return recv(stream->fd, bytes, count, MSG_DONTWAIT);
    return read(stream->fd, bytes, count);
}

ssize_t stream_write(const struct stream *stream, const void *bytes, size_t count)
{
    if (count > stream->chunk)
        count = stream->chunk;
    if (stream->is_socket)
        return send(stream->fd, bytes, count, MSG_DONTWAIT | MSG_NOSIGNAL);
    return write(stream->fd, bytes, count);
}
