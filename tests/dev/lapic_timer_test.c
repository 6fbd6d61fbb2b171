/* The local APIC's timer in its three modes, on a clock that the test moves. One tick is 1 ns times
 * the divider. */

#include "fixture.h"

#define EOI     0xb0
#define LVT     0x320
#define INITIAL 0x380
#define CURRENT 0x390
#define DIVIDE  0x3e0

#define VECTOR   0x40
#define MASKED   0x10000
#define PERIODIC 0x20000
#define DEADLINE 0x40000

/* Takes the timer's interrupt; false where there is none. */
static bool take(struct apic_cpu *cpu)
{
    int vector = lapic_acknowledge(cpu->lapic);
    if (vector < 0)
        return false;
    assert_int_equal(vector, VECTOR);
    apic_write(cpu, EOI, 0);
    return true;
}

static struct apic_cpu *setup(struct apic_set *set)
{
    apic_set_create(set, 1);
    apic_enable(&set->cpus[0]);
    apic_write(&set->cpus[0], DIVIDE, 0xb); /* by 1 */
    return &set->cpus[0];
}

static void test_one_shot(void **state)
{
    struct apic_set set;
    struct apic_cpu *cpu = setup(&set);
    apic_write(cpu, LVT, VECTOR);
    apic_write(cpu, INITIAL, 1000000);
    assert_int_equal(apic_read(cpu, CURRENT), 1000000);
    fake_time_advance(&set.time, 400000);
    assert_int_equal(apic_read(cpu, CURRENT), 600000);
    assert_int_equal(apic_read(cpu, INITIAL), 1000000);
    fake_time_advance(&set.time, 599999);
    assert_false(take(cpu));
    fake_time_advance(&set.time, 1);
    assert_true(take(cpu));
    assert_int_equal(apic_read(cpu, CURRENT), 0);
    fake_time_advance(&set.time, 10000000);
    assert_false(take(cpu));

    /* Stopped by 0; restarted by a new count. */
    apic_write(cpu, INITIAL, 1000);
    apic_write(cpu, INITIAL, 0);
    fake_time_advance(&set.time, 5000);
    assert_false(take(cpu));
    apic_write(cpu, INITIAL, 1000);
    fake_time_advance(&set.time, 900);
    apic_write(cpu, INITIAL, 1000);
    fake_time_advance(&set.time, 900);
    assert_false(take(cpu));
    fake_time_advance(&set.time, 100);
    assert_true(take(cpu));

    /* The greatest count by the greatest divider. */
    apic_write(cpu, DIVIDE, 0xa);
    apic_write(cpu, INITIAL, UINT32_MAX);
    fake_time_advance(&set.time, 128ull * UINT32_MAX - 1);
    assert_false(take(cpu));
    fake_time_advance(&set.time, 1);
    assert_true(take(cpu));
    apic_set_destroy(&set);
}

static void test_dividers(void **state)
{
    struct apic_set set;
    struct apic_cpu *cpu = setup(&set);
    apic_write(cpu, LVT, VECTOR);
    static const struct {
        uint32_t code, divider;
    } dividers[] = {{0x0, 2},  {0x1, 4},  {0x2, 8},   {0x3, 16},
                    {0x8, 32}, {0x9, 64}, {0xa, 128}, {0xb, 1}};
    for (unsigned i = 0; i < ARRAY_LENGTH(dividers); i++) {
        apic_write(cpu, DIVIDE, dividers[i].code | 0xfffffff4); /* other bits are not kept */
        assert_int_equal(apic_read(cpu, DIVIDE), dividers[i].code);
        apic_write(cpu, INITIAL, 1000);
        fake_time_advance(&set.time, 1000 * dividers[i].divider - 1);
        assert_int_equal(apic_read(cpu, CURRENT), 1);
        assert_false(take(cpu));
        fake_time_advance(&set.time, 1);
        assert_true(take(cpu));
    }

    /* Changed half way: what is left goes at the new rate. */
    apic_write(cpu, DIVIDE, 0xb);
    apic_write(cpu, INITIAL, 1000);
    fake_time_advance(&set.time, 500);
    apic_write(cpu, DIVIDE, 0x1);
    assert_int_equal(apic_read(cpu, CURRENT), 500);
    fake_time_advance(&set.time, 1999);
    assert_false(take(cpu));
    fake_time_advance(&set.time, 1);
    assert_true(take(cpu));
    apic_set_destroy(&set);
}

static void test_periodic(void **state)
{
    struct apic_set set;
    struct apic_cpu *cpu = setup(&set);
    apic_write(cpu, LVT, PERIODIC | VECTOR);
    apic_write(cpu, INITIAL, 1000000);
    for (unsigned i = 0; i < 10; i++) {
        fake_time_advance(&set.time, 999999);
        assert_false(take(cpu));
        assert_int_equal(apic_read(cpu, CURRENT), 1);
        fake_time_advance(&set.time, 1);
        assert_true(take(cpu));
        assert_int_equal(apic_read(cpu, CURRENT), 1000000);
    }

    /* Masked it counts on, wakes nobody, and keeps its phase. */
    apic_write(cpu, LVT, MASKED | PERIODIC | VECTOR);
    assert_int_equal(fake_time_armed(&set.time), 0);
    fake_time_advance(&set.time, 1700000);
    assert_int_equal(apic_read(cpu, CURRENT), 300000);
    assert_false(take(cpu));
    apic_write(cpu, LVT, PERIODIC | VECTOR);
    fake_time_advance(&set.time, 299999);
    assert_false(take(cpu));
    fake_time_advance(&set.time, 1);
    assert_true(take(cpu));
    apic_set_destroy(&set);
}

