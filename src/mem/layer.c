/* See layer.h. The file is sealed against a change of its size, so that whoever gets the descriptor
 * (the manager, a fork) cannot make our mapping fault. */

#include "mem/layer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/bits.h"

static enum status host_error(struct error *err, enum status status, const char *doing,
                              uint64_t size)
{
    return error_set(err, status, "cannot %s guest memory (%llu MiB of address space): %s", doing,
                     (unsigned long long)(size / MIB), strerror(errno));
}

enum status layer_create(struct layer *layer, uint64_t size, struct error *err)
{
    *layer = (struct layer){.fd = -1, .size = size};
    layer->fd = memfd_create("aerostat-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (layer->fd < 0)
        return host_error(err, STATUS_NO_MEMORY, "create", size);
    if (ftruncate(layer->fd, (off_t)size) != 0) {
        host_error(err, STATUS_NO_MEMORY, "size", size);
        goto out;
    }
    if (fcntl(layer->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        host_error(err, STATUS_NO_MEMORY, "seal", size);
        goto out;
    }
    void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, layer->fd, 0);
    if (base == MAP_FAILED) {
        host_error(err, STATUS_NO_MEMORY, "map", size);
        goto out;
    }
    layer->base = base;
    fchmod(layer->fd, 0400); /* whoever gets a descriptor for reading cannot get one for writing */
    madvise(base, size, MADV_DONTDUMP); /* guests' secrets do not belong in core files */
    return STATUS_OK;
out:
    layer_destroy(layer);
    return STATUS_NO_MEMORY;
}

enum status layer_clear(const struct layer *layer, struct error *err)
{
    if (!layer_punch(layer, 0, layer->size >> PAGE_SHIFT))
        return host_error(err, STATUS_IO, "clear", layer->size);
    return STATUS_OK;
}

void layer_destroy(struct layer *layer)
{
    if (layer->size == 0)
        return;
    if (layer->base != NULL)
        munmap(layer->base, layer->size);
    if (layer->fd >= 0)
        close(layer->fd);
    *layer = (struct layer){.fd = -1};
}

bool layer_populate(const struct layer *layer, uint64_t ppn)
{
    int result;
    do {
        result = madvise(layer->base + (ppn << PAGE_SHIFT), PAGE_SIZE, MADV_POPULATE_WRITE);
    } while (result != 0 && (errno == EINTR || errno == EAGAIN));
    return result == 0 || errno == EINVAL;
}

bool layer_copy(const struct layer *layer, uint64_t ppn, uint8_t *to)
{
    ssize_t got;
    do {
        got = pread(layer->fd, to, PAGE_SIZE, (off_t)(ppn << PAGE_SHIFT));
    } while (got < 0 && errno == EINTR);
    return got == (ssize_t)PAGE_SIZE;
}

bool layer_punch(const struct layer *layer, uint64_t first, uint64_t count)
{
    int result;
    do {
        result = fallocate(layer->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           (off_t)(first << PAGE_SHIFT), (off_t)(count << PAGE_SHIFT));
    } while (result != 0 && errno == EINTR);
    return result == 0;
}

void layer_unmap(const struct layer *layer, uint64_t first, uint64_t count)
{
    madvise(layer->base + (first << PAGE_SHIFT), count << PAGE_SHIFT, MADV_DONTNEED);
}

enum status layer_for_each_page(const struct layer *layer,
                                bool (*visit)(void *context, uint64_t ppn), void *context,
                                struct error *err)
{
    struct stat stat;
    if (fstat(layer->fd, &stat) != 0)
        return host_error(err, STATUS_IO, "examine", layer->size);
    if ((uint64_t)stat.st_blksize > PAGE_SIZE)
        return error_set(err, STATUS_UNSUPPORTED, "guest memory may have huge pages");

    off_t end = 0;
    for (;;) {
        off_t data = lseek(layer->fd, end, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO ? STATUS_OK : host_error(err, STATUS_IO, "examine", layer->size);
        end = lseek(layer->fd, data, SEEK_HOLE);
        if (end < 0)
            return host_error(err, STATUS_IO, "examine", layer->size);
        for (off_t at = data; at < end; at += (off_t)PAGE_SIZE) {
            if (!visit(context, (uint64_t)at >> PAGE_SHIFT))
                return STATUS_OK;
        }
    }
}
