/* The same for CPUs with AVX2; the compiler is told to use it for this file alone. */

#include "mem/page_hash.h"

#include <stddef.h>

#include "util/bits.h"

#ifdef __AVX2__
#define XXH_INLINE_ALL
#include <xxhash.h>

static uint64_t hash_avx2(const uint8_t *page, uint64_t key)
{
    return XXH3_64bits_withSeed(page, PAGE_SIZE, key);
}

page_hash_fn *page_hash_avx2(void)
{
    return __builtin_cpu_supports("avx2") ? hash_avx2 : NULL;
}
#else
page_hash_fn *page_hash_avx2(void)
{
    return NULL;
}
#endif
