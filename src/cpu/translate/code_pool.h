#ifndef AEROSTAT_CPU_TRANSLATE_CODE_POOL_H
#define AEROSTAT_CPU_TRANSLATE_CODE_POOL_H

/*
 * Memory for generated code and for all tables that grow with it: the bound of a VM's code cache.
 *
 * Made before the sandbox forbids executable mappings, with a piece for each vCPU. Code is in one
 * memfd, mapped writable in one place and executable in another; tables are in a second one, which
 * is never executable. A piece is address space for as much as there is of either, with a guard
 * page on each side; what of it may be used is granted step by step. Half of its equal share is
 * there for every piece, the rest for who needs it first (ring.c), so a vCPU that does the work of
 * all is not held to its share, and one that comes late has something left. A machine that is reset
 * gives its pieces back, and the next machine takes them again.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/bits.h"
#include "util/status.h"

#define CODE_POOL_DEFAULT (64 * MIB)
#define CODE_POOL_LEAST   (2 * MIB)
#define CODE_POOL_MOST    (512 * MIB)
#define CODE_PIECE_LEAST  (256 * KIB)
#define CODE_STEP         ((size_t)32 << 10)

struct code_pool;

struct code_piece {
    uint8_t *write;         /* code_size bytes, */
    const uint8_t *execute; /* and the same bytes */
    uint8_t *data;          /* data_size bytes; all zero when the piece is taken */
    size_t code_size, data_size;
    size_t granted;  /* of both together */
    size_t expected; /* what it may come to: for the size of tables */
};

/* `size`: of all code and tables, at least CODE_PIECE_LEAST a piece, at most CODE_POOL_MOST;
 * `pieces`: 1 to 64. Costs address space; memory only as it is written. */
enum status code_pool_create(struct code_pool **pool, size_t size, unsigned pieces,
                             struct error *err);
/* All pieces have been given back. */
void code_pool_destroy(struct code_pool *pool);

/* STATUS_NO_SPACE: all pieces are taken. Any thread. */
enum status code_pool_take(struct code_pool *pool, struct code_piece *piece, struct error *err);
/* True: the next step is of those that every piece is sure of. */
bool code_pool_is_sure(const struct code_pool *pool, const struct code_piece *piece);
/* Grants CODE_STEP bytes more. False: there are none left for this piece. Any thread. */
bool code_pool_grant(struct code_pool *pool, struct code_piece *piece);
/* The memory of all data, which is zero then, and of code from that offset on goes back to the
 * host. Nothing is granted any more. */
void code_pool_empty(struct code_pool *pool, struct code_piece *piece, size_t code_from);
/* The piece was taken from this pool. Its memory goes back to the host. */
void code_pool_give(struct code_pool *pool, struct code_piece *piece);

#endif
