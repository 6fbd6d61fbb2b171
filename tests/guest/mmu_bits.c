/*
 * Every combination of entry bits, in every mode, for every access:
 *
 * - one level at a time: all of P, W, U, A, D, PS, NX and a reserved bit, the other levels open,
 * with A set in them or not;
 * - all levels at once: W, U and NX in every combination, for every size of page;
 * - everything at once, at random.
 */

#include "mmu.h"

enum { BITS = 8, RANDOM = 1500 };

static uint64_t reserved_bit(void)
{
    return format.wide && physical_width < 52 ? (uint64_t)1 << physical_width : 0;
}

/* An entry of a level from a number of 8 bits. PS where it maps gives a page that is aligned, and
 * on request one that is not: its address is the table's, or, as the low bits are high ones in
 * 32-bit paging, has the one bit that is reserved there. */
static uint64_t make_entry(unsigned level, unsigned bits, bool aligned)
{
    bool is_large = bits & 32 && format.large[level];
    bool maps = level == 0 || (is_large && (aligned || !format.wide));
    uint64_t address = open_entry(level, maps ? level : level - 1) & ADDRESS_ALL;
    if (is_large && !aligned && !format.wide)
        address |= 1 << 21;
    return address | (bits & 1 ? P : 0) | (bits & 2 ? W : 0) | (bits & 4 ? U : 0) |
           (bits & 8 ? A : 0) | (bits & 16 ? D : 0) | (bits & 32 ? PS : 0) |
           (bits & 64 && format.wide ? NX : 0) | (bits & 128 ? reserved_bit() : 0);
}

/* Every access, each after a flush, to the entries as they are made. */
static void try_all(const uint64_t *entries, const struct rules *rules)
{
    static unsigned turn;
    if (turn++ % thin != 0)
        return;
    for (enum access access = READ; access <= FETCH; access++) {
        for (unsigned level = 0; level <= format.top; level++)
            entry_write(entry_of(space.table[level], level, linear), entries[level]);
        word address = linear + (access == FETCH ? 0 : MARK_OFFSET);
        invlpg(address);
        try_access(address, access, rules);
    }
}

static void one_level(const struct rules *rules)
{
    uint64_t entries[LEVELS_MAX];
    for (unsigned level = 0; level <= format.top; level++) {
        for (unsigned i = 0; i < 1u << (BITS + 2); i++) {
            for (unsigned l = 0; l <= format.top; l++)
                entries[l] = open_entry(l, 0) | (i & 1 << BITS ? A : 0);
            entries[level] = make_entry(level, i & 255, i & 2 << BITS);
            try_all(entries, rules);
        }
    }
}

static void all_rights(const struct rules *rules)
{
    for (unsigned leaf = 0; leaf <= format.top; leaf++) {
        if (leaf > 0 && !format.large[leaf])
            continue;
        unsigned levels = format.top - leaf + 1;
        for (unsigned i = 0; i < 1u << 3 * levels; i++) {
            uint64_t entries[LEVELS_MAX] = {0};
            for (unsigned l = leaf; l <= format.top; l++) {
                unsigned bits = i >> 3 * (l - leaf);
                entries[l] = make_entry(
                    l, 1 | (bits & 3) << 1 | (bits & 4) << 4 | (l == leaf && l > 0 ? 32 : 0), true);
            }
            try_all(entries, rules);
        }
    }
}

static uint32_t random_next(void)
{
    static uint32_t state = 0x2545f491;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

/* Bits that say nothing about a walk come too: PWT, PCD, G, those left to software. */
static void at_random(const struct rules *rules)
{
    for (unsigned i = 0; i < RANDOM; i++) {
        uint64_t entries[LEVELS_MAX];
        for (unsigned level = 0; level <= format.top; level++) {
            uint32_t random = random_next();
            unsigned bits = random & 0xff;
            if (random & 0x700)
                bits |= 7; /* or most would have no rights left */
            if (random & 0x3800)
                bits = (bits & ~(64u | 128u)) | 1;
            if (random & 0x4000)
                bits &= ~32u;
            entries[level] = make_entry(level, bits, random & 0x8000) | (random >> 16 & 0xf18);
        }
        try_all(entries, rules);
    }
}

void check_bits(void)
{
    for (unsigned i = 0; i < 64; i++) {
        struct rules rules = {
            .user = i & 1, .wp = i & 2, .smep = i & 4, .smap = i & 8, .ac = i & 16, .nxe = i & 32};
        if ((rules.smep && !has_smep) || (rules.smap && !has_smap) || (rules.nxe && !has_nx) ||
            (rules.nxe && !format.wide))
            continue;
        rules_set(&rules);
        count_start();
        one_level(&rules);
        all_rights(&rules);
        at_random(&rules);
        count_report(rules_name(&rules));
    }
    rules_set(&(struct rules){0});
    open_all(0);
    flush_all();
}
