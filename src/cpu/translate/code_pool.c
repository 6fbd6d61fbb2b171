#include "cpu/translate/code_pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/bits.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

#define PIECES_MAX 64u

struct code_pool {
    uint8_t *write;
    const uint8_t *execute;
    unsigned pieces;
    pthread_mutex_t lock; /* leaf; guards taken */
    uint64_t taken;       /* a bit a piece */
};

static enum status map_code(struct code_pool *pool, struct error *err)
{
    const size_t size = pool->pieces * CODE_PIECE_SIZE;
    /* Kernels before 6.3 do not know MFD_EXEC, later ones may insist on it. */
    int fd = memfd_create("aerostat-code", MFD_CLOEXEC | MFD_EXEC);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create("aerostat-code", MFD_CLOEXEC);
    if (fd < 0)
        return error_set(err, STATUS_NO_MEMORY, "cannot create code memory: %s", strerror(errno));
    void *write = MAP_FAILED, *execute = MAP_FAILED;
    if (ftruncate(fd, (off_t)size) == 0)
        write = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (write != MAP_FAILED)
        execute = mmap(NULL, size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    int failure = errno;
    close(fd);
    if (write != MAP_FAILED)
        pool->write = write;
    if (execute == MAP_FAILED)
        return error_set(err, STATUS_NO_MEMORY, "cannot map code memory: %s", strerror(failure));
    pool->execute = execute;
    return STATUS_OK;
}

enum status code_pool_create(struct code_pool **out, unsigned pieces, struct error *err)
{
    if (pieces == 0 || pieces > PIECES_MAX)
        return error_set(err, STATUS_INVALID, "code memory for %u CPUs", pieces);
    struct code_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a code pool");
    pool->pieces = pieces;
    pthread_mutex_init(&pool->lock, NULL);
    enum status status = map_code(pool, err);
    if (status != STATUS_OK) {
        code_pool_destroy(pool);
        return status;
    }
    *out = pool;
    return STATUS_OK;
}

void code_pool_destroy(struct code_pool *pool)
{
    if (pool == NULL)
        return;
    if (pool->write != NULL)
        munmap(pool->write, pool->pieces * CODE_PIECE_SIZE);
    if (pool->execute != NULL)
        munmap((void *)(uintptr_t)pool->execute, pool->pieces * CODE_PIECE_SIZE);
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

enum status code_pool_take(struct code_pool *pool, struct code_piece *piece, struct error *err)
{
    enum status status = STATUS_OK;
    pthread_mutex_lock(&pool->lock);
    unsigned n = 0;
    while (n < pool->pieces && (pool->taken & bit(n)) != 0)
        n++;
    if (n == pool->pieces) {
        status = error_set(err, STATUS_NO_SPACE, "no code memory for another CPU");
    } else {
        pool->taken |= bit(n);
        piece->write = pool->write + n * CODE_PIECE_SIZE;
        piece->execute = pool->execute + n * CODE_PIECE_SIZE;
    }
    pthread_mutex_unlock(&pool->lock);
    return status;
}

void code_pool_give(struct code_pool *pool, const struct code_piece *piece)
{
    size_t n = (size_t)(piece->write - pool->write) / CODE_PIECE_SIZE;
    /* Punches a hole; where the host does not, the next user overwrites what it needs. */
    madvise(piece->write, CODE_PIECE_SIZE, MADV_REMOVE);
    pthread_mutex_lock(&pool->lock);
    pool->taken &= ~bit((unsigned)n);
    pthread_mutex_unlock(&pool->lock);
}
