/* The 8254: counting and outputs in every mode, latches, the gate of channel 2, and interrupt 0. */

#include "fixture.h"

#include "dev/pit.h"

struct machine {
    struct fake_time time;
    struct pit *pit;
    struct bus *ports;
    struct irq_probe irq;
};

static void machine_create(struct machine *machine)
{
    *machine = (struct machine){0};
    struct device_time time = fake_time_init(&machine->time);
    assert_int_equal(pit_create(&machine->pit, &time, irq_probe_line(&machine->irq), NULL),
                     STATUS_OK);
    machine->ports = test_bus();
    assert_int_equal(pit_attach(machine->pit, machine->ports, NULL), STATUS_OK);
}

static void machine_destroy(struct machine *machine)
{
    bus_destroy(machine->ports);
    pit_destroy(machine->pit);
    assert_null(machine->time.timers);
}

static void program(struct machine *machine, unsigned channel, unsigned mode, uint16_t count)
{
    out8(machine->ports, 0x43, (uint8_t)(channel << 6 | 0x30 | mode << 1));
    out8(machine->ports, 0x40 + channel, (uint8_t)count);
    out8(machine->ports, 0x40 + channel, (uint8_t)(count >> 8));
}

static uint16_t count(struct machine *machine, unsigned channel)
{
    out8(machine->ports, 0x43, (uint8_t)(channel << 6)); /* latch */
    uint16_t low = in8(machine->ports, 0x40 + channel);
    return (uint16_t)(low | in8(machine->ports, 0x40 + channel) << 8);
}

/* The time of `ticks` ticks of the PIT's clock, rounded up. */
static uint64_t ticks_ns(uint64_t ticks)
{
    return (ticks * NS_PER_SECOND + PIT_HZ - 1) / PIT_HZ;
}

/* Goes to exactly `ticks` ticks after `start`. */
static void go_to(struct machine *machine, uint64_t start, uint64_t ticks)
{
    fake_time_advance(&machine->time, start + ticks_ns(ticks) - machine->time.now);
}

static bool out2(struct machine *machine)
{
    return (in8(machine->ports, 0x61) & 0x20) != 0;
}

static void test_counting(void **state)
{
    struct machine machine;
    machine_create(&machine);
    uint64_t start = machine.time.now;
    program(&machine, 0, 2, 1000);
    go_to(&machine, start, 300);
    assert_int_equal(count(&machine, 0), 700);
    go_to(&machine, start, 999);
    assert_int_equal(count(&machine, 0), 1);
    go_to(&machine, start, 1000);
    assert_int_equal(count(&machine, 0), 1000);

    start = machine.time.now;
    program(&machine, 1, 0, 0); /* 65536 */
    assert_int_equal(count(&machine, 1), 0);
    go_to(&machine, start, 1);
    assert_int_equal(count(&machine, 1), 0xffff);
    go_to(&machine, start, 65536 + 10);
    assert_int_equal(count(&machine, 1), 0xfff6);

    start = machine.time.now;
    program(&machine, 1, 3, 100); /* by two, twice a period */
    go_to(&machine, start, 20);
    assert_int_equal(count(&machine, 1), 60);
    go_to(&machine, start, 60);
    assert_int_equal(count(&machine, 1), 80);
    machine_destroy(&machine);
}

static void test_bcd(void **state)
{
    struct machine machine;
    machine_create(&machine);
    uint64_t start = machine.time.now;
    out8(machine.ports, 0x43, 0x71); /* channel 1, both bytes, mode 0, BCD */
    out8(machine.ports, 0x41, 0x34);
    out8(machine.ports, 0x41, 0x12);
    go_to(&machine, start, 235);
    assert_int_equal(count(&machine, 1), 0x0999);
    go_to(&machine, start, 1235);
    assert_int_equal(count(&machine, 1), 0x9999);
    machine_destroy(&machine);
}

