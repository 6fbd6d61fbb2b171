/* Address spaces by PCID: what is still there when the guest comes back to one, and what is not. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tlb_fixture.h"

#define OTHER_ROOT 0x18000u /* LINEAR maps PAGE_B */
#define GLOBAL     (LINEAR + PAGE_SIZE)
#define BESIDE     (LINEAR + 2 * PAGE_SIZE) /* not touched before it is looked at */
#define KEEP       true

struct suite {
    struct machine *machine;
    struct mmu *mmu;
};

static struct suite make(void)
{
    struct suite suite = {.machine = machine_create(1)};
    suite.mmu = &suite.machine->cpus[0].mmu;
    for (uint64_t at = 0; at < 256 * KIB; at += PAGE_SIZE)
        machine_at(suite.machine, at);
    machine_map(suite.machine, ROOT, LINEAR, PAGE_A | LEAF);
    machine_map(suite.machine, ROOT, GLOBAL, PAGE_A | LEAF | PTE_G);
    machine_map(suite.machine, ROOT, BESIDE, PAGE_A | LEAF);
    machine_map(suite.machine, OTHER_ROOT, LINEAR, PAGE_B | LEAF);
    machine_long_mode(suite.mmu, ROOT);
    suite.mmu->cr4 |= CR4_PCIDE_BIT | CR4_PGE_BIT;
    mmu_flush(suite.mmu, false);
    return suite;
}

/* Goes over to PCID 1, where LINEAR is PAGE_B, and comes back. */
static void leave_and_return(struct mmu *mmu, bool keep)
{
    mmu_load_cr3(mmu, OTHER_ROOT | 1, KEEP);
    assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_USER), PAGE_B);
    mmu_load_cr3(mmu, ROOT, keep);
}

static uint64_t misses_of(struct mmu *mmu, uint64_t linear, enum mmu_access access)
{
    uint64_t before = mmu->stats.tlb_misses;
    assert_int_equal(reach(mmu, linear, access, MMU_USER), PAGE_A);
    return mmu->stats.tlb_misses - before;
}

/* Of the guest's tables alone: the nested entries of these are known by then. */
static uint64_t references_of(struct mmu *mmu, uint64_t linear, uint64_t page)
{
    uint64_t before = mmu->stats.walk_references;
    assert_int_equal(reach(mmu, linear, MMU_READ, MMU_USER), page);
    return mmu->stats.walk_references - before;
}

static void touch(struct mmu *mmu)
{
    assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_USER), PAGE_A);
    assert_int_equal(reach(mmu, LINEAR, MMU_WRITE, MMU_USER), PAGE_A);
    assert_int_equal(reach(mmu, LINEAR, MMU_EXECUTE, MMU_USER), PAGE_A);
    assert_int_equal(reach(mmu, GLOBAL, MMU_READ, MMU_USER), PAGE_A);
}

static void test_kept(void **state)
{
    (void)state;
    struct suite suite = make();
    touch(suite.mmu);
    leave_and_return(suite.mmu, KEEP);
    for (enum mmu_access access = MMU_READ; access <= MMU_EXECUTE; access++)
        assert_int_equal(misses_of(suite.mmu, LINEAR, access), 0);
    assert_int_equal(misses_of(suite.mmu, GLOBAL, MMU_READ), 0);
    assert_int_equal(suite.mmu->stats.space_returns, 1);
    assert_int_equal(references_of(suite.mmu, BESIDE, PAGE_A),
                     1); /* in a page table that is known */
    machine_destroy(suite.machine);
}

/* The walk cache has tables of both, of the same region. */
static void test_tables_are_of_one_space(void **state)
{
    (void)state;
    struct suite suite = make();
    machine_map(suite.machine, OTHER_ROOT, BESIDE, PAGE_B | LEAF);
    touch(suite.mmu);
    mmu_load_cr3(suite.mmu, OTHER_ROOT | 1, KEEP);
    assert_int_equal(reach(suite.mmu, LINEAR, MMU_READ, MMU_USER), PAGE_B);
    mmu_load_cr3(suite.mmu, ROOT, KEEP);
    assert_int_equal(reach(suite.mmu, BESIDE, MMU_READ, MMU_USER), PAGE_A);
    mmu_load_cr3(suite.mmu, OTHER_ROOT | 1, KEEP);
    assert_int_equal(references_of(suite.mmu, BESIDE, PAGE_B), 1);
    machine_destroy(suite.machine);
}

/* What ends it, for the space that was left or for all. */
static void flush_it(struct suite *suite)
{
    mmu_flush_space(suite->mmu, 0);
}

static void flush_local(struct suite *suite)
{
    mmu_flush(suite->mmu, true);
}

static void flush_all(struct suite *suite)
{
    mmu_flush(suite->mmu, false);
}

