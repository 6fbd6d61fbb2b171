/* See swap_file.h. */

#include "mem/swap_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/swap_ring.h"
#include "util/bits.h"
#include "util/temp_file.h"

struct file {
    int fd;
    bool has_ring;
    struct io_uring ring;
};

static ssize_t file_read(void *context, const struct iovec *iov, unsigned count, uint64_t offset)
{
    const struct file *file = context;
    ssize_t done;
    do
        done = preadv(file->fd, iov, (int)count, (off_t)offset);
    while (done < 0 && errno == EINTR);
    return done < 0 ? -errno : done;
}

static ssize_t file_write(void *context, const struct iovec *iov, unsigned count, uint64_t offset)
{
    const struct file *file = context;
    ssize_t done;
    do
        done = pwritev(file->fd, iov, (int)count, (off_t)offset);
    while (done < 0 && errno == EINTR);
    return done < 0 ? -errno : done;
}

static bool ring_submit(void *context, const struct iovec *iov, unsigned count, uint64_t offset,
                        void *tag)
{
    struct file *file = context;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&file->ring);
    if (sqe == NULL)
        return false;
    io_uring_prep_writev(sqe, 0, iov, count, offset);
    sqe->flags |= IOSQE_FIXED_FILE;
    io_uring_sqe_set_data(sqe, tag);
    int submitted;
    do
        submitted = io_uring_submit(&file->ring);
    while (submitted == -EINTR || submitted == -EAGAIN || submitted == -EBUSY);
    if (submitted == 1)
        return true;
    /* Refused for good: take it back, or it would go with the next. */
    file->ring.sq.sqe_tail--;
    return false;
}

static ssize_t ring_reap(void *context, void **tag)
{
    struct file *file = context;
    struct io_uring_cqe *cqe;
    int error;
    do
        error = io_uring_wait_cqe(&file->ring, &cqe);
    while (error == -EINTR || error == -EAGAIN);
    if (error != 0) {
        *tag = NULL;
        return error;
    }
    ssize_t done = cqe->res;
    *tag = io_uring_cqe_get_data(cqe);
    io_uring_cqe_seen(&file->ring, cqe);
    return done;
}

static bool file_discard(void *context, uint64_t offset, uint64_t length)
{
    const struct file *file = context;
    return fallocate(file->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                     (off_t)length) == 0;
}

static void file_close(void *context)
{
    struct file *file = context;
    if (file->has_ring)
        io_uring_queue_exit(&file->ring);
    if (file->fd >= 0)
        close(file->fd);
    free(file);
}

static const struct swap_file_ops plain_ops = {
    .read = file_read,
    .write = file_write,
    .discard = file_discard,
    .close = file_close,
};

static const struct swap_file_ops ring_ops = {
    .read = file_read,
    .write = file_write,
    .submit = ring_submit,
    .reap = ring_reap,
    .discard = file_discard,
    .close = file_close,
};

/* Whether a page written is a page read. */
static bool serves(struct file *file, uint8_t *pages)
{
    struct iovec from = {pages, PAGE_SIZE}, to = {pages + PAGE_SIZE, PAGE_SIZE};
    memset(pages, 0xa5, PAGE_SIZE);
    memset(pages + PAGE_SIZE, 0, PAGE_SIZE);
    return file_write(file, &from, 1, 0) == (ssize_t)PAGE_SIZE &&
           file_read(file, &to, 1, 0) == (ssize_t)PAGE_SIZE &&
           memcmp(pages, pages + PAGE_SIZE, PAGE_SIZE) == 0;
}

/* Past the page cache if that works for our pages, else through it. False, and errno. */
static bool choose_mode(struct file *file)
{
    uint8_t *pages =
        mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        return false;
    bool good = fcntl(file->fd, F_SETFL, O_DIRECT) == 0 && serves(file, pages);
    if (!good)
        good = fcntl(file->fd, F_SETFL, 0) == 0 && serves(file, pages);
    int error = errno;
    munmap(pages, 2 * PAGE_SIZE);
    file_discard(file, 0, 2 * PAGE_SIZE);
    errno = error;
    return good;
}

enum status swap_file_open(struct swap_file *out, const char *dir, uint64_t size,
                           enum swap_queue queue, struct error *err)
{
    struct file *file = calloc(1, sizeof *file);
    if (file == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    file->fd = temp_file_open(dir);
    if (file->fd < 0) {
        error_set(err, STATUS_INVALID, "cannot make a swap file in %s: %s", dir, strerror(errno));
        goto out;
    }
    if (ftruncate(file->fd, (off_t)size) != 0) {
        error_set(err, STATUS_INVALID, "cannot make a swap file of %llu MiB in %s: %s",
                  (unsigned long long)(size / MIB), dir, strerror(errno));
        goto out;
    }
    if (!choose_mode(file)) {
        error_set(err, STATUS_INVALID, "cannot write a swap file in %s: %s", dir, strerror(errno));
        goto out;
    }
    file->has_ring =
        queue == SWAP_QUEUE_IF_ANY && swap_ring_open(&file->ring, SWAP_QUEUE_DEPTH, file->fd);
    *out = (struct swap_file){file->has_ring ? &ring_ops : &plain_ops, file};
    return STATUS_OK;
out:
    file_close(file);
    return STATUS_INVALID;
}
