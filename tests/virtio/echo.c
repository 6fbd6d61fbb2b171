#include "virtio/echo.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dev/virtio/iov.h"

static struct echo_device *echo_of(struct virtio_device *device)
{
    return container_of(device, struct echo_device, base);
}

static void echo_complete(struct virtio_device *device, unsigned queue,
                          struct virtqueue_chain *chain)
{
    const struct iovec *in = virtqueue_chain_in(chain);
    uint64_t length = chain->out_length < chain->in_length ? chain->out_length : chain->in_length;
    uint8_t *bytes = malloc(length + 1);

    assert_non_null(bytes);
    assert_int_equal(iov_length(chain->iov, chain->out_count), chain->out_length);
    assert_int_equal(iov_length(in, chain->in_count), chain->in_length);
    assert_int_equal(iov_read(chain->iov, chain->out_count, 0, bytes, length), length);
    for (uint64_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)~bytes[i];
    assert_int_equal(iov_write(in, chain->in_count, 0, bytes, length), length);
    free(bytes);
    virtio_device_complete(device, queue, chain, (uint32_t)length);
}

static bool echo_handle(struct virtio_device *device, unsigned queue, struct virtqueue_chain *chain)
{
    echo_complete(device, queue, chain);
    return true;
}

static void echo_notify(struct virtio_device *device, unsigned queue)
{
    struct echo_device *echo = echo_of(device);

    if (echo->hold == 0) {
        virtio_device_drain(device, queue, &echo->chains[0], echo_handle);
        return;
    }
    do {
        while (virtqueue_pop(&device->queues[queue], &echo->chains[echo->held])) {
            if (++echo->held < echo->hold)
                continue;
            while (echo->held > 0)
                echo_complete(device, queue, &echo->chains[--echo->held]);
        }
    } while (virtqueue_unmute(&device->queues[queue]));
}

static void echo_release(struct virtio_device *device, unsigned queue)
{
    struct echo_device *echo = echo_of(device);

    while (echo->held > 0)
        virtqueue_drop(&device->queues[queue], &echo->chains[--echo->held]);
}

static void echo_start(struct virtio_device *device)
{
    echo_of(device)->starts++;
}

static void echo_reset(struct virtio_device *device)
{
    echo_of(device)->resets++;
}

static void echo_config_write(struct virtio_device *device, uint32_t offset, unsigned size,
                              uint64_t value)
{
    struct echo_device *echo = echo_of(device);

    assert_true(range_fits(offset, size, sizeof(echo->config)));
    memcpy(echo->config + offset, &value, size);
    echo->config_writes++;
}

static void echo_destroy(struct virtio_device *device)
{
    struct echo_device *echo = echo_of(device);

    virtio_device_finish(device);
    for (unsigned i = 0; i < ARRAY_LENGTH(echo->chains); i++)
        virtqueue_chain_finish(&echo->chains[i]);
    free(echo);
}

static const struct virtio_device_ops echo_ops = {
    .name = "echo",
    .id = ECHO_ID,
    .queue_count = 2,
    .queue_size_max = ECHO_QUEUE_SIZE,
    .config_write = echo_config_write,
    .start = echo_start,
    .notify = echo_notify,
    .release = echo_release,
    .reset = echo_reset,
    .destroy = echo_destroy,
};

struct echo_device *echo_create(struct pmap *map)
{
    struct echo_device *echo = calloc(1, sizeof(*echo));

    assert_non_null(echo);
    memcpy(echo->config, "\x01\x02\x03\x04\x05\x06\x07\x08", sizeof(echo->config));
    assert_int_equal(virtio_device_init(&echo->base, &echo_ops, map, NULL, echo->config,
                                        sizeof(echo->config), NULL),
                     STATUS_OK);
    return echo;
}
