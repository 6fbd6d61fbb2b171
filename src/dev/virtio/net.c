#include "dev/virtio/net.h"

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "dev/virtio/iov.h"

#define NET_QUEUE_SIZE 256u

enum { QUEUE_RECEIVE, QUEUE_TRANSMIT, QUEUES };

/* With VERSION_1 the header always has its num_buffers field. */
#define NET_HEADER_SIZE sizeof(struct virtio_net_hdr_mrg_rxbuf)

/* Frames that may wait for the guest, by number and by bytes. */
#define BACKLOG_FRAMES_MAX 512u
#define BACKLOG_BYTES_MAX  (1 * MIB)

/* A received frame is spread over at most so many of the driver's buffers. */
#define MERGE_MAX 64u

struct net_frame {
    STAILQ_ENTRY(net_frame) next;
    size_t length;
    uint8_t bytes[];
};

struct virtio_net {
    struct virtio_device base;
    struct virtio_net_config config;
    struct net_backend *backend;
    uint8_t send_buffer[NET_FRAME_MAX];
    struct virtqueue_chain transmit;
    struct virtqueue_chain receive[MERGE_MAX]; /* the first `held` wait for frames */
    unsigned held;

    /* Frames for the guest. The lock is a leaf: a backend may deliver from within its send, that
     * is under the device's lock, or from anywhere else. */
    pthread_mutex_t backlog_lock;
    STAILQ_HEAD(, net_frame) backlog;
    unsigned backlog_frames;
    size_t backlog_bytes;
};

static struct virtio_net *net_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_net, base);
}

/* ---- frames for the guest ---- */

static void net_receive(void *context, const void *bytes, size_t length)
{
    struct virtio_net *net = context;
    struct net_frame *frame = NULL;

    if (length > 0 && length <= NET_FRAME_MAX)
        frame = malloc(sizeof(*frame) + length);
    if (frame != NULL) {
        frame->length = length;
        memcpy(frame->bytes, bytes, length);
        pthread_mutex_lock(&net->backlog_lock);
        bool fits = net->backlog_frames < BACKLOG_FRAMES_MAX &&
                    length <= BACKLOG_BYTES_MAX - net->backlog_bytes;
        if (fits) {
            STAILQ_INSERT_TAIL(&net->backlog, frame, next);
            net->backlog_frames++;
            net->backlog_bytes += length;
        }
        pthread_mutex_unlock(&net->backlog_lock);
        if (fits) {
            virtio_device_notify(&net->base, QUEUE_RECEIVE);
            return;
        }
    }
    virtio_stats_add(&net->base.stats.errors, 1);
    free(frame);
}

/* The oldest frame, which stays in the backlog. Only the device takes frames out, under its own
 * lock, so it stays good without the backlog's. */
static struct net_frame *backlog_first(struct virtio_net *net)
{
    pthread_mutex_lock(&net->backlog_lock);
    struct net_frame *frame = STAILQ_FIRST(&net->backlog);
    pthread_mutex_unlock(&net->backlog_lock);
    return frame;
}

static void backlog_drop_first(struct virtio_net *net)
{
    pthread_mutex_lock(&net->backlog_lock);
    struct net_frame *frame = STAILQ_FIRST(&net->backlog);
    STAILQ_REMOVE_HEAD(&net->backlog, next);
    net->backlog_frames--;
    net->backlog_bytes -= frame->length;
    pthread_mutex_unlock(&net->backlog_lock);
    free(frame);
}

static void backlog_clear(struct virtio_net *net)
{
    while (backlog_first(net) != NULL)
        backlog_drop_first(net);
}

/* ---- delivering to the guest ---- */

/* Pops buffers until those held have room for `wanted` bytes. Returns how many of them it takes; 0
 * when there are not enough yet, or, with *too_small set, when more would not help. Buffers stay
 * held for the next try, so that the ring is empty and tells of every new one. */
