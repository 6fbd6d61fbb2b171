/* The nested table and the walk caches: what they hold, when they must not, and how many entries a
 * walk reads. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mmu/walk.h"
#include "tlb_fixture.h"

#define REGION     ((uint64_t)2 * MIB)
#define DATA       REGION /* a region with nothing but data */
#define DATA_PPN   (DATA >> PAGE_SHIFT)
#define PAGES      (REGION / PAGE_SIZE)
#define SMALL_LEAF (DATA | LEAF)
#define LARGE_LEAF (DATA | LEAF | PTE_PS)

static struct machine *make(const struct mmu_config *config)
{
    struct machine *machine = machine_create_with(2, config);
    for (uint64_t at = 0; at < 2 * REGION; at += PAGE_SIZE)
        machine_at(machine, at);
    machine_map(machine, ROOT, LINEAR, SMALL_LEAF);
    for (unsigned i = 0; i < 2; i++)
        machine_long_mode(&machine->cpus[i].mmu, ROOT);
    return machine;
}

/* As if the guest had written all of memory. */
static void warm(struct mmu *mmu)
{
    for (uint64_t ppn = 0; ppn < 2 * PAGES; ppn++)
        assert_true(walk_nested(mmu, ppn, true) & NESTED_WRITE);
}

/* Where the entry is that linear uses at a level; 0 is that of its page. */
static uint64_t entry_at(unsigned level, uint64_t linear)
{
    return ROOT + (3 - level) * PAGE_SIZE + (linear >> (12 + 9 * level) & 511) * 8;
}

/* What it is, above the page's. */
static uint64_t table_entry(unsigned level)
{
    return (ROOT + (4 - level) * PAGE_SIZE) | PTE_P | PTE_W | PTE_U | PTE_A;
}

static uint64_t references_of(struct mmu *mmu, uint64_t linear)
{
    uint64_t before = mmu->stats.walk_references;
    assert_int_equal(resolve(mmu, linear, MMU_READ, MMU_USER), MMU_OK);
    return mmu->stats.walk_references - before;
}

/* Cold walks: (guest levels + 1) * (nested levels + 1) - 1. */
static void test_cold_references(void **state)
{
    (void)state;
    for (unsigned host_large = 0; host_large < 2; host_large++) {
        struct machine *machine =
            make(&(struct mmu_config){.no_walk_caches = true, .no_host_large = !host_large});
        struct mmu *mmu = &machine->cpus[0].mmu;
        warm(mmu);
        mmu_flush(mmu, false);
        assert_int_equal(references_of(mmu, LINEAR), host_large ? 19 : 24);
        machine_put(machine, entry_at(1, LINEAR), LARGE_LEAF);
        mmu_flush(mmu, false);
        assert_int_equal(references_of(mmu, LINEAR), host_large ? 15 : 19);
        mmu->cr0 = 0;
        mmu->efer = 0;
        mmu_flush(mmu, false);
        uint64_t before = mmu->stats.walk_references;
        reach(mmu, DATA, MMU_READ, MMU_SUPERVISOR);
        assert_int_equal(mmu->stats.walk_references - before, host_large ? 3 : 4);
        machine_destroy(machine);
    }
}

/* A walk to the next page reads its entry alone, one to the next region of 2 MiB the directory's as
 * well; after a flush, of one page too, all of the tables. */
static void test_warm_references(void **state)
{
    (void)state;
    struct machine *machine = make(&(struct mmu_config){0});
    struct mmu *mmu = &machine->cpus[0].mmu;
    machine_map(machine, ROOT, LINEAR + PAGE_SIZE, SMALL_LEAF + PAGE_SIZE);
    machine_map(machine, ROOT, LINEAR + REGION, SMALL_LEAF);
    warm(mmu);
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    assert_int_equal(references_of(mmu, LINEAR + PAGE_SIZE), 1);
    assert_int_equal(references_of(mmu, LINEAR + REGION), 2);
    assert_int_equal(references_of(mmu, LINEAR + REGION + PAGE_SIZE), 1);
    mmu_flush_page(mmu, LINEAR);
    assert_int_equal(references_of(mmu, LINEAR), 4);
    mmu_flush(mmu, true);
    assert_int_equal(references_of(mmu, LINEAR), 4);
    machine_destroy(machine);
}

