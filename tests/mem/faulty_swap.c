#include "faulty_swap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "util/bits.h"

static ssize_t limit(struct faulty *faulty, struct iovec *piece, const struct iovec *iov,
                     unsigned *count)
{
    if (faulty->write_error != 0)
        return -faulty->write_error;
    if (faulty->write_most != 0) {
        *piece = iov[0];
        if (piece->iov_len > faulty->write_most)
            piece->iov_len = faulty->write_most;
        *count = 1;
    }
    return 0;
}

static ssize_t faulty_write(void *context, const struct iovec *iov, unsigned count, uint64_t offset)
{
    struct faulty *faulty = context;
    struct iovec piece;
    ssize_t error = limit(faulty, &piece, iov, &count);
    if (error != 0)
        return error;
    if ((int64_t)offset == faulty->lost_offset)
        return (ssize_t)iov[0].iov_len;
    return faulty->real.ops->write(faulty->real.context, faulty->write_most != 0 ? &piece : iov,
                                   count, offset);
}

static ssize_t faulty_read(void *context, const struct iovec *iov, unsigned count, uint64_t offset)
{
    struct faulty *faulty = context;
    faulty->reads++;
    if (faulty->read_error != 0)
        return -faulty->read_error;
    ssize_t done = faulty->real.ops->read(faulty->real.context, iov, count, offset);
    for (unsigned i = 0; i < count && faulty->read_flips; i++)
        ((uint8_t *)iov[i].iov_base)[2000] ^= 1;
    return faulty->read_short ? done / 2 : done;
}

static bool faulty_submit(void *context, const struct iovec *iov, unsigned count, uint64_t offset,
                          void *tag)
{
    struct faulty *faulty = context;
    faulty->submitted++;
    return faulty->real.ops->submit(faulty->real.context, iov, count, offset, tag);
}

static ssize_t faulty_reap(void *context, void **tag)
{
    struct faulty *faulty = context;
    ssize_t done = faulty->real.ops->reap(faulty->real.context, tag);
    faulty->reaped++;
    if (faulty->write_error != 0)
        return -faulty->write_error;
    return faulty->write_most != 0 && done > (ssize_t)faulty->write_most
               ? (ssize_t)faulty->write_most
               : done;
}

static bool faulty_discard(void *context, uint64_t offset, uint64_t length)
{
    struct faulty *faulty = context;
    if (faulty->no_discard)
        return false;
    faulty->discarded += length;
    return faulty->real.ops->discard(faulty->real.context, offset, length);
}

static void faulty_close(void *context)
{
    struct faulty *faulty = context;
    faulty->real.ops->close(faulty->real.context);
}

const char *faulty_swap_dir(void)
{
    const char *dir = getenv("TMPDIR");
    return dir != NULL ? dir : "/tmp";
}

struct swap *faulty_swap_create(struct faulty *faulty, uint64_t pages, enum swap_queue queue)
{
    struct error err = {0};
    struct swap *swap;
    *faulty = (struct faulty){.lost_offset = -1};
    assert_int_equal(
        swap_file_open(&faulty->real, faulty_swap_dir(), pages << PAGE_SHIFT, queue, &err),
        STATUS_OK);
    faulty->ops = (struct swap_file_ops){
        .read = faulty_read,
        .write = faulty_write,
        .discard = faulty_discard,
        .close = faulty_close,
    };
    if (faulty->real.ops->submit != NULL) {
        faulty->ops.submit = faulty_submit;
        faulty->ops.reap = faulty_reap;
    }
    struct swap_file file = {&faulty->ops, faulty};
    assert_int_equal(swap_create(&swap, &file, pages << PAGE_SHIFT, &err), STATUS_OK);
    return swap;
}
