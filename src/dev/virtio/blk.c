#include "dev/virtio/blk.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#include "dev/virtio/image.h"
#include "dev/virtio/iov.h"

#define BLK_QUEUE_SIZE 256u

/* Together below what a chain may be long (VIRTQUEUE_CHAIN_BYTES_MAX). */
#define BLK_SEGMENTS_MAX     126u
#define BLK_SEGMENT_SIZE_MAX (256 * KIB)

/* One request names at most so many ranges of so many sectors, so that a reset need not wait long:
 * discarding is quick, but writing zeros may have to write them. */
#define BLK_DISCARD_RANGES      16u
#define BLK_WRITE_ZEROES_RANGES 1u
#define BLK_DISCARD_MAX         (4 * GIB / SECTOR_SIZE - 8)
#define BLK_WRITE_ZEROES_MAX    (16 * MIB / SECTOR_SIZE)

struct virtio_blk {
    struct virtio_device base;
    struct io_loop *own_loop;
    struct image *image, *own_image; /* own_image: the same, or NULL */
    struct disk_pages *pages;        /* or NULL */
    unsigned number;                 /* the disk's, for pages */
    struct virtio_blk_config config;
    char serial[VIRTIO_BLK_ID_BYTES];
    struct virtqueue_chain chain;
};

static struct virtio_blk *blk_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_blk, base);
}

/* A request's data, between its header and its status byte. */
struct blk_data {
    const struct virtqueue_chain *chain;
    struct iovec *out; /* from the guest */
    unsigned out_count;
    uint64_t out_length;
    struct iovec *in; /* to the guest */
    unsigned in_count;
    uint64_t in_length;
};

/* [sector, sector + bytes) in bytes, if the disk has it. */
static bool blk_range(const struct virtio_blk *blk, uint64_t sector, uint64_t bytes,
                      uint64_t *offset)
{
    uint64_t sectors = image_size(blk->image) >> SECTOR_SHIFT;

    if (bytes % SECTOR_SIZE != 0 || !range_fits(sector, bytes >> SECTOR_SHIFT, sectors))
        return false;
    *offset = sector << SECTOR_SHIFT;
    return true;
}

static uint8_t blk_result(enum status status)
{
    if (status == STATUS_UNSUPPORTED)
        return VIRTIO_BLK_S_UNSUPP;
    return status == STATUS_OK ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
}

/* Without a flush command the driver counts on every write being stable when it is done; it may
 * also ask for that through the configuration. */
static enum status blk_after_write(struct virtio_blk *blk)
{
    bool write_back = virtio_device_has_feature(&blk->base, VIRTIO_BLK_F_FLUSH);

    if (write_back && virtio_device_has_feature(&blk->base, VIRTIO_BLK_F_CONFIG_WCE))
        write_back = blk->config.wce != 0;
    return write_back ? STATUS_OK : image_flush(blk->image);
}

typedef void blk_follow_fn(struct disk_pages *pages, unsigned disk, uint64_t offset, uint64_t gpa,
                           uint64_t length);

/* Tells of the guest memory of a transfer at `offset` of the disk: the chain's buffers in one
 * direction, but for the header and the status byte. */
static void blk_follow(struct virtio_blk *blk, const struct blk_data *data, bool to_guest,
                       uint64_t offset, blk_follow_fn *follow)
{
    uint64_t skip = to_guest ? 0 : sizeof(struct virtio_blk_outhdr);
    uint64_t rest = to_guest ? data->in_length : data->out_length;

    for (unsigned i = 0; blk->pages != NULL && i < data->chain->segment_count; i++) {
        const struct virtqueue_segment *segment = &data->chain->segments[i];
        if (segment->write != to_guest)
            continue;
        uint64_t head = skip < segment->length ? skip : segment->length;
        uint64_t length = segment->length - head < rest ? segment->length - head : rest;
        if (!segment->borrowed)
            follow(blk->pages, blk->number, offset, segment->gpa + head, length);
        skip -= head;
        rest -= length;
        offset += length;
    }
}

