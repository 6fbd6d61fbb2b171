/* The real-time clock: time in all its formats, setting it, the three interrupts, CMOS. The host's
 * wall clock starts at 2024-02-29 12:34:56 UTC, a Thursday. */

#include "fixture.h"

#include "dev/rtc.h"

#define A          0x0a
#define B          0x0b
#define C          0x0c
#define D          0x0d
#define B_SET      0x80
#define B_PERIODIC 0x40
#define B_ALARM    0x20
#define B_UPDATE   0x10
#define B_BINARY   0x04
#define B_24       0x02

struct machine {
    struct fake_time time;
    struct rtc *rtc;
    struct bus *ports;
    struct irq_probe irq;
};

static void machine_create(struct machine *machine)
{
    *machine = (struct machine){0};
    struct device_time time = fake_time_init(&machine->time);
    assert_int_equal(rtc_create(&machine->rtc, &time, irq_probe_line(&machine->irq), NULL),
                     STATUS_OK);
    machine->ports = test_bus();
    assert_int_equal(rtc_attach(machine->rtc, machine->ports, NULL), STATUS_OK);
}

static void machine_destroy(struct machine *machine)
{
    bus_destroy(machine->ports);
    rtc_destroy(machine->rtc);
    assert_null(machine->time.timers);
}

static uint8_t get(struct machine *machine, uint8_t reg)
{
    out8(machine->ports, 0x70, reg);
    return in8(machine->ports, 0x71);
}

static void set(struct machine *machine, uint8_t reg, uint8_t value)
{
    out8(machine->ports, 0x70, reg);
    out8(machine->ports, 0x71, value);
}

/* Century, year, month, day, weekday, hours, minutes, seconds. */
static void check_time(struct machine *machine, const uint8_t expected[8])
{
    static const uint8_t regs[8] = {0x32, 9, 8, 7, 6, 4, 2, 0};
    for (unsigned i = 0; i < 8; i++) {
        if (get(machine, regs[i]) != expected[i])
            fail_msg("register %#x is %#x, not %#x", regs[i], get(machine, regs[i]), expected[i]);
    }
}

#define CHECK_TIME(machine, ...) check_time(machine, (const uint8_t[8]){__VA_ARGS__})

static void set_time(struct machine *machine, uint8_t century, uint8_t year, uint8_t month,
                     uint8_t day, uint8_t hours, uint8_t minutes, uint8_t seconds)
{
    uint8_t b = get(machine, B);
    set(machine, B, b | B_SET);
    set(machine, 0x32, century);
    set(machine, 9, year);
    set(machine, 8, month);
    set(machine, 7, day);
    set(machine, 4, hours);
    set(machine, 2, minutes);
    set(machine, 0, seconds);
    set(machine, B, b);
}

static void test_formats(void **state)
{
    struct machine machine;
    machine_create(&machine);
    assert_int_equal(get(&machine, B), B_24);
    assert_int_equal(get(&machine, D), 0x80);
    CHECK_TIME(&machine, 0x20, 0x24, 0x02, 0x29, 5, 0x12, 0x34, 0x56);
    set(&machine, B, B_24 | B_BINARY);
    CHECK_TIME(&machine, 20, 24, 2, 29, 5, 12, 34, 56);
    set(&machine, B, B_BINARY);
    CHECK_TIME(&machine, 20, 24, 2, 29, 5, 12 | 0x80, 34, 56);
    set(&machine, B, 0);
    CHECK_TIME(&machine, 0x20, 0x24, 0x02, 0x29, 5, 0x12 | 0x80, 0x34, 0x56);
    fake_time_advance(&machine.time, (11 * 3600 + 25 * 60 + 4) * NS_PER_SECOND); /* midnight */
    CHECK_TIME(&machine, 0x20, 0x24, 0x03, 0x01, 6, 0x12, 0x00, 0x00);
    fake_time_advance(&machine.time, 13 * 3600 * NS_PER_SECOND);
    CHECK_TIME(&machine, 0x20, 0x24, 0x03, 0x01, 6, 0x01 | 0x80, 0x00, 0x00);
    machine_destroy(&machine);
}

