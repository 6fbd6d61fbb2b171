/*
 * See image.h: an image that only its reader changes.
 *
 * A bit for each sector says where its bytes are: 0 in the base image, 1 in the file of changes, at
 * the same offset. Requests are whole sectors, so nothing is ever copied from one to the other. The
 * bits of a request are set when its bytes are there: who reads meanwhile, on whatever thread, gets
 * the old bytes or the new, as of any disk.
 *
 * The bits take memory where they have been set: a page for 16 MiB of disk.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dev/virtio/image_private.h"
#include "dev/virtio/iov.h"
#include "util/bits.h"
#include "util/sparse.h"
#include "util/temp_file.h"

#define WORD_BITS  64u
#define PIECES_MAX 64u /* of a list, that are transferred at a time */

struct image_overlay {
    struct image base;
    struct image *original, *changes;
    uint64_t *changed; /* a bit for each sector */
    size_t changed_size;
};

static struct image_overlay *overlay_of(struct image *image)
{
    return container_of(image, struct image_overlay, base);
}

static bool is_changed(const struct image_overlay *overlay, uint64_t sector)
{
    uint64_t word = __atomic_load_n(&overlay->changed[sector / WORD_BITS], __ATOMIC_ACQUIRE);
    return (word & bit(sector % WORD_BITS)) != 0;
}

/* The first sector in [sector, end) that is not as `sector` is, or end. */
static uint64_t run_end(const struct image_overlay *overlay, uint64_t sector, uint64_t end,
                        bool changed)
{
    while (sector < end) {
        uint64_t word = __atomic_load_n(&overlay->changed[sector / WORD_BITS], __ATOMIC_ACQUIRE);
        uint64_t other = (changed ? ~word : word) >> (sector % WORD_BITS);
        if (other != 0) {
            sector += (unsigned)__builtin_ctzll(other);
            break;
        }
        sector += WORD_BITS - sector % WORD_BITS;
    }
    return sector < end ? sector : end;
}

static void mark_changed(struct image_overlay *overlay, uint64_t offset, uint64_t length)
{
    uint64_t sector = offset >> SECTOR_SHIFT, end = (offset + length) >> SECTOR_SHIFT;
    while (sector < end) {
        uint64_t first = sector % WORD_BITS;
        uint64_t count = end - sector < WORD_BITS - first ? end - sector : WORD_BITS - first;
        __atomic_fetch_or(&overlay->changed[sector / WORD_BITS],
                          bits_extract(~(uint64_t)0, (unsigned)count - 1, 0) << first,
                          __ATOMIC_RELEASE);
        sector += count;
    }
}

/* Up to `most` bytes from the front of the list, as a list of its own; gives their number. */
static uint64_t take_front(const struct iovec *iov, unsigned count, uint64_t most,
                           struct iovec pieces[PIECES_MAX], unsigned *piece_count)
{
    uint64_t taken = 0;
    unsigned i = 0;
    for (; i < count && i < PIECES_MAX && taken < most; i++) {
        uint64_t rest = most - taken;
        pieces[i] = iov[i];
        if (pieces[i].iov_len > rest)
            pieces[i].iov_len = (size_t)rest;
        taken += pieces[i].iov_len;
    }
    *piece_count = i;
    return taken;
}

static enum status overlay_read(struct image *image, uint64_t offset, struct iovec *iov,
                                unsigned count)
{
    struct image_overlay *overlay = overlay_of(image);
    enum status status = STATUS_OK;
    uint64_t end = offset + iov_length(iov, count);

    while (offset < end && status == STATUS_OK) {
        struct iovec pieces[PIECES_MAX];
        unsigned piece_count;
        bool changed = is_changed(overlay, offset >> SECTOR_SHIFT);
        uint64_t stop = run_end(overlay, offset >> SECTOR_SHIFT,
                                align_up(end, SECTOR_SIZE) >> SECTOR_SHIFT, changed)
                        << SECTOR_SHIFT;
        uint64_t length = (stop < end ? stop : end) - offset;
        length = take_front(iov, count, length, pieces, &piece_count);
        status =
            image_read(changed ? overlay->changes : overlay->original, offset, pieces, piece_count);
        iov_drop_front(&iov, &count, length);
        offset += length;
    }
    return status;
}

static enum status overlay_write(struct image *image, uint64_t offset, struct iovec *iov,
                                 unsigned count)
{
    struct image_overlay *overlay = overlay_of(image);
    uint64_t length = iov_length(iov, count);
    enum status status = image_write(overlay->changes, offset, iov, count);
    if (status == STATUS_OK)
        mark_changed(overlay, offset, length);
    return status;
}

static enum status overlay_flush(struct image *image)
{
    return STATUS_OK;
}

/* What was never changed is in the original, and stays. */
static enum status overlay_discard(struct image *image, uint64_t offset, uint64_t length)
{
    return image_discard(overlay_of(image)->changes, offset, length);
}

/* Zeros are holes in the file of changes, whatever the guest says: it is sparse anyway. */
static enum status overlay_write_zeroes(struct image *image, uint64_t offset, uint64_t length,
                                        bool unmap)
{
    struct image_overlay *overlay = overlay_of(image);
    enum status status = image_write_zeroes(overlay->changes, offset, length, true);
    if (status == STATUS_OK)
        mark_changed(overlay, offset, length);
    return status;
}

static void overlay_close(struct image *image)
{
    struct image_overlay *overlay = overlay_of(image);
    image_close(overlay->original);
    image_close(overlay->changes);
    sparse_unmap(overlay->changed, overlay->changed_size);
    free(overlay);
}

static const struct image_ops overlay_ops = {
    .read = overlay_read,
    .write = overlay_write,
    .flush = overlay_flush,
    .discard = overlay_discard,
    .write_zeroes = overlay_write_zeroes,
    .close = overlay_close,
};

static enum status open_changes(struct image_overlay *overlay, const char *dir, struct error *err)
{
    uint64_t size = overlay->base.size;
    int fd = temp_file_open(dir);
    if (fd < 0)
        return error_set(err, STATUS_INVALID, "cannot make a file for a disk's changes in %s: %s",
                         dir, strerror(errno));
    if (ftruncate(fd, (off_t)size) != 0) {
        error_set(err, STATUS_INVALID,
                  "cannot make a file of %llu MiB for a disk's changes in %s: %s",
                  (unsigned long long)(size / MIB), dir, strerror(errno));
        close(fd);
        return STATUS_INVALID;
    }
    return image_wrap(&overlay->changes, fd, size, err);
}

static enum status map_bits(struct image_overlay *overlay, struct error *err)
{
    uint64_t sectors = overlay->base.size >> SECTOR_SHIFT;
    overlay->changed_size = align_up(sectors, WORD_BITS) / 8;
    overlay->changed = sparse_map(overlay->changed_size);
    if (overlay->changed == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a disk's changes");
    return STATUS_OK;
}

enum status image_open_overlay(struct image **image, const char *path, const char *dir,
                               struct error *err)
{
    struct image_overlay *overlay = calloc(1, sizeof(*overlay));

    if (overlay == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for disk image %s", path);
    overlay->base.ops = &overlay_ops;
    enum status status = image_open(&overlay->original, path, true, err);
    if (status == STATUS_OK) {
        overlay->base.size = image_size(overlay->original);
        status = open_changes(overlay, dir, err);
    }
    if (status == STATUS_OK)
        status = map_bits(overlay, err);
    if (status != STATUS_OK) {
        overlay_close(&overlay->base);
        return status;
    }
    *image = &overlay->base;
    return STATUS_OK;
}