static unsigned net_gather(struct virtio_net *net, size_t wanted, bool *too_small)
{
    struct virtqueue *vq = &net->base.queues[QUEUE_RECEIVE];
    unsigned limit = virtio_device_has_feature(&net->base, VIRTIO_NET_F_MRG_RXBUF) ? MERGE_MAX : 1;
    uint64_t room = 0;

    *too_small = false;
    for (unsigned count = 0; count < limit; count++) {
        if (count == net->held) {
            if (!virtqueue_pop(vq, &net->receive[count]))
                return 0;
            net->held++;
        }
        room += net->receive[count].in_length;
        if (room >= wanted)
            return count + 1;
    }
    *too_small = true;
    return 0;
}

/* The first `count` buffers are used up: moves those still held to the front. */
static void net_consume(struct virtio_net *net, unsigned count)
{
    net->held -= count;
    for (unsigned i = 0; i < net->held; i++) {
        struct virtqueue_chain spent = net->receive[i];
        net->receive[i] = net->receive[i + count];
        net->receive[i + count] = spent;
    }
}

/* Copies header and frame into `count` buffers and pushes them; the driver sees all or none. */
static void net_deliver(struct virtio_net *net, const struct net_frame *frame, unsigned count)
{
    struct virtqueue *vq = &net->base.queues[QUEUE_RECEIVE];
    const struct virtio_net_hdr_mrg_rxbuf header = {.num_buffers = (uint16_t)count};
    uint8_t prefix[NET_HEADER_SIZE];
    size_t done = 0; /* of header and frame together */

    memcpy(prefix, &header, sizeof(prefix));
    for (unsigned i = 0; i < count; i++) {
        struct virtqueue_chain *chain = &net->receive[i];
        const struct iovec *iov = virtqueue_chain_in(chain);
        size_t written = 0;
        if (done < NET_HEADER_SIZE)
            written = iov_write(iov, chain->in_count, 0, prefix + done, NET_HEADER_SIZE - done);
        if (done + written >= NET_HEADER_SIZE) {
            size_t offset = done + written - NET_HEADER_SIZE;
            written += iov_write(iov, chain->in_count, written, frame->bytes + offset,
                                 frame->length - offset);
        }
        done += written;
        virtqueue_push(vq, chain, (uint32_t)written);
    }
    virtio_stats_add(&net->base.stats.requests, 1);
    virtio_stats_add(&net->base.stats.bytes_in, frame->length);
}

static void net_receive_pump(struct virtio_net *net)
{
    struct virtio_device *device = &net->base;
    struct virtqueue *vq = &device->queues[QUEUE_RECEIVE];
    struct net_frame *frame;

    virtqueue_mute(vq);
    while ((frame = backlog_first(net)) != NULL) {
        bool too_small;
        unsigned count = net_gather(net, NET_HEADER_SIZE + frame->length, &too_small);
        if (count > 0) {
            net_deliver(net, frame, count);
            net_consume(net, count);
            backlog_drop_first(net);
        } else if (too_small) {
            virtio_stats_add(&device->stats.errors, 1);
            backlog_drop_first(net);
        } else if (!virtqueue_unmute(vq)) {
            break; /* the next buffer is notified */
        }
        if (virtio_device_should_yield(device)) {
            virtio_device_notify(device, QUEUE_RECEIVE);
            break;
        }
    }
    virtio_device_publish(device, QUEUE_RECEIVE);
}

/* ---- sending ---- */

static bool net_handle_transmit(struct virtio_device *device, unsigned queue,
                                struct virtqueue_chain *chain)
{
    struct virtio_net *net = net_of(device);
    size_t length = iov_read(chain->iov, chain->out_count, NET_HEADER_SIZE, net->send_buffer,
                             sizeof(net->send_buffer));
    bool whole = chain->out_length == NET_HEADER_SIZE + length;

    /* Completed first: the frame is copied, and its sender may go on while it is on its way. */
    virtio_device_complete(device, queue, chain, 0);
    if (!whole || length == 0) {
        virtio_stats_add(&device->stats.errors, 1);
        return true;
    }
    virtio_stats_add(&device->stats.bytes_out, length);
    if (net->backend != NULL)
        net->backend->ops->send(net->backend, net->send_buffer, length);
    return true;
}

