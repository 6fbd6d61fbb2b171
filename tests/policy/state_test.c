/* The host's state and what follows from it alone: free memory, thresholds, hysteresis; and who is
 * admitted. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fixture.h"

/* In thousandths of the memory. */
static enum policy_state next(enum policy_state state, unsigned free)
{
    return policy_state_next(state, free * MIB, 1000 * MIB);
}

static void test_falls_at_once(void **state)
{
    (void)state;
    assert_int_equal(next(POLICY_HIGH, 1000), POLICY_HIGH);
    assert_int_equal(next(POLICY_HIGH, 41), POLICY_HIGH);
    assert_int_equal(next(POLICY_HIGH, 39), POLICY_SOFT);
    assert_int_equal(next(POLICY_SOFT, 21), POLICY_SOFT);
    assert_int_equal(next(POLICY_SOFT, 19), POLICY_HARD);
    assert_int_equal(next(POLICY_HARD, 11), POLICY_HARD);
    assert_int_equal(next(POLICY_HARD, 9), POLICY_LOW);
    assert_int_equal(next(POLICY_HIGH, 15), POLICY_HARD);
    assert_int_equal(next(POLICY_HIGH, 0), POLICY_LOW);
}

static void test_rises_well_above(void **state)
{
    (void)state;
    assert_int_equal(next(POLICY_SOFT, 60), POLICY_SOFT);
    assert_int_equal(next(POLICY_SOFT, 64), POLICY_SOFT);
    assert_int_equal(next(POLICY_SOFT, 66), POLICY_HIGH);
    assert_int_equal(next(POLICY_HARD, 44), POLICY_HARD);
    assert_int_equal(next(POLICY_HARD, 46), POLICY_SOFT);
    assert_int_equal(next(POLICY_LOW, 24), POLICY_LOW);
    assert_int_equal(next(POLICY_LOW, 26), POLICY_HARD);
    assert_int_equal(next(POLICY_LOW, 900), POLICY_HIGH);
}

/* Between a state's threshold and well above the next one nothing changes, whichever it is. */
static void test_hysteresis(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 1000; i++) {
        unsigned free = 41 + i % 24; /* to and fro within 4.1 to 6.4 % */
        assert_int_equal(next(POLICY_HIGH, free), POLICY_HIGH);
        if (free < 65)
            assert_int_equal(next(POLICY_SOFT, free), POLICY_SOFT);
    }
}

/* The reserve is enough for state high to be reached. */
static void test_reserve(void **state)
{
    (void)state;
    for (uint64_t memory = MIB; memory < 1ull << 50; memory = memory * 3 / 2)
        for (enum policy_state now = POLICY_HIGH; now <= POLICY_LOW; now++)
            assert_int_equal(policy_state_next(now, policy_reserve(memory), memory), POLICY_HIGH);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(policy_state_name(POLICY_HIGH), "high");
    assert_string_equal(policy_state_name(POLICY_SOFT), "soft");
    assert_string_equal(policy_state_name(POLICY_HARD), "hard");
    assert_string_equal(policy_state_name(POLICY_LOW), "low");
    assert_string_equal(policy_state_name((enum policy_state)77), "?");
}

static void test_free_memory(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, GIB);
    struct policy_vm *vm = fixture_add(&f, 0, GIB);
    vm->resident = 100 * MIB;
    vm->overhead = 10 * MIB;
    vm->frames = 30 * MIB; /* in host.frames already */
    f.host.frames = 50 * MIB;
    f.host.overhead = MIB;
    assert_int_equal(policy_free(&f.host, f.list, f.count), (1024 - 161) * MIB);
    vm->resident = UINT64_MAX;
    assert_int_equal(policy_free(&f.host, f.list, f.count), 0);
}

/* ---- Admission ---- */

static enum status admit(const struct fixture *f, const struct policy_vm *vm, struct error *err)
{
    *err = (struct error){0};
    return policy_admit(&f->host, f->list, f->count, vm, err);
}

