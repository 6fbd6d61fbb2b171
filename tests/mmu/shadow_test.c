/* Shadow page tables, one by one: what a look-up reads, which faults are whose, when a table is
 * looked at again, and what must not survive a revocation. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mmu/walk.h"
#include "tlb_fixture.h"

#define REGION    ((uint64_t)2 * MIB)
#define DATA      REGION
#define DATA_PPN  (DATA >> PAGE_SHIFT)
#define DIRECTORY (ROOT + 0x2000 + (LINEAR >> 21 & 511) * 8)
#define TABLE     (ROOT + 0x3000)
#define ENTRY     (TABLE + (LINEAR >> 12 & 511) * 8)

static struct machine *make(unsigned cpus)
{
    struct machine *machine = machine_create_with(
        cpus, &(struct mmu_config){.mode = MMU_SHADOW, .shadow_bytes = 4 * MIB});
    for (uint64_t at = 0; at < 2 * REGION; at += PAGE_SIZE)
        machine_at(machine, at);
    machine_map(machine, ROOT, LINEAR, PAGE_A | LEAF);
    for (unsigned i = 0; i < cpus; i++)
        machine_long_mode(&machine->cpus[i].mmu, ROOT);
    return machine;
}

static const struct shadow_stats *stats_of(const struct mmu *mmu)
{
    return shadow_get_stats(mmu->shadow);
}

static void write_entry(struct machine *machine, struct mmu *mmu, uint64_t gpa, uint64_t value)
{
    mmu_park(mmu);
    machine_put(machine, gpa, value);
    mmu_unpark(mmu);
}

/* Four references, whatever walk caches and the nested table have. */
static void test_references(void **state)
{
    (void)state;
    struct machine *machine = make(1);
    struct mmu *mmu = &machine->cpus[0].mmu;
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    uint64_t walks = mmu->stats.walks, references = mmu->stats.walk_references;
    reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR); /* its own TLB */
    assert_int_equal(mmu->stats.walk_references - references, 4);
    assert_int_equal(mmu->stats.walks, walks);
    machine_destroy(machine);
}

/* A fault of the guest's is true; what only the shadow does not know is hidden from it. */
static void test_faults(void **state)
{
    (void)state;
    struct machine *machine = make(1);
    struct mmu *mmu = &machine->cpus[0].mmu;
    assert_int_equal(resolve(mmu, LINEAR + PAGE_SIZE, MMU_READ, MMU_USER), MMU_FAULT);
    assert_int_equal(mmu->stats.page_faults, 1);
    assert_int_equal(stats_of(mmu)->hidden_faults, 0);
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    assert_int_equal(stats_of(mmu)->hidden_faults, 1);
    assert_int_equal(stats_of(mmu)->nodes, 4);
    mmu_flush(mmu, false);
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    assert_int_equal(stats_of(mmu)->hidden_faults, 1);
    assert_int_equal(mmu->stats.page_faults, 1);
    machine_destroy(machine);
}

/* A hidden fault brings what is known of the entries beside: those that were accessed, with their
 * rights, to pages that are at hand. */