/* ---- the device ---- */

static uint64_t net_features(struct virtio_device *device)
{
    return bit(VIRTIO_NET_F_MAC) | bit(VIRTIO_NET_F_STATUS) | bit(VIRTIO_NET_F_MTU) |
           bit(VIRTIO_NET_F_MRG_RXBUF);
}

static void net_notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_net *net = net_of(device);

    if (queue == QUEUE_TRANSMIT)
        virtio_device_drain(device, queue, &net->transmit, net_handle_transmit);
    else
        net_receive_pump(net);
}

static void net_release(struct virtio_device *device, unsigned queue)
{
    struct virtio_net *net = net_of(device);

    if (queue != QUEUE_RECEIVE)
        return;
    for (unsigned i = 0; i < net->held; i++)
        virtqueue_drop(&device->queues[queue], &net->receive[i]);
    net->held = 0;
}

static void net_reset(struct virtio_device *device)
{
    backlog_clear(net_of(device));
}

static void net_free(struct virtio_net *net)
{
    backlog_clear(net);
    for (unsigned i = 0; i < MERGE_MAX; i++)
        virtqueue_chain_finish(&net->receive[i]);
    virtqueue_chain_finish(&net->transmit);
    pthread_mutex_destroy(&net->backlog_lock);
    free(net);
}

static void net_destroy(struct virtio_device *device)
{
    struct virtio_net *net = net_of(device);

    /* After the reset the card sends nothing; after its end the backend delivers nothing. */
    virtio_device_reset(device);
    if (net->backend != NULL)
        net->backend->ops->destroy(net->backend);
    virtio_device_finish(device);
    net_free(net);
}

static const struct virtio_device_ops net_ops = {
    .name = "net",
    .id = VIRTIO_ID_NET,
    .queue_count = QUEUES,
    .queue_size_max = NET_QUEUE_SIZE,
    .features = net_features,
    .notify = net_notify,
    .release = net_release,
    .reset = net_reset,
    .destroy = net_destroy,
};

enum status virtio_net_create(struct virtio_device **device, struct pmap *map, struct io_loop *loop,
                              const struct virtio_net_options *options, struct error *err)
{
    struct virtio_net *net = calloc(1, sizeof(*net));

    if (net == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a network card");
    pthread_mutex_init(&net->backlog_lock, NULL);
    STAILQ_INIT(&net->backlog);
    memcpy(net->config.mac, options->mac, sizeof(net->config.mac));
    net->config.status = options->backend != NULL ? VIRTIO_NET_S_LINK_UP : 0;
    net->config.max_virtqueue_pairs = 1;
    net->config.mtu = NET_MTU;
    enum status status =
        virtio_device_init(&net->base, &net_ops, map, loop, &net->config, sizeof(net->config), err);
    if (status != STATUS_OK) {
        net_free(net);
        return status;
    }
    net->backend = options->backend;
    if (net->backend != NULL) {
        net->backend->receive_context = net;
        __atomic_store_n(&net->backend->receive, net_receive, __ATOMIC_RELEASE);
    }
    *device = &net->base;
    return STATUS_OK;
}

void net_mac_derive(uint8_t mac[6], const char *name, unsigned index)
{
    /* FNV-1a: short, and spreads similar names. */
    uint64_t hash = 0xcbf29ce484222325u;

    for (const char *c = name; *c != '\0'; c++)
        hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
    hash = (hash ^ index) * 0x100000001b3u;
    mac[0] = 0x52; /* locally administered, unicast; the prefix that virtual machines use */
    mac[1] = 0x54;
    mac[2] = 0x00;
    mac[3] = (uint8_t)(hash >> 40);
    mac[4] = (uint8_t)(hash >> 24);
    mac[5] = (uint8_t)(hash >> 8);
}
