#include "pattern.h"

#include <string.h>

/*
 * Word i of a page is `base`, or base + i * STEP, where base is the page's identity, mixed. An
 * arithmetic progression with this step repeats no four bytes, so LZ4 finds nothing in it, and it
 * costs one addition a word. In the first `cut` words all are of that kind, in the rest one in
 * eight is, so that every cache line has its place in it.
 */
#define STEP 0x9e3779b97f4a7c15ull

#define TAG_BITS        16
#define OBJECT_BITS     10
#define GENERATION_BITS 18
#define PAGE_BITS       20
_Static_assert(TAG_BITS + OBJECT_BITS + GENERATION_BITS + PAGE_BITS == 64, "one word");

enum style { STYLE_ZERO, STYLE_SPARSE, STYLE_PLAIN, STYLE_MIXED, STYLE_RANDOM };

struct pattern {
    enum style style;
    uint64_t base;
    unsigned cut;   /* words of the incompressible part */
    unsigned place; /* of the one word of a sparse page */
};

/* Every step can be undone: that is how an identity is read from a page. */
uint64_t mix64(uint64_t value)
{
    value ^= value >> 32;
    value *= 0xd6e8feb86659fd93ull;
    value ^= value >> 32;
    value *= 0xd6e8feb86659fd93ull;
    value ^= value >> 32;
    return value;
}

static uint64_t unmix64(uint64_t value)
{
    const uint64_t inverse = 0xcfee444d8b59a89bull; /* of the factor, modulo 2^64 */
    value ^= value >> 32;
    value *= inverse;
    value ^= value >> 32;
    value *= inverse;
    value ^= value >> 32;
    return value;
}

static uint64_t identity_word(uint64_t seed, struct page_identity identity)
{
    uint64_t rest = (uint64_t)identity.object << (GENERATION_BITS + PAGE_BITS) |
                    (uint64_t)identity.generation << PAGE_BITS | identity.page;
    uint64_t tag = mix64(rest + mix64(seed)) >> (64 - TAG_BITS);
    return tag << (64 - TAG_BITS) | rest;
}

static struct pattern pattern_of(uint64_t seed, struct page_identity identity)
{
    uint64_t base = mix64(identity_word(seed, identity));
    uint64_t chance = mix64(base ^ seed);
    unsigned kind = chance & 15;
    struct pattern pattern = {.style = kind == 0   ? STYLE_ZERO
                                       : kind == 1 ? STYLE_SPARSE
                                       : kind < 7  ? STYLE_PLAIN
                                       : kind < 11 ? STYLE_MIXED
                                                   : STYLE_RANDOM,
                              .base = base,
                              .place = chance >> 4 & (PAGE_WORDS - 1)};
    if (pattern.style == STYLE_RANDOM)
        pattern.cut = PAGE_WORDS;
    else if (pattern.style == STYLE_MIXED)
        pattern.cut = 128 + (chance >> 16 & 255);
    return pattern;
}

static uint64_t word_of(const struct pattern *pattern, unsigned index)
{
    if (pattern->style == STYLE_ZERO)
        return 0;
    if (pattern->style == STYLE_SPARSE)
        return index == pattern->place ? pattern->base : 0;
    return index < pattern->cut || index % 8 == 0 ? pattern->base + index * STEP : pattern->base;
}

void pattern_fill(uint64_t seed, struct page_identity identity, uint64_t words[PAGE_WORDS])
{
    struct pattern pattern = pattern_of(seed, identity);
    if (pattern.style == STYLE_ZERO || pattern.style == STYLE_SPARSE) {
        memset(words, 0, PAGE_BYTES);
        if (pattern.style == STYLE_SPARSE)
            words[pattern.place] = pattern.base;
        return;
    }
    for (unsigned i = 0; i < pattern.cut; i++)
        words[i] = pattern.base + i * STEP;
    for (unsigned i = pattern.cut; i < PAGE_WORDS; i++)
        words[i] = pattern.base;
    for (unsigned i = (pattern.cut + 7) & ~7u; i < PAGE_WORDS; i += 8)
        words[i] = pattern.base + i * STEP;
}

bool pattern_recognise(uint64_t seed, uint64_t word, unsigned index, struct page_identity *identity)
{
    const uint64_t bases[] = {word - index * STEP, word};
    for (unsigned i = 0; i < 2; i++) {
        uint64_t name = unmix64(bases[i]);
        struct page_identity found = {
            .object = name >> (GENERATION_BITS + PAGE_BITS) & (OBJECT_MOST - 1),
            .generation = name >> PAGE_BITS & GENERATION_MASK,
            .page = name & (PAGE_MOST - 1),
        };
        if (identity_word(seed, found) != name)
            continue;
        struct pattern pattern = pattern_of(seed, found);
        if (word_of(&pattern, index) != word || word == 0)
            continue;
        *identity = found;
        return true;
    }
    return false;
}

bool pattern_compare(uint64_t seed, const uint64_t expected[PAGE_WORDS],
                     const uint64_t found[PAGE_WORDS], struct difference *difference)
{
    if (memcmp(expected, found, PAGE_BYTES) == 0)
        return false;
    const uint8_t *right = (const uint8_t *)expected, *is = (const uint8_t *)found;
    *difference = (struct difference){.first = PAGE_BYTES, .zero = true};
    for (unsigned i = 0; i < PAGE_BYTES; i++) {
        if (right[i] == is[i])
            continue;
        if (difference->bytes++ == 0)
            difference->first = i;
        difference->last = i;
        difference->zero = difference->zero && is[i] == 0;
    }
    for (unsigned i = 0; i < PAGE_WORDS && !difference->known; i++)
        if (expected[i] != found[i])
            difference->known = pattern_recognise(seed, found[i], i, &difference->source);
    return true;
}
