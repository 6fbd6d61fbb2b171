#include "mem/page_hash.h"

#include <stdatomic.h>
#include <stddef.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "util/bits.h"

static uint64_t hash_plain(const uint8_t *page, uint64_t key)
{
    return XXH3_64bits_withSeed(page, PAGE_SIZE, key);
}

page_hash_fn *page_hash_plain(void)
{
    return hash_plain;
}

uint64_t page_hash(const uint8_t *page, uint64_t key)
{
    static _Atomic(page_hash_fn *) best;
    page_hash_fn *hash = atomic_load_explicit(&best, memory_order_relaxed);
    if (unlikely(hash == NULL)) {
        hash = page_hash_avx2();
        if (hash == NULL)
            hash = hash_plain;
        atomic_store_explicit(&best, hash, memory_order_relaxed);
    }
    return hash(page, key);
}
