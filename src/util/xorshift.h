#ifndef AEROSTAT_UTIL_XORSHIFT_H
#define AEROSTAT_UTIL_XORSHIFT_H

/* Numbers without a pattern, the same for the same seed; nothing for secrets. Marsaglia, "Xorshift
 * RNGs", 2003. */

#include <stdint.h>

/* *seed must not be 0, and never becomes so. */
static inline uint64_t xorshift_next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

#endif
