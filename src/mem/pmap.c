/* Making, unmaking, counting and checking a page map. The entries change in page_*.c: see
 * pmap_private.h. */

#include "mem/pmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "mem/pmap_private.h"
#include "util/sparse.h"

#define SPAN_MAX ((uint64_t)1 << 46)

static enum status ranges_validate(const struct ram_range *ranges, unsigned count,
                                   struct error *err)
{
    if (count == 0)
        return error_set(err, STATUS_INVALID, "a guest needs some memory");
    uint64_t end = 0;
    for (unsigned i = 0; i < count; i++) {
        uint64_t base = ranges[i].base, size = ranges[i].size;
        if (size == 0 || ((base | size) & PAGE_MASK) != 0 || base < end ||
            !range_fits(base, size, SPAN_MAX))
            return error_set(err, STATUS_INVALID, "bad range of guest memory 0x%llx+0x%llx",
                             (unsigned long long)base, (unsigned long long)size);
        end = base + size;
    }
    return STATUS_OK;
}

enum status pmap_create_in(struct pmap **map, const struct ram_range *ranges, unsigned count,
                           const struct layer *ram, struct error *err)
{
    enum status status = ranges_validate(ranges, count, err);
    if (status != STATUS_OK)
        return status;

    struct pmap *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a page map");
    pthread_mutex_init(&made->wait_lock, NULL);
    pthread_cond_init(&made->waited, NULL);
    pthread_rwlock_init(&made->punching, NULL);
    pmap_set_limits(made, UINT64_MAX, UINT64_MAX);

    made->range_count = count;
    made->ranges = malloc(count * sizeof(*ranges));
    if (made->ranges == NULL) {
        status = error_set(err, STATUS_NO_MEMORY, "no memory for a page map");
        goto out;
    }
    memcpy(made->ranges, ranges, count * sizeof(*ranges));
    for (unsigned i = 0; i < count; i++)
        made->max_pages += ranges[i].size >> PAGE_SHIFT;

    uint64_t span = ranges[count - 1].base + ranges[count - 1].size;
    made->span_pages = span >> PAGE_SHIFT;
    made->entries = sparse_map(made->span_pages * sizeof(page_entry));
    if (made->entries == NULL) {
        status = error_set(err, STATUS_NO_MEMORY, "cannot map a page map of %llu pages: %s",
                           (unsigned long long)made->span_pages, strerror(errno));
        goto out;
    }
    if (ram != NULL) {
        made->ram = *ram;
    } else {
        made->has_own_ram = true;
        status = layer_create(&made->ram, span, err);
    }
    if (status != STATUS_OK)
        goto out;
    *map = made;
    return STATUS_OK;
out:
    pmap_destroy(made);
    return status;
}

enum status pmap_create(struct pmap **map, const struct ram_range *ranges, unsigned count,
                        struct error *err)
{
    return pmap_create_in(map, ranges, count, NULL, err);
}

void pmap_destroy(struct pmap *map)
{
    if (map == NULL)
        return;
    if (map->has_own_ram)
        layer_destroy(&map->ram);
    sparse_unmap(map->entries, map->span_pages * sizeof(page_entry));
    pthread_rwlock_destroy(&map->punching);
    pthread_cond_destroy(&map->waited);
    pthread_mutex_destroy(&map->wait_lock);
    free(map->ranges);
    free(map);
}

void pmap_set_revoke_hook(struct pmap *map, pmap_revoke_fn *hook, void *context)
{
    map->revoke = hook;
    map->revoke_context = context;
}

void pmap_set_trouble_hook(struct pmap *map, pmap_trouble_fn *hook, void *context)
{
    map->trouble = hook;
    map->trouble_context = context;
}

const struct ram_range *pmap_ranges(const struct pmap *map, unsigned *count)
{
    *count = map->range_count;
    return map->ranges;
}

uint64_t pmap_nth_page(const struct pmap *map, uint64_t n)
{
    unsigned i = 0;
    for (; i + 1 < map->range_count && n >= map->ranges[i].size >> PAGE_SHIFT; i++)
        n -= map->ranges[i].size >> PAGE_SHIFT;
    return (map->ranges[i].base >> PAGE_SHIFT) + n;
}

static uint64_t counted(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

void pmap_get_stats(const struct pmap *map, struct pmap_stats *stats)
{
    *stats = (struct pmap_stats){
        .max_pages = map->max_pages,
        .private_pages = counted(&map->pages[PAGE_PRIVATE]),
        .ballooned = counted(&map->pages[PAGE_BALLOONED]),
        .shared = counted(&map->pages[PAGE_SHARED]),
        .compressed = counted(&map->pages[PAGE_COMPRESSED]),
        .swapped = counted(&map->pages[PAGE_SWAPPED]),
        .disk_backed = counted(&map->pages[PAGE_DISK]),
        .pinned_pages = counted(&map->pinned_pages),
        .faults_zero = counted(&map->faults_zero),
        .faults_compressed = counted(&map->faults_away[PAGE_COMPRESSED]),
        .faults_swap_in = counted(&map->faults_away[PAGE_SWAPPED]),
        .faults_disk = counted(&map->faults_away[PAGE_DISK]),
        .double_paging_seen = counted(&map->double_paging_seen),
        .double_paging_avoided = counted(&map->double_paging_avoided),
        .pages_shared = counted(&map->pages_shared),
        .cow_breaks = counted(&map->cow_breaks),
        .second_chances = counted(&map->second_chances),
        .overwritten = counted(&map->overwritten),
        .balloon_popped = counted(&map->balloon_popped),
        .sample_touches = counted(&map->sample_touches),
        .reclaim_stall_ns = counted(&map->stall_ns),
        .revocations = counted(&map->revocations),
    };
    /* Counted one after the other, while pages change: never less than none. */
    uint64_t rest = stats->private_pages + stats->ballooned + stats->shared + stats->compressed +
                    stats->swapped + stats->disk_backed;
    stats->zero_pages = rest < map->max_pages ? map->max_pages - rest : 0;
}
