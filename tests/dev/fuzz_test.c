/*
 * All devices wired as in a machine, under random accesses of any size at any offset, random line
 * changes, and time that moves in random steps. Nothing may crash (the sanitizers watch), and the
 * machine must still work afterwards: after a reset the same plain sequence gives the same result.
 */

#include "fixture.h"

#include <fcntl.h>
#include <unistd.h>

#include "dev/acpi_pm.h"
#include "dev/debug_exit.h"
#include "dev/ioapic.h"
#include "dev/isa_irq.h"
#include "dev/keyboard.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/platform.h"
#include "dev/rtc.h"
#include "dev/serial.h"

#define CPUS  2u
#define STEPS 400000u

struct machine {
    struct apic_set apics;
    struct ioapic *ioapic;
    struct pic *pic;
    struct pit *pit;
    struct rtc *rtc;
    struct serial *serial;
    struct io_loop *loop;
    struct isa_irq irqs[16];
    struct debug_exit debug_exit;
    struct acpi_pm acpi_pm;
    struct keyboard keyboard;
    struct bus *mmio, *ports;
    uint64_t random;
};

/* xorshift64* */
static uint64_t next_random(struct machine *machine)
{
    machine->random ^= machine->random >> 12;
    machine->random ^= machine->random << 25;
    machine->random ^= machine->random >> 27;
    return machine->random * 2685821657736338717ull;
}

static void ignore_value(void *context, uint32_t value)
{
}

static void ignore(void *context)
{
}

static struct irq_line isa_line(struct machine *machine, unsigned irq)
{
    machine->irqs[irq].pic = pic_line(machine->pic, irq);
    machine->irqs[irq].ioapic = ioapic_line(machine->ioapic, irq == 0 ? 2 : irq);
    return isa_irq_line(&machine->irqs[irq]);
}

static void machine_create(struct machine *machine, uint64_t seed)
{
    machine->random = seed;
    apic_set_create(&machine->apics, CPUS);
    const struct device_time *time = &machine->apics.source;
    machine->mmio = test_bus();
    machine->ports = test_bus();
    assert_int_equal(ioapic_create(&machine->ioapic, machine->apics.bus, NULL), STATUS_OK);
    assert_int_equal(ioapic_attach(machine->ioapic, machine->mmio, NULL), STATUS_OK);
    apic_bus_set_eoi_hook(machine->apics.bus, ioapic_eoi, machine->ioapic);
    struct irq_line lint0 = {.set = apic_bus_set_lint0, .context = machine->apics.bus};
    assert_int_equal(pic_create(&machine->pic, lint0, NULL), STATUS_OK);
    assert_int_equal(pic_attach(machine->pic, machine->ports, NULL), STATUS_OK);
    apic_bus_set_pic(machine->apics.bus, pic_pending, pic_acknowledge, machine->pic);
    assert_int_equal(pit_create(&machine->pit, time, isa_line(machine, 0), NULL), STATUS_OK);
    assert_int_equal(pit_attach(machine->pit, machine->ports, NULL), STATUS_OK);
    assert_int_equal(rtc_create(&machine->rtc, time, isa_line(machine, 8), NULL), STATUS_OK);
    assert_int_equal(rtc_attach(machine->rtc, machine->ports, NULL), STATUS_OK);
    assert_int_equal(io_loop_create(&machine->loop, "serial", NULL), STATUS_OK);
    struct serial_config serial = {
        .loop = machine->loop,
        .irq = isa_line(machine, 4),
        .output_fd = open("/dev/null", O_WRONLY | O_CLOEXEC),
        .input_fd = -1,
    };
    assert_int_equal(serial_create(&machine->serial, &serial, NULL), STATUS_OK);
    close(serial.output_fd);
    assert_int_equal(serial_attach(machine->serial, machine->ports, NULL), STATUS_OK);
    machine->debug_exit = (struct debug_exit){.exit = ignore_value};
    assert_int_equal(debug_exit_attach(&machine->debug_exit, machine->ports, NULL), STATUS_OK);
    machine->acpi_pm = (struct acpi_pm){.power_off = ignore, .reset = ignore};
    assert_int_equal(acpi_pm_attach(&machine->acpi_pm, machine->ports, NULL), STATUS_OK);
    machine->keyboard = (struct keyboard){.reset = ignore};
    assert_int_equal(keyboard_attach(&machine->keyboard, machine->ports, NULL), STATUS_OK);
}

static void machine_destroy(struct machine *machine)
{
    serial_destroy(machine->serial);
    io_loop_destroy(machine->loop);
    rtc_destroy(machine->rtc);
    pit_destroy(machine->pit);
    pic_destroy(machine->pic);
    ioapic_destroy(machine->ioapic);
    bus_destroy(machine->mmio);
    bus_destroy(machine->ports);
    apic_set_destroy(&machine->apics);
}

/* Values that mean something more often than random bits would. */
static uint64_t random_value(struct machine *machine)
{
    uint64_t random = next_random(machine);
    switch (random & 7) {
    case 0:
        return 0;
    case 1:
        return UINT64_MAX;
    case 2:
        return bit(random >> 8 & 63);
    case 3:
        return random >> 8 & 0xff;
    case 4: /* an LVT entry, an ICR, a redirection entry */
        return random >> 8 & 0x000fffff;
    default:
        return random >> 3;
    }
}

