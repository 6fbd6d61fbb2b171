/* Targets: the paper's own cases, the limits, frames and overheads; then random VMs, changed at
 * random, against revocation page by page. */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fixture.h"
#include "model.h"

#define PAGE 4096u

static void divide(struct fixture *fixture)
{
    policy_divide(&fixture->host, fixture->list, fixture->count);
}

static void assert_near(uint64_t actual, uint64_t expected, uint64_t by)
{
    if (actual > expected + by || expected > actual + by)
        fail_msg("%llu is not within %llu of %llu", (unsigned long long)actual,
                 (unsigned long long)by, (unsigned long long)expected);
}

/* Figure 7: two VMs of 256 MB and equal shares, one idle, one busy. */
static void test_figure_7(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init_for_targets(&f, 358 * MIB);
    struct policy_vm *idle = fixture_add(&f, 0, 256 * MIB);
    struct policy_vm *busy = fixture_add(&f, 0, 256 * MIB);
    idle->active = 10 * MIB;
    busy->active = 200 * MIB;

    f.host.tax = 0;
    divide(&f);
    assert_near(idle->target, 179 * MIB, MIB / 4);
    assert_near(busy->target, 179 * MIB, MIB / 4);

    /* What the two had together when the tax had been raised: about 343 MB. */
    fixture_init_for_targets(&f, 343 * MIB);
    idle = fixture_add(&f, 0, 256 * MIB);
    busy = fixture_add(&f, 0, 256 * MIB);
    idle->active = 10 * MIB;
    busy->active = 200 * MIB;
    f.host.tax = 0.75;
    divide(&f);
    assert_near(idle->target, 100 * MIB, MIB);
    assert_near(busy->target, 243 * MIB, MIB);
}

/* tax * active + the rest by shares, where all have more than is active. */
static void test_closed_form(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init_for_targets(&f, 1000 * MIB);
    const uint64_t shares[] = {100, 200, 300}, active[] = {50, 100, 20};
    for (unsigned i = 0; i < 3; i++) {
        struct policy_vm *vm = fixture_add(&f, 0, GIB);
        vm->shares = shares[i];
        vm->active = active[i] * MIB;
    }
    divide(&f);
    for (unsigned i = 0; i < 3; i++) {
        double mib = 0.75 * (double)active[i] + (double)shares[i] / 600 * (1000 - 0.75 * 170);
        assert_near(f.vm[i].target, (uint64_t)(mib * MIB), 8 * PAGE);
    }
}

static void test_shares_alone(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init_for_targets(&f, 300 * MIB);
    struct policy_vm *one = fixture_add(&f, 0, GIB);
    struct policy_vm *two = fixture_add(&f, 0, GIB);
    one->shares = 1;
    two->shares = 2;
    for (unsigned i = 0; i < 2; i++) { /* all in use: no tax */
        f.host.tax = i == 0 ? 0 : 0.75;
        divide(&f);
        assert_near(one->target, 100 * MIB, 2 * PAGE);
        assert_near(two->target, 200 * MIB, 2 * PAGE);
    }
}

static void test_enough_for_all(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init_for_targets(&f, 512 * MIB);
    struct policy_vm *one = fixture_add(&f, 0, 256 * MIB);
    struct policy_vm *two = fixture_add(&f, 0, 256 * MIB);
    one->shares = 1;
    one->active = 0;
    divide(&f);
    assert_int_equal(one->target, 256 * MIB);
    assert_int_equal(two->target, 256 * MIB);
}

/* Idle as it is, a VM keeps its minimum; what that takes is missing to the others alone. */
static void test_minimum(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init_for_targets(&f, 600 * MIB);
    struct policy_vm *idle = fixture_add(&f, 160 * MIB, 320 * MIB);
    struct policy_vm *busy = fixture_add(&f, 128 * MIB, 256 * MIB);
    struct policy_vm *other = fixture_add(&f, 128 * MIB, 256 * MIB);
    idle->active = 0;
    divide(&f);
    assert_int_equal(idle->target, 160 * MIB);
    assert_near(busy->target, 220 * MIB, 2 * PAGE);
    assert_near(other->target, 220 * MIB, 2 * PAGE);

    fixture_init_for_targets(&f, 100 * MIB); /* admission was not asked */
    for (unsigned i = 0; i < 2; i++)
        fixture_add(&f, 80 * MIB, 256 * MIB);
    divide(&f);
    assert_int_equal(f.vm[0].target, 80 * MIB);
    assert_int_equal(f.vm[1].target, 80 * MIB);
}

