#ifndef AEROSTAT_POLICY_POLICY_H
#define AEROSTAT_POLICY_POLICY_H

/*
 * Who gets how much memory: pure functions from numbers to numbers (no clock, no I/O, no
 * allocation), the same in aerostatd, in `aerostat plan`, in the tests and in the simulator.
 * Waldspurger, OSDI 2002, sections 5 and 6; docs/policy.md. Memory is in bytes.
 */

#include <stdbool.h>
#include <stdint.h>

#include "util/status.h"

enum policy_state { POLICY_HIGH, POLICY_SOFT, POLICY_HARD, POLICY_LOW };
const char *policy_state_name(enum policy_state state); /* "high", ... */

#define POLICY_TAX_DEFAULT 0.75 /* part of an idle page's value */

/* One VM as the policy sees it. Lists of them are the caller's. */
struct policy_vm {
    /* set by people */
    uint64_t min, max; /* min <= max */
    uint64_t shares;   /* not 0: policy_default_shares(max) where nobody has said */
    /* measured */
    uint64_t resident; /* charged for now: what it has for itself */
    double active;     /* part of its memory that is in use, 0 to 1 */
    uint64_t overhead; /* of its process, which is charged as well and cannot be taken */
    bool is_paused;
    /* computed by policy_divide */
    uint64_t target; /* resident memory it may have, min to max */
};

#endif
