/* See image.h: an image that is the file itself. */

#include "dev/virtio/image_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dev/virtio/iov.h"
#include "util/bits.h"
#include "util/log.h"

/* Zeros are written from a buffer of this size where the host cannot make them itself. */
#define ZERO_BUFFER_SIZE (64 * KIB)

struct image_file {
    struct image base;
    int fd;
};

static struct image_file *file_of(struct image *image)
{
    return container_of(image, struct image_file, base);
}

static enum status file_open_error(const char *path, bool read_only, struct error *err)
{
    switch (errno) {
    case ENOENT:
        return error_set(err, STATUS_NOT_FOUND, "disk image %s does not exist", path);
    case EACCES:
    case EPERM:
    case EROFS:
        return error_set(err, STATUS_INVALID, "no permission to %s disk image %s%s",
                         read_only ? "read" : "write", path,
                         read_only ? "" : " (add ,ro to use it read-only)");
    case EISDIR:
        return error_set(err, STATUS_INVALID, "disk image %s is a directory", path);
    default:
        return error_set(err, STATUS_IO, "cannot open disk image %s: %s", path, strerror(errno));
    }
}

static enum status file_lock(const struct image_file *file, const char *path, struct error *err)
{
    struct flock lock = {
        .l_type = file->base.read_only ? F_RDLCK : F_WRLCK,
        .l_whence = SEEK_SET,
    };

    if (fcntl(file->fd, F_OFD_SETLK, &lock) == 0)
        return STATUS_OK;
    if (errno == EAGAIN || errno == EACCES)
        return error_set(err, STATUS_BUSY, "disk image %s is in use by another virtual machine",
                         path);
    /* Some network file systems have no locks; refusing their images would help nobody. */
    log_warning("disk image %s cannot be locked: %s", path, strerror(errno));
    return STATUS_OK;
}

static enum status file_measure(struct image_file *file, const char *path, struct error *err)
{
    struct stat info;

    if (fstat(file->fd, &info) != 0)
        return error_set(err, STATUS_IO, "cannot examine disk image %s: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode))
        return error_set(err, STATUS_INVALID, "disk image %s is a directory", path);
    if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode))
        return error_set(err, STATUS_INVALID, "disk image %s is neither a file nor a block device",
                         path);
    off_t end = lseek(file->fd, 0, SEEK_END);
    if (end < 0)
        return error_set(err, STATUS_IO, "cannot find the size of disk image %s: %s", path,
                         strerror(errno));
    uint64_t size = (uint64_t)end;
    file->base.size = align_down(size, SECTOR_SIZE);
    if (file->base.size == 0)
        return error_set(err, STATUS_INVALID,
                         "disk image %s has %" PRIu64 " bytes, less than one sector", path, size);
    if (file->base.size != size)
        log_warning("disk image %s: the last %" PRIu64 " bytes are no whole sector and not used",
                    path, size - file->base.size);
    return STATUS_OK;
}

typedef ssize_t transfer_fn(int fd, const struct iovec *iov, int count, off_t offset);

/* The host may transfer less than asked for, and takes IOV_MAX pieces at a time. */
static enum status file_transfer(struct image *image, transfer_fn *transfer, uint64_t offset,
                                 struct iovec *iov, unsigned count)
{
    while (count > 0) {
        int pieces = count > IOV_MAX ? IOV_MAX : (int)count;
        ssize_t done = transfer(file_of(image)->fd, iov, pieces, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            log_debug("disk image: %s at %" PRIu64, done < 0 ? strerror(errno) : "end of file",
                      offset);
            return done < 0 && errno == ENOSPC ? STATUS_NO_SPACE : STATUS_IO;
        }
        offset += (uint64_t)done;
        iov_drop_front(&iov, &count, (uint64_t)done);
    }
    return STATUS_OK;
}

static enum status file_read(struct image *image, uint64_t offset, struct iovec *iov,
                             unsigned count)
{
    return file_transfer(image, preadv, offset, iov, count);
}

