#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tlb_fixture.h"

struct mmu_target target;
struct mmu_fault fault;

enum mmu_outcome resolve(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                         enum mmu_privilege privilege)
{
    memset(&target, 0, sizeof(target));
    memset(&fault, 0, sizeof(fault));
    return mmu_resolve(mmu, linear, access, privilege, &target, &fault);
}

uint64_t reach(struct mmu *mmu, uint64_t linear, enum mmu_access access,
               enum mmu_privilege privilege)
{
    assert_int_equal(resolve(mmu, linear, access, privilege), MMU_OK);
    return target.gpa & ~PAGE_MASK;
}

int setup(void **state)
{
    struct machine *machine = machine_create(1);
    machine_at(machine, PAGE_A);
    machine_at(machine, PAGE_B);
    machine_map(machine, ROOT, LINEAR, PAGE_A | LEAF);
    machine_long_mode(&machine->cpus[0].mmu, ROOT);
    *state = machine;
    return 0;
}

int teardown(void **state)
{
    machine_destroy(*state);
    return 0;
}

struct mmu *mmu_of(void **state)
{
    return &((struct machine *)*state)->cpus[0].mmu;
}
