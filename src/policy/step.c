/* One step of the policy, and its defaults. */

#include "policy/policy_private.h"

#define SECONDS_MOST 10.0 /* after a longer pause nobody knows what has been */

void policy_host_init(struct policy_host *host, uint64_t memory)
{
    *host = (struct policy_host){
        .memory = memory,
        .swap = POLICY_NO_LIMIT,
        .tax = POLICY_TAX_DEFAULT,
        .scan_ppm = POLICY_SCAN_DEFAULT,
        .free = memory,
    };
}

uint64_t policy_default_shares(uint64_t max)
{
    return most(max >> 20, 1) * POLICY_SHARES_PER_MIB;
}

/* A VM that is new here has no past: as if all had been as it is now. */
static void vm_meet(struct policy_vm *vm)
{
    vm->ask = (struct policy_ask){.resident = POLICY_NO_LIMIT, .balloon = vm->balloon};
    vm->past = (struct policy_past){
        .is_known = true,
        .resident = vm->resident,
        .balloon = vm->balloon,
        .balloon_grown = vm->balloon,
        .faults_in = vm->faults_in,
        .stall_ns = vm->stall_ns,
    };
    policy_scan_meet(vm);
}

void policy_step(struct policy_host *host, struct policy_vm *const *vms, size_t count,
                 double seconds)
{
    seconds = seconds > 0 ? (seconds < SECONDS_MOST ? seconds : SECONDS_MOST) : 0;
    for (size_t i = 0; i < count; i++)
        if (!vms[i]->past.is_known)
            vm_meet(vms[i]);
    host->free = policy_free(host, vms, count);
    host->state = policy_state_next(host->state, host->free, host->memory);
    policy_divide(host, vms, count);
    policy_reclaim(host, vms, count, seconds);
    policy_scan(host, vms, count);
    for (size_t i = 0; i < count; i++) {
        vms[i]->past.resident = vms[i]->resident;
        vms[i]->past.balloon = vms[i]->balloon;
    }
}