static void test_setting(void **state)
{
    struct machine machine;
    machine_create(&machine);
    set_time(&machine, 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58);
    CHECK_TIME(&machine, 0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x58);
    fake_time_advance(&machine.time, 2 * NS_PER_SECOND);
    CHECK_TIME(&machine, 0x20, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00);

    /* 1900 had no leap day; 2000 had one. */
    set_time(&machine, 0x19, 0x00, 0x02, 0x28, 0x23, 0x59, 0x59);
    fake_time_advance(&machine.time, NS_PER_SECOND);
    CHECK_TIME(&machine, 0x19, 0x00, 0x03, 0x01, 5, 0x00, 0x00, 0x00);
    set_time(&machine, 0x20, 0x00, 0x02, 0x28, 0x23, 0x59, 0x59);
    fake_time_advance(&machine.time, NS_PER_SECOND);
    CHECK_TIME(&machine, 0x20, 0x00, 0x02, 0x29, 3, 0x00, 0x00, 0x00);

    /* The ends of what can be said. */
    set_time(&machine, 0x99, 0x99, 0x12, 0x31, 0x00, 0x00, 0x00);
    CHECK_TIME(&machine, 0x99, 0x99, 0x12, 0x31, 6, 0x00, 0x00, 0x00);
    set_time(&machine, 0x00, 0x00, 0x01, 0x01, 0x00, 0x00, 0x00);
    CHECK_TIME(&machine, 0x00, 0x00, 0x01, 0x01, 7, 0x00, 0x00, 0x00);

    /* While SET: frozen, and plain memory. One field alone without SET. */
    set(&machine, B, B_SET | B_24);
    set(&machine, 0, 0x77);
    fake_time_advance(&machine.time, 10 * NS_PER_SECOND);
    assert_int_equal(get(&machine, 0), 0x77);
    set(&machine, 0, 0x30);
    set(&machine, B, B_24);
    assert_int_equal(get(&machine, 0), 0x30);
    set(&machine, 2, 0x45);
    CHECK_TIME(&machine, 0x00, 0x00, 0x01, 0x01, 7, 0x00, 0x45, 0x30);

    /* 12-hour clocks say 12 for 0. */
    set(&machine, B, 0);
    set_time(&machine, 0x20, 0x24, 0x06, 0x15, 0x12, 0x10, 0x00);
    set(&machine, B, B_24);
    assert_int_equal(get(&machine, 4), 0x00);
    set(&machine, B, 0);
    set_time(&machine, 0x20, 0x24, 0x06, 0x15, 0x92, 0x10, 0x00);
    set(&machine, B, B_24);
    assert_int_equal(get(&machine, 4), 0x12);
    machine_destroy(&machine);
}

