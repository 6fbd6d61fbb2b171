#ifndef AEROSTAT_MMU_TLB_SET_H
#define AEROSTAT_MMU_TLB_SET_H

/* Sets of numbers, for the TLB: of its slots, exact, and of pages, by hash. */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "util/bits.h"

/* ------------------------------------------------------------------------- of slots */

#define TLB_SET_MAX 4096u /* numbers below this */

/* `words` has a bit for each word that is not 0: an almost empty set is passed through at once. */
struct tlb_set {
    uint64_t words;
    uint64_t bits[TLB_SET_MAX / 64];
};

static inline void tlb_set_add(struct tlb_set *set, unsigned slot)
{
    set->bits[slot / 64] |= bit(slot % 64);
    set->words |= bit(slot / 64);
}

static inline void tlb_set_remove(struct tlb_set *set, unsigned slot)
{
    set->bits[slot / 64] &= ~bit(slot % 64);
    if (set->bits[slot / 64] == 0)
        set->words &= ~bit(slot / 64);
}

static inline void tlb_set_clear(struct tlb_set *set)
{
    for (; set->words != 0; set->words &= set->words - 1)
        set->bits[__builtin_ctzll(set->words)] = 0;
}

/* Passes through a set, lowest first; what was returned may be removed meanwhile. */
struct tlb_cursor {
    uint64_t words, rest;
    unsigned base;
};

static inline struct tlb_cursor tlb_set_begin(const struct tlb_set *set)
{
    return (struct tlb_cursor){.words = set->words};
}

static inline bool tlb_set_next(const struct tlb_set *set, struct tlb_cursor *cursor,
                                unsigned *slot)
{
    if (cursor->rest == 0) {
        if (cursor->words == 0)
            return false;
        unsigned word = (unsigned)__builtin_ctzll(cursor->words);
        cursor->words &= cursor->words - 1;
        cursor->rest = set->bits[word];
        cursor->base = word * 64;
    }
    *slot = cursor->base + (unsigned)__builtin_ctzll(cursor->rest);
    cursor->rest &= cursor->rest - 1;
    return true;
}

/* ------------------------------------------------------------------------- of pages */

/* May say that it has what was never put in. Each half of the linear addresses has a half of the
 * bits: kernel code does not stand in the way of user data. */
struct tlb_filter {
    bool is_used;
    uint64_t bits[2][64];
};

static inline unsigned tlb_filter_hash(uint64_t linear, unsigned shift)
{
    return (unsigned)((linear >> shift) * 0x9e3779b97f4a7c15u >> 52);
}

/* All calls for one filter have the same shift: it is a set of pages of that size. */
static inline void tlb_filter_add(struct tlb_filter *filter, uint64_t linear, unsigned shift)
{
    unsigned hash = tlb_filter_hash(linear, shift);
    filter->is_used = true;
    filter->bits[linear >> 63][hash / 64] |= bit(hash % 64);
}

static inline bool tlb_filter_may_have(const struct tlb_filter *filter, uint64_t linear,
                                       unsigned shift)
{
    unsigned hash = tlb_filter_hash(linear, shift);
    return filter->bits[linear >> 63][hash / 64] >> hash % 64 & 1;
}

static inline void tlb_filter_clear(struct tlb_filter *filter)
{
    if (filter->is_used)
        memset(filter, 0, sizeof(*filter));
}

#endif