/* A large page next to one that was walked to takes the directory's entry alone. */
static void test_warm_large_references(void **state)
{
    (void)state;
    struct machine *machine = make(&(struct mmu_config){0});
    struct mmu *mmu = &machine->cpus[0].mmu;
    for (unsigned i = 0; i < 3; i++)
        machine_put(machine, entry_at(1, LINEAR + i * REGION), LARGE_LEAF);
    warm(mmu);
    assert_int_equal(references_of(mmu, LINEAR), 3);
    assert_int_equal(references_of(mmu, LINEAR + REGION), 1);
    mmu_flush_page(mmu, LINEAR);
    assert_int_equal(references_of(mmu, LINEAR + 2 * REGION), 3);
    /* A fault takes along what led there. */
    machine_put(machine, entry_at(1, LINEAR), LARGE_LEAF & ~PTE_P);
    assert_int_equal(resolve(mmu, LINEAR, MMU_READ, MMU_USER), MMU_FAULT);
    machine_put(machine, entry_at(1, LINEAR), LARGE_LEAF);
    assert_int_equal(references_of(mmu, LINEAR), 3);
    machine_destroy(machine);
}

/* The accessed bit of a table's entry that a guest has cleared is set again once it has flushed. */
static void test_accessed_after_flush(void **state)
{
    (void)state;
    struct machine *machine = make(&(struct mmu_config){0});
    struct mmu *mmu = &machine->cpus[0].mmu;
    for (unsigned level = 1; level <= 3; level++) {
        reach(mmu, LINEAR, MMU_READ, MMU_USER);
        machine_put(machine, entry_at(level, LINEAR), table_entry(level) & ~PTE_A);
        mmu_flush_page(mmu, LINEAR);
        reach(mmu, LINEAR, MMU_READ, MMU_USER);
        assert_true(machine_get(machine, entry_at(level, LINEAR)) & PTE_A);
    }
    machine_destroy(machine);
}

/* More is allowed by an entry of a table: no flush is needed. Less: it counts after one. */
static void check_changes(struct machine *machine, unsigned level)
{
    struct mmu *mmu = &machine->cpus[0].mmu;
    uint64_t entry = entry_at(level, LINEAR), open = table_entry(level);
    machine_put(machine, entry, open & ~PTE_W);
    mmu_flush(mmu, false);
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    assert_int_equal(resolve(mmu, LINEAR, MMU_WRITE, MMU_USER), MMU_FAULT);
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    machine_put(machine, entry, open);
    reach(mmu, LINEAR, MMU_WRITE, MMU_USER);
    machine_put(machine, entry, open & ~PTE_U);
    mmu_flush_page(mmu, LINEAR);
    assert_int_equal(resolve(mmu, LINEAR, MMU_READ, MMU_USER), MMU_FAULT);
    machine_put(machine, entry, 0);
    mmu_flush(mmu, false);
    assert_int_equal(resolve(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR), MMU_FAULT);
    assert_int_equal(fault.error_code, 0);
    machine_put(machine, entry, open);
    reach(mmu, LINEAR, MMU_WRITE, MMU_USER);
}

static void test_changes_above(void **state)
{
    (void)state;
    struct machine *machine = make(&(struct mmu_config){0});
    for (unsigned level = 1; level <= 3; level++)
        check_changes(machine, level);
    machine_put(machine, entry_at(1, LINEAR), LARGE_LEAF);
    for (unsigned level = 2; level <= 3; level++)
        check_changes(machine, level);
    machine_destroy(machine);
}

