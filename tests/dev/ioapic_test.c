/* The I/O APIC: registers, edges and levels, redelivery, and the whole way to a local APIC and its
 * end of interrupt back. */

#include "fixture.h"

#include "dev/ioapic.h"
#include "dev/platform.h"

#define LEVEL      0x8000u
#define MASKED     0x10000u
#define REMOTE_IRR 0x4000u
#define PIN        9u

struct machine {
    struct apic_set apics;
    struct ioapic *ioapic;
    struct bus *mmio;
};

static void reg_write(struct machine *machine, uint8_t index, uint32_t value)
{
    bus_write(machine->mmio, PLATFORM_IOAPIC_BASE, 4, index);
    bus_write(machine->mmio, PLATFORM_IOAPIC_BASE + 0x10, 4, value);
}

static uint32_t reg_read(struct machine *machine, uint8_t index)
{
    bus_write(machine->mmio, PLATFORM_IOAPIC_BASE, 4, index);
    return (uint32_t)bus_read(machine->mmio, PLATFORM_IOAPIC_BASE + 0x10, 4);
}

static void entry_write(struct machine *machine, unsigned pin, uint32_t low, uint8_t destination)
{
    reg_write(machine, (uint8_t)(0x11 + 2 * pin), (uint32_t)destination << 24);
    reg_write(machine, (uint8_t)(0x10 + 2 * pin), low);
}

static uint32_t entry_read(struct machine *machine, unsigned pin)
{
    return reg_read(machine, (uint8_t)(0x10 + 2 * pin));
}

static void machine_create(struct machine *machine)
{
    apic_set_create(&machine->apics, 2);
    for (unsigned i = 0; i < 2; i++)
        apic_enable(&machine->apics.cpus[i]);
    assert_int_equal(ioapic_create(&machine->ioapic, machine->apics.bus, NULL), STATUS_OK);
    machine->mmio = test_bus();
    assert_int_equal(ioapic_attach(machine->ioapic, machine->mmio, NULL), STATUS_OK);
    apic_bus_set_eoi_hook(machine->apics.bus, ioapic_eoi, machine->ioapic);
}

static void machine_destroy(struct machine *machine)
{
    ioapic_destroy(machine->ioapic);
    bus_destroy(machine->mmio);
    apic_set_destroy(&machine->apics);
}

static void line(struct machine *machine, unsigned pin, bool level)
{
    struct irq_line irq = ioapic_line(machine->ioapic, pin);
    irq_set(&irq, level);
}

static int take(struct machine *machine, unsigned cpu)
{
    return lapic_acknowledge(machine->apics.cpus[cpu].lapic);
}

static void end(struct machine *machine, unsigned cpu)
{
    apic_write(&machine->apics.cpus[cpu], 0xb0, 0);
}

static void test_registers(void **state)
{
    struct machine machine;
    machine_create(&machine);
    assert_int_equal(reg_read(&machine, 1), 0x00170020);
    reg_write(&machine, 1, 0);
    assert_int_equal(reg_read(&machine, 1), 0x00170020);
    reg_write(&machine, 0, 0xffffffff);
    assert_int_equal(reg_read(&machine, 0), 0x0f000000);
    assert_int_equal(reg_read(&machine, 2), 0x0f000000);
    for (unsigned pin = 0; pin < PLATFORM_IOAPIC_PINS; pin++) {
        assert_int_equal(entry_read(&machine, pin), MASKED);
        entry_write(&machine, pin, 0xffffffff, (uint8_t)(0xe0 + pin));
        /* Delivery status and remote IRR cannot be written. */
        assert_int_equal(entry_read(&machine, pin), 0x0001afff);
        assert_int_equal(reg_read(&machine, (uint8_t)(0x11 + 2 * pin)), (0xe0 + pin) << 24);
    }
    assert_int_equal(reg_read(&machine, 0x40), 0xffffffff);
    reg_write(&machine, 0xff, 0);
    ioapic_reset(machine.ioapic);
    assert_int_equal(entry_read(&machine, 3), MASKED);
    machine_destroy(&machine);
}

