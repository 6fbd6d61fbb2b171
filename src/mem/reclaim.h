#ifndef AEROSTAT_MEM_RECLAIM_H
#define AEROSTAT_MEM_RECLAIM_H

/*
 * Keeping a VM's memory below a target, without the guest's help: a thread that chooses pages and
 * has the pager take them away.
 *
 * The target counts what the VM has for itself: private pages and what the compression cache holds.
 * Threads that bring pages faster than they can be taken away wait for it, so that the target is
 * kept but for a few pages; where nothing more can be taken (all is pinned, there is no room for
 * it, the disk fails) the VM runs on above its target, and the counters say so.
 *
 * The thread sleeps unless there is something to do: a VM that brings no pages costs nothing.
 */

#include <stdbool.h>
#include <stdint.h>

#include "mem/pager.h"
#include "mem/pmap.h"
#include "util/status.h"

struct reclaim;

struct reclaim_stats {
    uint64_t target;   /* pages; UINT64_MAX: none */
    uint64_t chosen;   /* pages that were to go */
    uint64_t taken;    /* pages that went */
    uint64_t given_up; /* times that it could not reach its target */
    uint64_t wait_ns;  /* that threads waited for pages to go, summed */
};

/* Starts the thread. Nothing is taken before there is a target. cache may be NULL. */
enum status reclaim_create(struct reclaim **reclaim, struct pmap *map, struct pager *pager,
                           struct zcache *cache, struct error *err);
/* From here on nobody waits and nothing is taken. Pages chosen and not yet gone stay. For the time
 * when nobody else uses the map any more, or for a map that is used on. Idempotent. */
void reclaim_stop(struct reclaim *reclaim);
void reclaim_destroy(struct reclaim *reclaim); /* stops it first; NULL is fine */

/* Tells of each page that is chosen to leave, some time before it goes. Before there is a target.
 */
void reclaim_set_note(struct reclaim *reclaim, void (*note)(void *context, uint64_t ppn),
                      void *context);

/* In pages; UINT64_MAX for none. From any thread. Very small ones are taken as
 * RECLAIM_TARGET_LEAST.
 */
#define RECLAIM_TARGET_LEAST 256u
void reclaim_set_target(struct reclaim *reclaim, uint64_t pages);

/* While it is blocked, whoever runs the guest is to wait here before it goes on: until no more is
 * resident than the target, or that cannot be had, or it is no longer blocked, or is_over(context),
 * which is asked again at reclaim_wake. Not for running vCPUs. */
void reclaim_set_blocked(struct reclaim *reclaim, bool blocked);
void reclaim_wait_blocked(struct reclaim *reclaim, bool (*is_over)(void *context), void *context);
void reclaim_wake(struct reclaim *reclaim);

/* Where the host has refused memory the target has come down to what it gave (page_leave.h,
 * `refused`). This sets it to what was asked for last: there may be room again. */
void reclaim_restore_target(struct reclaim *reclaim);

/* Waits until it is at its target, or has given up; for tests. */
void reclaim_wait(struct reclaim *reclaim);

void reclaim_get_stats(struct reclaim *reclaim, struct reclaim_stats *stats);

#endif
