#ifndef AEROSTAT_MMU_TLB_SET_H
#define AEROSTAT_MMU_TLB_SET_H

/* Sets of numbers, for the TLB: of its slots, exact, and of pages, by hash. */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "util/bits.h"

/* ------------------------------------------------------------------------- of slots */

#define TLB_SET_MAX 65536u /* numbers below this */

/* `words` has a bit for each word of `bits` that is not 0, `groups` one for each of `words`: an
 * almost empty set is passed through at once. */
struct tlb_set {
    uint64_t groups;
    uint64_t words[TLB_SET_MAX / 64 / 64];
    uint64_t bits[TLB_SET_MAX / 64];
};

static inline bool tlb_set_has(const struct tlb_set *set, unsigned slot)
{
    return set->bits[slot / 64] >> slot % 64 & 1;
}

static inline void tlb_set_add(struct tlb_set *set, unsigned slot)
{
    unsigned word = slot / 64, group = word / 64;
    set->bits[word] |= bit(slot % 64);
    set->words[group] |= bit(word % 64);
    set->groups |= bit(group);
}

static inline void tlb_set_remove(struct tlb_set *set, unsigned slot)
{
    unsigned word = slot / 64, group = word / 64;
    set->bits[word] &= ~bit(slot % 64);
    if (set->bits[word] != 0)
        return;
    set->words[group] &= ~bit(word % 64);
    if (set->words[group] == 0)
        set->groups &= ~bit(group);
}

static inline void tlb_set_clear(struct tlb_set *set)
{
    for (; set->groups != 0; set->groups &= set->groups - 1) {
        unsigned group = (unsigned)__builtin_ctzll(set->groups);
        uint64_t *words = &set->words[group];
        for (; *words != 0; *words &= *words - 1)
            set->bits[group * 64 + (unsigned)__builtin_ctzll(*words)] = 0;
    }
}

static inline unsigned tlb_set_count(const struct tlb_set *set)
{
    unsigned count = 0;
    for (uint64_t groups = set->groups; groups != 0; groups &= groups - 1) {
        unsigned group = (unsigned)__builtin_ctzll(groups);
        for (uint64_t words = set->words[group]; words != 0; words &= words - 1)
            count += (unsigned)__builtin_popcountll(
                set->bits[group * 64 + (unsigned)__builtin_ctzll(words)]);
    }
    return count;
}

/* Passes through a set, lowest first; what was returned may be removed meanwhile. */
struct tlb_cursor {
    uint64_t groups, words, rest;
    unsigned group, base;
};

static inline struct tlb_cursor tlb_set_begin(const struct tlb_set *set)
{
    return (struct tlb_cursor){.groups = set->groups};
}

static inline bool tlb_set_next(const struct tlb_set *set, struct tlb_cursor *cursor,
                                unsigned *slot)
{
    if (cursor->rest == 0) {
        if (cursor->words == 0) {
            if (cursor->groups == 0)
                return false;
            cursor->group = (unsigned)__builtin_ctzll(cursor->groups);
            cursor->groups &= cursor->groups - 1;
            cursor->words = set->words[cursor->group];
        }
        unsigned word = cursor->group * 64 + (unsigned)__builtin_ctzll(cursor->words);
        cursor->words &= cursor->words - 1;
        cursor->rest = set->bits[word];
        cursor->base = word * 64;
    }
    *slot = cursor->base + (unsigned)__builtin_ctzll(cursor->rest);
    cursor->rest &= cursor->rest - 1;
    return true;
}

/* The filled slots of a table, by whether their page is global: a slot is in one of the sets, or in
 * none. A flush passes through the sets that it is for. */
struct tlb_use {
    struct tlb_set of[2]; /* pages that are not global, and global ones */
};

static inline void tlb_use_set(struct tlb_use *use, unsigned slot, bool global)
{
    if (unlikely(tlb_set_has(&use->of[!global], slot)))
        tlb_set_remove(&use->of[!global], slot);
    tlb_set_add(&use->of[global], slot);
}

static inline bool tlb_use_has(const struct tlb_use *use, unsigned slot)
{
    return tlb_set_has(&use->of[false], slot) || tlb_set_has(&use->of[true], slot);
}

static inline void tlb_use_clear(struct tlb_use *use, unsigned slot)
{
    tlb_set_remove(&use->of[false], slot);
    tlb_set_remove(&use->of[true], slot);
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
    return hash_to_bits(linear >> shift, 12);
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