static void test_paused(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init_for_targets(&f, 256 * MIB);
    struct policy_vm *paused = fixture_add(&f, 16 * MIB, 256 * MIB);
    struct policy_vm *busy = fixture_add(&f, 16 * MIB, 256 * MIB);
    paused->is_paused = true; /* whatever was active before */
    divide(&f);
    assert_near(busy->target, (uint64_t)(256 * 0.8 * MIB), 2 * PAGE);
    assert_near(paused->target, (uint64_t)(256 * 0.2 * MIB), 2 * PAGE);
}

/* A VM's part of the frames is part of what it has; overheads and frames come out of the same. */
static void test_frames_and_overhead(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init_for_targets(&f, 400 * MIB);
    struct policy_vm *one = fixture_add(&f, 0, 256 * MIB);
    struct policy_vm *two = fixture_add(&f, 0, 256 * MIB);
    f.host.overhead = 10 * MIB;
    one->overhead = two->overhead = 5 * MIB;
    f.host.frames = 80 * MIB; /* 20 of which belong to VMs that have just ended */
    one->frames = 10 * MIB;
    two->frames = 50 * MIB;
    divide(&f); /* 400 - 10 - 5 - 5 - 20 = 360, 180 each */
    assert_near(one->target, 170 * MIB, 2 * PAGE);
    assert_near(two->target, 130 * MIB, 2 * PAGE);
    assert_true(one->target + two->target + 100 * MIB <= 400 * MIB);

    two->frames = 300 * MIB; /* more than it has any right to: it has nothing else */
    f.host.frames = 310 * MIB;
    divide(&f);
    assert_int_equal(two->target, 0);
}

/* In the list's order or any other, once or twice: the same. */
static void test_pure(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t seed = 7, first[10];
    fixture_init_for_targets(&f, GIB);
    for (unsigned i = 0; i < 10; i++) {
        struct policy_vm *vm = fixture_add(&f, 0, random_within(&seed, 100, 400) * MIB);
        vm->active = random_within(&seed, 0, vm->max);
    }
    divide(&f);
    for (unsigned i = 0; i < 10; i++)
        first[i] = f.vm[i].target;
    for (unsigned i = 0; i < 10; i++)
        f.list[i] = &f.vm[(i * 7 + 3) % 10];
    divide(&f);
    for (unsigned i = 0; i < 10; i++)
        assert_near(f.vm[i].target, first[i], PAGE);
}

/* ---- Against the model ---- */

static void change_vm(struct policy_vm *vm, uint64_t *seed)
{
    uint64_t pages = random_within(seed, 1, 1500);
    switch (xorshift_next(seed) % 5) {
    case 0:
        vm->max = pages * PAGE;
        vm->min = random_within(seed, 0, pages) * PAGE;
        break;
    case 1:
        vm->min = xorshift_next(seed) % 2 == 0 ? 0 : random_within(seed, 0, vm->max / PAGE) * PAGE;
        break;
    case 2:
        vm->shares = 1 + xorshift_next(seed) % (1u << xorshift_next(seed) % 20);
        break;
    case 3:
        vm->is_paused = xorshift_next(seed) % 8 == 0;
        break;
    default:
        vm->active = random_within(seed, 0, vm->max);
    }
    if (vm->active > vm->max)
        vm->active = vm->max;
}

