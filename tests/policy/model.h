#ifndef AEROSTAT_TESTS_POLICY_MODEL_H
#define AEROSTAT_TESTS_POLICY_MODEL_H

/* The division of memory as the paper describes it: page by page, plain and slow. */

#include "policy/policy.h"

/* What a VM with so many pages pays for each; may be infinite. */
double model_price(const struct policy_vm *vm, double tax, uint64_t pages);

/* All VMs have max; then one page after the other is taken from the VM that pays least for its own,
 * of those above their min, until all have `pages` together or no more can be taken. Into got[]. */
void model_divide(struct policy_vm *const *vms, size_t count, double tax, uint64_t pages,
                  uint64_t *got);

#endif