static void test_access_modes(void **state)
{
    struct machine machine;
    machine_create(&machine);
    out8(machine.ports, 0x43, 0x54); /* channel 1, low byte, mode 2 */
    out8(machine.ports, 0x41, 0x80);
    assert_int_equal(in8(machine.ports, 0x41), 0x80);
    assert_int_equal(in8(machine.ports, 0x41), 0x80);
    out8(machine.ports, 0x43, 0x64); /* high byte */
    out8(machine.ports, 0x41, 0x12);
    assert_int_equal(in8(machine.ports, 0x41), 0x12);
    program(&machine, 1, 2, 0x1234);
    assert_int_equal(in8(machine.ports, 0x41), 0x34);
    assert_int_equal(in8(machine.ports, 0x41), 0x12);
    assert_int_equal(in8(machine.ports, 0x43), 0xff);
    machine_destroy(&machine);
}

static void test_latches(void **state)
{
    struct machine machine;
    machine_create(&machine);
    uint64_t start = machine.time.now;
    program(&machine, 1, 2, 1000);
    go_to(&machine, start, 100);
    out8(machine.ports, 0x43, 0x40);
    go_to(&machine, start, 200);
    out8(machine.ports, 0x43, 0x40); /* the first latch stays until it is read */
    assert_int_equal(in8(machine.ports, 0x41), 900 & 0xff);
    assert_int_equal(in8(machine.ports, 0x41), 900 >> 8);
    assert_int_equal(count(&machine, 1), 800);

    /* Read-back of status and count of channels 1 and 2 together. */
    out8(machine.ports, 0x43, 0xb4); /* channel 2, mode 2: no count yet */
    out8(machine.ports, 0x43, 0xcc);
    assert_int_equal(in8(machine.ports, 0x41), 0x80 | 0x30 | 2 << 1);
    assert_int_equal(in8(machine.ports, 0x41), 800 & 0xff);
    assert_int_equal(in8(machine.ports, 0x41), 800 >> 8);
    assert_int_equal(in8(machine.ports, 0x42), 0x80 | 0x40 | 0x30 | 2 << 1);
    machine_destroy(&machine);
}

/* What a mode's output does at given ticks: channel 2 through port 0x61, its gate high. */
static void test_outputs(void **state)
{
    static const struct {
        unsigned mode;
        unsigned ticks;
        bool out;
    } steps[] = {
        {0, 0, false}, {0, 99, false},  {0, 100, true}, {0, 100000, true}, {2, 0, true},
        {2, 98, true}, {2, 99, false},  {2, 100, true}, {2, 199, false},   {3, 0, true},
        {3, 49, true}, {3, 50, false},  {3, 99, false}, {3, 100, true},    {4, 0, true},
        {4, 99, true}, {4, 100, false}, {4, 101, true}, {4, 200, true},    {1, 0, true},
        {1, 50, true}, {5, 0, true},    {5, 50, true},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(steps); i++) {
        struct machine machine;
        machine_create(&machine);
        out8(machine.ports, 0x61, 0x01);
        uint64_t start = machine.time.now;
        program(&machine, 2, steps[i].mode, 100);
        go_to(&machine, start, steps[i].ticks);
        if (out2(&machine) != steps[i].out)
            fail_msg("mode %u at tick %u", steps[i].mode, steps[i].ticks);
        machine_destroy(&machine);
    }
}

