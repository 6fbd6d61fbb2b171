#include "dev/virtio/console.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>

#include "dev/virtio/iov.h"
#include "util/log.h"
#include "util/stream.h"

#define CONSOLE_QUEUE_SIZE 64u

enum { QUEUE_RECEIVE, QUEUE_TRANSMIT, QUEUES };

/* Each direction holds at most one chain: one that waits for its descriptor. The descriptor's
 * source is armed only then, so that input nobody has a buffer for does not spin the loop. */
struct virtio_console {
    struct virtio_device base;
    struct virtio_console_config config;
    struct stream input_stream;
    struct stream output_stream;
    struct io_source *input; /* NULL for a descriptor that epoll does not take: always ready */
    struct io_source *output;
    bool input_ended;
    bool output_failed;
    struct virtqueue_chain receive;
    struct virtqueue_chain transmit;
};

static struct virtio_console *console_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_console, base);
}

static bool fd_ready(int fd, short events)
{
    struct pollfd poll_fd = {.fd = fd, .events = events};

    return poll(&poll_fd, 1, 0) > 0;
}

static void source_watch(struct io_source *source, uint32_t events)
{
    if (source != NULL)
        io_source_set_events(source, events);
}

/* ---- guest to host ---- */

/* Writes what the descriptor takes. True when nothing is left, or nobody wants it. */
static bool console_write_some(struct virtio_console *console)
{
    struct virtqueue_chain *chain = &console->transmit;
    struct iovec *iov = chain->iov;
    unsigned count = chain->out_count;
    bool done = true;

    while (count > 0 && !console->output_failed) {
        if (!fd_ready(console->output_stream.fd, POLLOUT)) {
            done = false;
            break;
        }
        ssize_t written = stream_write(&console->output_stream, iov->iov_base, iov->iov_len);
        if (written > 0) {
            iov_drop_front(&iov, &count, (uint64_t)written);
            virtio_stats_add(&console->base.stats.bytes_out, (uint64_t)written);
        } else if (written < 0 && errno == EAGAIN) {
            done = false;
            break;
        } else if (written < 0 && errno != EINTR) {
            log_warning("virtio console: output failed, dropped from here on");
            console->output_failed = true;
            virtio_stats_add(&console->base.stats.errors, 1);
        }
    }
    /* The chain's list must stay where the chain's owner frees it: move what is left to its front.
     */
    for (unsigned i = 0; i < count; i++)
        chain->iov[i] = iov[i];
    chain->out_count = count;
    return done;
}

static bool console_handle_transmit(struct virtio_device *device, unsigned queue,
                                    struct virtqueue_chain *chain)
{
    struct virtio_console *console = console_of(device);

    if (!console_write_some(console)) {
        source_watch(console->output, EPOLLOUT);
        return false;
    }
    virtio_device_complete(device, queue, chain, 0);
    return true;
}

static void console_transmit(struct virtio_console *console)
{
    struct virtio_device *device = &console->base;

    source_watch(console->output, 0);
    if (console->transmit.held &&
        !console_handle_transmit(device, QUEUE_TRANSMIT, &console->transmit))
        return;
    virtio_device_drain(device, QUEUE_TRANSMIT, &console->transmit, console_handle_transmit);
}

static void console_output_ready(void *context, uint32_t events)
{
    struct virtio_console *console = context;

    virtio_device_enter(&console->base);
    if (virtio_device_queue_runs(&console->base, QUEUE_TRANSMIT))
        console_transmit(console);
    else
        source_watch(console->output, 0);
    virtio_device_leave(&console->base);
}

/* ---- host to guest ---- */

static bool console_handle_receive(struct virtio_device *device, unsigned queue,
                                   struct virtqueue_chain *chain)
{
    struct virtio_console *console = console_of(device);
    struct iovec *iov = virtqueue_chain_in(chain);

    if (console->input_ended)
        return false;
    if (chain->in_count == 0) {
        virtio_device_complete(device, queue, chain, 0);
        return true;
    }
    if (!fd_ready(console->input_stream.fd, POLLIN)) {
        source_watch(console->input, EPOLLIN);
        return false;
    }
    ssize_t got = stream_read(&console->input_stream, iov->iov_base, iov->iov_len);
    if (got > 0) {
        virtio_stats_add(&device->stats.bytes_in, (uint64_t)got);
        virtio_device_complete(device, queue, chain, (uint32_t)got);
        return true;
    }
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        source_watch(console->input, EPOLLIN);
    else
        console->input_ended = true;
    return false;
}

