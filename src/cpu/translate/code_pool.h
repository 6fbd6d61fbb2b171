#ifndef AEROSTAT_CPU_TRANSLATE_CODE_POOL_H
#define AEROSTAT_CPU_TRANSLATE_CODE_POOL_H

/*
 * Memory for generated code, made before the sandbox forbids executable mappings.
 *
 * One memfd, mapped writable in one place and executable in another, cut into equal pieces: one a
 * vCPU. A machine that is reset gives its pieces back, and the next machine takes them again.
 */

#include <stddef.h>
#include <stdint.h>

#include "util/status.h"

#define CODE_PIECE_SIZE ((size_t)8 << 20)

struct code_pool;

struct code_piece {
    uint8_t *write;         /* CODE_PIECE_SIZE bytes, */
    const uint8_t *execute; /* and the same bytes */
};

/* `pieces` is 1 to 64. Costs address space; memory only as code is written. */
enum status code_pool_create(struct code_pool **pool, unsigned pieces, struct error *err);
/* All pieces have been given back. */
void code_pool_destroy(struct code_pool *pool);

/* STATUS_NO_SPACE: all pieces are taken. Any thread. */
enum status code_pool_take(struct code_pool *pool, struct code_piece *piece, struct error *err);
/* The piece was taken from this pool. Its memory goes back to the host. */
void code_pool_give(struct code_pool *pool, const struct code_piece *piece);

#endif
