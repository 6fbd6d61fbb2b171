#include "dev/virtio/iov.h"

#include <string.h>

uint64_t iov_length(const struct iovec *iov, unsigned count)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < count; i++)
        total += iov[i].iov_len;
    return total;
}

/* What to do with one piece of the stream; `done` bytes of the request came before it. */
typedef void piece_fn(void *context, size_t done, uint8_t *piece, size_t length);

static uint64_t iov_walk(const struct iovec *iov, unsigned count, uint64_t offset, uint64_t length,
                         piece_fn *fn, void *context)
{
    uint64_t done = 0;

    for (unsigned i = 0; i < count && done < length; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t piece = iov[i].iov_len - (size_t)offset;
        if (piece > length - done)
            piece = (size_t)(length - done);
        fn(context, (size_t)done, (uint8_t *)iov[i].iov_base + offset, piece);
        done += piece;
        offset = 0;
    }
    return done;
}

static void piece_read(void *context, size_t done, uint8_t *piece, size_t length)
{
    memcpy((uint8_t *)context + done, piece, length);
}

static void piece_write(void *context, size_t done, uint8_t *piece, size_t length)
{
    memcpy(piece, (const uint8_t *)context + done, length);
}

static void piece_zero(void *context, size_t done, uint8_t *piece, size_t length)
{
    memset(piece, 0, length);
}

size_t iov_read(const struct iovec *iov, unsigned count, uint64_t offset, void *buffer,
                size_t length)
{
    return (size_t)iov_walk(iov, count, offset, length, piece_read, buffer);
}

size_t iov_write(const struct iovec *iov, unsigned count, uint64_t offset, const void *buffer,
                 size_t length)
{
    return (size_t)iov_walk(iov, count, offset, length, piece_write, (void *)(uintptr_t)buffer);
}

void iov_zero(const struct iovec *iov, unsigned count, uint64_t offset, uint64_t length)
{
    iov_walk(iov, count, offset, length, piece_zero, NULL);
}

void iov_drop_front(struct iovec **iov, unsigned *count, uint64_t length)
{
    while (*count > 0 && length >= (*iov)->iov_len) {
        length -= (*iov)->iov_len;
        (*iov)++;
        (*count)--;
    }
    if (*count > 0 && length > 0) {
        (*iov)->iov_base = (uint8_t *)(*iov)->iov_base + length;
        (*iov)->iov_len -= (size_t)length;
    }
}

void iov_keep_front(struct iovec *iov, unsigned *count, uint64_t length)
{
    unsigned kept = 0;

    while (kept < *count && length > 0) {
        if (iov[kept].iov_len > length)
            iov[kept].iov_len = (size_t)length;
        length -= iov[kept].iov_len;
        kept++;
    }
    *count = kept;
}
