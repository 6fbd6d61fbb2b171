#ifndef AEROSTAT_TESTS_MMU_TLB_FIXTURE_H
#define AEROSTAT_TESTS_MMU_TLB_FIXTURE_H

/* A machine of one CPU with one page mapped, for the tests of the TLB. */

#include "fixture.h"

#define ROOT   0x10000u
#define LINEAR ((uint64_t)0xffff888000201000)
#define PAGE_A 0x20000u
#define PAGE_B 0x21000u
#define LEAF   (PTE_P | PTE_W | PTE_U | PTE_A | PTE_D)

/* What the last access resolved to. */
extern struct mmu_target target;
extern struct mmu_fault fault;

enum mmu_outcome resolve(struct mmu *mmu, uint64_t linear, enum mmu_access access,
                         enum mmu_privilege privilege);
/* The guest-physical page that an access reaches; it must reach one. */
uint64_t reach(struct mmu *mmu, uint64_t linear, enum mmu_access access,
               enum mmu_privilege privilege);

/* cmocka's: LINEAR maps PAGE_A; there is a PAGE_B. */
int setup(void **state);
int teardown(void **state);
struct mmu *mmu_of(void **state);

#endif
