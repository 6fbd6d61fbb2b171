#ifndef AEROSTAT_VM_STATS_H
#define AEROSTAT_VM_STATS_H

/* Counters as JSON, for --stats. docs/statistics.md explains each. */

#include <jansson.h>

#include "cpu/engine.h"
#include "dev/virtio/balloon.h"
#include "mem/pmap.h"

/* Sums over the vCPUs, and the page map's own. NULL when out of memory. The caller owns it. */
json_t *stats_of_machine(const struct pmap *map, const struct engine_ops *engine,
                         struct vcpu *const *vcpus, unsigned count);

/* Adds the balloon's size, target and state, and what its driver tells of the guest. */
void stats_add_balloon(json_t *stats, const struct balloon_info *balloon);

/* Adds wall and CPU seconds, resets so far and the exit status, and writes it to fd, whose name for
 * messages is `path`. Takes over `stats`. */
enum status stats_write(int fd, const char *path, json_t *stats, uint64_t started_ns,
                        unsigned resets, int exit_status, struct error *err);

#endif
