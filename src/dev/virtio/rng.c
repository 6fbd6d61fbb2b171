#include "dev/virtio/rng.h"

#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <sys/random.h>

#include "dev/virtio/iov.h"

#define RNG_QUEUE_SIZE 8u

/* A request gets at most this much; the driver asks again. */
#define RNG_BYTES_MAX 4096u

struct virtio_rng {
    struct virtio_device base;
    struct virtqueue_chain chain;
};

static struct virtio_rng *rng_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_rng, base);
}

static bool rng_handle(struct virtio_device *device, unsigned queue, struct virtqueue_chain *chain)
{
    struct iovec *iov = virtqueue_chain_in(chain);
    uint32_t written = 0;

    iov_keep_front(iov, &chain->in_count, RNG_BYTES_MAX);
    for (unsigned i = 0; i < chain->in_count; i++) {
        /* Up to 256 bytes come whole; a longer piece may be cut short by a signal. */
        ssize_t got = getrandom(iov[i].iov_base, iov[i].iov_len, 0);
        if (got > 0)
            written += (uint32_t)got;
        if (got < 0 || (size_t)got < iov[i].iov_len)
            break;
    }
    virtio_stats_add(&device->stats.bytes_in, written);
    virtio_device_complete(device, queue, chain, written);
    return true;
}

static void rng_notify(struct virtio_device *device, unsigned queue)
{
    virtio_device_drain(device, queue, &rng_of(device)->chain, rng_handle);
}

static void rng_destroy(struct virtio_device *device)
{
    struct virtio_rng *rng = rng_of(device);

    virtio_device_finish(device);
    virtqueue_chain_finish(&rng->chain);
    free(rng);
}

static const struct virtio_device_ops rng_ops = {
    .name = "rng",
    .id = VIRTIO_ID_RNG,
    .queue_count = 1,
    .queue_size_max = RNG_QUEUE_SIZE,
    .notify = rng_notify,
    .destroy = rng_destroy,
};

enum status virtio_rng_create(struct virtio_device **device, struct pmap *map, struct io_loop *loop,
                              struct error *err)
{
    struct virtio_rng *rng = calloc(1, sizeof(*rng));

    if (rng == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the entropy device");
    enum status status = virtio_device_init(&rng->base, &rng_ops, map, loop, NULL, 0, err);
    if (status != STATUS_OK) {
        free(rng);
        return status;
    }
    *device = &rng->base;
    return STATUS_OK;
}
