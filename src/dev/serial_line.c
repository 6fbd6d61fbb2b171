/*
 * Output: a put fills the ring and rings a doorbell if it was empty; the loop then listens for
 * EPOLLOUT and writes a piece each time it comes, until the ring is empty. Input: the loop reads
 * while there is room in its ring; when there is none it stops listening until somebody takes bytes
 * out.
 *
 * epoll refuses regular files and some devices (/dev/null): those are always ready, and served by
 * the doorbells alone.
 * Neither blocks: see util/stream.h.
 *
 * Lock: one for both rings. The loop thread copies out of a ring under it and calls the host
 * without it.
 */
#include "dev/serial_line.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "util/clock.h"
#include "util/log.h"
#include "util/stream.h"

#define RING_SIZE   8192u /* a power of two */
#define WRITE_CHUNK 4096u
#define READ_CHUNK  1024u

/* head and tail run freely; bytes are at position modulo RING_SIZE. */
struct ring {
    size_t head, tail; /* next to be written; next to be read */
    uint8_t bytes[RING_SIZE];
};

struct serial_line {
    pthread_mutex_t lock;
    pthread_cond_t drained;
    struct serial_line_config config;

    struct ring output, input;
    struct io_event *output_event, *input_event;
    struct io_source *output_source, *input_source; /* NULL: always ready */

    struct stream output_stream, input_stream;
    bool output_dead, input_dead;
};

static size_t ring_used(const struct ring *ring)
{
    return ring->head - ring->tail;
}

static size_t ring_room(const struct ring *ring)
{
    return RING_SIZE - ring_used(ring);
}

static size_t ring_peek(const struct ring *ring, uint8_t *bytes, size_t count)
{
    if (count > ring_used(ring))
        count = ring_used(ring);
    for (size_t i = 0; i < count; i++)
        bytes[i] = ring->bytes[(ring->tail + i) % RING_SIZE];
    return count;
}

static void ring_put(struct ring *ring, uint8_t byte)
{
    ring->bytes[ring->head++ % RING_SIZE] = byte;
}

/* The host's side is gone: everything from now on is dropped. With the lock held. */
static void output_abandon(struct serial_line *line, int failure)
{
    log_warning("serial output dropped from now on: %s", strerror(failure));
    line->output_dead = true;
    line->output.tail = line->output.head;
}

/* On the loop: one write, then arranges to be called again if there is more. */
static void output_pump(struct serial_line *line)
{
    uint8_t bytes[WRITE_CHUNK];
    pthread_mutex_lock(&line->lock);
    size_t count = ring_peek(&line->output, bytes, sizeof bytes);
    pthread_mutex_unlock(&line->lock);

    /* Only this thread takes bytes off the ring, so they stay there until they are written. */
    ssize_t written = count == 0 ? 0 : stream_write(&line->output_stream, bytes, count);
    int failure = written < 0 ? errno : 0;

    pthread_mutex_lock(&line->lock);
    bool was_tight = ring_room(&line->output) < SERIAL_LINE_LOW;
    if (written > 0)
        line->output.tail += (size_t)written;
    else if (failure != 0 && failure != EINTR && (failure != EAGAIN || line->output_source == NULL))
        output_abandon(line, failure);
    bool empty = ring_used(&line->output) == 0;
    if (empty)
        pthread_cond_broadcast(&line->drained);
    if (line->output_source != NULL)
        io_source_set_events(line->output_source, empty ? 0 : EPOLLOUT);
    else if (!empty)
        io_event_signal(line->output_event);
    bool made_room = was_tight && ring_room(&line->output) >= SERIAL_LINE_LOW;
    pthread_mutex_unlock(&line->lock);
    if (made_room)
        line->config.changed(line->config.context);
}

static void output_ready(void *context, uint32_t events)
{
    output_pump(context);
}

static void output_rung(void *context)
{
    struct serial_line *line = context;
    if (line->output_source != NULL)
        io_source_set_events(line->output_source, EPOLLOUT);
    else
        output_pump(line);
}

static void input_end(struct serial_line *line)
{
    line->input_dead = true;
    if (line->input_source != NULL)
        io_source_set_events(line->input_source, 0);
}

/* Puts what was read into the ring, which has the room. */
static bool input_store(struct serial_line *line, uint8_t *bytes, size_t count)
{
    if (line->config.filter != NULL)
        count = line->config.filter(line->config.filter_context, bytes, count);
    pthread_mutex_lock(&line->lock);
    bool was_empty = ring_used(&line->input) == 0;
    for (size_t i = 0; i < count; i++)
        ring_put(&line->input, bytes[i]);
    bool full = ring_room(&line->input) == 0;
    if (full && line->input_source != NULL)
        io_source_set_events(line->input_source, 0);
    else if (!full && line->input_source == NULL)
        io_event_signal(line->input_event); /* always ready: the next piece in the next turn */
    pthread_mutex_unlock(&line->lock);
    return was_empty && count > 0;
}

