#ifndef AEROSTAT_VM_STATS_H
#define AEROSTAT_VM_STATS_H

/* Counters as JSON, for --stats. docs/statistics.md explains each. */

#include <jansson.h>

#include "cpu/engine.h"
#include "dev/virtio/balloon.h"
#include "mem/pmap.h"
#include "proto/link.h"
#include "vm/paging.h"
#include "vm/sharing.h"

/* Sums over the vCPUs, and the page map's own. NULL when out of memory. The caller owns it. */
json_t *stats_of_machine(const struct pmap *map, const struct engine_ops *engine,
                         struct vcpu *const *vcpus, unsigned count);

/* The same of the MMUs, for the manager. */
void stats_report_mmus(struct link_report *report, struct vcpu *const *vcpus, unsigned count);

/* Adds the balloon's size, target and state, and what its driver tells of the guest. */
void stats_add_balloon(json_t *stats, const struct balloon_info *balloon);

/* Adds what has been taken from the guest, and where it is. */
void stats_add_paging(json_t *stats, const struct paging_info *paging);

/* Adds what has to do with other VMs; sharing may be NULL. */
void stats_add_sharing(json_t *stats, const struct vm_options *options, struct sharing *sharing,
                       const struct paging_info *paging);
/* Adds what is counted over resets: wall and CPU seconds since started_ns (clock_monotonic_ns), and
 * the resets. */
void stats_add_run(json_t *stats, uint64_t started_ns, unsigned resets);

/* Writes it to fd, whose name for messages is `path`. Takes over `stats`. */
enum status stats_write(int fd, const char *path, json_t *stats, struct error *err);

#endif
