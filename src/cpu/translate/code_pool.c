#include "cpu/translate/code_pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "cpu/code_memory.h"
#include "util/bits.h"

#define PIECES_MAX 64u

struct code_pool {
    struct code_memory memory;
    unsigned pieces;
    pthread_mutex_t lock; /* leaf; guards taken */
    uint64_t taken;       /* a bit a piece */
};

enum status code_pool_create(struct code_pool **out, unsigned pieces, struct error *err)
{
    if (pieces == 0 || pieces > PIECES_MAX)
        return error_set(err, STATUS_INVALID, "code memory for %u CPUs", pieces);
    struct code_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a code pool");
    pool->pieces = pieces;
    pthread_mutex_init(&pool->lock, NULL);
    enum status status =
        code_memory_create(&pool->memory, "aerostat-code", pieces * CODE_PIECE_SIZE, err);
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
    code_memory_destroy(&pool->memory);
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
        piece->write = pool->memory.write + n * CODE_PIECE_SIZE;
        piece->execute = pool->memory.execute + n * CODE_PIECE_SIZE;
    }
    pthread_mutex_unlock(&pool->lock);
    return status;
}

void code_pool_give(struct code_pool *pool, const struct code_piece *piece)
{
    size_t n = (size_t)(piece->write - pool->memory.write) / CODE_PIECE_SIZE;
    /* Punches a hole; where the host does not, the next user overwrites what it needs. */
    madvise(piece->write, CODE_PIECE_SIZE, MADV_REMOVE);
    pthread_mutex_lock(&pool->lock);
    pool->taken &= ~bit((unsigned)n);
    pthread_mutex_unlock(&pool->lock);
}
