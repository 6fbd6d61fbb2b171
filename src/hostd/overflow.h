#ifndef AEROSTAT_HOSTD_OVERFLOW_H
#define AEROSTAT_HOSTD_OVERFLOW_H

/* The counts of the few frames that more pages hold than 16 bits can count. */

#include <stddef.h>
#include <stdint.h>

#include "util/status.h"

struct overflow_count {
    uint32_t frame;
    uint32_t unused;
    uint64_t count;
};

struct overflow {
    struct overflow_count *counts; /* by frame */
    size_t length, room;
};

/* Adds a frame that is not there. NO_MEMORY: nothing has changed. */
enum status overflow_add(struct overflow *overflow, uint32_t frame, uint64_t count);
/* The count of a frame that is there, to be changed; good until the next addition or removal. */
uint64_t *overflow_find(const struct overflow *overflow, uint32_t frame);
void overflow_remove(struct overflow *overflow, uint32_t frame);
void overflow_free(struct overflow *overflow);

#endif
