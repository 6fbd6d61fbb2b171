/* See fixture.h. */

#include "fixture.h"

#include <assert.h>
#include <string.h>

void fixture_init(struct fixture *fixture, uint64_t memory)
{
    memset(fixture, 0, sizeof *fixture);
    policy_host_init(&fixture->host, memory);
}

void fixture_init_for_targets(struct fixture *fixture, uint64_t memory)
{
    uint64_t whole = memory;
    while (whole - policy_reserve(whole) < memory)
        whole += memory - (whole - policy_reserve(whole));
    fixture_init(fixture, whole);
}

struct policy_vm *fixture_add(struct fixture *fixture, uint64_t min, uint64_t max)
{
    assert(fixture->count < FIXTURE_VMS);
    struct policy_vm *vm = &fixture->vm[fixture->count];
    fixture->list[fixture->count++] = vm;
    *vm = (struct policy_vm){
        .min = min,
        .max = max,
        .shares = policy_default_shares(max),
        .swap = POLICY_NO_LIMIT,
        .active = max,
        .balloon_works = true,
    };
    return vm;
}

void fixture_fill(struct fixture *fixture, double percent)
{
    double all = 0;
    for (size_t i = 0; i < fixture->count; i++)
        all += (double)fixture->vm[i].max;
    double part = (double)fixture->host.memory * (1 - percent / 100) / all;
    for (size_t i = 0; i < fixture->count; i++)
        fixture->vm[i].resident = (uint64_t)((double)fixture->vm[i].max * part);
}

void fixture_step(struct fixture *fixture, double seconds)
{
    policy_step(&fixture->host, fixture->list, fixture->count, seconds);
}

uint64_t random_within(uint64_t *seed, uint64_t bottom, uint64_t top)
{
    return bottom + xorshift_next(seed) % (top - bottom + 1);
}

double random_part(uint64_t *seed)
{
    return (double)(xorshift_next(seed) >> 11) * 0x1p-53;
}