static void revoke(struct suite *suite)
{
    mmu_park(suite->mmu);
    machine_revoke(suite->machine, PAGE_A >> PAGE_SHIFT);
    mmu_unpark(suite->mmu);
}

static void mark(struct suite *suite)
{
    mmu_mark_code(suite->mmu, PAGE_A >> PAGE_SHIFT);
}

static void watch(struct suite *suite)
{
    const uint64_t page = LINEAR;
    mmu_watch(suite->mmu, &page, 1);
}

static void visit_others(struct suite *suite)
{
    for (unsigned pcid = 2; pcid < 2 + MMU_SPACES; pcid++) {
        mmu_load_cr3(suite->mmu, OTHER_ROOT | pcid, KEEP);
        assert_int_equal(reach(suite->mmu, LINEAR, MMU_READ, MMU_USER), PAGE_B);
    }
}

/* Back in a space that was touched, after that has happened while another was current. */
static struct suite return_after(void (*end)(struct suite *))
{
    struct suite suite = make();
    touch(suite.mmu);
    mmu_load_cr3(suite.mmu, OTHER_ROOT | 1, KEEP);
    end(&suite);
    mmu_load_cr3(suite.mmu, ROOT, KEEP);
    return suite;
}

static void test_ends(void **state)
{
    (void)state;
    void (*const ends[])(struct suite *) = {flush_it, flush_local, flush_all,   revoke,
                                            mark,     watch,       visit_others};
    for (unsigned i = 0; i < ARRAY_LENGTH(ends); i++) {
        struct suite suite = return_after(ends[i]);
        assert_int_equal(misses_of(suite.mmu, LINEAR, MMU_WRITE), 1);
        machine_destroy(suite.machine);
    }
}

static void flush_a_page(struct suite *suite)
{
    mmu_flush_page(suite->mmu, GLOBAL);
}

/* A table that is no longer one of the space's is not gone through after any flush of it, nor after
 * that of a page anywhere. */
static void test_tables_are_forgotten(void **state)
{
    (void)state;
    void (*const ends[])(struct suite *) = {flush_it, flush_local, flush_all, flush_a_page};
    for (unsigned i = 0; i < ARRAY_LENGTH(ends); i++) {
        struct suite suite = return_after(ends[i]);
        assert_int_equal(references_of(suite.mmu, BESIDE, PAGE_A), 4);
        machine_destroy(suite.machine);
    }
}

/* Without bit 63 a load of CR3 flushes its own PCID, and no other; without PCIDs, all. */
static void test_not_kept(void **state)
{
    (void)state;
    struct suite suite = make();
    touch(suite.mmu);
    leave_and_return(suite.mmu, !KEEP);
    assert_int_equal(misses_of(suite.mmu, LINEAR, MMU_READ), 1);
    assert_int_equal(misses_of(suite.mmu, GLOBAL, MMU_READ), 0);
    mmu_load_cr3(suite.mmu, OTHER_ROOT | 1, KEEP);
    assert_int_equal(suite.mmu->stats.space_returns, 1);

    mmu_load_cr3(suite.mmu, ROOT, KEEP);
    suite.mmu->cr4 &= ~CR4_PCIDE_BIT;
    mmu_flush(suite.mmu, false);
    touch(suite.mmu);
    mmu_load_cr3(suite.mmu, OTHER_ROOT, KEEP);
    assert_int_equal(reach(suite.mmu, LINEAR, MMU_READ, MMU_USER), PAGE_B);
    mmu_load_cr3(suite.mmu, ROOT, KEEP);
    assert_int_equal(misses_of(suite.mmu, LINEAR, MMU_READ), 1);
    machine_destroy(suite.machine);
}

/* More pages than are kept: the others are walked to again, and all are right. */
static void test_many_pages(void **state)
{
    (void)state;
    struct suite suite = make();
    const unsigned pages = 400; /* two entries each */
    for (unsigned i = 0; i < pages; i++)
        machine_map(suite.machine, ROOT, LINEAR + i * PAGE_SIZE, PAGE_A | LEAF);
    for (unsigned i = 0; i < pages; i++)
        assert_int_equal(reach(suite.mmu, LINEAR + i * PAGE_SIZE, MMU_WRITE, MMU_USER), PAGE_A);
    leave_and_return(suite.mmu, KEEP);
    uint64_t misses = 0;
    for (unsigned i = 0; i < pages; i++)
        misses += misses_of(suite.mmu, LINEAR + i * PAGE_SIZE, MMU_WRITE);
    assert_in_range(misses, 1, pages - 1);
    machine_destroy(suite.machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_tables_are_of_one_space),
        cmocka_unit_test(test_tables_are_forgotten),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_not_kept),
        cmocka_unit_test(test_many_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
