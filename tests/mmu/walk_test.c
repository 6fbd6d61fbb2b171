/*
 * Page walks against the oracle: every combination that can matter, in every paging mode.
 *
 * An entry is described by eight bits: P, W, U, NX, PS, "a reserved bit", A, D; what the CPU
 * ignores is noise. 32-bit paging is tried in full (both levels, all bits). With more levels the
 * full product is out of reach, so three sets cover it: all combinations of W, U and NX at all
 * levels (present, A and D at random); all 256 descriptions of each single level with the other
 * levels open and closed; and random descriptions of all levels. Each case is tried with all 16
 * settings of WP, SMEP, SMAP and NXE, three accesses and three privileges.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fixture.h"
#include "mmu/walk.h"
#include "oracle.h"

/* Tables of the path, in the order of the walk, and the page it ends at. */
#define TABLE(n)   (0x10000 + (uint64_t)(n)*PAGE_SIZE)
#define DATA_SMALL 0x20000u
#define DATA_LARGE 0x400000u /* 2 MiB and 4 MiB aligned */

enum describe { D_P = 1, D_W = 2, D_U = 4, D_NX = 8, D_PS = 16, D_RSVD = 32, D_A = 64, D_D = 128 };
#define D_OPEN (D_P | D_W | D_U)

struct suite {
    struct machine *machine;
    struct mmu *mmu;
    enum oracle_mode mode;
    unsigned levels;
    uint64_t linear;
    unsigned index[4]; /* of the entry in each table */
    void *slots[4];    /* its host address */
    bool high_pages;   /* 32-bit: large pages are above 4 GiB (PSE-36) */
    bool walk_caches;
    uint64_t seed;
    uint64_t cases, faults[2]; /* tried; page faults with RSVD, and without */
};

static void suite_begin(struct suite *suite, enum oracle_mode mode, unsigned levels,
                        uint64_t linear, bool walk_caches)
{
    *suite = (struct suite){.mode = mode,
                            .levels = levels,
                            .linear = linear,
                            .walk_caches = walk_caches,
                            .seed = levels};
    suite->machine = machine_create_with(
        1, &(struct mmu_config){.no_walk_caches = !walk_caches, .no_host_large = true});
    suite->mmu = &suite->machine->cpus[0].mmu;
    unsigned index_bits = mode == ORACLE_32 ? 10 : 9, size = mode == ORACLE_32 ? 4 : 8;
    for (unsigned i = 0; i < levels; i++) {
        unsigned shift = 12 + index_bits * (levels - 1 - i);
        suite->index[i] = (unsigned)(linear >> shift) & ((1u << index_bits) - 1);
        suite->slots[i] = (uint8_t *)machine_at(suite->machine, TABLE(i)) + suite->index[i] * size;
    }
    /* All private: what zero pages need is not the subject here. */
    for (uint64_t at = 0; at < RAM_LOW_END; at += PAGE_SIZE)
        machine_at(suite->machine, at);
    for (uint64_t at = 0; at < 4 * MIB; at += PAGE_SIZE)
        machine_at(suite->machine, RAM_HIGH_BASE + at);
    for (uint64_t at = 0; at < RAM_LOW_END; at += PAGE_SIZE)
        walk_nested(suite->mmu, at >> PAGE_SHIFT, true);
    for (uint64_t at = 0; at < 4 * MIB; at += PAGE_SIZE)
        walk_nested(suite->mmu, (RAM_HIGH_BASE + at) >> PAGE_SHIFT, true);
}

static void suite_end(struct suite *suite)
{
    /* The sets below are worth something only if all outcomes occurred. */
    assert_true(suite->faults[0] > 0 && suite->faults[1] > 0);
    assert_true(suite->cases > suite->faults[0] + suite->faults[1]);
    machine_destroy(suite->machine);
}