static void input_pump(struct serial_line *line)
{
    uint8_t bytes[READ_CHUNK];
    pthread_mutex_lock(&line->lock);
    size_t room = line->input_dead ? 0 : ring_room(&line->input);
    pthread_mutex_unlock(&line->lock);
    if (room == 0)
        return;
    ssize_t count =
        stream_read(&line->input_stream, bytes, room < sizeof bytes ? room : sizeof bytes);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (count <= 0) {
        pthread_mutex_lock(&line->lock);
        input_end(line);
        pthread_mutex_unlock(&line->lock);
        return;
    }
    if (input_store(line, bytes, (size_t)count))
        line->config.changed(line->config.context);
}

static void input_ready(void *context, uint32_t events)
{
    input_pump(context);
}

static void input_rung(void *context)
{
    input_pump(context);
}

size_t serial_line_room(struct serial_line *line)
{
    pthread_mutex_lock(&line->lock);
    size_t room = line->output_dead ? RING_SIZE : ring_room(&line->output);
    pthread_mutex_unlock(&line->lock);
    return room;
}

bool serial_line_put(struct serial_line *line, uint8_t byte)
{
    pthread_mutex_lock(&line->lock);
    bool taken = line->output_dead || ring_room(&line->output) > 0;
    if (taken && !line->output_dead) {
        bool was_empty = ring_used(&line->output) == 0;
        ring_put(&line->output, byte);
        if (was_empty)
            io_event_signal(line->output_event);
    }
    pthread_mutex_unlock(&line->lock);
    return taken;
}

size_t serial_line_get(struct serial_line *line, uint8_t *bytes, size_t count)
{
    pthread_mutex_lock(&line->lock);
    bool was_full = ring_room(&line->input) == 0;
    count = ring_peek(&line->input, bytes, count);
    line->input.tail += count;
    if (was_full && count > 0 && !line->input_dead) {
        if (line->input_source != NULL)
            io_source_set_events(line->input_source, EPOLLIN);
        else
            io_event_signal(line->input_event);
    }
    pthread_mutex_unlock(&line->lock);
    return count;
}

void serial_line_flush(struct serial_line *line, uint64_t timeout_ns)
{
    uint64_t end = clock_monotonic_ns() + timeout_ns;
    struct timespec deadline = {.tv_sec = (time_t)(end / NS_PER_SECOND),
                                .tv_nsec = (long)(end % NS_PER_SECOND)};
    pthread_mutex_lock(&line->lock);
    int failure = 0;
    while (failure == 0 && ring_used(&line->output) != 0)
        failure = pthread_cond_clockwait(&line->drained, &line->lock, CLOCK_MONOTONIC, &deadline);
    pthread_mutex_unlock(&line->lock);
}

/* A descriptor that is none, or no longer open, is a dead end from the start. */
static enum status line_open(struct stream *stream, bool *dead, int fd, int mode, struct error *err)
{
    *stream = STREAM_NONE;
    *dead = fd < 0 || fcntl(fd, F_GETFD) < 0;
    return *dead ? STATUS_OK : stream_open(stream, fd, mode, err);
}

static enum status watch(struct io_source **source, struct serial_line *line, int fd,
                         uint32_t events, io_source_fn *fn, struct error *err)
{
    enum status status = io_source_create(source, line->config.loop, fd, events, fn, line, err);
    return status == STATUS_UNSUPPORTED ? STATUS_OK : status; /* always ready */
}

enum status serial_line_create(struct serial_line **result, const struct serial_line_config *config,
                               struct error *err)
{
    *result = NULL;
    struct serial_line *line = calloc(1, sizeof *line);
    if (line == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a serial line");
    pthread_mutex_init(&line->lock, NULL);
    pthread_cond_init(&line->drained, NULL);
    line->config = *config;
    enum status status =
        line_open(&line->output_stream, &line->output_dead, config->output_fd, O_WRONLY, err);
    if (status == STATUS_OK)
        status = line_open(&line->input_stream, &line->input_dead, config->input_fd, O_RDONLY, err);
    if (status == STATUS_OK)
        status = io_event_create(&line->output_event, config->loop, output_rung, line, err);
    if (status == STATUS_OK)
        status = io_event_create(&line->input_event, config->loop, input_rung, line, err);
    if (status == STATUS_OK && !line->output_dead)
        status = watch(&line->output_source, line, line->output_stream.fd, 0, output_ready, err);
    if (status == STATUS_OK && !line->input_dead)
        status = watch(&line->input_source, line, line->input_stream.fd, EPOLLIN, input_ready, err);
    if (status != STATUS_OK) {
        serial_line_destroy(line);
        return status;
    }
    if (!line->input_dead && line->input_source == NULL)
        io_event_signal(line->input_event);
    *result = line;
    return STATUS_OK;
}

void serial_line_destroy(struct serial_line *line)
{
    if (line == NULL)
        return;
    io_source_destroy(line->input_source);
    io_source_destroy(line->output_source);
    io_event_destroy(line->input_event);
    io_event_destroy(line->output_event);
    stream_close(&line->output_stream);
    stream_close(&line->input_stream);
    pthread_cond_destroy(&line->drained);
    pthread_mutex_destroy(&line->lock);
    free(line);
}
