#ifndef AEROSTAT_POLICY_POLICY_H
#define AEROSTAT_POLICY_POLICY_H

/*
 * Who gets how much memory: pure functions from numbers to numbers (no clock, no I/O, no
 * allocation), the same in aerostatd, in `aerostat plan`, in the tests and in the simulator.
 * Waldspurger, OSDI 2002, sections 5 and 6; docs/policy.md. Memory is in bytes.
 *
 * What people set and what is measured is the caller's to write, before each step; what is computed
 * is there after it. Both that and what is kept is read by the next step: zero at first, and nobody
 * else's to change. A number that makes no
 * sense (a VM's word, say: active above max, a counter that falls) is taken as the nearest that
 * does; nothing here fails for it, and no sum wraps.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/status.h"

enum policy_state { POLICY_HIGH, POLICY_SOFT, POLICY_HARD, POLICY_LOW };
const char *policy_state_name(enum policy_state state); /* "high", ... */

#define POLICY_NO_LIMIT       UINT64_MAX
#define POLICY_TAX_DEFAULT    0.75    /* part of an idle page's value */
#define POLICY_TAX_MOST       0.99    /* all of it would leave no order among idle pages */
#define POLICY_SHARES_PER_MIB 1000u   /* by default */
#define POLICY_SCAN_DEFAULT   250000u /* millionths of one CPU, for all VMs, where it is worth it */

/* The host: one aerostatd's. Start with policy_host_init. */
struct policy_host {
    /* set by people */
    uint64_t memory;   /* that all VMs may use together */
    uint64_t swap;     /* space for what is paged out; POLICY_NO_LIMIT where nobody knows */
    double tax;        /* idle memory tax, 0 to POLICY_TAX_MOST */
    uint32_t scan_ppm; /* CPU time for scanning: millionths of one CPU, all VMs together */
    bool scan_always;  /* all of that time is used, short of memory or not, yield or not */
    /* measured */
    uint64_t frames;   /* memory of the shared pools */
    uint64_t overhead; /* of the manager: its process and metadata */
    /* computed by policy_step */
    uint64_t free;
    enum policy_state state;
};

/* What is kept of a VM between steps; nobody else's business. */
struct policy_past {
    bool is_known;
    uint64_t allowed; /* resident memory it may have as things are; at least target */
    /* what was measured: at the last step, others at the last look */
    uint64_t resident, balloon, balloon_grown, faults_in, stall_ns;
    uint64_t scanned, shared;
    uint64_t unused;      /* of what has been given back lately: what the guest may fill yet */
    double watched;       /* seconds since the last look for suffering */
    double hold, backoff; /* seconds to take nothing; the next time */
    double stuck;         /* seconds since the balloon has grown as asked */
    double balloon_hold, balloon_backoff; /* seconds not to ask it for more; the next time */
    double yield;  /* of the scanner: pages that it shared, of one that it looked at */
    double weight; /* in the division of the scanners' time */
};

/* What a VM is asked for: struct link_target (src/proto/link.h). */
struct policy_ask {
    uint64_t resident;   /* to be paged down to this; POLICY_NO_LIMIT for none */
    uint64_t balloon;    /* the balloon's target */
    uint64_t scan_pages; /* to be scanned a second, at most */
    uint32_t scan_ppm;   /* CPU time for that, millionths of one CPU */
    bool block;          /* no vCPU runs while it has more than ask.resident */
};

/* One VM as the policy sees it. */
struct policy_vm {
    /* set by people */
    uint64_t min, max; /* min <= max */
    uint64_t shares;   /* not 0: policy_default_shares(max) where nobody has said */
    uint64_t swap;     /* space of its own for what is paged out; POLICY_NO_LIMIT for any */
    /* measured, now */
    uint64_t resident;  /* what it alone is charged for */
    uint64_t frames;    /* its part of host.frames: of a frame that n pages hold, 1/n for each */
    uint64_t active;    /* how much of its memory is in use, at most max; max for "not known" */
    uint64_t overhead;  /* of its process, which is charged as well and cannot be taken */
    uint64_t balloon;   /* what the balloon has */
    uint64_t spare;     /* what the guest says that it could do without; 0 for "not known" */
    bool balloon_works; /* there is a driver that answers; false while stalled or absent */
    bool is_paused;     /* uses nothing, and its balloon does not move */
    /* measured, since it started: struct link_report */
    uint64_t faults_in;     /* pages brought back */
    uint64_t stall_ns;      /* waited for them */
    uint64_t pages_scanned; /* by the search for shareable pages */
    uint64_t pages_shared;
    /* computed */
    uint64_t target; /* resident memory it is entitled to, by shares and use */
    struct policy_ask ask;
    /* kept */
    struct policy_past past;
};

/* Defaults for what people set; the rest is 0. `memory` in bytes. */
void policy_host_init(struct policy_host *host, uint64_t memory);

/* The shares of a VM whose owner names none: in proportion to its size, and never 0. */
uint64_t policy_default_shares(uint64_t max);

/*
 * One step: host->free and ->state, then of each VM target and ask. To be called about once a
 * second, and at every change (a VM more or less, a knob, free memory past a threshold, see
 * policy_state_next). `seconds` since the last step: 0 takes nothing that is limited in time, more
 * than 10 counts as 10. No VM may be twice in the list.
 */
void policy_step(struct policy_host *host, struct policy_vm *const *vms, size_t count,
                 double seconds);

/* Parts of a step, for whoever needs one alone. */

/* Host memory that nobody uses: 0 where more is used than there is. */
uint64_t policy_free(const struct policy_host *host, struct policy_vm *const *vms, size_t count);

/* The state that follows from `free` of `memory` bytes, one or more states down at once, up with
 * hysteresis. */
enum policy_state policy_state_next(enum policy_state state, uint64_t free, uint64_t memory);

/*
 * Sets each VM's target: memory is taken page by page from the VM that pays least for it ("min-
 * funding revocation"), idle pages being charged 1 / (1 - tax) times, until all fit. Each has, its
 * part of the frames included, at least min and at most max. The targets, host->frames and all
 * overheads are together at most what policy_reserve leaves of host->memory, unless the minima
 * alone are more (policy_admit sees to that): then each has its minimum.
 */
void policy_divide(const struct policy_host *host, struct policy_vm *const *vms, size_t count);

/* What stays free when all are at their targets: a little more than the state high asks for. */
uint64_t policy_reserve(uint64_t memory);

/*
 * May `vm` (min, max, swap, overhead) run beside those in the list? STATUS_OK, INVALID (min above
 * max), or NO_MEMORY or NO_SPACE with one line that says by how much memory, or swap space, is
 * short. Frames do not count: they are part of what VMs have.
 */
enum status policy_admit(const struct policy_host *host, struct policy_vm *const *vms, size_t count,
                         const struct policy_vm *vm, struct error *err);

#endif