static void console_receive(struct virtio_console *console)
{
    struct virtio_device *device = &console->base;

    source_watch(console->input, 0);
    if (console->receive.held && !console_handle_receive(device, QUEUE_RECEIVE, &console->receive))
        return;
    virtio_device_drain(device, QUEUE_RECEIVE, &console->receive, console_handle_receive);
}

static void console_input_ready(void *context, uint32_t events)
{
    struct virtio_console *console = context;

    virtio_device_enter(&console->base);
    if (virtio_device_queue_runs(&console->base, QUEUE_RECEIVE))
        console_receive(console);
    else
        source_watch(console->input, 0);
    virtio_device_leave(&console->base);
}

/* ---- the device ---- */

static uint64_t console_features(struct virtio_device *device)
{
    return bit(VIRTIO_CONSOLE_F_SIZE);
}

static void console_notify(struct virtio_device *device, unsigned queue)
{
    if (queue == QUEUE_TRANSMIT)
        console_transmit(console_of(device));
    else
        console_receive(console_of(device));
}

static void console_release(struct virtio_device *device, unsigned queue)
{
    struct virtio_console *console = console_of(device);

    if (queue == QUEUE_TRANSMIT)
        virtqueue_drop(&device->queues[queue], &console->transmit);
    else
        virtqueue_drop(&device->queues[queue], &console->receive);
}

void virtio_console_resize(struct virtio_device *device, uint16_t columns, uint16_t rows)
{
    struct virtio_console *console = console_of(device);

    virtio_device_access_begin(device);
    if (console->config.cols != columns || console->config.rows != rows) {
        console->config.cols = columns;
        console->config.rows = rows;
        virtio_device_config_changed(device);
    }
    virtio_device_access_end(device);
}

static void console_free(struct virtio_console *console)
{
    virtqueue_chain_finish(&console->receive);
    virtqueue_chain_finish(&console->transmit);
    stream_close(&console->input_stream);
    stream_close(&console->output_stream);
    free(console);
}

static void console_destroy(struct virtio_device *device)
{
    struct virtio_console *console = console_of(device);

    /* After the reset no queue runs, and nothing looks at the sources but their own callbacks. */
    virtio_device_reset(device);
    if (console->input != NULL)
        io_source_destroy(console->input);
    if (console->output != NULL)
        io_source_destroy(console->output);
    virtio_device_finish(device);
    console_free(console);
}

static const struct virtio_device_ops console_ops = {
    .name = "console",
    .id = VIRTIO_ID_CONSOLE,
    .queue_count = QUEUES,
    .queue_size_max = CONSOLE_QUEUE_SIZE,
    .features = console_features,
    .notify = console_notify,
    .release = console_release,
    .destroy = console_destroy,
};

/* Files are not for epoll and always ready: they do without a source. */
static struct io_source *console_source(struct virtio_console *console, int fd, io_source_fn *fn)
{
    struct io_source *source = NULL;

    if (fd < 0 || console->base.loop == NULL)
        return NULL;
    if (io_source_create(&source, console->base.loop, fd, 0, fn, console, NULL) != STATUS_OK)
        return NULL;
    return source;
}

enum status virtio_console_create(struct virtio_device **device, struct pmap *map,
                                  struct io_loop *loop,
                                  const struct virtio_console_options *options, struct error *err)
{
    struct virtio_console *console = calloc(1, sizeof(*console));

    if (console == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the console");
    console->input_ended = options->input_fd < 0;
    console->output_failed = options->output_fd < 0;
    console->input_stream = STREAM_NONE;
    console->output_stream = STREAM_NONE;
    enum status status = STATUS_OK;
    if (options->input_fd >= 0)
        status = stream_open(&console->input_stream, options->input_fd, O_RDONLY, err);
    if (status == STATUS_OK && options->output_fd >= 0)
        status = stream_open(&console->output_stream, options->output_fd, O_WRONLY, err);
    if (status == STATUS_OK)
        status = virtio_device_init(&console->base, &console_ops, map, loop, &console->config,
                                    sizeof(console->config), err);
    if (status != STATUS_OK) {
        console_free(console);
        return status;
    }
    console->input = console_source(console, console->input_stream.fd, console_input_ready);
    console->output = console_source(console, console->output_stream.fd, console_output_ready);
    *device = &console->base;
    return STATUS_OK;
}