/* Every day of four centuries, against counting days. */
static void test_calendar(void **state)
{
    static const uint8_t lengths[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    struct machine machine;
    machine_create(&machine);
    set(&machine, B, B_24 | B_BINARY);
    set_time(&machine, 18, 0, 1, 1, 6, 0, 0);
    unsigned year = 1800, month = 1, day = 1, weekday = 4; /* a Wednesday */
    for (unsigned i = 0; i < 146097; i++) {
        CHECK_TIME(&machine, (uint8_t)(year / 100), (uint8_t)(year % 100), (uint8_t)month,
                   (uint8_t)day, (uint8_t)weekday, 6, 0, 0);
        bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        weekday = weekday % 7 + 1;
        if (day++ == lengths[month - 1] + (month == 2 && leap ? 1u : 0)) {
            day = 1;
            if (month++ == 12) {
                month = 1;
                year++;
            }
        }
        machine.time.wall += 86400 * NS_PER_SECOND;
    }
    assert_int_equal(year, 2200);
    machine_destroy(&machine);
}

static void test_update_in_progress(void **state)
{
    struct machine machine;
    machine_create(&machine);
    assert_int_equal(get(&machine, A), 0x26);
    fake_time_advance(&machine.time, NS_PER_SECOND - 1000);
    assert_int_equal(get(&machine, A), 0xa6);
    assert_int_equal(get(&machine, 0), 0x56);
    fake_time_advance(&machine.time, 1000);
    assert_int_equal(get(&machine, A), 0x26);
    assert_int_equal(get(&machine, 0), 0x57);
    machine_destroy(&machine);
}

static void test_periodic_interrupt(void **state)
{
    struct machine machine;
    machine_create(&machine);
    static const struct {
        uint8_t rate;
        unsigned hz;
    } rates[] = {{0x3, 8192}, {0x6, 1024}, {0xf, 2}, {0x1, 256}, {0x2, 128}, {0x0, 0}};
    set(&machine, B, B_24 | B_PERIODIC);
    for (unsigned i = 0; i < ARRAY_LENGTH(rates); i++) {
        set(&machine, A, 0x20 | rates[i].rate);
        get(&machine, C);
        unsigned interrupts = 0;
        for (unsigned step = 0; step < 20000; step++) {
            fake_time_advance(&machine.time, NS_PER_SECOND / 20000);
            if (machine.irq.level) {
                interrupts++;
                assert_int_equal(get(&machine, C) & 0xc0, 0xc0);
                assert_false(machine.irq.level);
            }
        }
        assert_in_range(interrupts, rates[i].hz == 0 ? 0 : rates[i].hz - 1, rates[i].hz + 1);
    }

    /* One that is not acknowledged is not repeated, nor is anybody woken for it. */
    set(&machine, A, 0x26);
    fake_time_advance(&machine.time, NS_PER_SECOND);
    machine.irq.rises = 0;
    unsigned armed = machine.time.armed_calls;
    fake_time_advance(&machine.time, NS_PER_SECOND);
    assert_int_equal(machine.irq.rises, 0);
    assert_int_equal(machine.time.armed_calls, armed);
    machine_destroy(&machine);
}

static void test_update_interrupt(void **state)
{
    struct machine machine;
    machine_create(&machine);
    fake_time_advance(&machine.time, 300000000);
    set(&machine, B, B_24 | B_UPDATE);
    fake_time_advance(&machine.time, 699999999);
    assert_false(machine.irq.level);
    fake_time_advance(&machine.time, 1);
    assert_true(machine.irq.level);
    assert_int_equal(get(&machine, C) & 0xb0, 0x90);
    assert_int_equal(get(&machine, C), 0);
    fake_time_advance(&machine.time, NS_PER_SECOND);
    assert_true(machine.irq.level);

    /* SET switches it off. */
    get(&machine, C);
    set(&machine, B, B_24 | B_SET | B_UPDATE);
    assert_int_equal(get(&machine, B), B_24 | B_SET);
    fake_time_advance(&machine.time, 5 * NS_PER_SECOND);
    assert_false(machine.irq.level);

    /* Flags are there for those who poll; enabling one that is set interrupts at once. */
    set(&machine, B, B_24);
    fake_time_advance(&machine.time, 2 * NS_PER_SECOND);
    assert_false(machine.irq.level);
    set(&machine, B, B_24 | B_UPDATE);
    assert_true(machine.irq.level);
    rtc_reset(machine.rtc);
    assert_false(machine.irq.level);
    assert_int_equal(get(&machine, B), B_24);
    machine_destroy(&machine);
}

/* Seconds until the alarm interrupts, or -1 within two days. */
static int64_t alarm_after(struct machine *machine, uint8_t hours, uint8_t minutes, uint8_t seconds)
{
    set(machine, 5, hours);
    set(machine, 3, minutes);
    set(machine, 1, seconds);
    get(machine, C);
    set(machine, B, get(machine, B) | B_ALARM);
    uint64_t start = machine->time.now;
    int64_t after = -1;
    for (unsigned hour = 0; hour < 48 && !machine->irq.level; hour++)
        fake_time_advance(&machine->time, 3600 * NS_PER_SECOND);
    if (machine->irq.level) {
        assert_int_equal(get(machine, C) & 0xa0, 0xa0);
        after = (int64_t)((machine->time.now - start) / NS_PER_SECOND);
    }
    set(machine, B, get(machine, B) & (uint8_t)~B_ALARM);
    return after;
}

static void test_alarm(void **state)
{
    struct machine machine;
    machine_create(&machine);
    /* To the second. */
    set(&machine, 5, 0x13);
    set(&machine, 3, 0x00);
    set(&machine, 1, 0x05);
    set(&machine, B, B_24 | B_ALARM);
    fake_time_advance(&machine.time, (25 * 60 + 8) * NS_PER_SECOND);
    assert_false(machine.irq.level);
    fake_time_advance(&machine.time, NS_PER_SECOND);
    assert_true(machine.irq.level);
    assert_int_equal(get(&machine, C) & 0x20, 0x20);
    set(&machine, B, B_24);

    /* Once a day, an hour, a minute, a second; never. The steps of the helper are hours. */
    assert_int_equal(alarm_after(&machine, 0x13, 0x00, 0x05), 24 * 3600);
    assert_int_equal(alarm_after(&machine, 0x15, 0xff, 0x00), 2 * 3600);
    assert_int_equal(alarm_after(&machine, 0xff, 0x30, 0x00), 3600);
    assert_int_equal(alarm_after(&machine, 0xc0, 0xc0, 0xc0), 3600);
    assert_int_equal(alarm_after(&machine, 0x25, 0x00, 0x00), -1);
    assert_int_equal(alarm_after(&machine, 0x10, 0x61, 0x00), -1);
    assert_int_equal(alarm_after(&machine, 0xff, 0xff, 0x60), -1);

    /* 12-hour format. */
    set_time(&machine, 0x20, 0x24, 0x06, 0x15, 0x11, 0x00, 0x00);
    set(&machine, B, 0);
    assert_int_equal(alarm_after(&machine, 0x82, 0x00, 0x00), 3 * 3600);
    machine_destroy(&machine);
}

static void test_host_clock_set_back(void **state)
{
    struct machine machine;
    machine_create(&machine);
    set(&machine, B, B_24 | B_UPDATE);
    machine.time.wall -= 1000 * NS_PER_SECOND;
    CHECK_TIME(&machine, 0x20, 0x24, 0x02, 0x29, 5, 0x12, 0x18, 0x16);
    assert_int_equal(get(&machine, C), 0); /* nothing came to pass */
    fake_time_advance(&machine.time, 2 * NS_PER_SECOND);
    assert_true(machine.irq.level);
    machine_destroy(&machine);
}

static void test_cmos(void **state)
{
    struct machine machine;
    machine_create(&machine);
    for (unsigned i = 0x0e; i < 0x80; i++) {
        if (i != RTC_CENTURY)
            set(&machine, (uint8_t)(i | 0x80), (uint8_t)(i * 3));
    }
    set(&machine, C, 0xff);
    set(&machine, D, 0xff);
    for (unsigned i = 0x0e; i < 0x80; i++) {
        if (i != RTC_CENTURY)
            assert_int_equal(get(&machine, (uint8_t)i), (uint8_t)(i * 3));
    }
    assert_int_equal(get(&machine, C), 0);
    assert_int_equal(get(&machine, D), 0x80);
    assert_int_equal(in8(machine.ports, 0x70), 0xff);
    machine_destroy(&machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_setting),
        cmocka_unit_test(test_calendar),
        cmocka_unit_test(test_update_in_progress),
        cmocka_unit_test(test_periodic_interrupt),
        cmocka_unit_test(test_update_interrupt),
        cmocka_unit_test(test_alarm),
        cmocka_unit_test(test_host_clock_set_back),
        cmocka_unit_test(test_cmos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
