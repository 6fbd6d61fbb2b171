#ifndef AEROSTAT_CPU_CODE_MEMORY_H
#define AEROSTAT_CPU_CODE_MEMORY_H

/* Memory for generated code: one memfd mapped twice, so that no mapping is writable and executable;
 * or for what belongs to it and is not code. Made before the process gives up executable mappings
 * (vm/sandbox.h). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/status.h"

struct code_memory {
    uint8_t *write;         /* the same bytes, to be written here */
    const uint8_t *execute; /* and run there; or NULL */
    size_t size;
};

/* `name` is what /proc/PID/maps shows. Memory that is never written costs nothing. On failure
 * *memory is empty. */
enum status code_memory_create(struct code_memory *memory, const char *name, size_t size,
                               bool executable, struct error *err);
/* Unmaps it and makes it empty. An empty one is allowed. */
void code_memory_destroy(struct code_memory *memory);

#endif
