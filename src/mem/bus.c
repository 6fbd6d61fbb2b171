/* The regions of a bus: a sorted array, searched by bisection. See bus.h. */

#include "mem/bus.h"

#include <stdbool.h>
#include <stdlib.h>

#include "util/bits.h"

struct region {
    uint64_t base;
    uint64_t last; /* inclusive, so that a region may end at the top of the address space */
    const struct bus_ops *ops;
    void *context;
};

struct bus {
    struct bus *parent;
    struct region *regions; /* ascending, disjoint */
    size_t count, capacity;
};

enum status bus_create(struct bus **bus, struct bus *parent, struct error *err)
{
    struct bus *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a bus");
    made->parent = parent;
    *bus = made;
    return STATUS_OK;
}

void bus_destroy(struct bus *bus)
{
    if (bus == NULL)
        return;
    free(bus->regions);
    free(bus);
}

/* Index of the first region that ends at or after address; count where there is none. */
static size_t region_lower_bound(const struct bus *bus, uint64_t address)
{
    size_t low = 0, high = bus->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (bus->regions[middle].last < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

enum status bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct bus_ops *ops,
                    void *context, struct error *err)
{
    if (size == 0 || base + (size - 1) < base)
        return error_set(err, STATUS_INVALID, "bus region 0x%llx+0x%llx is empty or wraps",
                         (unsigned long long)base, (unsigned long long)size);
    uint64_t last = base + (size - 1);
    size_t at = region_lower_bound(bus, base);
    if (at < bus->count && bus->regions[at].base <= last)
        return error_set(err, STATUS_INVALID, "bus region 0x%llx+0x%llx overlaps another",
                         (unsigned long long)base, (unsigned long long)size);

    if (bus->count == bus->capacity) {
        size_t capacity = bus->capacity == 0 ? 8 : bus->capacity * 2;
        struct region *grown = reallocarray(bus->regions, capacity, sizeof(*grown));
        if (grown == NULL)
            return error_set(err, STATUS_NO_MEMORY, "no memory for a bus region");
        bus->regions = grown;
        bus->capacity = capacity;
    }
    for (size_t i = bus->count; i > at; i--)
        bus->regions[i] = bus->regions[i - 1];
    bus->regions[at] = (struct region){.base = base, .last = last, .ops = ops, .context = context};
    bus->count++;
    return STATUS_OK;
}

/* The region that covers [address, address + size) whole, here or in an ancestor; else NULL. A bus
 * that covers only a part of the access hides its parent, as the nearer decoder would. */
static const struct region *region_find(const struct bus *bus, uint64_t address, unsigned size)
{
    for (; bus != NULL; bus = bus->parent) {
        size_t at = region_lower_bound(bus, address);
        if (at == bus->count)
            continue;
        const struct region *region = &bus->regions[at];
        uint64_t last = address + (size - 1);
        if (last >= address && region->base > last)
            continue;
        bool whole = last >= address && region->base <= address && last <= region->last;
        return whole ? region : NULL;
    }
    return NULL;
}

uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size)
{
    const struct region *region = region_find(bus, address, size);
    if (region == NULL || region->ops->read == NULL)
        return bits_truncate(UINT64_MAX, size);
    return bits_truncate(region->ops->read(region->context, address - region->base, size), size);
}

void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value)
{
    const struct region *region = region_find(bus, address, size);
    if (region != NULL && region->ops->write != NULL)
        region->ops->write(region->context, address - region->base, size,
                           bits_truncate(value, size));
}
