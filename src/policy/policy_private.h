#ifndef AEROSTAT_POLICY_PRIVATE_H
#define AEROSTAT_POLICY_PRIVATE_H

/* Between the files of src/policy/ alone. */

#include "policy/policy.h"
#include "util/bits.h"

static inline uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* a - b, or 0 where b is more. */
static inline uint64_t above(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* a + b, or the most there is. */
static inline uint64_t plus(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

/* `percent`, below 100, of `bytes`. */
static inline uint64_t percent_of(double percent, uint64_t bytes)
{
    return (uint64_t)((double)bytes * (percent / 100));
}

/* Whole pages in so many bytes. */
static inline uint64_t pages_in(uint64_t bytes)
{
    return bytes / PAGE_SIZE;
}

/* The asks' resident, balloon and block, from host->state and ->free and the VMs' targets. */
void policy_reclaim(const struct policy_host *host, struct policy_vm *const *vms, size_t count,
                    double seconds);

/* The asks' scan_pages and scan_ppm, from host->state and ->free and what scanning has yielded. */
void policy_scan(const struct policy_host *host, struct policy_vm *const *vms, size_t count);

/* For a VM that is new: all of it has yet to be seen. */
void policy_scan_meet(struct policy_vm *vm);

/* As policy_divide, but of what VMs have or could fill at once (resident memory and balloon), into
 * past.allowed: who uses less than its target leaves it to the others for now. Never less than
 * target. */
void policy_divide_used(const struct policy_host *host, struct policy_vm *const *vms, size_t count);

#endif