/* A guest that asks for a billion interrupts a second gets what a host can give. */
static void test_periodic_is_bounded(void **state)
{
    struct apic_set set;
    struct apic_cpu *cpu = setup(&set);
    apic_write(cpu, LVT, PERIODIC | VECTOR);
    apic_write(cpu, INITIAL, 1);
    unsigned before = set.time.armed_calls;
    fake_time_advance(&set.time, 10000000);
    assert_in_range(set.time.armed_calls - before, 100, 10000000 / DEVICE_TIMER_MIN_NS + 1);
    assert_true(take(cpu));
    apic_set_destroy(&set);
}

static void test_deadline(void **state)
{
    struct apic_set set;
    struct apic_cpu *cpu = setup(&set);
    cpu->tsc_offset = -500000;

    /* Ignored in another mode. */
    msr_write(cpu, MSR_TSC_DEADLINE, 12345);
    assert_int_equal(msr_read(cpu, MSR_TSC_DEADLINE), 0);

    apic_write(cpu, LVT, DEADLINE | VECTOR);
    uint64_t deadline = set.time.tsc - 500000 + 2000000; /* 1 ms at 2 GHz */
    msr_write(cpu, MSR_TSC_DEADLINE, deadline);
    assert_int_equal(msr_read(cpu, MSR_TSC_DEADLINE), deadline);
    apic_write(cpu, INITIAL, 10); /* ignored in this mode */
    assert_int_equal(apic_read(cpu, CURRENT), 0);
    fake_time_advance(&set.time, 999999);
    assert_false(take(cpu));
    fake_time_advance(&set.time, 1);
    assert_true(take(cpu));
    assert_int_equal(msr_read(cpu, MSR_TSC_DEADLINE), 0);
    assert_int_equal(fake_time_armed(&set.time), 0);

    /* Past: at once. Disarmed by 0. Far beyond any clock: never. */
    msr_write(cpu, MSR_TSC_DEADLINE, 1);
    assert_true(take(cpu));
    assert_int_equal(msr_read(cpu, MSR_TSC_DEADLINE), 0);
    msr_write(cpu, MSR_TSC_DEADLINE, set.time.tsc - 500000 + 2000);
    msr_write(cpu, MSR_TSC_DEADLINE, 0);
    fake_time_advance(&set.time, 5000);
    assert_false(take(cpu));
    msr_write(cpu, MSR_TSC_DEADLINE, UINT64_MAX);
    fake_time_advance(&set.time, 3600 * NS_PER_SECOND);
    assert_false(take(cpu));
    assert_true(msr_read(cpu, MSR_TSC_DEADLINE) == UINT64_MAX);

    /* Another mode disarms it. */
    msr_write(cpu, MSR_TSC_DEADLINE, set.time.tsc - 500000 + 2000);
    apic_write(cpu, LVT, VECTOR);
    apic_write(cpu, LVT, DEADLINE | VECTOR);
    assert_int_equal(msr_read(cpu, MSR_TSC_DEADLINE), 0);
    fake_time_advance(&set.time, 5000);
    assert_false(take(cpu));
    apic_set_destroy(&set);
}

/* The measured frequency is a little off: the host timer rings early, the interrupt does not. */
static void test_deadline_with_drift(void **state)
{
    struct apic_set set;
    struct apic_cpu *cpu = setup(&set);
    apic_write(cpu, LVT, DEADLINE | VECTOR);
    msr_write(cpu, MSR_TSC_DEADLINE, set.time.tsc + 2000000);
    set.time.tsc -= 1000; /* slower than it seemed */
    fake_time_advance(&set.time, 1000000);
    assert_false(take(cpu));
    fake_time_advance(&set.time, 499);
    assert_false(take(cpu));
    fake_time_advance(&set.time, 1);
    assert_true(take(cpu));

    /* The guest moves its TSC forward past the deadline. */
    msr_write(cpu, MSR_TSC_DEADLINE, set.time.tsc + 2000000);
    cpu->tsc_offset = 3000000;
    lapic_tsc_changed(cpu->lapic);
    assert_true(take(cpu));
    apic_set_destroy(&set);
}

static void test_masked_and_disabled(void **state)
{
    struct apic_set set;
    struct apic_cpu *cpu = setup(&set);
    apic_write(cpu, LVT, MASKED | VECTOR);
    apic_write(cpu, INITIAL, 1000);
    fake_time_advance(&set.time, 2000);
    assert_int_equal(apic_read(cpu, CURRENT), 0);
    apic_write(cpu, LVT, VECTOR);
    fake_time_advance(&set.time, 2000);
    assert_false(take(cpu)); /* it had expired unheard */

    apic_write(cpu, INITIAL, 1000);
    apic_write(cpu, 0xf0, 0xff); /* software disable masks it */
    fake_time_advance(&set.time, 2000);
    assert_false(take(cpu));

    apic_enable(cpu);
    apic_write(cpu, LVT, PERIODIC | VECTOR);
    apic_write(cpu, INITIAL, 100000);
    lapic_reset(cpu->lapic, true);
    assert_int_equal(fake_time_armed(&set.time), 0);
    assert_int_equal(apic_read(cpu, INITIAL), 0);

    /* The reserved mode does nothing. */
    apic_enable(cpu);
    apic_write(cpu, LVT, 0x60000 | VECTOR);
    apic_write(cpu, INITIAL, 100000);
    fake_time_advance(&set.time, 1000000);
    assert_false(take(cpu));
    apic_set_destroy(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_shot),
        cmocka_unit_test(test_dividers),
        cmocka_unit_test(test_periodic),
        cmocka_unit_test(test_periodic_is_bounded),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_deadline_with_drift),
        cmocka_unit_test(test_masked_and_disabled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
