/*
 * Pages that come back from where they were put.
 *
 * Whoever wants an away page does it itself: it wins COMING, reads the bytes straight into layer 0,
 * where nobody looks before the page is private, and wakes those who came later. A page whose
 * memory has not gone yet (HOLLOW) is private by one compare-and-swap. If the host refuses memory
 * for it, COMING is given up before anything is waited for: whoever makes room may need the page's
 * entry.
 *
 * A page that cannot be read stays away. Whoever wanted it gets STATUS_IO, now and each time again;
 * nobody ever sees other bytes in its place, until something overwrites all of it.
 */

#include <errno.h>
#include <string.h>

#include "mem/pmap_private.h"
#include "util/clock.h"

void payload_drop(struct pmap *map, uint64_t value)
{
    if (entry_is_away(value) && !(value & ENTRY_MOVING))
        map->store->drop(map->store_context, entry_state(value), entry_payload(value));
}

static void trouble(struct pmap *map, const struct error *err)
{
    if (!atomic_flag_test_and_set(&map->in_trouble) && map->trouble != NULL)
        map->trouble(map->trouble_context, err);
}

/* With COMING won: reads the page, which the map's owner hears of if it fails. */
static enum status fetch(struct pmap *map, uint64_t ppn, uint64_t value, uint8_t *page)
{
    struct error err = {0};
    uint64_t from = clock_monotonic_ns();
    enum status status = map->store->get(map->store_context, entry_state(value),
                                         entry_payload(value), ppn, page, &err);
    count_event(&map->stall_ns, clock_monotonic_ns() - from);
    if (status == STATUS_OK)
        return STATUS_OK;
    trouble(map, &err);
    return STATUS_IO;
}

/* The same, to where the page is when it is private. */
static enum status fetch_home(struct pmap *map, uint64_t ppn, uint64_t value)
{
    uint8_t *page = pmap_private_page(map, ppn);
    if (fetch(map, ppn, value, page) == STATUS_OK) {
        count_event(&map->faults_away[entry_state(value)], 1);
        return STATUS_OK;
    }
    /* What has been read of it is not the page's: layer 0 keeps nothing of it. */
    if (!layer_punch(&map->ram, ppn, 1))
        memset(page, 0, PAGE_SIZE);
    page_wake(map, &ppn, 1, ENTRY_COMING);
    return STATUS_IO;
}

/* `value` no more, private from now on. A page from a disk is still equal to its block. */
static bool arrive(struct pmap *map, page_entry *entry, uint64_t *value, enum page_bytes bytes)
{
    uint64_t wanted = PAGE_PRIVATE | ENTRY_ACTIVE | entry_touched(*value);
    if (bytes == BYTES_KEPT)
        wanted |= *value & ENTRY_CLEAN;
    if (!entry_touch(map, entry, value, wanted))
        return false;
    payload_drop(map, *value);
    return true;
}

bool page_begin_coming(struct pmap *map, uint64_t ppn, uint64_t value, enum status *status)
{
    page_entry *entry = &map->entries[ppn];
    *status = STATUS_OK;
    if (value & (ENTRY_COMING | ENTRY_PUNCHING)) {
        page_wait(map, entry, ENTRY_COMING | ENTRY_PUNCHING);
        return false;
    }
    if (!entry_change(map, entry, &value, value | ENTRY_COMING))
        return false;
    if (layer_populate(&map->ram, ppn))
        return true;
    int error = errno;
    page_wake(map, &ppn, 1, ENTRY_COMING);
    errno = error;
    if (!page_refused(map))
        *status = STATUS_NO_MEMORY;
    return false;
}

enum status page_come(struct pmap *map, uint64_t ppn, uint64_t value, enum page_bytes bytes,
                      const void *whole)
{
    page_entry *entry = &map->entries[ppn];
    enum status status;
    if (entry_is_hollow(value)) {
        if (arrive(map, entry, &value, bytes))
            count_event(&map->second_chances, 1);
        return STATUS_OK;
    }
    if (!page_begin_coming(map, ppn, value, &status))
        return status;
    if (bytes == BYTES_KEPT) {
        if (fetch_home(map, ppn, value) != STATUS_OK)
            return STATUS_IO;
    } else {
        if (bytes == BYTES_REPLACED)
            memcpy(pmap_private_page(map, ppn), whole, PAGE_SIZE);
        count_event(&map->overwritten, 1);
    }
    /* Marks and samples alone can have changed. */
    value = atomic_load(entry);
    while (!arrive(map, entry, &value, bytes))
        ;
    page_wake(map, &ppn, 0, 0);
    return STATUS_OK;
}

enum status pmap_peek(struct pmap *map, uint64_t ppn, uint8_t *page)
{
    page_entry *entry = pmap_entry(map, ppn);
    uint64_t value = entry != NULL ? atomic_load(entry) : 0;
    const uint8_t *frame;
    if (entry_state(value) == PAGE_SHARED && page_borrow_frame(map, ppn, &frame)) {
        memcpy(page, frame, PAGE_SIZE);
        page_give_back(map, ppn, frame);
        return STATUS_OK;
    }
    if (atomic_load_explicit(&map->is_peeking_off, memory_order_relaxed))
        return STATUS_NOT_FOUND;
    /* What is hollow comes back for nothing. */
    while (entry_is_away(value) && !(value & ENTRY_HOLLOW)) {
        if (value & (ENTRY_COMING | ENTRY_PUNCHING)) {
            page_wait(map, entry, ENTRY_COMING | ENTRY_PUNCHING);
            value = atomic_load(entry);
        } else if (entry_change(map, entry, &value, value | ENTRY_COMING)) {
            enum status status = fetch(map, ppn, value, page);
            page_wake(map, &ppn, 1, ENTRY_COMING);
            if (status == STATUS_OK)
                count_event(&map->double_paging_avoided, 1);
            return status;
        }
    }
    return STATUS_NOT_FOUND;
}

void pmap_set_peeking(struct pmap *map, bool on)
{
    atomic_store(&map->is_peeking_off, !on);
}