static void test_neighbours(void **state)
{
    (void)state;
    struct machine *machine = make(1);
    struct mmu *mmu = &machine->cpus[0].mmu;
    const uint64_t line = align_down(LINEAR, 8 * PAGE_SIZE), far = line + 16 * PAGE_SIZE;
    const uint64_t first = ENTRY - (LINEAR - line) / PAGE_SIZE * 8;
    const uint64_t entries[] = {
        PAGE_B | LEAF,
        PAGE_A | LEAF,
        (PAGE_A | LEAF) & ~PTE_A,
        (PAGE_A | LEAF) & ~PTE_D,
        (PAGE_A | LEAF) & ~PTE_W,
        (PAGE_A | LEAF) & ~PTE_P,
        PAGE_A | LEAF | bit(51), /* reserved */
        DATA | LEAF,             /* nobody has used that page yet */
        PAGE_A | LEAF,           /* of the next line */
    };
    machine_map(machine, ROOT, far, PAGE_A | LEAF);
    reach(mmu, far, MMU_WRITE, MMU_USER);
    for (unsigned i = 0; i < ARRAY_LENGTH(entries); i++)
        machine_put(machine, first + i * 8, entries[i]);
    uint64_t before = stats_of(mmu)->hidden_faults;
    assert_int_equal(reach(mmu, line, MMU_WRITE, MMU_USER), PAGE_B);
    assert_int_equal(stats_of(mmu)->hidden_faults - before, 1);
    assert_int_equal(reach(mmu, line + 1 * PAGE_SIZE, MMU_WRITE, MMU_USER), PAGE_A);
    assert_int_equal(reach(mmu, line + 3 * PAGE_SIZE, MMU_READ, MMU_USER), PAGE_A);
    assert_int_equal(reach(mmu, line + 4 * PAGE_SIZE, MMU_READ, MMU_USER), PAGE_A);
    assert_int_equal(stats_of(mmu)->hidden_faults - before, 1);
    assert_int_equal(resolve(mmu, line + 4 * PAGE_SIZE, MMU_WRITE, MMU_USER), MMU_FAULT);
    reach(mmu, line + 3 * PAGE_SIZE, MMU_WRITE, MMU_USER);
    assert_int_equal(stats_of(mmu)->hidden_faults - before, 2);
    assert_true(machine_get(machine, first + 3 * 8) & PTE_D);
    assert_false(machine_get(machine, first + 2 * 8) & PTE_A);
    reach(mmu, line + 2 * PAGE_SIZE, MMU_READ, MMU_USER);
    reach(mmu, line + 7 * PAGE_SIZE, MMU_READ, MMU_USER);
    reach(mmu, line + 8 * PAGE_SIZE, MMU_READ, MMU_USER);
    assert_int_equal(stats_of(mmu)->hidden_faults - before, 5);
    assert_int_equal(resolve(mmu, line + 5 * PAGE_SIZE, MMU_READ, MMU_USER), MMU_FAULT);
    assert_int_equal(resolve(mmu, line + 6 * PAGE_SIZE, MMU_READ, MMU_USER), MMU_FAULT);
    machine_destroy(machine);
}

/* A table that is left alone is traced, and costs no look any more; one write to it ends that, and
 * counts at the next flush. */
static void test_tracing(void **state)
{
    (void)state;
    struct machine *machine = make(1);
    struct mmu *mmu = &machine->cpus[0].mmu;
    for (unsigned i = 0; i < 10; i++) {
        reach(mmu, LINEAR, MMU_READ, MMU_USER);
        mmu_flush(mmu, false);
    }
    assert_int_equal(stats_of(mmu)->traces, 4);
    assert_true(pmap_code_is_guarded(machine->map, TABLE >> PAGE_SHIFT));
    uint64_t resyncs = stats_of(mmu)->resyncs;
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    assert_int_equal(stats_of(mmu)->resyncs, resyncs);
    write_entry(machine, mmu, ENTRY, PAGE_B | LEAF);
    assert_int_equal(stats_of(mmu)->traced_writes, 1);
    assert_false(pmap_has_code(machine->map, TABLE >> PAGE_SHIFT));
    mmu_flush_page(mmu, LINEAR);
    assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_USER), PAGE_B);
    assert_int_equal(stats_of(mmu)->resyncs, resyncs + 1);
    machine_destroy(machine);
}

