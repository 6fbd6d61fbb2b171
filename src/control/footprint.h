#ifndef AEROSTAT_CONTROL_FOOTPRINT_H
#define AEROSTAT_CONTROL_FOOTPRINT_H

/* What a VM's process takes beside the guest's memory: so much is kept for it before it starts.
 * What it takes in fact is measured, and counts from then on. */

#include <stdint.h>

#include "util/bits.h"

#define FOOTPRINT_PROCESS    (10 * MIB) /* with its devices and tables, as measured */
#define FOOTPRINT_PAGE       32u /* page map, origins of disk pages, references, marks, ... */
#define FOOTPRINT_CODE_CACHE (64 * MIB) /* of the translator, where nobody says otherwise */

/* Bytes, for a guest of `memory` bytes. `code_cache`: 0 without a translator. */
static inline uint64_t footprint(uint64_t memory, uint64_t code_cache)
{
    return FOOTPRINT_PROCESS + memory / PAGE_SIZE * FOOTPRINT_PAGE + code_cache;
}

#endif