static void test_gate(void **state)
{
    struct machine machine;
    machine_create(&machine);
    /* Mode 0: the gate stops and continues. */
    program(&machine, 2, 0, 1000);
    fake_time_advance(&machine.time, ticks_ns(5000));
    assert_false(out2(&machine));
    assert_int_equal(count(&machine, 2), 1000);
    out8(machine.ports, 0x61, 0x01);
    uint64_t start = machine.time.now;
    go_to(&machine, start, 400);
    out8(machine.ports, 0x61, 0x00);
    fake_time_advance(&machine.time, ticks_ns(5000));
    assert_int_equal(count(&machine, 2), 600);
    out8(machine.ports, 0x61, 0x03);
    assert_int_equal(in8(machine.ports, 0x61) & 0x23, 0x03);
    start = machine.time.now;
    go_to(&machine, start, 599);
    assert_false(out2(&machine));
    go_to(&machine, start, 600);
    assert_true(out2(&machine));

    /* Modes 1 and 5: its edge starts the count. */
    out8(machine.ports, 0x61, 0x00);
    program(&machine, 2, 1, 100);
    assert_true(out2(&machine));
    out8(machine.ports, 0x61, 0x01);
    start = machine.time.now;
    assert_false(out2(&machine));
    go_to(&machine, start, 60);
    out8(machine.ports, 0x61, 0x00); /* does not stop it; another edge restarts */
    out8(machine.ports, 0x61, 0x01);
    start = machine.time.now;
    go_to(&machine, start, 99);
    assert_false(out2(&machine));
    go_to(&machine, start, 100);
    assert_true(out2(&machine));

    /* Modes 2 and 3: low forces the output high and stops; the edge starts afresh. */
    program(&machine, 2, 3, 100);
    fake_time_advance(&machine.time, ticks_ns(70));
    assert_false(out2(&machine));
    out8(machine.ports, 0x61, 0x00);
    assert_true(out2(&machine));
    out8(machine.ports, 0x61, 0x01);
    assert_int_equal(count(&machine, 2), 100);
    machine_destroy(&machine);
}

static void test_periodic_interrupt(void **state)
{
    struct machine machine;
    machine_create(&machine);
    for (unsigned mode = 2; mode <= 3; mode++) {
        machine.irq.rises = 0;
        uint64_t start = machine.time.now;
        program(&machine, 0, mode, 11932); /* 100 Hz */
        for (unsigned i = 1; i <= 100; i++) {
            go_to(&machine, start, 11932ull * i - 1);
            assert_int_equal(machine.irq.rises, i - 1);
            go_to(&machine, start, 11932ull * i);
            assert_int_equal(machine.irq.rises, i);
        }
    }
    /* A control word stops it. */
    out8(machine.ports, 0x43, 0x34);
    assert_int_equal(fake_time_armed(&machine.time), 0);
    machine_destroy(&machine);
}

static void test_one_shot_interrupt(void **state)
{
    struct machine machine;
    machine_create(&machine);
    uint64_t start = machine.time.now;
    program(&machine, 0, 0, 1000);
    go_to(&machine, start, 999);
    assert_false(machine.irq.level);
    go_to(&machine, start, 1000);
    assert_true(machine.irq.level);
    fake_time_advance(&machine.time, NS_PER_SECOND);
    assert_int_equal(machine.irq.rises, 1);
    out8(machine.ports, 0x40, 100); /* a new count lowers it and starts again */
    out8(machine.ports, 0x40, 0);
    assert_false(machine.irq.level);
    fake_time_advance(&machine.time, ticks_ns(100));
    assert_int_equal(machine.irq.rises, 2);
    pit_reset(machine.pit);
    assert_false(machine.irq.level);
    machine_destroy(&machine);
}

/* A period of a microsecond is not delivered as such. */
static void test_interrupts_are_bounded(void **state)
{
    struct machine machine;
    machine_create(&machine);
    program(&machine, 0, 2, 1);
    fake_time_advance(&machine.time, 10000000);
    assert_in_range(machine.irq.rises, 100, 10000000 / DEVICE_TIMER_MIN_NS);
    assert_int_equal(count(&machine, 0), 1);
    machine_destroy(&machine);
}

static void test_refresh_bit(void **state)
{
    struct machine machine;
    machine_create(&machine);
    unsigned changes = 0;
    uint8_t before = in8(machine.ports, 0x61) & 0x10;
    for (unsigned i = 0; i < 1000; i++) {
        fake_time_advance(&machine.time, 15085);
        uint8_t now = in8(machine.ports, 0x61) & 0x10;
        changes += now != before;
        before = now;
    }
    assert_int_equal(changes, 1000);
    machine_destroy(&machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counting),
        cmocka_unit_test(test_bcd),
        cmocka_unit_test(test_access_modes),
        cmocka_unit_test(test_latches),
        cmocka_unit_test(test_outputs),
        cmocka_unit_test(test_gate),
        cmocka_unit_test(test_periodic_interrupt),
        cmocka_unit_test(test_one_shot_interrupt),
        cmocka_unit_test(test_interrupts_are_bounded),
        cmocka_unit_test(test_refresh_bit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