/* The entry at `level` (in walk order) from its description. */
static uint64_t make_entry(struct suite *suite, unsigned level, unsigned description, bool pse)
{
    uint64_t noise = test_random(&suite->seed);
    bool leaf_level = level + 1 == suite->levels;
    bool large = !leaf_level && description & D_PS;
    uint64_t entry = 0;
    if (suite->mode == ORACLE_32)
        large = large && pse;
    else if (suite->levels - level > 3)
        large = false;

    if (description & D_P)
        entry |= PTE_P;
    if (description & D_W)
        entry |= PTE_W;
    if (description & D_U)
        entry |= PTE_U;
    if (description & D_PS)
        entry |= PTE_PS; /* PAT in a PTE */
    if (description & D_A)
        entry |= PTE_A;
    if (description & D_D)
        entry |= PTE_D;
    entry |= noise & 0xf18; /* PWT, PCD, G, available */

    if (suite->mode == ORACLE_32) {
        if (large && suite->high_pages)
            entry |= (RAM_HIGH_BASE & 0xffc00000) | (RAM_HIGH_BASE >> 32) << 13;
        else
            entry |= leaf_level ? DATA_SMALL : large ? DATA_LARGE : TABLE(level + 1);
        if (description & D_RSVD && large)
            entry |= bit(21);
        return entry;
    }
    if (description & D_NX)
        entry |= PTE_NX;
    if (suite->mode == ORACLE_LONG)
        entry |= noise & ((uint64_t)0x7ff << 52);
    if (leaf_level)
        entry |= DATA_SMALL;
    else if (!large)
        entry |= TABLE(level + 1);
    else if (suite->levels - level == 2)
        entry |= DATA_LARGE;
    if (description & D_RSVD) {
        unsigned top = suite->mode == ORACLE_LONG ? 52 : 63;
        unsigned low = large ? suite->levels - level == 2 ? 8 : 17 : 0; /* bits from 13 on */
        unsigned pick = (unsigned)(noise >> 16 & 0xff) % (top - 46 + low);
        entry |= pick < low ? bit(13 + pick) : bit(46 + pick - low);
    }
    return entry;
}

static void put_entries(struct suite *suite, const uint64_t *entries)
{
    for (unsigned i = 0; i < suite->levels; i++)
        memcpy(suite->slots[i], &entries[i], suite->mode == ORACLE_32 ? 4 : 8);
}

static void fail_case(const struct oracle_case *c, const struct oracle_result *expected,
                      const char *what, uint64_t got, uint64_t wanted)
{
    fail_msg("mode %d wp %d smep %d smap %d nxe %d pse %d access %d who %d entries %llx %llx %llx "
             "%llx (expected fault %d code %x): %s is %llx, must be %llx",
             c->mode, c->wp, c->smep, c->smap, c->nxe, c->pse, c->access, c->who,
             (unsigned long long)c->entries[0], (unsigned long long)c->entries[1],
             (unsigned long long)c->entries[2], (unsigned long long)c->entries[3], expected->fault,
             expected->error_code, what, (unsigned long long)got, (unsigned long long)wanted);
}