static enum status file_write(struct image *image, uint64_t offset, struct iovec *iov,
                              unsigned count)
{
    return file_transfer(image, pwritev, offset, iov, count);
}

static enum status file_flush(struct image *image)
{
    if (image->read_only)
        return STATUS_OK;
    for (;;) {
        if (fdatasync(file_of(image)->fd) == 0)
            return STATUS_OK;
        if (errno != EINTR)
            return STATUS_IO;
    }
}

/* True when the host's file system did it. `unsupported` when it never will. */
static enum status file_fallocate(struct image *image, int mode, uint64_t offset, uint64_t length)
{
    for (;;) {
        if (fallocate(file_of(image)->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                      (off_t)length) == 0)
            return STATUS_OK;
        if (errno == EINTR)
            continue;
        if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINVAL || errno == EPERM)
            return STATUS_UNSUPPORTED;
        return errno == ENOSPC ? STATUS_NO_SPACE : STATUS_IO;
    }
}

static enum status file_discard(struct image *image, uint64_t offset, uint64_t length)
{
    if (length == 0)
        return STATUS_OK;
    enum status status = file_fallocate(image, FALLOC_FL_PUNCH_HOLE, offset, length);
    /* Discarding is a hint: keeping the blocks is a correct answer. */
    return status == STATUS_UNSUPPORTED ? STATUS_OK : status;
}

static enum status file_write_zero_bytes(struct image *image, uint64_t offset, uint64_t length)
{
    void *zeros = calloc(1, ZERO_BUFFER_SIZE);
    enum status status = STATUS_OK;

    if (zeros == NULL)
        return STATUS_NO_MEMORY;
    while (length > 0 && status == STATUS_OK) {
        size_t piece = (size_t)(length < ZERO_BUFFER_SIZE ? length : ZERO_BUFFER_SIZE);
        struct iovec iov = {.iov_base = zeros, .iov_len = piece};
        status = file_write(image, offset, &iov, 1);
        offset += piece;
        length -= piece;
    }
    free(zeros);
    return status;
}

static enum status file_write_zeroes(struct image *image, uint64_t offset, uint64_t length,
                                     bool unmap)
{
    enum status status = STATUS_UNSUPPORTED;

    if (length == 0)
        return STATUS_OK;
    if (unmap)
        status = file_fallocate(image, FALLOC_FL_PUNCH_HOLE, offset, length);
    if (status == STATUS_UNSUPPORTED)
        status = file_fallocate(image, FALLOC_FL_ZERO_RANGE, offset, length);
    if (status == STATUS_UNSUPPORTED)
        status = file_write_zero_bytes(image, offset, length);
    return status;
}

static void file_close(struct image *image)
{
    struct image_file *file = file_of(image);
    if (file->fd >= 0)
        close(file->fd);
    free(file);
}

static const struct image_ops file_ops = {
    .read = file_read,
    .write = file_write,
    .flush = file_flush,
    .discard = file_discard,
    .write_zeroes = file_write_zeroes,
    .close = file_close,
};

enum status image_open(struct image **image, const char *path, bool read_only, struct error *err)
{
    struct image_file *file = calloc(1, sizeof(*file));
    enum status status;

    if (file == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for disk image %s", path);
    file->base = (struct image){.ops = &file_ops, .read_only = read_only};
    /* Not blocking: a FIFO is refused below, not waited for. Files do not care. */
    file->fd = open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (file->fd < 0) {
        status = file_open_error(path, read_only, err);
        goto fail;
    }
    status = file_measure(file, path, err);
    if (status == STATUS_OK)
        status = file_lock(file, path, err);
    if (status != STATUS_OK)
        goto fail;
    *image = &file->base;
    return STATUS_OK;
fail:
    file_close(&file->base);
    return status;
}

enum status image_wrap(struct image **image, int fd, uint64_t size, struct error *err)
{
    struct image_file *file = calloc(1, sizeof(*file));

    if (file == NULL) {
        close(fd);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a disk image");
    }
    file->base = (struct image){.ops = &file_ops, .size = size};
    file->fd = fd;
    *image = &file->base;
    return STATUS_OK;
}
