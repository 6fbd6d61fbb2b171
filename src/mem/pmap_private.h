#ifndef AEROSTAT_MEM_PMAP_PRIVATE_H
#define AEROSTAT_MEM_PMAP_PRIVATE_H

/* The page map's insides, for the files of src/mem alone. */

#include <pthread.h>
#include <stdatomic.h>

#include "mem/layer.h"
#include "mem/pmap.h"

/*
 * A page's entry: flags below, the number of pins in the upper half. An entry of 0 is a zero page
 * that nobody has touched, so that a fresh map is a fresh mapping. Holes have entries that nobody
 * looks at: whether a PPN is RAM is decided by the ranges.
 */
enum page_entry {
    ENTRY_PRIVATE = 1 << 0,  /* in layer 0; else zero */
    ENTRY_LENT = 1 << 1,     /* zero, and some TLB may hold the address of the common zero page */
    ENTRY_SETTLING = 1 << 2, /* private, and still zero in some TLB: nobody may write it yet */
    ENTRY_CODE = 1 << 3,     /* code may have been decoded from it */
    ENTRY_GUARDED = 1 << 4,  /* ... and no TLB lets it be written without a slow path */
    ENTRY_FLAGS = (1 << 5) - 1,
};
#define ENTRY_PIN_SHIFT 32
#define ENTRY_PIN       ((uint64_t)1 << ENTRY_PIN_SHIFT)
#define ENTRY_PINS_MAX  ((uint64_t)0x7fffffff)

typedef _Atomic uint64_t page_entry;

struct pmap {
    page_entry *entries; /* one for each page of the span, holes included; sparse */
    uint64_t span_pages;
    struct layer ram;

    struct ram_range *ranges;
    unsigned range_count;
    uint64_t max_pages;

    pmap_revoke_fn *revoke;
    void *revoke_context;

    /* Only for waiting until a page has settled. */
    pthread_mutex_t settle_lock;
    pthread_cond_t settled;

    _Atomic uint64_t private_pages, pinned_pages, faults_zero, revocations;
};

/* NULL where the PPN is not RAM. */
static inline page_entry *pmap_entry(const struct pmap *map, uint64_t ppn)
{
    for (unsigned i = 0; i < map->range_count; i++) {
        if (ppn - (map->ranges[i].base >> PAGE_SHIFT) < map->ranges[i].size >> PAGE_SHIFT)
            return &map->entries[ppn];
    }
    return NULL;
}

static inline uint8_t *pmap_private_page(const struct pmap *map, uint64_t ppn)
{
    return map->ram.base + (ppn << PAGE_SHIFT);
}

/* True when every byte of [gpa, gpa + length) is RAM. */
bool pmap_covers(const struct pmap *map, uint64_t gpa, uint64_t length);

/* For PPNs that are RAM. */
uint8_t *page_make_private(struct pmap *map, uint64_t ppn);
bool page_add_pin(struct pmap *map, uint64_t ppn); /* false: too many */
void page_remove_pin(struct pmap *map, uint64_t ppn);
/* Somebody who is no vCPU has written the page, or is about to: its decoded code goes. */
void page_drop_code(struct pmap *map, uint64_t ppn);

#endif
