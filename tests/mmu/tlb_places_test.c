/*
 * Revocations find their entries by the places of a page: over random histories of fills, flushes,
 * address spaces that are left and come back, nothing that maps a revoked page is left, and every
 * entry is where its page's places say.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "mmu/space.h"
#include "mmu/tlb.h"
#include "mmu/tlb_places.h"
#include "util/xorshift.h"

#define LINEARS   48u
#define PPNS      24u
#define SHARED    8192u /* PPNs so far apart share their places in the smallest TLB */
#define PCIDS     4u
#define HISTORIES 40u
#define STEPS     4000u

struct world {
    struct mmu *mmu;
    uint64_t seed;
    unsigned pcid;
    uint64_t full; /* revocations of pages with many places */
};

static const uint8_t memory[1];

static uint64_t below(struct world *world, uint64_t n)
{
    return xorshift_next(&world->seed) % n;
}

/* A third of them share slots of the main table, and a third those of spare ones. */
static uint64_t linear_of(uint64_t n)
{
    const uint64_t far[] = {1, TLB_ENTRIES, SHARED};
    return 0x7f0000000000 + (n / 3 * far[n % 3] + n % 3 * 64) * PAGE_SIZE;
}

static uint64_t ppn_of(uint64_t n)
{
    return 100 + n / 2 + n % 2 * SHARED;
}

static bool is_at_a_place(struct mmu *mmu, uint64_t tag, uint64_t ppn)
{
    const struct tlb_places *places = places_of(mmu, ppn);
    uint32_t place = place_of(mmu, tag);
    bool found = places_are_many(places);
    for (unsigned i = 0; i < TLB_PLACES; i++)
        found |= places->of[i] == place;
    return found;
}

/* Pages that have no entries, or none for writes. */
struct gone {
    const struct tlb_pages *pages; /* NULL: none */
    bool for_writes;
};

static void check_entry(struct mmu *mmu, const struct data_table *table, unsigned slot,
                        const void *argument)
{
    const struct gone *gone = argument;
    uint64_t ppn = *info_at(table, slot) >> INFO_PPN_SHIFT;
    assert_true(is_at_a_place(mmu, entry_at(table, slot)->tag, ppn));
    for (unsigned i = 0; gone->pages != NULL && i < gone->pages->count; i++)
        assert_true(ppn != gone->pages->ppns[i] || (gone->for_writes && table->access == MMU_READ));
}

static void check(struct world *world, const struct tlb_pages *gone, bool for_writes)
{
    struct mmu *mmu = world->mmu;
    data_visit(mmu, check_entry, &(struct gone){gone, for_writes});
    for (unsigned table = 0; table < ARRAY_LENGTH(mmu->itlb); table++) {
        for (unsigned slot = 0; slot < ITLB_ENTRIES; slot++) {
            const struct itlb_entry *entry = &mmu->itlb[table][slot];
            for (unsigned i = 0; gone != NULL && !for_writes && i < gone->count; i++)
                assert_true(!tlb_use_has(&mmu->itlb_use[table], slot) ||
                            entry->info >> INFO_PPN_SHIFT != gone->ppns[i]);
        }
    }
}

static void fill(struct world *world)
{
    uint64_t linear = linear_of(below(world, LINEARS));
    enum mmu_privilege privilege = below(world, MMU_PRIVILEGES);
    struct tlb_page page = {.ppn = ppn_of(below(world, PPNS)),
                            .host = memory,
                            .info = below(world, 4) == 0 ? TLB_GLOBAL : 0,
                            .writable = below(world, 2)};
    if (below(world, 8) == 0) {
        tlb_fill_code(world->mmu, privilege, linear, &page);
        return;
    }
    tlb_drop_page(world->mmu, linear); /* it may have been another's */
    tlb_fill_data(world->mmu, privilege, linear, page.writable ? MMU_WRITE : MMU_READ, &page);
}

