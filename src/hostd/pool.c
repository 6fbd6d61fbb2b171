#include "hostd/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS       (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define MODE_IN_USE 0400

/* The same file, opened anew. */
static int open_again(int fd, int mode)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, mode | O_CLOEXEC);
}

enum status pool_create(struct pool *pool, struct error *err)
{
    struct stat info;
    *pool = (struct pool){.fd = memfd_create("aerostat-pool", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    if (pool->fd < 0 || ftruncate(pool->fd, (off_t)POOL_BYTES) != 0 ||
        fcntl(pool->fd, F_ADD_SEALS, SEALS) != 0 || fchmod(pool->fd, MODE_IN_USE) != 0 ||
        fstat(pool->fd, &info) != 0) {
        error_set(err, STATUS_NO_MEMORY, "cannot make a pool: %s", strerror(errno));
        pool_close(pool);
        return STATUS_NO_MEMORY;
    }
    pool->device = info.st_dev;
    pool->inode = info.st_ino;
    return STATUS_OK;
}

enum status pool_reopen(struct pool *pool, int fd, dev_t device, ino_t inode, struct error *err)
{
    struct stat info;
    int seals = fcntl(fd, F_GET_SEALS);
    *pool = (struct pool){.fd = -1};
    /* A VM could make a file with the same number, after many: but not with this mode, in its
     * sandbox. */
    if (fstat(fd, &info) != 0 || info.st_dev != device || info.st_ino != inode ||
        info.st_uid != geteuid() || (info.st_mode & 07777) != MODE_IN_USE ||
        (uint64_t)info.st_size != POOL_BYTES || seals < 0 || (seals & SEALS) != SEALS ||
        (seals & F_SEAL_WRITE) != 0)
        return error_set(err, STATUS_INVALID, "what was handed back is not the pool");
    /* For this moment alone the file can be opened for writing. */
    if (fchmod(fd, 0600) == 0)
        pool->fd = open_again(fd, O_RDWR);
    int failure = errno;
    if (fchmod(fd, MODE_IN_USE) != 0 || pool->fd < 0) {
        error_set(err, STATUS_IO, "cannot open the pool again: %s", strerror(failure));
        pool_close(pool);
        return STATUS_IO;
    }
    pool->device = device;
    pool->inode = inode;
    return STATUS_OK;
}

void pool_close(struct pool *pool)
{
    if (pool->fd >= 0)
        close(pool->fd);
    pool->fd = -1;
}

enum status pool_reader(const struct pool *pool, int *fd, struct error *err)
{
    *fd = open_again(pool->fd, O_RDONLY);
    return *fd >= 0
               ? STATUS_OK
               : error_set(err, STATUS_IO, "cannot open a pool for reading: %s", strerror(errno));
}

static off_t offset_of(uint32_t frame)
{
    return (off_t)frame * (off_t)PAGE_SIZE;
}

enum status pool_write(struct pool *pool, uint32_t frame, const void *page)
{
    ssize_t written = pwrite(pool->fd, page, PAGE_SIZE, offset_of(frame));
    if (written == (ssize_t)PAGE_SIZE)
        return STATUS_OK;
    return written < 0 && (errno == ENOMEM || errno == ENOSPC) ? STATUS_NO_MEMORY : STATUS_IO;
}

enum status pool_read(const struct pool *pool, uint32_t frame, void *page)
{
    return pread(pool->fd, page, PAGE_SIZE, offset_of(frame)) == (ssize_t)PAGE_SIZE ? STATUS_OK
                                                                                    : STATUS_IO;
}

uint32_t pool_next(const struct pool *pool, uint32_t frame)
{
    off_t at = lseek(pool->fd, offset_of(frame), SEEK_DATA);
    return at < 0 ? LINK_FRAMES_MOST : (uint32_t)((uint64_t)at / PAGE_SIZE);
}

void pool_free(struct pool *pool, uint32_t frame)
{
    pool->freed[pool->freed_count++] = frame;
}

static int compare(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

void pool_punch(struct pool *pool)
{
    qsort(pool->freed, pool->freed_count, sizeof pool->freed[0], compare);
    for (uint32_t i = 0, end; i < pool->freed_count; i = end) {
        for (end = i + 1; end < pool->freed_count && pool->freed[end] == pool->freed[end - 1] + 1;)
            end++;
        /* Where this fails the memory stays in use until the frame is written again. */
        fallocate(pool->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset_of(pool->freed[i]),
                  offset_of(end - i));
    }
}

uint64_t pool_used(const struct pool *pool)
{
    struct stat info;
    return pool->fd >= 0 && fstat(pool->fd, &info) == 0 ? (uint64_t)info.st_blocks * 512 : 0;
}