static void random_port(struct machine *machine)
{
    static const struct {
        uint16_t base, size;
    } ranges[] = {{0x20, 2}, {0xa0, 2},  {0x4d0, 2}, {0x40, 4}, {0x61, 1}, {0x70, 2},  {0x3f8, 8},
                  {0xf4, 4}, {0x600, 2}, {0xcf9, 1}, {0x60, 5}, {0x92, 1}, {0, 0x1000}};
    uint64_t random = next_random(machine);
    unsigned range = (unsigned)(random % ARRAY_LENGTH(ranges));
    uint64_t port = ranges[range].base + (random >> 8) % ranges[range].size;
    unsigned size = 1u << (random >> 24 & 3) % 3;
    if (random >> 32 & 1)
        bus_read(machine->ports, port, size);
    else
        bus_write(machine->ports, port, size, bits_truncate(random_value(machine), size));
}

static void random_mmio(struct machine *machine)
{
    uint64_t random = next_random(machine);
    unsigned size = 1u << (random & 3);
    struct bus *bus = machine->mmio;
    uint64_t address = PLATFORM_IOAPIC_BASE;
    if (random & 4) {
        bus = machine->apics.cpus[random >> 3 & 1].mmio;
        address = PLATFORM_LAPIC_BASE;
    }
    address += random & 8 ? (random >> 8 & 0xff) * 16 : random >> 8 & 0xfff;
    if (random & 16)
        bus_read(bus, address, size);
    else
        bus_write(bus, address, size, bits_truncate(random_value(machine), size));
}

static void random_msr(struct machine *machine)
{
    uint64_t random = next_random(machine), value;
    struct lapic *lapic = machine->apics.cpus[random & 1].lapic;
    uint32_t msr = MSR_X2APIC_FIRST + (random >> 8 & 0xff);
    if ((random & 0x30) == 0x30)
        msr = random & 0x40 ? MSR_APIC_BASE : MSR_TSC_DEADLINE;
    value = random_value(machine);
    if (msr == MSR_APIC_BASE && (random & 0x80))
        value = PLATFORM_LAPIC_BASE | (value & 0xc00);
    if (random & 2)
        lapic_read_msr(lapic, msr, &value);
    else
        lapic_write_msr(lapic, msr, value);
}

static void random_step(struct machine *machine)
{
    uint64_t random = next_random(machine);
    struct apic_cpu *cpu = &machine->apics.cpus[random >> 8 & 1];
    switch (random & 15) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
        random_port(machine);
        break;
    case 5:
    case 6:
    case 7:
    case 8:
        random_mmio(machine);
        break;
    case 9:
    case 10:
        random_msr(machine);
        break;
    case 11: {
        struct irq_line line = isa_line(machine, random >> 16 & 15);
        irq_set(&line, (random >> 24 & 1) != 0);
        break;
    }
    case 12:
        fake_time_advance(&machine->apics.time, random >> (40 + (random >> 10 & 15)));
        break;
    case 13:
        lapic_write_tpr(cpu->lapic, random >> 16);
        break;
    default: {
        int pending = lapic_pending(cpu->lapic);
        assert_in_range(pending + 1, 0, 256);
        int vector = lapic_acknowledge(cpu->lapic);
        assert_int_equal(vector, pending); /* one thread: nothing vanishes in between */
    }
    }
}

static void machine_reset(struct machine *machine)
{
    for (unsigned i = 0; i < CPUS; i++)
        lapic_reset(machine->apics.cpus[i].lapic, false);
    ioapic_reset(machine->ioapic);
    pic_reset(machine->pic);
    pit_reset(machine->pit);
    rtc_reset(machine->rtc);
    serial_reset(machine->serial);
}

/* Random bits soon switch everything off: from time to time the machine starts afresh, with its
 * local APICs on and in either mode. */
static void machine_refresh(struct machine *machine)
{
    machine_reset(machine);
    for (unsigned i = 0; i < CPUS; i++) {
        apic_enable(&machine->apics.cpus[i]);
        if (next_random(machine) & 1)
            apic_to_x2apic(&machine->apics.cpus[i]);
    }
}

/* A timer tick all the way: PIT, wire, I/O APIC, local APIC, end of interrupt. */
static void check_works(struct machine *machine)
{
    struct apic_cpu *cpu = &machine->apics.cpus[1];
    apic_enable(cpu);
    bus_write(machine->mmio, PLATFORM_IOAPIC_BASE, 4, 0x15);
    bus_write(machine->mmio, PLATFORM_IOAPIC_BASE + 0x10, 4, 1u << 24);
    bus_write(machine->mmio, PLATFORM_IOAPIC_BASE, 4, 0x14);
    bus_write(machine->mmio, PLATFORM_IOAPIC_BASE + 0x10, 4, 0x77);
    out8(machine->ports, 0x43, 0x34);
    out8(machine->ports, 0x40, 0);
    out8(machine->ports, 0x40, 0x10);
    for (unsigned i = 0; i < 3; i++) {
        fake_time_advance(&machine->apics.time, 0x1000 * NS_PER_SECOND / PIT_HZ + 1);
        assert_int_equal(lapic_acknowledge(cpu->lapic), 0x77);
        apic_write(cpu, 0xb0, 0);
        assert_int_equal(lapic_acknowledge(cpu->lapic), -1);
    }
    out8(machine->ports, 0x3ff, 0x5a);
    assert_int_equal(in8(machine->ports, 0x3ff), 0x5a);
}

static void test_fuzz(void **state)
{
    static const uint64_t seeds[] = {1, 0x123456789abcdef, 0xfeedfacecafebeef};
    for (unsigned i = 0; i < ARRAY_LENGTH(seeds); i++) {
        struct machine machine;
        machine_create(&machine, seeds[i]);
        for (unsigned step = 0; step < STEPS; step++) {
            if (step % 200 == 0)
                machine_refresh(&machine);
            random_step(&machine);
        }
        machine_reset(&machine);
        check_works(&machine);
        machine_destroy(&machine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fuzz)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
