#include "boot/source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/bits.h"

static enum status check_size(const struct boot_source *source, struct error *err)
{
    if (source->size == 0)
        return error_set(err, STATUS_INVALID, "%s '%s' is empty", source->what, source->name);
    return STATUS_OK;
}

enum status source_open(struct boot_source *source, const char *what, const char *path,
                        struct error *err)
{
    *source = (struct boot_source){.what = what, .name = path, .fd = -1};

    /* O_NONBLOCK: opening a FIFO must not wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        enum status status =
            errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_INVALID;
        return error_set(err, status, "cannot open %s '%s': %s", what, path, strerror(errno));
    }
    source->fd = fd;

    struct stat info;
    enum status status;
    if (fstat(fd, &info) != 0)
        status = error_set(err, STATUS_IO, "cannot stat %s '%s': %s", what, path, strerror(errno));
    else if (S_ISDIR(info.st_mode))
        status = error_set(err, STATUS_INVALID, "%s '%s' is a directory", what, path);
    else if (!S_ISREG(info.st_mode))
        status = error_set(err, STATUS_INVALID, "%s '%s' is not a regular file", what, path);
    else {
        source->size = (uint64_t)info.st_size;
        status = check_size(source, err);
    }
    if (status != STATUS_OK)
        source_close(source);
    return status;
}

enum status source_from_bytes(struct boot_source *source, const char *what, const char *name,
                              const uint8_t *bytes, uint64_t size, struct error *err)
{
    *source =
        (struct boot_source){.what = what, .name = name, .size = size, .bytes = bytes, .fd = -1};
    return check_size(source, err);
}

void source_close(struct boot_source *source)
{
    if (source->fd >= 0)
        close(source->fd);
    source->fd = -1;
}

enum status source_read(const struct boot_source *source, uint64_t offset, void *buffer,
                        uint64_t length, struct error *err)
{
    if (!range_fits(offset, length, source->size))
        return error_set(err, STATUS_INVALID, "%s '%s' is truncated: it ends at byte %llu of %llu",
                         source->what, source->name, (unsigned long long)source->size,
                         (unsigned long long)(offset + length));
    if (source->bytes != NULL) {
        memcpy(buffer, source->bytes + offset, length);
        return STATUS_OK;
    }
    for (uint64_t done = 0; done < length;) {
        ssize_t got =
            pread(source->fd, (uint8_t *)buffer + done, length - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_set(err, STATUS_IO, "cannot read %s '%s': %s", source->what, source->name,
                             strerror(errno));
        if (got == 0) /* somebody shortened it meanwhile */
            return error_set(err, STATUS_INVALID, "%s '%s' shrank while it was read", source->what,
                             source->name);
        done += (uint64_t)got;
    }
    return STATUS_OK;
}
