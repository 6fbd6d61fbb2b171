#ifndef AEROSTAT_TESTS_POLICY_FIXTURE_H
#define AEROSTAT_TESTS_POLICY_FIXTURE_H

/* A host with VMs for the tests of the policy, and repeatable random numbers. */

#include "policy/policy.h"
#include "util/xorshift.h"

#define KIB (1ull << 10)
#define MIB (1ull << 20)
#define GIB (1ull << 30)

#define FIXTURE_VMS 64u

struct fixture {
    struct policy_host host;
    struct policy_vm vm[FIXTURE_VMS];
    struct policy_vm *list[FIXTURE_VMS];
    size_t count;
};

/* A host of `memory` bytes, without VMs. */
void fixture_init(struct fixture *fixture, uint64_t memory);

/* A host that can give `memory` bytes to VMs at their targets, after the reserve. */
void fixture_init_for_targets(struct fixture *fixture, uint64_t memory);

/* Adds a VM: default shares, all of it in use and none of it resident, a balloon that works. */
struct policy_vm *fixture_add(struct fixture *fixture, uint64_t min, uint64_t max);

/* Sets the resident memory of the VMs such that `percent` of the host's memory is free: each has
 * the same part of its max. */
void fixture_fill(struct fixture *fixture, double percent);

void fixture_step(struct fixture *fixture, double seconds);

uint64_t random_within(uint64_t *seed, uint64_t bottom, uint64_t top); /* both included */
double random_part(uint64_t *seed);                                    /* 0 to 1 */

#endif