/* Nobody pays less for a page that it has than another would for one more. */
static void assert_prices(const struct fixture *f, double tax)
{
    for (size_t i = 0; i < f->count; i++) {
        const struct policy_vm *from = &f->vm[i];
        uint64_t has = from->target / PAGE;
        if (from->target <= from->min || has < 3)
            continue;
        for (size_t j = 0; j < f->count; j++) {
            const struct policy_vm *to = &f->vm[j];
            if (to->target + PAGE >= to->max)
                continue;
            double pays = model_price(from, tax, has - 1);
            double would_pay = model_price(to, tax, to->target / PAGE + 2);
            if (pays < would_pay * (1 - 1e-9))
                fail_msg("%zu pays %g, %zu would pay %g", i, pays, j, would_pay);
        }
    }
}

static void test_against_model(void **state)
{
    (void)state;
    uint64_t seed = 20021209;
    for (unsigned history = 0; history < 300; history++) {
        struct fixture f;
        size_t count = random_within(&seed, 1, 8);
        uint64_t pages = random_within(&seed, 1, 700 * count);
        fixture_init_for_targets(&f, pages * PAGE);
        double tax = history % 4 == 0 ? 0 : random_part(&seed) * POLICY_TAX_MOST;
        f.host.tax = tax;
        for (size_t i = 0; i < count; i++)
            fixture_add(&f, 0, random_within(&seed, 1, 1500) * PAGE);
        for (unsigned change = 0; change < 12; change++) {
            change_vm(&f.vm[random_within(&seed, 0, count - 1)], &seed);
            divide(&f);
            uint64_t got[FIXTURE_VMS], mine = 0, models = 0;
            model_divide(f.list, count, tax, pages, got);
            for (size_t i = 0; i < count; i++) {
                /* Of the last pages each may go to another VM, for so many are not divided. */
                assert_near(f.vm[i].target / PAGE, got[i], count);
                assert_in_range(f.vm[i].target, f.vm[i].min, f.vm[i].max);
                mine += f.vm[i].target / PAGE;
                models += got[i];
            }
            assert_true(mine <= models && mine + count >= models);
            assert_prices(&f, tax);
        }
    }
}

/* Sizes and shares far apart, whatever the numbers: within limits, and nothing is left over. */
static void test_extremes(void **state)
{
    (void)state;
    uint64_t seed = 5;
    for (unsigned round = 0; round < 3000; round++) {
        struct fixture f;
        fixture_init_for_targets(&f, (1 + xorshift_next(&seed) % 4096) << (12 + round % 36));
        f.host.tax = round % 5 == 0 ? 0.99 : random_part(&seed) * 1.2;
        size_t count = random_within(&seed, 1, FIXTURE_VMS);
        uint64_t sum = 0, all = 0, minima = 0;
        for (size_t i = 0; i < count; i++) {
            uint64_t max = (1 + xorshift_next(&seed) % 4096) << (12 + xorshift_next(&seed) % 30);
            struct policy_vm *vm = fixture_add(&f, xorshift_next(&seed) % (max / 8), max);
            vm->shares = xorshift_next(&seed) >> xorshift_next(&seed) % 64;
            vm->active = xorshift_next(&seed) >> xorshift_next(&seed) % 64;
        }
        divide(&f);
        for (size_t i = 0; i < count; i++) {
            assert_in_range(f.vm[i].target, f.vm[i].min, f.vm[i].max);
            sum += f.vm[i].target;
            all += f.vm[i].max;
            minima += (f.vm[i].min + PAGE - 1) / PAGE * PAGE;
        }
        uint64_t memory = f.host.memory - policy_reserve(f.host.memory);
        if (minima < memory) {
            assert_true(sum <= memory);
            assert_true(sum + (count + 1) * PAGE >= (all < memory ? all : memory));
        }
    }
}

static void test_default_shares(void **state)
{
    (void)state;
    assert_int_equal(policy_default_shares(256 * MIB), 2 * policy_default_shares(128 * MIB));
    assert_true(policy_default_shares(0) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figure_7),
        cmocka_unit_test(test_closed_form),
        cmocka_unit_test(test_shares_alone),
        cmocka_unit_test(test_enough_for_all),
        cmocka_unit_test(test_minimum),
        cmocka_unit_test(test_paused),
        cmocka_unit_test(test_frames_and_overhead),
        cmocka_unit_test(test_pure),
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_default_shares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