static void test_admits_what_fits(void **state)
{
    (void)state;
    struct fixture f;
    struct error err;
    fixture_init_for_targets(&f, 1000 * MIB);
    f.host.swap = 400 * MIB;
    for (unsigned i = 0; i < 4; i++) {
        struct policy_vm vm = {
            .min = 230 * MIB, .max = 330 * MIB, .overhead = 20 * MIB, .swap = POLICY_NO_LIMIT};
        assert_int_equal(admit(&f, &vm, &err), STATUS_OK);
        *fixture_add(&f, 0, 0) = vm;
    }
}

static void test_says_how_much_is_short(void **state)
{
    (void)state;
    struct fixture f;
    struct error err;
    fixture_init(&f, GIB); /* the reserve is 71.7 MiB */
    f.host.swap = 300 * MIB;
    fixture_add(&f, 512 * MIB, 700 * MIB)->overhead = 10 * MIB;
    struct policy_vm vm = {
        .min = 512 * MIB, .max = 600 * MIB, .overhead = 12 * MIB, .swap = POLICY_NO_LIMIT};
    assert_int_equal(admit(&f, &vm, &err), STATUS_NO_MEMORY);
    assert_string_equal(
        err.text, "94 MiB of memory short: it needs 524 MiB (min and overhead), and 430 of the "
                  "host's 1024 MiB are not promised yet");
    vm.min = 400 * MIB;
    assert_int_equal(admit(&f, &vm, &err), STATUS_NO_SPACE);
    assert_string_equal(
        err.text, "88 MiB of swap space short: it may have to page out 200 MiB (max less min), "
                  "and there are 112 MiB");
    vm.max = 512 * MIB;
    assert_int_equal(admit(&f, &vm, &err), STATUS_OK);
    vm.swap = 100 * MIB; /* of its own */
    assert_int_equal(admit(&f, &vm, &err), STATUS_NO_SPACE);
    vm.min = 513 * MIB;
    assert_int_equal(admit(&f, &vm, &err), STATUS_INVALID);
}

/* Admitted one after the other, VMs have targets of at least their minima that fit. */
static void test_promises_are_kept(void **state)
{
    (void)state;
    uint64_t seed = 99;
    unsigned refused = 0;
    for (unsigned history = 0; history < 300; history++) {
        struct fixture f;
        struct error err;
        fixture_init(&f, random_within(&seed, 1, 4000) * MIB);
        f.host.overhead = random_within(&seed, 0, 8) * MIB;
        f.host.tax = random_part(&seed);
        while (f.count < FIXTURE_VMS) {
            uint64_t max = random_within(&seed, 1, 1000) * MIB;
            struct policy_vm vm = {.max = max,
                                   .min = random_within(&seed, 0, max / 4096) * 4096,
                                   .shares = random_within(&seed, 1, 1000),
                                   .active = random_within(&seed, 0, max),
                                   .overhead = random_within(&seed, 0, 12) * MIB,
                                   .swap = POLICY_NO_LIMIT};
            if (admit(&f, &vm, &err) == STATUS_OK) {
                *fixture_add(&f, 0, 0) = vm;
                continue;
            }
            assert_null(strchr(err.text, '\n'));
            refused++;
            break;
        }
        uint64_t sum = f.host.overhead + policy_reserve(f.host.memory);
        policy_divide(&f.host, f.list, f.count);
        for (size_t i = 0; i < f.count; i++) {
            assert_in_range(f.vm[i].target, f.vm[i].min, f.vm[i].max);
            sum += f.vm[i].target + f.vm[i].overhead;
        }
        assert_true(sum <= f.host.memory || f.count == 0);
    }
    assert_true(refused > 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_falls_at_once),
        cmocka_unit_test(test_rises_well_above),
        cmocka_unit_test(test_hysteresis),
        cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_free_memory),
        cmocka_unit_test(test_admits_what_fits),
        cmocka_unit_test(test_says_how_much_is_short),
        cmocka_unit_test(test_promises_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
