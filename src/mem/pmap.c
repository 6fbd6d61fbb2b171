/* Making, unmaking, counting and checking a page map. The entries change in page_state.c. */

#include "mem/pmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mem/pmap_private.h"

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

enum status pmap_create(struct pmap **map, const struct ram_range *ranges, unsigned count,
                        struct error *err)
{
    enum status status = ranges_validate(ranges, count, err);
    if (status != STATUS_OK)
        return status;

    struct pmap *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a page map");
    pthread_mutex_init(&made->settle_lock, NULL);
    pthread_cond_init(&made->settled, NULL);

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
    void *entries = mmap(NULL, made->span_pages * sizeof(page_entry), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (entries == MAP_FAILED) {
        status = error_set(err, STATUS_NO_MEMORY, "cannot map a page map of %llu pages: %s",
                           (unsigned long long)made->span_pages, strerror(errno));
        goto out;
    }
    made->entries = entries;
    status = layer_create(&made->ram, span, err);
    if (status != STATUS_OK)
        goto out;
    *map = made;
    return STATUS_OK;
out:
    pmap_destroy(made);
    return status;
}

void pmap_destroy(struct pmap *map)
{
    if (map == NULL)
        return;
    layer_destroy(&map->ram);
    if (map->entries != NULL)
        munmap(map->entries, map->span_pages * sizeof(page_entry));
    pthread_cond_destroy(&map->settled);
    pthread_mutex_destroy(&map->settle_lock);
    free(map->ranges);
    free(map);
}

void pmap_set_revoke_hook(struct pmap *map, pmap_revoke_fn *hook, void *context)
{
    map->revoke = hook;
    map->revoke_context = context;
}

const struct ram_range *pmap_ranges(const struct pmap *map, unsigned *count)
{
    *count = map->range_count;
    return map->ranges;
}

void pmap_get_stats(const struct pmap *map, struct pmap_stats *stats)
{
    uint64_t private_pages = atomic_load_explicit(&map->private_pages, memory_order_relaxed);
    *stats = (struct pmap_stats){
        .max_pages = map->max_pages,
        .zero_pages = map->max_pages - private_pages,
        .private_pages = private_pages,
        .pinned_pages = atomic_load_explicit(&map->pinned_pages, memory_order_relaxed),
        .faults_zero = atomic_load_explicit(&map->faults_zero, memory_order_relaxed),
        .revocations = atomic_load_explicit(&map->revocations, memory_order_relaxed),
    };
}

static const char *entry_fault(uint64_t value)
{
    if (value & (ENTRY_PIN - 1) & ~(uint64_t)ENTRY_FLAGS)
        return "unknown flags";
    if (value & ENTRY_SETTLING)
        return "still settling";
    if (value & ENTRY_PRIVATE && value & ENTRY_LENT)
        return "private and lent as zero";
    if (value & ENTRY_GUARDED && !(value & ENTRY_CODE))
        return "guarded without code";
    if (value >> ENTRY_PIN_SHIFT != 0 && !(value & ENTRY_PRIVATE))
        return "pinned and not private";
    return NULL;
}

struct block_check {
    const struct pmap *map;
    uint64_t stray; /* a page with memory that is not private; UINT64_MAX: none */
};

static bool check_block(void *context, uint64_t ppn)
{
    struct block_check *check = context;
    if (pmap_state(check->map, ppn) == PAGE_PRIVATE)
        return true;
    check->stray = ppn;
    return false;
}

enum status pmap_check(struct pmap *map, struct error *err)
{
    uint64_t private_pages = 0, pins = 0;
    for (unsigned i = 0; i < map->range_count; i++) {
        uint64_t first = map->ranges[i].base >> PAGE_SHIFT;
        uint64_t end = first + (map->ranges[i].size >> PAGE_SHIFT);
        for (uint64_t ppn = first; ppn < end; ppn++) {
            uint64_t value = atomic_load(&map->entries[ppn]);
            const char *fault = entry_fault(value);
            if (fault != NULL)
                return error_set(err, STATUS_INTERNAL, "page 0x%llx: %s (entry 0x%llx)",
                                 (unsigned long long)ppn, fault, (unsigned long long)value);
            private_pages += (value & ENTRY_PRIVATE) != 0;
            pins += value >> ENTRY_PIN_SHIFT;
        }
    }
    struct pmap_stats stats;
    pmap_get_stats(map, &stats);
    if (stats.private_pages != private_pages || stats.pinned_pages != pins)
        return error_set(err, STATUS_INTERNAL,
                         "counted %llu private pages and %llu pins, the counters say %llu and %llu",
                         (unsigned long long)private_pages, (unsigned long long)pins,
                         (unsigned long long)stats.private_pages,
                         (unsigned long long)stats.pinned_pages);

    struct block_check check = {.map = map, .stray = UINT64_MAX};
    enum status status = layer_for_each_page(&map->ram, check_block, &check, err);
    if (status == STATUS_UNSUPPORTED) {
        if (err != NULL)
            *err = (struct error){.status = STATUS_OK};
        return STATUS_OK;
    }
    if (status == STATUS_OK && check.stray != UINT64_MAX)
        return error_set(err, STATUS_INTERNAL, "page 0x%llx has memory and is not private",
                         (unsigned long long)check.stray);
    return status;
}
