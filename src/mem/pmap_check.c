/* Recounting a page map. */

#include "mem/pmap_private.h"

/* What is wrong with an entry of a map that nobody uses; NULL: nothing. A page may be left LEAVING,
 * HOLLOW or MOVING by a caller who has not finished yet. */
static const char *entry_fault(const struct pmap *map, uint64_t value)
{
    enum page_state state = entry_state(value);
    bool is_zero = state == PAGE_ZERO || state == PAGE_BALLOONED;
    bool is_shared = state == PAGE_SHARED;
    if (state >= PAGE_STATES)
        return "unknown state";
    if (value & (ENTRY_PIN - 1) & ~(ENTRY_STATE | ENTRY_FLAGS))
        return "unknown flags";
    if (value & ENTRY_SETTLING)
        return "still settling";
    if (value & ENTRY_PUNCHING)
        return "still being punched";
    if (value & ENTRY_COMING)
        return "still coming";
    if (value & ENTRY_LENT && !is_zero && !is_shared)
        return "lent, and neither zero nor shared";
    if (value & ENTRY_LEAVING && state != PAGE_PRIVATE)
        return "leaving, and not private";
    if (value & ENTRY_HOLLOW && state == PAGE_PRIVATE)
        return "hollow and private";
    if (value & ENTRY_MOVING && !entry_is_away(value))
        return "moving, and not away";
    if (value & ENTRY_CLEAN && state != PAGE_PRIVATE && state != PAGE_DISK)
        return "clean, and neither private nor a disk's";
    if (value & ENTRY_GUARDED && !(value & ENTRY_CODE))
        return "guarded without code";
    if (is_shared && !page_is_frame(map, entry_payload(value)))
        return "shared, and no frame of the pool";
    if (is_zero && entry_payload(value) != 0)
        return "zero with a payload";
    return NULL;
}

struct block_check {
    const struct pmap *map;
    uint64_t early; /* zero pages with memory that are allowed: see pmap_private.h */
    uint64_t stray; /* a page with memory that should have none; UINT64_MAX: none */
};

static bool check_block(void *context, uint64_t ppn)
{
    struct block_check *check = context;
    const page_entry *entry = pmap_entry(check->map, ppn);
    uint64_t value = entry != NULL ? atomic_load(entry) : 0;
    if (entry_state(value) == PAGE_PRIVATE || value & ENTRY_HOLLOW)
        return true;
    if ((entry_state(value) == PAGE_ZERO || entry_state(value) == PAGE_BALLOONED) &&
        check->early > 0) {
        check->early--;
        return true;
    }
    check->stray = ppn;
    return false;
}

static enum status check_counts(const struct pmap *map, const uint64_t *pages, uint64_t pins,
                                struct error *err)
{
    static const char *const names[PAGE_STATES] = {
        "zero", "private", "ballooned", "shared", "compressed", "swapped", "disk-backed",
    };
    for (unsigned state = PAGE_PRIVATE; state < PAGE_STATES; state++) {
        uint64_t said = atomic_load(&map->pages[state]);
        if (said != pages[state])
            return error_set(err, STATUS_INTERNAL, "%llu %s pages, and the counter says %llu",
                             (unsigned long long)pages[state], names[state],
                             (unsigned long long)said);
    }
    uint64_t said = atomic_load(&map->frames_held);
    if (said != pages[PAGE_SHARED])
        return error_set(err, STATUS_INTERNAL, "%llu shared pages, and %llu frames are held",
                         (unsigned long long)pages[PAGE_SHARED], (unsigned long long)said);
    said = atomic_load(&map->pinned_pages);
    if (said != pins)
        return error_set(err, STATUS_INTERNAL, "%llu pins, and the counter says %llu",
                         (unsigned long long)pins, (unsigned long long)said);
    return STATUS_OK;
}

enum status pmap_check(struct pmap *map, struct error *err)
{
    uint64_t pages[PAGE_STATES] = {0}, pins = 0;
    for (unsigned i = 0; i < map->range_count; i++) {
        uint64_t first = map->ranges[i].base >> PAGE_SHIFT;
        uint64_t end = first + (map->ranges[i].size >> PAGE_SHIFT);
        for (uint64_t ppn = first; ppn < end; ppn++) {
            uint64_t value = atomic_load(&map->entries[ppn]);
            const char *fault = entry_fault(map, value);
            if (fault != NULL)
                return error_set(err, STATUS_INTERNAL, "page 0x%llx: %s (entry 0x%llx)",
                                 (unsigned long long)ppn, fault, (unsigned long long)value);
            pages[entry_state(value)]++;
            if (entry_state(value) == PAGE_PRIVATE && !(value & ENTRY_LEAVING))
                pins += entry_payload(value);
        }
    }
    enum status status = check_counts(map, pages, pins, err);
    if (status != STATUS_OK)
        return status;

    struct block_check check = {
        .map = map, .early = atomic_load(&map->early_memory), .stray = UINT64_MAX};
    status = layer_for_each_page(&map->ram, check_block, &check, err);
    if (status == STATUS_UNSUPPORTED) {
        if (err != NULL)
            *err = (struct error){.status = STATUS_OK};
        return STATUS_OK;
    }
    if (status == STATUS_OK && check.stray != UINT64_MAX)
        return error_set(err, STATUS_INTERNAL, "page 0x%llx has memory and should have none",
                         (unsigned long long)check.stray);
    return status;
}