static void test_edge(void **state)
{
    struct machine machine;
    machine_create(&machine);
    entry_write(&machine, PIN, 0x45, 1);
    line(&machine, PIN, true);
    assert_int_equal(take(&machine, 0), -1);
    assert_int_equal(take(&machine, 1), 0x45);
    assert_int_equal(entry_read(&machine, PIN), 0x45); /* no remote IRR for edges */
    end(&machine, 1);
    line(&machine, PIN, true); /* still high: no edge */
    assert_int_equal(take(&machine, 1), -1);
    line(&machine, PIN, false);
    line(&machine, PIN, true);
    assert_int_equal(take(&machine, 1), 0x45);
    end(&machine, 1);

    /* Masked edges are lost. */
    line(&machine, PIN, false);
    entry_write(&machine, PIN, MASKED | 0x45, 1);
    line(&machine, PIN, true);
    entry_write(&machine, PIN, 0x45, 1);
    assert_int_equal(take(&machine, 1), -1);
    machine_destroy(&machine);
}

static void test_level(void **state)
{
    struct machine machine;
    machine_create(&machine);
    entry_write(&machine, PIN, LEVEL | 0x45, 0);
    line(&machine, PIN, true);
    assert_int_equal(entry_read(&machine, PIN), LEVEL | REMOTE_IRR | 0x45);
    assert_int_equal(take(&machine, 0), 0x45);
    /* Neither staying high nor another edge sends again before the end. */
    line(&machine, PIN, false);
    line(&machine, PIN, true);
    assert_int_equal(take(&machine, 0), -1);

    /* Still asserted at the end: again, at once. */
    end(&machine, 0);
    assert_int_equal(entry_read(&machine, PIN), LEVEL | REMOTE_IRR | 0x45);
    assert_int_equal(take(&machine, 0), 0x45);
    line(&machine, PIN, false);
    end(&machine, 0);
    assert_int_equal(entry_read(&machine, PIN), LEVEL | 0x45);
    assert_int_equal(take(&machine, 0), -1);

    /* Masked while asserted, then unmasked: levels are not lost. */
    entry_write(&machine, PIN, MASKED | LEVEL | 0x45, 0);
    line(&machine, PIN, true);
    assert_int_equal(take(&machine, 0), -1);
    entry_write(&machine, PIN, LEVEL | 0x45, 0);
    assert_int_equal(take(&machine, 0), 0x45);

    /* Masked in service: the end does not send, unmasking does. */
    entry_write(&machine, PIN, MASKED | LEVEL | 0x45, 0);
    end(&machine, 0);
    assert_int_equal(take(&machine, 0), -1);
    entry_write(&machine, PIN, LEVEL | 0x45, 0);
    assert_int_equal(take(&machine, 0), 0x45);
    machine_destroy(&machine);
}

static void test_shared_vector(void **state)
{
    struct machine machine;
    machine_create(&machine);
    entry_write(&machine, 4, LEVEL | 0x45, 0);
    entry_write(&machine, 5, LEVEL | 0x45, 0);
    entry_write(&machine, 6, LEVEL | 0x55, 1);
    line(&machine, 4, true);
    line(&machine, 5, true);
    line(&machine, 6, true);
    assert_int_equal(take(&machine, 0), 0x45);
    line(&machine, 4, false);
    end(&machine, 0); /* ends both pins; pin 5 comes again; pin 6 is another's */
    assert_int_equal(entry_read(&machine, 4), LEVEL | 0x45);
    assert_int_equal(entry_read(&machine, 5), LEVEL | REMOTE_IRR | 0x45);
    assert_int_equal(entry_read(&machine, 6), LEVEL | REMOTE_IRR | 0x55);
    assert_int_equal(take(&machine, 0), 0x45);
    machine_destroy(&machine);
}