static void revoke(struct world *world)
{
    uint64_t ppns[PPNS];
    unsigned count = 0;
    struct tlb_pages pages;
    for (unsigned n = 0; n < PPNS; n++) {
        if (below(world, 8) == 0)
            ppns[count++] = ppn_of(n);
    }
    for (unsigned i = 0; i < count; i++)
        world->full += places_are_many(places_of(world->mmu, ppns[i]));
    tlb_pages_init(&pages, ppns, count);
    tlb_drop_mappings(world->mmu, &pages);
    space_forget_all(world->mmu); /* as domain.c does */
    check(world, &pages, false);
}

static void drop_writes(struct world *world)
{
    uint64_t ppn = ppn_of(below(world, PPNS));
    struct tlb_pages pages;
    tlb_drop_writes(world->mmu, ppn);
    space_forget_all(world->mmu);
    tlb_pages_init(&pages, &ppn, 1);
    check(world, &pages, true);
}

static void switch_space(struct world *world)
{
    space_leave(world->mmu, world->pcid);
    world->pcid = (unsigned)below(world, PCIDS);
    space_enter(world->mmu, world->pcid);
}

static void step(struct world *world)
{
    uint64_t linear = linear_of(below(world, LINEARS));
    switch (below(world, 32)) {
    case 0:
        revoke(world);
        break;
    case 1:
        drop_writes(world);
        break;
    case 2:
        switch_space(world);
        check(world, NULL, false);
        break;
    case 3:
        tlb_drop_page(world->mmu, linear);
        break;
    case 4:
        if (below(world, 8) == 0)
            tlb_flush(world->mmu, below(world, 2));
        break;
    case 5:
    case 6:
        tlb_recall(world->mmu, below(world, MMU_PRIVILEGES), linear, below(world, 2));
        break;
    default:
        fill(world);
        break;
    }
}

static void test_histories(void **state)
{
    (void)state;
    uint64_t full = 0, lost = 0;
    for (unsigned history = 0; history < HISTORIES; history++) {
        struct world world = {.mmu = calloc(1, sizeof *world.mmu), .seed = 2 * history + 1};
        assert_non_null(world.mmu);
        tlb_init(world.mmu, SHARED);
        for (unsigned i = 0; i < STEPS; i++)
            step(&world);
        check(&world, NULL, false);
        full += world.full;
        lost += world.mmu->places_lost;
        free(world.mmu);
    }
    /* Otherwise it would have tested the simple way alone. */
    assert_true(full > HISTORIES && lost > HISTORIES);
}

/* A page at so many linear addresses, of which some are not there any more. */
static void test_mapped_often(void **state)
{
    (void)state;
    struct mmu *mmu = calloc(1, sizeof *mmu);
    assert_non_null(mmu);
    tlb_init(mmu, SHARED);
    const uint64_t ppn = 7;
    const struct tlb_page page = {.ppn = ppn, .host = memory, .writable = true};
    for (unsigned count = 1; count <= 3 * TLB_PLACES; count++) {
        struct tlb_pages pages;
        for (unsigned i = 0; i < count; i++)
            tlb_fill_data(mmu, MMU_USER, linear_of(3 * i), MMU_READ, &page);
        assert_int_equal(places_are_many(places_of(mmu, ppn)), count > TLB_PLACES);
        tlb_pages_init(&pages, &ppn, 1);
        tlb_drop_mappings(mmu, &pages);
        for (unsigned i = 0; i < count; i++) {
            for (enum mmu_access access = MMU_READ; access <= MMU_WRITE; access++) {
                assert_null(mmu_probe(mmu, access, MMU_USER, linear_of(3 * i), 1));
                assert_false(tlb_recall(mmu, MMU_USER, linear_of(3 * i), access));
            }
        }
        assert_false(places_are_many(places_of(mmu, ppn)));
    }
    /* One after another, as processes have it: none of the old places is in the way. */
    for (unsigned i = 0; i < 10 * TLB_PLACES; i++) {
        tlb_fill_data(mmu, MMU_USER, linear_of(3 * i), MMU_READ, &page);
        assert_false(places_are_many(places_of(mmu, ppn)));
        tlb_flush(mmu, true);
    }
    free(mmu);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histories),
        cmocka_unit_test(test_mapped_often),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
