/* What --mmu auto chooses, for loads that are played to it in numbers; and that a vCPU changes
 * over.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mmu/tlb.h"
#include "tlb_fixture.h"

/* What a miss takes in each mode, in clock cycles. */
struct load {
    uint64_t cycles[2];
    unsigned build;         /* windows in which a new shadow is twice as dear or less */
    uint64_t traced_writes; /* in a window of the shadow */
    uint64_t changes;
};

struct play {
    struct auto_choice choice;
    uint64_t built;       /* misses since the shadow was begun */
    uint64_t spent, best; /* cycles */
    uint64_t misses;
    uint64_t seed, noise; /* percent */
    uint64_t phase; /* misses after which the host is slower or faster; 0: it is always alike */
};

/* Up to the next decision. */
static void window(struct play *play, const struct load *load)
{
    struct auto_choice *choice = &play->choice;
    enum mmu_mode mode = choice->mode;
    uint64_t least = load->cycles[0] < load->cycles[1] ? load->cycles[0] : load->cycles[1];
    uint64_t misses = choice->trying ? AUTO_TRIAL_WINDOW : AUTO_WINDOW;
    uint64_t build = (uint64_t)load->build * AUTO_WINDOW, cycles = load->cycles[mode];
    if (mode == MMU_NESTED && !choice->keeps)
        play->built = 0;
    if (mode == MMU_SHADOW) {
        if (play->built < build) {
            choice->window.built = misses;
            cycles = cycles * (2 * build - play->built) / build;
        }
        play->built += misses;
        choice->window.traced_writes = load->traced_writes * misses / AUTO_WINDOW;
        choice->window.changes = load->changes * misses / AUTO_WINDOW;
    }
    if (play->phase != 0) {
        uint64_t slow = 100 + (play->misses / play->phase * 0x9e3779b1u >> 8) % 150;
        cycles = cycles * slow / 100;
        least = least * slow / 100;
    }
    if (play->noise != 0)
        cycles = cycles * (100 + test_random(&play->seed) % play->noise) / 100;
    while (!auto_is_full(choice)) {
        if (auto_samples(choice))
            auto_measured(choice, cycles);
        auto_missed(choice);
    }
    assert_int_equal(choice->window.misses, misses);
    play->misses += misses;
    play->spent += cycles * misses;
    play->best += least * misses;
    auto_decide(choice);
}

/* As many misses as that many windows have, and to the end of a trial. */
static void windows(struct play *play, const struct load *load, unsigned count)
{
    play->spent = play->best = play->misses = 0;
    while (play->misses < (uint64_t)count * AUTO_WINDOW || play->choice.trying)
        window(play, load);
}

static struct play begin(void)
{
    struct play play = {.seed = 1};
    auto_init(&play.choice);
    return play;
}

/* It ends with the cheaper one, and what it tries costs little: ever less. */
static void test_nested_is_cheaper(void **state)
{
    (void)state;
    struct play play = begin();
    const struct load load = {.cycles = {300, 900}, .changes = AUTO_WINDOW / 2};
    windows(&play, &load, 200);
    assert_int_equal(play.choice.mode, MMU_NESTED);
    assert_int_equal(play.choice.reason, AUTO_TABLES);
    uint64_t trials = play.choice.trials;
    assert_true(trials >= 2);
    windows(&play, &load, 1000);
    assert_true(play.spent < play.best + play.best / 20);
    assert_true(play.choice.trials - trials <= 6);
    assert_int_equal(play.choice.switches, 0);
}

static void test_shadow_is_cheaper(void **state)
{
    (void)state;
    struct play play = begin();
    const struct load load = {.cycles = {400, 200}, .build = 10};
    windows(&play, &load, 100);
    assert_int_equal(play.choice.mode, MMU_SHADOW);
    assert_int_equal(play.choice.reason, AUTO_MISSES);
    assert_int_equal(play.choice.switches, 1);
    windows(&play, &load, 1000);
    assert_true(play.spent < play.best + play.best / 20);
    assert_int_equal(play.choice.switches, 1);
}

/* A shadow that takes long to be built, and is dear until then, is built in several trials. */
static void test_large_shadow(void **state)
{
    (void)state;
    struct play play = begin();
    const struct load load = {.cycles = {400, 300}, .build = 40};
    windows(&play, &load, 1200);
    assert_int_equal(play.choice.mode, MMU_SHADOW);
    assert_true(play.choice.trials > 2);
    assert_int_equal(play.choice.switches, 1);
}

