#ifndef AEROSTAT_GUESTS_MEASURE_H
#define AEROSTAT_GUESTS_MEASURE_H

/* What programs that measure inside a guest share: its clock, and numbers at random. */

#include <stdint.h>
#include <time.h>

/* Monotonic, in nanoseconds. */
static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The next of a sequence (xorshift); a seed is not 0. */
static inline uint64_t random_next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

#endif