/* Another CPU's table writes count after this one's flush. */
static void test_other_writes(void **state)
{
    (void)state;
    struct machine *machine = make(2);
    struct mmu *mmu = &machine->cpus[0].mmu, *other = &machine->cpus[1].mmu;
    mmu_park(other);
    for (unsigned i = 0; i < 10; i++) {
        reach(mmu, LINEAR, MMU_READ, MMU_USER);
        mmu_flush(mmu, false);
    }
    mmu_park(mmu);
    mmu_unpark(other);
    machine_at(machine, TABLE);
    write_entry(machine, other, ENTRY, PAGE_B | LEAF);
    mmu_park(other);
    mmu_unpark(mmu);
    mmu_flush(mmu, true);
    assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_USER), PAGE_B);
    machine_destroy(machine);
}

/*
 * A table that is put where none was is read from then on, without a flush: also one that the
 * shadow knows from another place, whether it was traced there or has been compared.
 */
static void test_linked_anew(void **state)
{
    (void)state;
    const uint64_t elsewhere = LINEAR + 8 * REGION, next = LINEAR + PAGE_SIZE;
    for (unsigned quiet = 0; quiet <= 10; quiet += 10) {
        struct machine *machine = make(1);
        struct mmu *mmu = &machine->cpus[0].mmu;
        machine_put(machine, ENTRY + 8, PAGE_A | LEAF);
        reach(mmu, next, MMU_READ, MMU_USER);
        for (unsigned i = 0; i < quiet; i++) {
            reach(mmu, LINEAR, MMU_READ, MMU_USER);
            mmu_flush(mmu, false);
        }
        reach(mmu, LINEAR, MMU_READ, MMU_USER);
        assert_int_equal(stats_of(mmu)->traces, quiet == 0 ? 0 : 4);
        write_entry(machine, mmu, ENTRY + 8, PAGE_B | LEAF);
        write_entry(machine, mmu, DIRECTORY + 8 * 8, TABLE | PTE_P | PTE_W | PTE_U);
        reach(mmu, elsewhere, MMU_READ, MMU_USER);
        assert_int_equal(reach(mmu, elsewhere + PAGE_SIZE, MMU_READ, MMU_USER), PAGE_B);
        machine_destroy(machine);
    }
}

/* A large leaf is of pages that are all there now: one page of it has been revoked since the walk
 * cache was told of its neighbour that it is part of a large leaf. */
static void test_large_after_revocation(void **state)
{
    (void)state;
    struct machine *machine = make(1);
    struct mmu *mmu = &machine->cpus[0].mmu;
    for (uint64_t i = 0; i < REGION / PAGE_SIZE; i++)
        walk_nested(mmu, DATA_PPN + i, true);
    write_entry(machine, mmu, ENTRY, DATA | LEAF);
    mmu_flush(mmu, false);
    for (uint64_t i = 0; i < WALK_CACHE_PAGES; i++) /* other pages take the cache's places, ... */
        walk_nested(mmu, i, false);
    mmu->walk_cache.pages[DATA_PPN % WALK_CACHE_PAGES].ppn = 0;
    reach(mmu, LINEAR, MMU_READ, MMU_USER); /* ... so that this asks the nested table */
    mmu_park(mmu);
    machine_revoke(machine, DATA_PPN + 7);
    mmu_unpark(mmu);
    mmu_mark_code(mmu, DATA_PPN + 7);
    write_entry(machine, mmu, DIRECTORY, DATA | LEAF | PTE_PS);
    mmu_flush(mmu, false);
    uint64_t first = LINEAR & ~(REGION - 1);
    assert_int_equal(reach(mmu, first, MMU_WRITE, MMU_USER), DATA);
    unsigned drops = machine->cpus[0].drops;
    assert_int_equal(reach(mmu, first + 7 * PAGE_SIZE, MMU_WRITE, MMU_USER), DATA + 7 * PAGE_SIZE);
    assert_true(machine->cpus[0].drops > drops);
    machine_destroy(machine);
}

/* A page fault takes along what the shadow had for its address: what is put there needs no flush,
 * though the entry was another before. */
