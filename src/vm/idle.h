#ifndef AEROSTAT_VM_IDLE_H
#define AEROSTAT_VM_IDLE_H

/*
 * Whether a vCPU is idle: one that has slept for nearly all of a window. A guest that has nothing
 * to do still wakes for its timers, some times a second, and sleeps again within microseconds.
 *
 * Of one vCPU's thread, which says when it is about to sleep and when it has slept.
 */

#include <stdbool.h>
#include <stdint.h>

#include "util/clock.h"

#define IDLE_WINDOW_NS   (10 * NS_PER_SECOND)
#define IDLE_AWAKE_PARTS 50u /* it is idle if it was awake for less than one in so many */

struct idle {
    uint64_t since_ns; /* when the window began; 0: no window has */
    uint64_t slept_ns; /* in it */
};

/* About to sleep. True, once in a window at most: it has been idle. */
static inline bool idle_look(struct idle *idle, uint64_t now_ns)
{
    uint64_t window = now_ns - idle->since_ns;
    if (idle->since_ns != 0 && window < IDLE_WINDOW_NS)
        return false;
    bool was_idle = idle->since_ns != 0 && window - idle->slept_ns < window / IDLE_AWAKE_PARTS;
    *idle = (struct idle){.since_ns = now_ns};
    return was_idle;
}

static inline void idle_slept(struct idle *idle, uint64_t from_ns, uint64_t to_ns)
{
    idle->slept_ns += to_ns - from_ns;
}

#endif
