/* Which pages are in use: samples of a few, and the mark that spares a page once. */

#include "mem/pmap_private.h"

void page_sample_begin(struct pmap *map, struct page_batch *batch)
{
    unsigned count = batch->count < PAGE_BATCH_MAX ? batch->count : PAGE_BATCH_MAX;
    struct revoke_list list;
    list.count = list.code_count = 0;
    list.keeps_code = true;
    batch->count = 0;
    for (unsigned i = 0; i < count; i++) {
        uint64_t ppn = batch->ppn[i];
        page_entry *entry = pmap_entry(map, ppn);
        uint64_t before = entry != NULL ? atomic_fetch_or(entry, ENTRY_SAMPLED) : ENTRY_SAMPLED;
        if (before & ENTRY_SAMPLED)
            continue;
        revoke_list_add(&list, ppn, before);
        batch->ppn[batch->count++] = ppn;
    }
    /* Whoever touches them from now on has to look them up. Pages of the same batch that are looked
     * up before they are revoked are touched all the same. */
    revoke_list_finish(map, &list);
}

unsigned page_sample_end(struct pmap *map, const struct page_batch *batch)
{
    unsigned touched = 0;
    for (unsigned i = 0; i < batch->count; i++) {
        uint64_t before = atomic_fetch_and(&map->entries[batch->ppn[i]], ~(uint64_t)ENTRY_SAMPLED);
        touched += !(before & ENTRY_SAMPLED);
    }
    return touched;
}

bool page_is_active(const struct pmap *map, uint64_t ppn)
{
    const page_entry *entry = pmap_entry(map, ppn);
    return entry != NULL && atomic_load(entry) & ENTRY_ACTIVE;
}
