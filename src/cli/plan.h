#ifndef AEROSTAT_CLI_PLAN_H
#define AEROSTAT_CLI_PLAN_H

/* What the policy makes of the VMs of a file, before any of them runs. */

#include "cli/vm_file.h"
#include "policy/policy.h"

/* What the VM's process is expected to take beside the guest's memory, in bytes. */
uint64_t plan_overhead(const struct vm_spec *vm);

struct plan {
    const struct vm_file *file;
    struct policy_host host;
    struct policy_vm *vms, **list; /* in the file's order */
};

/* How the VMs use their memory. */
enum plan_use { PLAN_ALL_BUSY, PLAN_ALL_IDLE, PLAN_BUSY_ALONE, PLAN_IDLE_ALONE, PLAN_USES };

/* With `memory` bytes of host memory. To be closed after STATUS_OK. */
enum status plan_make(struct plan *plan, const struct vm_file *file, uint64_t memory,
                      struct error *err);
void plan_close(struct plan *plan);

/* Whether all can run side by side; else the policy's word on the first that cannot, with the place
 * in the file. */
enum status plan_admit(const struct plan *plan, struct error *err);

/* targets[]: what each VM would have; for PLAN_BUSY_ALONE and PLAN_IDLE_ALONE, if it were the only
 * one to be so. */
void plan_divide(struct plan *plan, enum plan_use use, uint64_t *targets);

#endif