/* One that loses as much as is built, or is built of a few misses only, is not kept for that. */
static void test_shadow_that_does_not_grow(void **state)
{
    (void)state;
    const struct load loads[] = {
        {.cycles = {400, 900}, .build = 4000, .changes = AUTO_WINDOW},
        {.cycles = {400, 900}},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(loads); i++) {
        struct play play = begin();
        windows(&play, &loads[i], 1000);
        assert_int_equal(play.choice.mode, MMU_NESTED);
        assert_false(play.choice.keeps);
        assert_in_range(play.choice.trials, 2, 5);
    }
}

/* Trials are a small part of all, however dear the other mode is, from the beginning on. */
static void test_trials_are_bounded(void **state)
{
    (void)state;
    static const uint64_t shadow[] = {400, 500, 900, 2000, 5000, 60000};
    for (unsigned i = 0; i < ARRAY_LENGTH(shadow); i++) {
        for (unsigned count = 80; count < 3000; count *= 3) {
            struct play play = begin();
            const struct load load = {.cycles = {400, shadow[i]}, .changes = AUTO_WINDOW};
            windows(&play, &load, count);
            assert_int_equal(play.choice.switches, 0);
            assert_true(play.choice.trials >= 1);
            /* What the bound allows, and the last window of each trial. */
            uint64_t window = shadow[i] * AUTO_TRIAL_WINDOW;
            assert_true(play.spent <=
                        play.best + play.best / AUTO_PART + play.choice.trials * window);
        }
    }
}

/* Misses that tracing makes are no work of the guest's: they are the shadow's cost. */
static void test_traced_writes(void **state)
{
    (void)state;
    struct play play = begin();
    const struct load load = {
        .cycles = {400, 300}, .traced_writes = AUTO_WINDOW / 2, .changes = AUTO_WINDOW / 2};
    windows(&play, &load, 200);
    assert_int_equal(play.choice.mode, MMU_NESTED);
    assert_int_equal(play.choice.switches, 0);
    assert_int_equal(play.choice.reason, AUTO_TABLES);
    /* Nothing but such: no division by what is not there. */
    const struct load only = {
        .cycles = {400, 1}, .traced_writes = 2 * AUTO_WINDOW, .changes = 2 * AUTO_WINDOW};
    windows(&play, &only, 2000);
    assert_true(play.choice.trials > 4);
}

/* Where it is all the same, it stays where it is. */
static void test_hysteresis(void **state)
{
    (void)state;
    struct play play = begin();
    play.noise = 5;
    windows(&play, &(struct load){.cycles = {400, 400}}, 4000);
    assert_int_equal(play.choice.switches, 0);
    assert_true(play.choice.trials > 2);
}

/* A host that is slow now and fast then, for both alike, does not change what is cheaper. */
static void test_phases(void **state)
{
    (void)state;
    static const uint64_t shadow[] = {300, 480};
    for (unsigned i = 0; i < ARRAY_LENGTH(shadow); i++) {
        for (uint64_t phase = 1000; phase < 1000000; phase *= 7) {
            struct play play = begin();
            const struct load load = {.cycles = {400, shadow[i]}};
            play.phase = phase;
            play.noise = 10;
            windows(&play, &load, 4000);
            assert_int_equal(play.choice.mode, shadow[i] < 400 ? MMU_SHADOW : MMU_NESTED);
            assert_int_equal(play.choice.switches, shadow[i] < 400);
        }
    }
}

/* Another load is soon noticed, also after long quiet. */
static void test_change_of_load(void **state)
{
    (void)state;
    struct play play = begin();
    const struct load walks = {.cycles = {400, 200}};
    const struct load tables = {.cycles = {500, 1500}, .changes = AUTO_WINDOW};
    for (unsigned turn = 0; turn < 5; turn++) {
        windows(&play, &walks, 3000);
        assert_int_equal(play.choice.mode, MMU_SHADOW);
        windows(&play, &tables, 5);
        assert_int_equal(play.choice.mode, MMU_NESTED);
        assert_int_equal(play.choice.reason, AUTO_TABLES);
        windows(&play, &tables, 3000);
        assert_int_equal(play.choice.mode, MMU_NESTED);
    }
}

/* Nor do ever new loads make trials of a shadow come oftener. */
static void test_many_loads(void **state)
{
    (void)state;
    struct play play = begin();
    const struct load loads[] = {{.cycles = {100, 900}}, {.cycles = {1000, 9000}}};
    for (unsigned turn = 0; turn < 100; turn++)
        windows(&play, &loads[turn % 2], AUTO_INTERVAL_LEAST / 2);
    assert_int_equal(play.choice.mode, MMU_NESTED);
    assert_in_range(play.choice.trials, 2, 51);
}

