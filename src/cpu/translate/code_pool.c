#include "cpu/translate/code_pool.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cpu/code_memory.h"

#define PIECES_MAX 64u

struct code_pool {
    struct code_memory code, data;
    size_t size;    /* of all that is granted */
    size_t reserve; /* what every piece is sure of */
    unsigned pieces;
    pthread_mutex_t lock; /* leaf; guards the fields below */
    uint64_t taken;       /* a bit a piece */
    size_t left;          /* to be granted beside the reserves */
};

enum status code_pool_create(struct code_pool **out, size_t size, unsigned pieces,
                             struct error *err)
{
    if (pieces == 0 || pieces > PIECES_MAX)
        return error_set(err, STATUS_INVALID, "code memory for %u CPUs", pieces);
    size_t piece = align_down(size / pieces, PAGE_SIZE);
    if (piece < CODE_PIECE_LEAST || size > CODE_POOL_MOST)
        return error_set(err, STATUS_INVALID, "%zu KiB of code memory for %u CPUs",
                         size / (size_t)KIB, pieces);
    struct code_pool *pool = calloc(1, sizeof(*pool));
    if (pool == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a code pool");
    pool->pieces = pieces;
    pool->size = align_down(size, PAGE_SIZE);
    pool->reserve = piece / 2 > CODE_PIECE_LEAST ? piece / 2 : CODE_PIECE_LEAST;
    pool->reserve = align_down(pool->reserve, CODE_STEP);
    pool->left = pool->size - pieces * pool->reserve;
    pthread_mutex_init(&pool->lock, NULL);
    enum status status =
        code_memory_create(&pool->code, "aerostat-code", pool->size, pieces, true, err);
    if (status == STATUS_OK)
        status =
            code_memory_create(&pool->data, "aerostat-code-tables", pool->size, pieces, false, err);
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
    code_memory_destroy(&pool->code);
    code_memory_destroy(&pool->data);
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
        size_t share = pool->size / pool->pieces, at = n * code_memory_stride(&pool->code);
        *piece = (struct code_piece){.write = pool->code.write + at,
                                     .execute = pool->code.execute + at,
                                     .data = pool->data.write + at,
                                     .code_size = pool->size,
                                     .data_size = pool->size,
                                     .expected = 4 * share < pool->size ? 4 * share : pool->size};
    }
    pthread_mutex_unlock(&pool->lock);
    return status;
}

bool code_pool_is_sure(const struct code_pool *pool, const struct code_piece *piece)
{
    return piece->granted + CODE_STEP <= pool->reserve;
}

bool code_pool_grant(struct code_pool *pool, struct code_piece *piece)
{
    bool reserved = code_pool_is_sure(pool, piece);
    pthread_mutex_lock(&pool->lock);
    bool granted = reserved || pool->left >= CODE_STEP;
    if (granted && !reserved)
        pool->left -= CODE_STEP;
    pthread_mutex_unlock(&pool->lock);
    if (granted)
        piece->granted += CODE_STEP;
    return granted;
}

void code_pool_empty(struct code_pool *pool, struct code_piece *piece, size_t code_from)
{
    /* Punches a hole. Where the host does not: the next user overwrites what it needs of the code,
     * but relies on empty tables. */
    size_t from = align_up(code_from, PAGE_SIZE);
    madvise(piece->write + from, piece->code_size - from, MADV_REMOVE);
    if (madvise(piece->data, piece->data_size, MADV_REMOVE) != 0)
        memset(piece->data, 0, piece->granted);
    pthread_mutex_lock(&pool->lock);
    if (piece->granted > pool->reserve)
        pool->left += piece->granted - pool->reserve;
    pthread_mutex_unlock(&pool->lock);
    piece->granted = 0;
}

void code_pool_give(struct code_pool *pool, struct code_piece *piece)
{
    size_t n = (size_t)(piece->write - pool->code.write) / code_memory_stride(&pool->code);
    code_pool_empty(pool, piece, 0);
    pthread_mutex_lock(&pool->lock);
    pool->taken &= ~bit((unsigned)n);
    pthread_mutex_unlock(&pool->lock);
}
