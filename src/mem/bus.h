#ifndef AEROSTAT_MEM_BUS_H
#define AEROSTAT_MEM_BUS_H

/*
 * Who answers at which address. One bus for memory-mapped registers, one for I/O ports; RAM is not
 * on it (see pmap.h). A bus may have a parent that answers what it does not know itself: each vCPU
 * has a small bus of its own with its local APIC, whose parent is the machine's.
 *
 * Regions are added before any vCPU runs and never change after, so look-ups take no lock. A
 * device's operations may be called from several vCPU threads at once and lock for themselves.
 */

#include <stdint.h>

#include "util/status.h"

/* offset is relative to the region and offset + size lies inside it. size is 1, 2, 4 or 8. The
 * device must accept every size and offset; value has only its low `size` bytes set. */
struct bus_ops {
    uint64_t (*read)(void *context, uint64_t offset, unsigned size);
    void (*write)(void *context, uint64_t offset, unsigned size, uint64_t value);
};

struct bus;

enum status bus_create(struct bus **bus, struct bus *parent, struct error *err);
void bus_destroy(struct bus *bus);

/* Fails with STATUS_INVALID where the range is empty, wraps, or overlaps one on this same bus. */
enum status bus_add(struct bus *bus, uint64_t base, uint64_t size, const struct bus_ops *ops,
                    void *context, struct error *err);

/* An access that no region covers whole reads all ones and writes nothing, as on a PC. */
uint64_t bus_read(struct bus *bus, uint64_t address, unsigned size);
void bus_write(struct bus *bus, uint64_t address, unsigned size, uint64_t value);

#endif