/* Two ways in which kernels end an interrupt themselves. */
static void test_explicit_eoi(void **state)
{
    struct machine machine;
    machine_create(&machine);
    entry_write(&machine, PIN, LEVEL | 0x45, 0);
    line(&machine, PIN, true);
    line(&machine, PIN, false);
    bus_write(machine.mmio, PLATFORM_IOAPIC_BASE + 0x40, 4, 0x44); /* another vector */
    assert_int_equal(entry_read(&machine, PIN), LEVEL | REMOTE_IRR | 0x45);
    bus_write(machine.mmio, PLATFORM_IOAPIC_BASE + 0x40, 4, 0x45);
    assert_int_equal(entry_read(&machine, PIN), LEVEL | 0x45);

    line(&machine, PIN, true);
    line(&machine, PIN, false);
    assert_int_equal(entry_read(&machine, PIN), LEVEL | REMOTE_IRR | 0x45);
    entry_write(&machine, PIN, MASKED | 0x45, 0); /* to edge and back */
    entry_write(&machine, PIN, LEVEL | 0x45, 0);
    assert_int_equal(entry_read(&machine, PIN), LEVEL | 0x45);
    machine_destroy(&machine);
}

static void test_destinations(void **state)
{
    struct machine machine;
    machine_create(&machine);
    for (unsigned i = 0; i < 2; i++)
        apic_write(&machine.apics.cpus[i], 0xd0, 1u << (24 + i));
    entry_write(&machine, 1, 0x0800 | 0x61, 0x2); /* logical */
    entry_write(&machine, 2, 0x62, 0xff);         /* broadcast */
    entry_write(&machine, 3, 0x0400, 1);          /* NMI */
    entry_write(&machine, 4, LEVEL | 0x64, 9);    /* nobody */
    entry_write(&machine, 5, 0x0900 | 0x65, 0x3); /* lowest priority of both */
    line(&machine, 1, true);
    assert_int_equal(take(&machine, 0), -1);
    assert_int_equal(take(&machine, 1), 0x61);
    end(&machine, 1);
    line(&machine, 2, true);
    assert_int_equal(take(&machine, 0), 0x62);
    assert_int_equal(take(&machine, 1), 0x62);
    end(&machine, 0);
    end(&machine, 1);
    line(&machine, 3, true);
    assert_int_equal(machine.apics.cpus[0].nmis, 0);
    assert_int_equal(machine.apics.cpus[1].nmis, 1);
    line(&machine, 4, true);
    assert_int_equal(entry_read(&machine, 4), LEVEL | 0x64); /* not taken, so not waiting */
    apic_write(&machine.apics.cpus[0], 0x80, 0x40);
    line(&machine, 5, true);
    assert_int_equal(take(&machine, 1), 0x65);
    apic_write(&machine.apics.cpus[0], 0x80, 0);
    assert_int_equal(take(&machine, 0), -1);

    /* To an x2APIC, by physical broadcast and by logical id. */
    end(&machine, 1);
    apic_to_x2apic(&machine.apics.cpus[1]);
    line(&machine, 1, false);
    line(&machine, 1, true);
    assert_int_equal(take(&machine, 1), 0x61);
    msr_write(&machine.apics.cpus[1], 0x80b, 0);
    line(&machine, 2, false);
    line(&machine, 2, true);
    assert_int_equal(take(&machine, 1), 0x62);
    machine_destroy(&machine);
}

static void test_no_such_pin(void **state)
{
    struct machine machine;
    machine_create(&machine);
    line(&machine, PLATFORM_IOAPIC_PINS, true);
    line(&machine, 1000, true);
    assert_int_equal(take(&machine, 0), -1);
    machine_destroy(&machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registers),    cmocka_unit_test(test_edge),
        cmocka_unit_test(test_level),        cmocka_unit_test(test_shared_vector),
        cmocka_unit_test(test_explicit_eoi), cmocka_unit_test(test_destinations),
        cmocka_unit_test(test_no_such_pin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