/* Blocks are about to change. */
static enum status blk_before_change(struct virtio_blk *blk, uint64_t offset, uint64_t length)
{
    if (blk->pages == NULL)
        return STATUS_OK;
    return disk_pages_overwrite(blk->pages, blk->number, offset, length);
}

static enum status blk_read(struct virtio_blk *blk, uint64_t sector, struct blk_data *data)
{
    uint64_t offset;

    if (!blk_range(blk, sector, data->in_length, &offset))
        return STATUS_IO;
    blk_follow(blk, data, true, offset, disk_pages_transfer);
    enum status status = image_read(blk->image, offset, data->in, data->in_count);
    if (status != STATUS_OK)
        blk_follow(blk, data, true, offset, disk_pages_failed);
    else
        virtio_stats_add(&blk->base.stats.bytes_in, data->in_length);
    return status;
}

static enum status blk_write(struct virtio_blk *blk, uint64_t sector, struct blk_data *data)
{
    uint64_t offset;

    if (image_read_only(blk->image) || !blk_range(blk, sector, data->out_length, &offset))
        return STATUS_IO;
    enum status status = blk_before_change(blk, offset, data->out_length);
    if (status != STATUS_OK)
        return status;
    blk_follow(blk, data, false, offset, disk_pages_transfer);
    status = image_write(blk->image, offset, data->out, data->out_count);
    if (status != STATUS_OK)
        blk_follow(blk, data, false, offset, disk_pages_failed);
    else
        status = blk_after_write(blk);
    if (status == STATUS_OK)
        virtio_stats_add(&blk->base.stats.bytes_out, data->out_length);
    return status;
}

static enum status blk_zap_range(struct virtio_blk *blk, uint32_t type,
                                 const struct virtio_blk_discard_write_zeroes *range, bool check)
{
    bool discard = type == VIRTIO_BLK_T_DISCARD;
    uint32_t known_flags = discard ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
    uint64_t length = (uint64_t)range->num_sectors << SECTOR_SHIFT;
    uint64_t offset;

    if (check) {
        if (range->flags & ~known_flags)
            return STATUS_UNSUPPORTED;
        if (range->num_sectors > (discard ? BLK_DISCARD_MAX : BLK_WRITE_ZEROES_MAX) ||
            !blk_range(blk, range->sector, length, &offset))
            return STATUS_IO;
        return STATUS_OK;
    }
    offset = range->sector << SECTOR_SHIFT;
    enum status status = blk_before_change(blk, offset, length);
    if (status != STATUS_OK)
        return status;
    if (discard)
        return image_discard(blk->image, offset, length);
    return image_write_zeroes(blk->image, offset, length, range->flags != 0);
}

/* Discard and write zeroes: a list of ranges, all checked before the first is touched. */
static enum status blk_zap(struct virtio_blk *blk, uint32_t type, const struct blk_data *data)
{
    struct virtio_blk_discard_write_zeroes ranges[BLK_DISCARD_RANGES];
    uint64_t count = data->out_length / sizeof(ranges[0]);
    uint64_t limit = type == VIRTIO_BLK_T_DISCARD ? BLK_DISCARD_RANGES : BLK_WRITE_ZEROES_RANGES;
    enum status status = STATUS_OK;

    if (image_read_only(blk->image))
        return STATUS_IO;
    if (data->out_length % sizeof(ranges[0]) != 0 || count > limit)
        return STATUS_UNSUPPORTED;
    iov_read(data->out, data->out_count, 0, ranges, sizeof(ranges));
    for (uint64_t i = 0; i < count && status == STATUS_OK; i++)
        status = blk_zap_range(blk, type, &ranges[i], true);
    for (uint64_t i = 0; i < count && status == STATUS_OK; i++)
        status = blk_zap_range(blk, type, &ranges[i], false);
    return status == STATUS_OK ? blk_after_write(blk) : status;
}