static void test_fault_refreshes(void **state)
{
    (void)state;
    struct machine *machine = make(1);
    struct mmu *mmu = &machine->cpus[0].mmu;
    write_entry(machine, mmu, ENTRY, PAGE_A | (LEAF & ~PTE_U));
    reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR);
    write_entry(machine, mmu, ENTRY, 0);
    assert_int_equal(resolve(mmu, LINEAR, MMU_READ, MMU_USER), MMU_FAULT);
    write_entry(machine, mmu, ENTRY, PAGE_B | LEAF);
    assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_SUPERVISOR), PAGE_B);
    machine_destroy(machine);
}

/* Tracing a table parks. Generated code, which holds host addresses, is never told by way of that.
 */
static void test_find_traces_nothing(void **state)
{
    (void)state;
    struct machine *machine = make(1);
    struct mmu *mmu = &machine->cpus[0].mmu;
    uint64_t found = 0, refused = 0;
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    for (unsigned round = 0; round < 100; round++) {
        uint64_t traces = stats_of(mmu)->traces;
        mmu_flush(mmu, false);
        uint8_t *host = mmu_find(mmu, LINEAR, MMU_READ, MMU_USER);
        assert_int_equal(stats_of(mmu)->traces, traces);
        assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_USER), PAGE_A);
        if (host != NULL)
            assert_ptr_equal(host, target.host);
        found += host != NULL;
        refused += host == NULL;
    }
    /* Once all tables are traced there is nothing to park for. */
    assert_in_range(stats_of(mmu)->traces, 1, refused * WALK_LEVELS_MAX);
    assert_true(found > 50);
    machine_destroy(machine);
}

/* A guest that walks through ever more page tables costs no more memory than it may, and no other
 * machine anything. */
static void test_bound(void **state)
{
    (void)state;
    enum { REGIONS = 400, PASSES = 3 };
    const uint64_t tables = 4 * MIB;
    struct machine *other = make(1),
                   *machine = machine_create_with(
                       1, &(struct mmu_config){.mode = MMU_SHADOW, .shadow_bytes = MIB});
    struct mmu *mmu = &machine->cpus[0].mmu, *others = &other->cpus[0].mmu;
    machine_map(machine, ROOT, LINEAR, PAGE_A | LEAF);
    for (uint64_t i = 1; i < REGIONS; i++) {
        uint64_t linear = LINEAR + i * REGION, table = tables + i * PAGE_SIZE;
        machine_put(machine, ROOT + PAGE_SIZE + (linear >> 30 & 511) * 8, (ROOT + 0x2000) | LEAF);
        machine_put(machine, ROOT + 0x2000 + (linear >> 21 & 511) * 8, table | LEAF);
        machine_put(machine, table + (linear >> 12 & 511) * 8, (i % 2 ? PAGE_A : PAGE_B) | LEAF);
    }
    machine_long_mode(mmu, ROOT);
    reach(others, LINEAR, MMU_READ, MMU_USER);
    struct shadow_stats before = *stats_of(others);
    for (unsigned pass = 0; pass < PASSES; pass++) {
        for (uint64_t i = 1; i < REGIONS; i++) {
            mmu_flush(mmu, false);
            assert_int_equal(reach(mmu, LINEAR + i * REGION, MMU_READ, MMU_USER),
                             i % 2 ? PAGE_A : PAGE_B);
            assert_in_range(shadow_bytes(mmu->shadow), 1, MIB);
        }
    }
    assert_true(stats_of(mmu)->evictions > PASSES * REGIONS / 2);
    assert_memory_equal(stats_of(others), &before, sizeof before);
    machine_destroy(machine);
    machine_destroy(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_tracing),
        cmocka_unit_test(test_other_writes),
        cmocka_unit_test(test_linked_anew),
        cmocka_unit_test(test_large_after_revocation),
        cmocka_unit_test(test_fault_refreshes),
        cmocka_unit_test(test_find_traces_nothing),
        cmocka_unit_test(test_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
