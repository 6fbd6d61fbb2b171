#ifndef AEROSTAT_CHECKER_PATTERN_H
#define AEROSTAT_CHECKER_PATTERN_H

/*
 * What a page of the checker holds: words that follow from the seed, the object the page belongs
 * to, its number there and its generation, and from which these can be read again. So a page that
 * is found where it does not belong tells where it came from.
 *
 * Pages differ in how well they compress, since a VMM treats them differently: all zero, one word
 * in a zero page, well below and well above half a page under LZ4, and close to half a page.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096u
#define PAGE_WORDS 512u

#define OBJECT_MOST     (1u << 10)
#define PAGE_MOST       (1u << 20) /* pages of an object */
#define GENERATION_MASK ((1u << 18) - 1)

struct page_identity {
    uint32_t object;     /* below OBJECT_MOST */
    uint32_t page;       /* below PAGE_MOST */
    uint32_t generation; /* within GENERATION_MASK */
};

/* A well mixed number; the checker's only source of chance. */
uint64_t mix64(uint64_t value);

void pattern_fill(uint64_t seed, struct page_identity identity, uint64_t words[PAGE_WORDS]);

/* Whose word this is, if it is one of this seed's that belongs at this place of a page. */
bool pattern_recognise(uint64_t seed, uint64_t word, unsigned index,
                       struct page_identity *identity);

/* How a found page differs from the one expected. */
struct difference {
    unsigned first, last; /* first and last byte that differ */
    unsigned bytes;       /* that differ */
    bool zero;            /* all bytes that differ are zero */
    bool known;           /* `source` is where the first word that differs comes from */
    struct page_identity source;
};

/* False if there is none. */
bool pattern_compare(uint64_t seed, const uint64_t expected[PAGE_WORDS],
                     const uint64_t found[PAGE_WORDS], struct difference *difference);

#endif
