/* Pages that share a slot of the TLB: read and write entries, and spare ones. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "mmu/tlb.h"
#include "mmu/tlb_tables.h"
#include "tlb_fixture.h"

static bool is_in_reach(uint64_t tag, unsigned slot)
{
    return (tag & PAGE_MASK) == 0 || main_slot(tag) == slot || main_slot(tag + PAGE_MASK) == slot;
}

/* No address of its slot is in the 4 KiB from the tag of an empty entry on, nor is that a page;
 * there are such entries from the beginning where 0, that of all others, would not do. */
static void test_empty_entries(void **state)
{
    struct mmu *mmu = mmu_of(state);
    for (unsigned slot = 0; slot < TLB_ENTRIES; slot++) {
        assert_false(is_in_reach(tlb_no_tag(slot), slot));
        assert_true(slot == 0 || main_slot(PAGE_MASK) != slot);
    }
    for (unsigned privilege = 0; privilege <= MMU_USER_CHECKED; privilege++) {
        for (unsigned access = MMU_READ; access <= MMU_WRITE; access++)
            assert_false(is_in_reach(mmu->tlb[privilege][0].of[access].tag, 0));
    }
}

/* Copying between two pages that share a slot: each has a place, and keeps it. Revocations and
 * flushes find both. */
static void test_copy(void **state)
{
    struct machine *machine = *state;
    struct mmu *mmu = mmu_of(state);
    const uint64_t to = LINEAR + (uint64_t)TLB_ENTRIES * PAGE_SIZE;
    const uint64_t table_of_it = 0x90000; /* the fixture has one for all */
    machine_put(machine, ROOT + 0x2000 + (to >> 21 & 511) * 8, table_of_it | LEAF);
    machine_put(machine, table_of_it + (to >> 12 & 511) * 8, PAGE_B | LEAF);
    for (unsigned round = 0; round < 4; round++) {
        assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_USER), PAGE_A);
        assert_int_equal(reach(mmu, to, MMU_WRITE, MMU_USER), PAGE_B);
        assert_non_null(mmu_probe_read(mmu, MMU_USER, LINEAR, 8));
        assert_non_null(mmu_probe_write(mmu, MMU_USER, to, 8));
        assert_null(mmu_probe_write(mmu, MMU_USER, LINEAR, 8));
        switch (round) {
        case 0:
            mmu_flush_page(mmu, to);
            break;
        case 1:
            mmu_flush(mmu, true);
            break;
        case 2:
            mmu_mark_code(mmu, PAGE_B >> PAGE_SHIFT);
            break;
        default:
            mmu_park(mmu);
            machine_revoke(machine, PAGE_B >> PAGE_SHIFT);
            mmu_unpark(mmu);
            break;
        }
        assert_null(mmu_probe_write(mmu, MMU_USER, to, 8));
    }
    /* A page alone is in both tables after one miss. */
    mmu_flush(mmu, false);
    uint64_t misses = mmu->stats.tlb_misses;
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    assert_non_null(mmu_probe_write(mmu, MMU_USER, LINEAR, 8));
    mmu_flush(mmu, false);
    reach(mmu, LINEAR, MMU_WRITE, MMU_USER);
    assert_non_null(mmu_probe_read(mmu, MMU_USER, LINEAR, 8));
    assert_int_equal(mmu->stats.tlb_misses, misses + 2);
}

/* Pages that take each other's slot are walked to once each; and whatever drops an entry drops it
 * where it is kept meanwhile, too. */
static void test_spare_entries(void **state)
{
    struct machine *machine = *state;
    struct mmu *mmu = mmu_of(state);
    enum { PAGES = 5, FLUSH_PAGE = 0, FLUSH_LOCAL, FLUSH_ALL, WATCH, REVOKE, MARK_CODE, DROPS };
    uint64_t linear[PAGES], gpa[PAGES];
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t table = 0x90000 + i * PAGE_SIZE;
        linear[i] = LINEAR + (uint64_t)i * TLB_ENTRIES * PAGE_SIZE;
        gpa[i] = 0x80000 + i * PAGE_SIZE;
        machine_at(machine, gpa[i]);
        machine_put(machine, ROOT + 0x2000 + (linear[i] >> 21 & 511) * 8, table | LEAF);
        machine_put(machine, table + (linear[i] >> 12 & 511) * 8, gpa[i] | LEAF);
    }
    for (enum mmu_access access = MMU_READ; access <= MMU_WRITE; access++) {
        for (enum mmu_privilege privilege = 0; privilege < MMU_PRIVILEGES; privilege++) {
            mmu_flush(mmu, false);
            uint64_t misses = mmu->stats.tlb_misses;
            for (unsigned i = 0; i < 10 * PAGES; i++)
                assert_int_equal(reach(mmu, linear[i % PAGES], access, privilege), gpa[i % PAGES]);
            assert_int_equal(mmu->stats.tlb_misses, misses + PAGES);
        }
        for (unsigned drop = 0; drop < DROPS; drop++) {
            for (unsigned i = 0; i < 2 * PAGES; i++)
                reach(mmu, linear[i % PAGES], access, MMU_USER);
            /* The last one is where a probe looks; this one is not. */
            assert_null(mmu_probe(mmu, access, MMU_USER, linear[0], 1));
            uint64_t misses = mmu->stats.tlb_misses;
            bool goes = true;
            switch (drop) {
            case FLUSH_PAGE:
                mmu_flush_page(mmu, linear[0] + 5);
                break;
            case FLUSH_LOCAL:
            case FLUSH_ALL:
                mmu_flush(mmu, drop == FLUSH_LOCAL);
                break;
            case WATCH:
                mmu_watch(mmu, &linear[0], 1);
                break;
            case REVOKE:
                mmu_watch(mmu, NULL, 0);
                reach(mmu, linear[0], access, MMU_USER);
                reach(mmu, linear[1], access, MMU_USER);
                misses = mmu->stats.tlb_misses;
                mmu_park(mmu);
                machine_revoke(machine, gpa[0] >> PAGE_SHIFT);
                mmu_unpark(mmu);
                break;
            default:
                mmu_mark_code(mmu, gpa[0] >> PAGE_SHIFT);
                goes = access == MMU_WRITE;
                break;
            }
            assert_int_equal(reach(mmu, linear[0], access, MMU_USER), gpa[0]);
            assert_int_equal(mmu->stats.tlb_misses, misses + goes);
        }
    }
}