#define CHECK(got, wanted)                                                                         \
    do {                                                                                           \
        uint64_t got_ = (uint64_t)(got), wanted_ = (uint64_t)(wanted);                             \
        if (got_ != wanted_)                                                                       \
            fail_case(c, &expected, #got, got_, wanted_);                                          \
    } while (0)

static void check_case(struct suite *suite, const struct oracle_case *c)
{
    static const enum mmu_access accesses[] = {
        [ORACLE_READ] = MMU_READ, [ORACLE_WRITE] = MMU_WRITE, [ORACLE_FETCH] = MMU_EXECUTE};
    static const enum mmu_privilege privileges[] = {[ORACLE_USER] = MMU_USER,
                                                    [ORACLE_KERNEL] = MMU_SUPERVISOR,
                                                    [ORACLE_KERNEL_AC] = MMU_SUPERVISOR_AC};
    struct oracle_result expected = oracle_walk(c);
    struct mmu *mmu = suite->mmu;
    struct mmu_target target = {0};
    struct mmu_fault fault = {0};
    enum mmu_privilege privilege = privileges[c->who];
    uint64_t references = mmu->stats.walk_references;

    put_entries(suite, c->entries);
    mmu_flush(mmu, false);
    enum mmu_outcome outcome =
        mmu_resolve(mmu, c->linear, accesses[c->access], privilege, &target, &fault);

    suite->cases++;
    CHECK(outcome, expected.fault ? MMU_FAULT : MMU_OK);
    uint64_t after[4] = {0};
    for (unsigned i = 0; i < suite->levels; i++)
        memcpy(&after[i], suite->slots[i], suite->mode == ORACLE_32 ? 4 : 8);
    for (unsigned i = 0; i < suite->levels; i++)
        CHECK(after[i], expected.after[i]);
    /* Of each table a nested walk and the entry, and a nested walk for the page. */
    uint64_t all = (NESTED_LEVELS + 1) * expected.used + (expected.fault ? 0 : NESTED_LEVELS);
    references = mmu->stats.walk_references - references;
    CHECK(suite->walk_caches ? references <= all : references == all, true);

    const uint8_t *read = mmu_probe_read(mmu, privilege, c->linear, 1);
    const uint8_t *write = mmu_probe_write(mmu, privilege, c->linear, 1);
    if (expected.fault) {
        suite->faults[(expected.error_code & 8) == 0]++;
        CHECK(fault.error_code, expected.error_code);
        CHECK(fault.address, c->linear);
        CHECK(read != NULL || write != NULL, false);
        return;
    }
    CHECK(target.gpa, expected.address);
    bool writable = false;
    const uint8_t *page =
        pmap_page_read(suite->machine->map, expected.address >> PAGE_SHIFT, &writable);
    CHECK((uintptr_t)target.host, (uintptr_t)page + (c->linear & PAGE_MASK));
    /* And the TLB was filled with exactly what is allowed from now on. */
    bool data = c->access != ORACLE_FETCH;
    CHECK((uintptr_t)read, data ? (uintptr_t)target.host : 0);
    bool direct = data && writable && expected.may_write && expected.dirty;
    CHECK((uintptr_t)write, direct ? (uintptr_t)target.host : 0);
}

/* All settings, accesses and privileges for one set of descriptions. */
static void check_all(struct suite *suite, const unsigned *descriptions)
{
    bool is_32 = suite->mode == ORACLE_32;
    for (unsigned setting = 0; setting < 16; setting++) {
        bool last = setting & 8; /* NXE, or PSE in 32-bit paging where NX does not exist */
        struct oracle_case c = {.mode = suite->mode,
                                .wp = setting & 1,
                                .smep = setting & 2,
                                .smap = setting & 4,
                                .nxe = !is_32 && last,
                                .pse = is_32 && last,
                                .linear = suite->linear};
        for (unsigned i = 0; i < suite->levels; i++)
            c.entries[i] = make_entry(suite, i, descriptions[i], c.pse);
        suite->mmu->cr0 = CR0_PG_BIT | 1 | (c.wp ? CR0_WP_BIT : 0);
        suite->mmu->cr4 = (is_32 ? 0 : CR4_PAE_BIT) | (c.smep ? CR4_SMEP_BIT : 0) |
                          (c.smap ? CR4_SMAP_BIT : 0) | (c.pse ? CR4_PSE_BIT : 0);
        suite->mmu->efer =
            (c.nxe ? EFER_NXE_BIT : 0) | (suite->mode == ORACLE_LONG ? EFER_LMA_BIT : 0);
        suite->mmu->cr3 = TABLE(0);
        for (unsigned access = 0; access < 3; access++) {
            for (unsigned who = 0; who < 3; who++) {
                c.access = (enum oracle_access)access;
                c.who = (enum oracle_who)who;
                check_case(suite, &c);
            }
        }
    }
}

static void check_sets(struct suite *suite, unsigned random_count)
{
    unsigned levels = suite->levels, descriptions[4] = {0};
    /* W, U and NX at all levels; large is the level whose PS is set, if any. */
    for (unsigned rights = 0; rights < 1u << (3 * levels); rights++) {
        for (unsigned i = 0; i < levels; i++)
            descriptions[i] =
                D_P | (rights >> (3 * i) & 7) << 1 | (test_random(&suite->seed) & (D_A | D_D));
        check_all(suite, descriptions);
    }
    /* Each level by itself, under and above levels that are open, closed, and fully marked. */
    static const unsigned others[] = {D_OPEN, D_P, D_OPEN | D_A | D_D};
    for (unsigned level = 0; level < levels; level++) {
        for (unsigned other = 0; other < ARRAY_LENGTH(others); other++) {
            for (unsigned description = 0; description < 256; description++) {
                for (unsigned i = 0; i < levels; i++)
                    descriptions[i] = i == level ? description : others[other];
                check_all(suite, descriptions);
            }
        }
    }
    /* Anything; mostly present and without reserved bits, or all would end at the first level. */
    for (unsigned n = 0; n < random_count; n++) {
        for (unsigned i = 0; i < levels; i++) {
            uint64_t random = test_random(&suite->seed);
            descriptions[i] = random & 0xff;
            if (random >> 8 & 7)
                descriptions[i] |= D_P;
            if (random >> 16 & 7)
                descriptions[i] &= ~(unsigned)D_RSVD;
        }
        check_all(suite, descriptions);
    }
}

static void test_32(void **state)
{
    struct suite suite;
    suite_begin(&suite, ORACLE_32, 2, 0x80c03123, *state != NULL);
    for (unsigned pde = 0; pde < 256; pde++) {
        if (pde & D_NX)
            continue; /* no such bit */
        for (unsigned pte = 0; pte < 256; pte++) {
            if (pte & (D_NX | D_RSVD))
                continue; /* nothing is reserved in a PTE */
            unsigned descriptions[4] = {pde, pte};
            suite.high_pages = (pde ^ pte) & D_A;
            check_all(&suite, descriptions);
        }
    }
    suite_end(&suite);
}

static void test_pae(void **state)
{
    struct suite suite;
    suite_begin(&suite, ORACLE_PAE, 2, 0xc0603ff8, *state != NULL);
    suite.mmu->pdpte[3] = TABLE(0) | 1;
    check_sets(&suite, 2000);

    /* A PDPTE that is not present ends the walk before memory. */
    unsigned descriptions[4] = {D_OPEN, D_OPEN};
    suite.mmu->pdpte[3] = TABLE(0);
    uint64_t references = suite.mmu->stats.walk_references;
    struct mmu_target target;
    struct mmu_fault fault;
    uint64_t entries[4];
    for (unsigned i = 0; i < 2; i++)
        entries[i] = make_entry(&suite, i, descriptions[i], false);
    put_entries(&suite, entries);
    mmu_flush(suite.mmu, false);
    assert_int_equal(mmu_resolve(suite.mmu, suite.linear, MMU_WRITE, MMU_USER, &target, &fault),
                     MMU_FAULT);
    assert_int_equal(fault.error_code, 6);
    assert_int_equal(suite.mmu->stats.walk_references, references);
    suite_end(&suite);
}

static void test_long(void **state)
{
    struct suite suite;
    /* A page of 1 GiB begins at 0: its offset, the low 30 bits, is within RAM. */
    suite_begin(&suite, ORACLE_LONG, 4, 0xffffc123406789ab, *state != NULL);
    check_sets(&suite, 2000);
    suite_end(&suite);
}

#define BOTH_WAYS(test)                                                                            \
    {#test, test, NULL, NULL, NULL},                                                               \
    {                                                                                              \
#test " with walk caches", test, NULL, NULL, (void *)1                                     \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH_WAYS(test_32),
        BOTH_WAYS(test_pae),
        BOTH_WAYS(test_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
