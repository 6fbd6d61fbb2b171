/*
 * Marks of pages that are equal to a block of a disk. See page_clean.h.
 *
 * The mark makes every *new* look-up say "not writable"; then the translations that are out are
 * revoked; from then on the page cannot be written without page_spoil. A device that has pinned it
 * for writing did so before the mark (then there is a second pin, and no mark) or does so after it
 * (and spoils it). A page keeps the mark while it is on a disk, and when it comes back.
 */

#include "mem/page_clean.h"

#include "mem/pmap_private.h"

static bool try_mark(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (entry == NULL)
        return false;
    uint64_t value = atomic_load(entry);
    while (entry_state(value) == PAGE_PRIVATE && !(value & (ENTRY_SETTLING | ENTRY_LEAVING)) &&
           entry_payload(value) == 1) {
        if (entry_change(map, entry, &value, value | ENTRY_CLEAN))
            return true;
    }
    return false;
}

unsigned page_clean_begin(struct pmap *map, uint64_t *ppns, unsigned count)
{
    unsigned marked = 0;
    for (unsigned i = 0; i < count; i++) {
        if (try_mark(map, ppns[i]))
            ppns[marked++] = ppns[i];
    }
    pages_revoke(map, &(struct pmap_revocation){.ppns = ppns, .count = marked});
    return marked;
}

void page_spoil(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = &map->entries[ppn];
    if (unlikely(atomic_load(entry) & ENTRY_CLEAN))
        atomic_fetch_and(entry, ~(uint64_t)ENTRY_CLEAN);
}

void page_clean_end(struct pmap *map, uint64_t ppn)
{
    if (pmap_entry(map, ppn) != NULL)
        page_spoil(map, ppn);
}

bool page_is_clean(const struct pmap *map, uint64_t ppn)
{
    const page_entry *entry = pmap_entry(map, ppn);
    uint64_t value = entry != NULL ? atomic_load(entry) : 0;
    return entry_state(value) == PAGE_PRIVATE && value & ENTRY_CLEAN;
}
