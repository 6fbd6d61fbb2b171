/* How short of memory the host is. */

#include "policy/policy_private.h"

/* Free memory in percent. Below a state's threshold it is entered; it is left only well above the
 * threshold of the state before it. */
#define HIGH_PERCENT 6.0
#define SOFT_PERCENT 4.0
#define HARD_PERCENT 2.0
#define LOW_PERCENT  1.0
#define WELL_ABOVE   0.5
/* High is what all taking aims at: so it has to be reached when all VMs are at their targets. */
#define RESERVE_PERCENT (HIGH_PERCENT + 2 * WELL_ABOVE)

const char *policy_state_name(enum policy_state state)
{
    static const char *const names[] = {"high", "soft", "hard", "low"};
    return (unsigned)state <= POLICY_LOW ? names[state] : "?";
}

uint64_t policy_reserve(uint64_t memory)
{
    return percent_of(RESERVE_PERCENT, memory);
}

uint64_t policy_free(const struct policy_host *host, struct policy_vm *const *vms, size_t count)
{
    uint64_t used = plus(host->frames, host->overhead);
    for (size_t i = 0; i < count; i++)
        used = plus(used, plus(vms[i]->resident, vms[i]->overhead));
    return above(host->memory, used);
}

enum policy_state policy_state_next(enum policy_state state, uint64_t free, uint64_t memory)
{
    enum policy_state fallen = free < percent_of(LOW_PERCENT, memory)    ? POLICY_LOW
                               : free < percent_of(HARD_PERCENT, memory) ? POLICY_HARD
                               : free < percent_of(SOFT_PERCENT, memory) ? POLICY_SOFT
                                                                         : POLICY_HIGH;
    if (fallen > state)
        return fallen;
    enum policy_state risen = free >= percent_of(HIGH_PERCENT + WELL_ABOVE, memory)   ? POLICY_HIGH
                              : free >= percent_of(SOFT_PERCENT + WELL_ABOVE, memory) ? POLICY_SOFT
                              : free >= percent_of(HARD_PERCENT + WELL_ABOVE, memory) ? POLICY_HARD
                                                                                      : POLICY_LOW;
    return risen < state ? risen : state;
}
