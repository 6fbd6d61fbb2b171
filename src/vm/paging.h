#ifndef AEROSTAT_VM_PAGING_H
#define AEROSTAT_VM_PAGING_H

/* All that takes a machine's memory away and brings it back, wired together: compression cache,
 * swap file, the thread that keeps the target, working-set sampling, and --chaos. */

#include <stdint.h>

#include "mem/chaos.h"
#include "mem/pager.h"
#include "mem/pmap.h"
#include "mem/reclaim.h"
#include "mem/sample.h"
#include "mem/scan.h"
#include "mem/swap.h"
#include "mem/zcache.h"
#include "util/io_loop.h"
#include "vm/options.h"

struct paging;

/* The swap file that the options ask for, to be opened before the sandbox is entered; it outlives
 * machines. *swap is NULL where they ask for none; and where there cannot be one, unless they say
 * where it is to be or that memory is to be taken. */
enum status paging_open_swap(struct swap **swap, const struct vm_options *options,
                             struct error *err);

/* For a machine's map; `swap` may be NULL. Nothing is taken before paging_set_resident. */
enum status paging_create(struct paging **paging, struct pmap *map, struct swap *swap,
                          struct error *err);

/* Bytes of host memory that the guest's may take; UINT64_MAX: any. From any thread. */
void paging_set_resident(struct paging *paging, uint64_t bytes);

/* The same as reclaim_set_blocked, reclaim_wait_blocked and reclaim_wake (mem/reclaim.h). */
void paging_set_blocked(struct paging *paging, bool blocked);
void paging_wait_blocked(struct paging *paging, bool (*is_over)(void *context), void *context);
void paging_wake(struct paging *paging);

/* After the host has refused memory: it may have room again for what was asked for. */
void paging_restore_resident(struct paging *paging);

/* Begins sampling, and giving space of the swap file back. vm_time_ns(context): CPU time that the
 * vCPUs have used, asked on the loop. */
enum status paging_start(struct paging *paging, struct io_loop *loop,
                         const struct vm_options *options, uint64_t (*vm_time_ns)(void *context),
                         void *context, struct error *err);
/* Begins to take random pages away and to bring them back, without end (mem/chaos.h). */
enum status paging_start_chaos(struct paging *paging, uint64_t seed, const struct chaos_ops *ops,
                               void *context, struct error *err);
/* Ends that, before what the ops need goes. */
void paging_stop_chaos(struct paging *paging);

/* No vCPU and no device runs any more: stops what runs here. The map can be checked then. */
void paging_stop(struct paging *paging);
/* After the map is gone. NULL is fine. The swap file is empty afterwards. */
void paging_destroy(struct paging *paging);

/* For the machine's disks. */
struct disk_pages *paging_disks(struct paging *paging);

/* Which pages might be shared. */
struct scan *paging_scan(struct paging *paging);

struct paging_info {
    uint64_t resident, target; /* bytes */
    uint64_t active;           /* bytes; the greatest of the averages, which follow */
    uint64_t active_slow, active_fast, active_now;
    uint64_t overhead;       /* bytes of bookkeeping */
    uint64_t sample_periods; /* that `active` rests on */
    uint64_t stall_ns;       /* that vCPUs and devices waited for pages, or for room, summed */
    struct zcache_stats cache;
    struct swap_stats swap;
    struct pager_stats pager;
    struct reclaim_stats reclaim;
    struct scan_stats scan;
    struct chaos_stats chaos; /* zeros without */
};
void paging_get(struct paging *paging, struct paging_info *info);

#endif