/* One that is a little cheaper with nested walks is noticed as well, in some time. */
static void test_slow_change_of_load(void **state)
{
    (void)state;
    struct play play = begin();
    windows(&play, &(struct load){.cycles = {400, 200}}, 20000);
    assert_int_equal(play.choice.mode, MMU_SHADOW);
    assert_true(play.spent < play.best + play.best / 50);
    windows(&play, &(struct load){.cycles = {250, 300}}, AUTO_SHADOW_MOST + 1);
    assert_int_equal(play.choice.mode, MMU_NESTED);
}

/* A host that takes the CPU away for a while is not what a miss costs. */
static void test_interruption(void **state)
{
    (void)state;
    struct play play = begin();
    windows(&play, &(struct load){.cycles = {400, 800}}, 8);
    auto_measured(&play.choice, UINT64_MAX / 2);
    windows(&play, &(struct load){.cycles = {400, 800}}, 1);
    assert_in_range(play.choice.cost[MMU_NESTED], 400 * 16, 400 * 16 + 1);
}

/* The shadow of a vCPU is built when it is used, kept while nested walks are tried, and gone when
 * they have taken over; what an access reaches is the same. */
static void test_use(void **state)
{
    (void)state;
    struct machine *machine =
        machine_create_with(1, &(struct mmu_config){.mode = MMU_AUTO, .shadow_bytes = 4 * MIB});
    struct mmu *mmu = &machine->cpus[0].mmu;
    machine_at(machine, PAGE_A);
    machine_at(machine, PAGE_B);
    machine_map(machine, ROOT, LINEAR, PAGE_A | LEAF);
    machine_long_mode(mmu, ROOT);
    for (unsigned turn = 0; turn < 3; turn++) {
        assert_int_equal(reach(mmu, LINEAR, MMU_WRITE, MMU_USER), PAGE_A);
        assert_int_equal(shadow_bytes(mmu->shadow), 0);
        for (unsigned i = 0; i < 3; i++) {
            auto_use(mmu, MMU_SHADOW, false);
            mmu_flush(mmu, false);
            assert_int_equal(reach(mmu, LINEAR, MMU_WRITE, MMU_USER), PAGE_A);
            auto_use(mmu, MMU_NESTED, true);
            mmu_flush(mmu, false);
            assert_int_equal(reach(mmu, LINEAR, MMU_WRITE, MMU_USER), PAGE_A);
        }
        assert_int_equal(shadow_get_stats(mmu->shadow)->hidden_faults, turn + 1);
        assert_int_equal(shadow_get_stats(mmu->shadow)->nodes, 4);
        auto_use(mmu, MMU_NESTED, false);
        mmu_flush(mmu, false);
    }
    /* A fault that it has not heard of has taken along what the shadow had. */
    uint64_t leaf = ROOT + 0x3000 + (LINEAR >> 12 & 511) * 8;
    auto_use(mmu, MMU_SHADOW, false);
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    auto_use(mmu, MMU_NESTED, true);
    machine_put(machine, leaf, 0);
    tlb_drop_page(mmu, LINEAR);
    assert_int_equal(resolve(mmu, LINEAR, MMU_READ, MMU_USER), MMU_FAULT);
    machine_put(machine, leaf, PAGE_B | LEAF);
    auto_use(mmu, MMU_SHADOW, false);
    assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_USER), PAGE_B);
    machine_put(machine, leaf, PAGE_A | LEAF);
    auto_use(mmu, MMU_NESTED, false);
    mmu_flush(mmu, false);
    /* Windows end by themselves, and a trial comes; later, if misses have become dearer meanwhile,
     * as they do where others use the CPU. */
    const unsigned most = 16 * (AUTO_INTERVAL_LEAST + 1) * AUTO_WINDOW;
    for (unsigned i = 0; mmu->choice.trials == 0 && i < most; i++) {
        mmu_flush_page(mmu, LINEAR);
        assert_int_equal(reach(mmu, LINEAR, MMU_READ, MMU_USER), PAGE_A);
    }
    assert_int_equal(mmu->choice.trials, 1);
    assert_true(mmu->choice.cost[MMU_NESTED] != 0);
    machine_destroy(machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nested_is_cheaper),
        cmocka_unit_test(test_shadow_is_cheaper),
        cmocka_unit_test(test_large_shadow),
        cmocka_unit_test(test_shadow_that_does_not_grow),
        cmocka_unit_test(test_trials_are_bounded),
        cmocka_unit_test(test_traced_writes),
        cmocka_unit_test(test_hysteresis),
        cmocka_unit_test(test_change_of_load),
        cmocka_unit_test(test_many_loads),
        cmocka_unit_test(test_slow_change_of_load),
        cmocka_unit_test(test_phases),
        cmocka_unit_test(test_interruption),
        cmocka_unit_test(test_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