static enum status blk_identify(struct virtio_blk *blk, const struct blk_data *data)
{
    iov_zero(data->in, data->in_count, 0, data->in_length);
    iov_write(data->in, data->in_count, 0, blk->serial, sizeof(blk->serial));
    return STATUS_OK;
}

static enum status blk_execute(struct virtio_blk *blk, const struct virtio_blk_outhdr *header,
                               struct blk_data *data)
{
    switch (header->type) {
    case VIRTIO_BLK_T_IN:
        return blk_read(blk, header->sector, data);
    case VIRTIO_BLK_T_OUT:
        return blk_write(blk, header->sector, data);
    case VIRTIO_BLK_T_FLUSH:
        return image_flush(blk->image);
    case VIRTIO_BLK_T_GET_ID:
        return blk_identify(blk, data);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return blk_zap(blk, header->type, data);
    default:
        return STATUS_UNSUPPORTED;
    }
}

/* The header is the first bytes of what the driver gave to read, the status the last byte of what
 * it gave to write; how either is cut into descriptors says nothing. */
static bool blk_handle(struct virtio_device *device, unsigned queue, struct virtqueue_chain *chain)
{
    struct virtio_blk *blk = blk_of(device);
    struct virtio_blk_outhdr header;
    struct blk_data data = {
        .chain = chain,
        .out = chain->iov,
        .out_count = chain->out_count,
        .in = virtqueue_chain_in(chain),
        .in_count = chain->in_count,
    };

    if (iov_read(data.out, data.out_count, 0, &header, sizeof(header)) != sizeof(header) ||
        chain->in_length == 0) {
        virtqueue_drop(&device->queues[queue], chain);
        virtio_device_fail(device, "disk request without header or status");
        return false;
    }
    iov_drop_front(&data.out, &data.out_count, sizeof(header));
    data.out_length = chain->out_length - sizeof(header);
    const struct iovec *last = &data.in[data.in_count - 1];
    uint8_t *result = (uint8_t *)last->iov_base + last->iov_len - 1;
    data.in_length = chain->in_length - 1;
    iov_keep_front(data.in, &data.in_count, data.in_length);

    enum status status = blk_execute(blk, &header, &data);
    if (status != STATUS_OK)
        virtio_stats_add(&device->stats.errors, 1);
    *result = blk_result(status);
    virtio_device_complete(device, queue, chain, (uint32_t)chain->in_length);
    return true;
}

static uint64_t blk_features(struct virtio_device *device)
{
    uint64_t features = bit(VIRTIO_BLK_F_SIZE_MAX) | bit(VIRTIO_BLK_F_SEG_MAX) |
                        bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_FLUSH) |
                        bit(VIRTIO_BLK_F_TOPOLOGY) | bit(VIRTIO_BLK_F_CONFIG_WCE);

    if (image_read_only(blk_of(device)->image))
        return features | bit(VIRTIO_BLK_F_RO);
    return features | bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES);
}

static void blk_config_write(struct virtio_device *device, uint32_t offset, unsigned size,
                             uint64_t value)
{
    struct virtio_blk *blk = blk_of(device);

    if (offset == offsetof(struct virtio_blk_config, wce) && size == 1 &&
        virtio_device_has_feature(device, VIRTIO_BLK_F_CONFIG_WCE)) {
        blk->config.wce = value & 1;
        if (blk->config.wce == 0)
            image_flush(blk->image);
    }
}

/* For pages that come back from the disk, on any thread. */
static enum status blk_read_block(void *context, uint64_t block, uint8_t *page)
{
    const struct virtio_blk *blk = context;
    struct iovec iov = {.iov_base = page, .iov_len = PAGE_SIZE};

    if (!range_fits(block, 1, image_size(blk->image) >> PAGE_SHIFT))
        return STATUS_INTERNAL;
    return image_read(blk->image, block << PAGE_SHIFT, &iov, 1);
}

