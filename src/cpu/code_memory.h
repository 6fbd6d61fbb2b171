#ifndef AEROSTAT_CPU_CODE_MEMORY_H
#define AEROSTAT_CPU_CODE_MEMORY_H

/*
 * Memory for generated code: one memfd mapped twice, so that no mapping is writable and executable;
 * or for what belongs to it and is not code. Made before the process gives up executable mappings
 * (vm/sandbox.h).
 *
 * It is in pieces of one size, each for a user of its own. Before and behind each there is a page
 * that nobody can touch: who runs or writes past the end of his piece faults.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/bits.h"
#include "util/status.h"

struct code_memory {
    uint8_t *write;         /* the first piece, to be written here */
    const uint8_t *execute; /* and run there; or NULL */
    size_t size;            /* of a piece */
    unsigned pieces;
};

/* `name` is what /proc/PID/maps shows; `size`, of each piece, is a multiple of the page's. Memory
 * that is never written costs nothing. On failure *memory is empty. */
enum status code_memory_create(struct code_memory *memory, const char *name, size_t size,
                               unsigned pieces, bool executable, struct error *err);
/* Unmaps it and makes it empty. An empty one is allowed. */
void code_memory_destroy(struct code_memory *memory);

/* From one piece to the next. */
static inline size_t code_memory_stride(const struct code_memory *memory)
{
    return memory->size + PAGE_SIZE;
}

#endif
