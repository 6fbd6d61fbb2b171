#ifndef AEROSTAT_MEM_PAGE_HASH_H
#define AEROSTAT_MEM_PAGE_HASH_H

/* What is in a page, PAGE_SIZE bytes. */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "util/bits.h"

static inline bool page_is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, PAGE_SIZE - 1) == 0;
}

/* The hash by which equal pages are found, XXH3_64bits_withSeed, by the fastest code that this
 * host's CPU has. */
uint64_t page_hash(const uint8_t *page, uint64_t key);

/* The ways there are; NULL where it is not built or the CPU cannot. All give the same. */
typedef uint64_t page_hash_fn(const uint8_t *page, uint64_t key);
page_hash_fn *page_hash_plain(void);
page_hash_fn *page_hash_avx2(void);

#endif