/* A large leaf comes when the last page may be written, and goes with the first that is revoked. */
static void test_large_leaf(void **state)
{
    (void)state;
    struct machine *machine = make(&(struct mmu_config){0});
    struct mmu *mmu = &machine->cpus[0].mmu;
    struct nested *nested = mmu->nested;
    uint64_t references = 0, host = walk_nested(mmu, DATA_PPN, true) & ~PAGE_MASK;
    assert_int_equal(nested->large_leaves, 0);
    warm(mmu);
    assert_int_equal(nested->large_leaves, 2);
    for (uint64_t i = 0; i < PAGES; i++) {
        references = 0;
        assert_int_equal(nested_walk(nested, DATA_PPN + i, &references),
                         (host + i * PAGE_SIZE) | NESTED_PRESENT | NESTED_WRITE | NESTED_LARGE);
        assert_int_equal(references, 3);
    }
    mmu_park(mmu);
    mmu_park(&machine->cpus[1].mmu);
    machine_revoke(machine, DATA_PPN + 7);
    mmu_unpark(&machine->cpus[1].mmu);
    mmu_unpark(mmu);
    assert_int_equal(nested->large_leaves, 1);
    for (uint64_t i = 0; i < PAGES; i++)
        assert_int_equal(nested_walk(nested, DATA_PPN + i, &references),
                         i == 7 ? 0 : (host + i * PAGE_SIZE) | NESTED_PRESENT | NESTED_WRITE);
    uint64_t violations = mmu->stats.nested_violations;
    assert_true(walk_nested(mmu, DATA_PPN + 7, false) & NESTED_WRITE);
    assert_int_equal(mmu->stats.nested_violations, violations + 1);
    assert_int_equal(nested->large_leaves, 2);
    machine_destroy(machine);
}

/* Code is decoded by one CPU: nobody finds permission to write the page, wherever he looks. */
static void test_code_is_protected(void **state)
{
    (void)state;
    struct machine *machine = make(&(struct mmu_config){0});
    struct mmu *mmu = &machine->cpus[0].mmu, *other = &machine->cpus[1].mmu;
    uint64_t references = 0;
    warm(mmu);
    warm(other);
    mmu_park(other);
    mmu_mark_code(mmu, DATA_PPN);
    mmu_unpark(other);
    assert_false(nested_walk(mmu->nested, DATA_PPN, &references) & NESTED_WRITE);
    assert_false(walk_nested(other, DATA_PPN, true) & NESTED_WRITE);
    assert_false(walk_nested(mmu, DATA_PPN, true) & NESTED_WRITE);
    mmu_park(other);
    reach(mmu, LINEAR, MMU_WRITE, MMU_USER); /* drops the code */
    mmu_unpark(other);
    assert_true(walk_nested(other, DATA_PPN, true) & NESTED_WRITE);
    machine_destroy(machine);
}

/* What is not RAM is not remembered; reading a page that nobody wrote gives it no memory. */
static void test_no_ram_and_zero(void **state)
{
    (void)state;
    struct machine *machine = make(&(struct mmu_config){0});
    struct mmu *mmu = &machine->cpus[0].mmu;
    struct pmap_stats before, after;
    uint64_t bytes = mmu->nested->table_bytes;
    assert_int_equal(walk_nested(mmu, RAM_LOW_END >> PAGE_SHIFT, true), 0);
    assert_int_equal(walk_nested(mmu, ((uint64_t)1 << 46 >> PAGE_SHIFT) - 1, false), 0);
    assert_int_equal(mmu->nested->table_bytes, bytes);
    pmap_get_stats(machine->map, &before);
    uint64_t entry = walk_nested(mmu, RAM_HIGH_BASE >> PAGE_SHIFT, false);
    assert_int_equal(entry & (NESTED_PRESENT | NESTED_WRITE), NESTED_PRESENT);
    pmap_get_stats(machine->map, &after);
    assert_int_equal(after.private_pages, before.private_pages);
    machine_destroy(machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cold_references),       cmocka_unit_test(test_warm_references),
        cmocka_unit_test(test_warm_large_references), cmocka_unit_test(test_accessed_after_flush),
        cmocka_unit_test(test_changes_above),         cmocka_unit_test(test_large_leaf),
        cmocka_unit_test(test_code_is_protected),     cmocka_unit_test(test_no_ram_and_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