/* Generated code looks for an access by its first byte's page, and compares its last byte's: that
 * must not be in the same slot. Only over the border of a region is that not plain to see. */
static void test_spare_neighbours(void **state)
{
    (void)state;
    struct mmu *mmu = calloc(1, sizeof *mmu);
    assert_non_null(mmu);
    static const struct {
        uint64_t ram_pages;
        unsigned entries;
    } sizes[] = {{256, 8192}, {8193, 16384}, {32768, 32768}, {32769, 65536}, {1 << 20, 65536}};
    for (unsigned i = 0; i < ARRAY_LENGTH(sizes); i++) {
        tlb_init(mmu, sizes[i].ram_pages);
        assert_int_equal(1u << mmu->tlb_spare_bits, sizes[i].entries);
        assert_in_range(sizes[i].entries, 1, TLB_SPARE_ENTRIES);
        const uint64_t region = sizes[i].entries * PAGE_SIZE;
        for (uint64_t border = 0; border >> 48 == 0; border += region)
            assert_int_not_equal(tlb_spare_slot(mmu, border - 1), tlb_spare_slot(mmu, border));
        for (uint64_t linear = 0; linear < region; linear += PAGE_SIZE) {
            assert_int_not_equal(tlb_spare_slot(mmu, linear),
                                 tlb_spare_slot(mmu, linear + PAGE_SIZE));
        }
    }
    free(mmu);
}

/* An entry that comes back is as it was: global, or a piece of a large page. */
static void test_spare_kinds(void **state)
{
    struct machine *machine = *state;
    struct mmu *mmu = mmu_of(state);
    const uint64_t other = LINEAR + (uint64_t)TLB_ENTRIES * PAGE_SIZE, table = 0x90000;
    machine_put(machine, ROOT + 0x2000 + (other >> 21 & 511) * 8, table | LEAF);
    machine_put(machine, table + (other >> 12 & 511) * 8, PAGE_B | LEAF);
    machine_map(machine, ROOT, LINEAR, PAGE_A | LEAF | PTE_G);
    mmu->cr4 = CR4_PAE_BIT | CR4_PGE_BIT;
    for (unsigned recalled = 0; recalled < 2; recalled++) {
        mmu_flush(mmu, false);
        reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
        reach(mmu, other, MMU_READ, MMU_SUPERVISOR);
        if (recalled)
            reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
        uint64_t misses = mmu->stats.tlb_misses;
        mmu_flush(mmu, true);
        reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
        assert_int_equal(mmu->stats.tlb_misses, misses);
        reach(mmu, other, MMU_READ, MMU_SUPERVISOR);
        assert_int_equal(mmu->stats.tlb_misses, misses + 1);
    }
    machine_put(machine, ROOT + 0x2000 + (other >> 21 & 511) * 8, 4 * MIB | LEAF | PTE_PS);
    mmu_flush(mmu, false);
    reach(mmu, other, MMU_READ, MMU_SUPERVISOR);
    reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
    uint64_t misses = mmu->stats.tlb_misses;
    mmu_flush_page(mmu, other + 0x1f000);
    reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
    assert_int_equal(mmu->stats.tlb_misses, misses);
    reach(mmu, other, MMU_READ, MMU_SUPERVISOR);
    assert_int_equal(mmu->stats.tlb_misses, misses + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_empty_entries, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_spare_entries, setup, teardown),
        cmocka_unit_test(test_spare_neighbours),
        cmocka_unit_test_setup_teardown(test_spare_kinds, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