static void blk_notify(struct virtio_device *device, unsigned queue)
{
    virtio_device_drain(device, queue, &blk_of(device)->chain, blk_handle);
}

static void blk_reset(struct virtio_device *device)
{
    blk_of(device)->config.wce = 1;
}

static void blk_destroy(struct virtio_device *device)
{
    struct virtio_blk *blk = blk_of(device);

    /* The loop gives way to the reset after the request it is at; to its own end it would only
     * after all that the driver has queued, which may be gigabytes. */
    virtio_device_reset(device);
    if (blk->own_loop != NULL)
        io_loop_stop(blk->own_loop);
    if (blk->pages != NULL)
        disk_pages_remove(blk->pages, blk->number);
    virtio_device_finish(device);
    io_loop_destroy(blk->own_loop);
    virtqueue_chain_finish(&blk->chain);
    image_close(blk->own_image);
    free(blk);
}

static const struct virtio_device_ops blk_ops = {
    .name = "blk",
    .id = VIRTIO_ID_BLOCK,
    .queue_count = 1,
    .queue_size_max = BLK_QUEUE_SIZE,
    .features = blk_features,
    .config_write = blk_config_write,
    .notify = blk_notify,
    .reset = blk_reset,
    .destroy = blk_destroy,
};

static void blk_fill_config(struct virtio_blk *blk)
{
    blk->config = (struct virtio_blk_config){
        .capacity = image_size(blk->image) >> SECTOR_SHIFT,
        .size_max = BLK_SEGMENT_SIZE_MAX,
        .seg_max = BLK_SEGMENTS_MAX,
        .blk_size = SECTOR_SIZE,
        .physical_block_exp = 3, /* 4 KiB, what the host's page cache likes */
        .min_io_size = 8,
        .wce = 1,
        .max_discard_sectors = BLK_DISCARD_MAX,
        .max_discard_seg = BLK_DISCARD_RANGES,
        .discard_sector_alignment = 8,
        .max_write_zeroes_sectors = BLK_WRITE_ZEROES_MAX,
        .max_write_zeroes_seg = BLK_WRITE_ZEROES_RANGES,
        .write_zeroes_may_unmap = 1,
    };
}

enum status virtio_blk_create(struct virtio_device **device, struct pmap *map,
                              const struct virtio_blk_options *options, struct error *err)
{
    struct virtio_blk *blk = calloc(1, sizeof(*blk));
    const char *serial = options->serial != NULL ? options->serial : "aerostat";
    enum status status;

    if (blk == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a disk");
    if (options->image == NULL) {
        status = image_open(&blk->own_image, options->path, options->read_only, err);
        if (status != STATUS_OK)
            goto fail;
    }
    blk->image = options->image != NULL ? options->image : blk->own_image;
    if (options->pages != NULL) {
        status = disk_pages_add(options->pages, blk_read_block, blk, &blk->number, err);
        if (status != STATUS_OK)
            goto fail;
        blk->pages = options->pages;
    }
    blk_fill_config(blk);
    memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
    if (!options->synchronous) {
        status = io_loop_create(&blk->own_loop, "disk", err);
        if (status != STATUS_OK)
            goto fail;
    }
    status = virtio_device_init(&blk->base, &blk_ops, map, blk->own_loop, &blk->config,
                                sizeof(blk->config), err);
    if (status != STATUS_OK)
        goto fail;
    if (!options->synchronous)
        status = io_loop_start(blk->own_loop, err);
    if (status != STATUS_OK) {
        virtio_device_destroy(&blk->base);
        return status;
    }
    *device = &blk->base;
    return STATUS_OK;
fail:
    if (blk->pages != NULL)
        disk_pages_remove(blk->pages, blk->number);
    io_loop_destroy(blk->own_loop);
    image_close(blk->own_image);
    free(blk);
    return status;
}
