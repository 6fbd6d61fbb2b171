/* The small devices: debug exit, ACPI sleep and reset, keyboard controller, the ISA wire. */

#include "fixture.h"

#include "dev/acpi_pm.h"
#include "dev/debug_exit.h"
#include "dev/isa_irq.h"
#include "dev/keyboard.h"

struct calls {
    unsigned exits, power_offs, resets;
    uint32_t value;
};

static void on_exit_value(void *context, uint32_t value)
{
    struct calls *calls = context;
    calls->exits++;
    calls->value = value;
}

static void on_power_off(void *context)
{
    ((struct calls *)context)->power_offs++;
}

static void on_reset(void *context)
{
    ((struct calls *)context)->resets++;
}

static void test_debug_exit(void **state)
{
    struct bus *ports = test_bus();
    struct calls calls = {0};
    struct debug_exit device = {.exit = on_exit_value, .context = &calls};
    assert_int_equal(debug_exit_attach(&device, ports, NULL), STATUS_OK);
    assert_int_equal(bus_read(ports, 0xf4, 4), 0);
    bus_write(ports, 0xf4, 4, 0x12345678);
    assert_int_equal(calls.exits, 1);
    assert_int_equal(calls.value, 0x12345678);
    out8(ports, 0xf4, 7);
    assert_int_equal(calls.exits, 2);
    assert_int_equal(calls.value, 7);
    bus_destroy(ports);
}

static void test_acpi(void **state)
{
    struct bus *ports = test_bus();
    struct calls calls = {0};
    struct acpi_pm device = {.power_off = on_power_off, .reset = on_reset, .context = &calls};
    assert_int_equal(acpi_pm_attach(&device, ports, NULL), STATUS_OK);
    out8(ports, 0x600, ACPI_PM_S5_TYPE << 2); /* without enable */
    out8(ports, 0x600, 0x20 | 3 << 2);        /* another sleep type */
    out8(ports, 0x601, 0x20 | ACPI_PM_S5_TYPE << 2);
    assert_int_equal(calls.power_offs, 0);
    out8(ports, 0x600, 0x20 | ACPI_PM_S5_TYPE << 2);
    assert_int_equal(calls.power_offs, 1);
    assert_int_equal(bus_read(ports, 0x600, 2), 0);

    out8(ports, 0xcf9, 0x02);
    assert_int_equal(calls.resets, 0);
    out8(ports, 0xcf9, ACPI_PM_RESET_VALUE);
    out8(ports, 0xcf9, 0x0e);
    assert_int_equal(calls.resets, 2);
    assert_int_equal(calls.power_offs, 1);
    bus_destroy(ports);
}

static void test_keyboard(void **state)
{
    struct bus *ports = test_bus();
    struct calls calls = {0};
    struct keyboard device = {.reset = on_reset, .context = &calls};
    assert_int_equal(keyboard_attach(&device, ports, NULL), STATUS_OK);
    assert_int_equal(in8(ports, 0x64) & 0x02, 0); /* ready for commands */
    /* More stale bytes than Linux is willing to drain, but not for ever. */
    unsigned drained = 0;
    while ((in8(ports, 0x64) & 0x01) != 0 && drained < 1000) {
        in8(ports, 0x60);
        drained++;
    }
    assert_in_range(drained, 17, 100);
    out8(ports, 0x60, 0xfe); /* data, not a command */
    out8(ports, 0x64, 0xd1);
    assert_int_equal(calls.resets, 0);
    out8(ports, 0x64, 0xfe);
    assert_int_equal(calls.resets, 1);

    assert_int_equal(in8(ports, 0x92), 0x02); /* A20 is on */
    out8(ports, 0x92, 0x02);
    assert_int_equal(calls.resets, 1);
    out8(ports, 0x92, 0x03);
    assert_int_equal(calls.resets, 2);
    bus_destroy(ports);
}

static void test_isa_irq(void **state)
{
    struct irq_probe pic = {0}, ioapic = {0};
    struct isa_irq irq = {.pic = irq_probe_line(&pic), .ioapic = irq_probe_line(&ioapic)};
    struct irq_line line = isa_irq_line(&irq);
    irq_set(&line, true);
    assert_true(pic.level && ioapic.level);
    irq_set(&line, false);
    assert_false(pic.level || ioapic.level);
    irq.ioapic = (struct irq_line){0}; /* nobody there */
    irq_set(&line, true);
    assert_int_equal(pic.rises, 2);
    assert_int_equal(ioapic.rises, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_debug_exit),
        cmocka_unit_test(test_acpi),
        cmocka_unit_test(test_keyboard),
        cmocka_unit_test(test_isa_irq),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
