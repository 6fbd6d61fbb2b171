/* The 8259 pair against its datasheet: initialization, priorities, ends of interrupt, edges and
 * levels, the cascade, and the ways to read it. */

#include "fixture.h"

#include "dev/pic.h"

struct machine {
    struct pic *pic;
    struct bus *ports;
    struct irq_probe output;
};

static void chip_init(struct machine *machine, uint16_t port, uint8_t base, uint8_t icw3,
                      uint8_t icw4)
{
    out8(machine->ports, port, 0x11);
    out8(machine->ports, port + 1, base);
    out8(machine->ports, port + 1, icw3);
    out8(machine->ports, port + 1, icw4);
    out8(machine->ports, port + 1, 0); /* nothing masked */
}

static void machine_create(struct machine *machine, uint8_t icw4)
{
    *machine = (struct machine){0};
    assert_int_equal(pic_create(&machine->pic, irq_probe_line(&machine->output), NULL), STATUS_OK);
    machine->ports = test_bus();
    assert_int_equal(pic_attach(machine->pic, machine->ports, NULL), STATUS_OK);
    chip_init(machine, 0x20, 0x30, 0x04, icw4);
    chip_init(machine, 0xa0, 0x38, 0x02, 0x01);
}

static void machine_destroy(struct machine *machine)
{
    bus_destroy(machine->ports);
    pic_destroy(machine->pic);
}

static void line(struct machine *machine, unsigned irq, bool level)
{
    struct irq_line irq_line = pic_line(machine->pic, irq);
    irq_set(&irq_line, level);
}

static void pulse(struct machine *machine, unsigned irq)
{
    line(machine, irq, true);
    line(machine, irq, false);
    line(machine, irq, true);
}

/* The INTA cycle, and that the look before told the same. */
static int take(struct machine *machine)
{
    int pending = pic_pending(machine->pic);
    assert_int_equal(pending >= 0, machine->output.level);
    int vector = pic_acknowledge(machine->pic);
    assert_int_equal(vector, pending);
    return vector;
}

static uint8_t read_irr(struct machine *machine, uint16_t port)
{
    out8(machine->ports, port, 0x0a);
    return in8(machine->ports, port);
}

static uint8_t read_isr(struct machine *machine, uint16_t port)
{
    out8(machine->ports, port, 0x0b);
    return in8(machine->ports, port);
}

static void test_reset_masks_all(void **state)
{
    struct machine machine = {0};
    assert_int_equal(pic_create(&machine.pic, irq_probe_line(&machine.output), NULL), STATUS_OK);
    for (unsigned irq = 0; irq < 20; irq++)
        line(&machine, irq, true);
    assert_false(machine.output.level);
    assert_int_equal(pic_pending(machine.pic), -1);
    assert_int_equal(pic_acknowledge(machine.pic), -1);
    pic_destroy(machine.pic);
}

static void test_vectors_and_masks(void **state)
{
    struct machine machine;
    machine_create(&machine, 0x01);
    for (unsigned irq = 0; irq < 16; irq++) {
        if (irq == 2)
            continue;
        pulse(&machine, irq);
        assert_true(machine.output.level);
        assert_int_equal(take(&machine), 0x30 + irq);
        assert_false(machine.output.level);
        if (irq >= 8)
            out8(machine.ports, 0xa0, 0x20);
        out8(machine.ports, 0x20, 0x20);
    }
    out8(machine.ports, 0x21, 0x08);
    assert_int_equal(in8(machine.ports, 0x21), 0x08);
    line(&machine, 3, false);
    line(&machine, 3, true);
    assert_false(machine.output.level);
    assert_int_equal(read_irr(&machine, 0x20), 0x08); /* remembered behind the mask */
    out8(machine.ports, 0x21, 0x00);
    assert_int_equal(take(&machine), 0x33);
    out8(machine.ports, 0xa1, 0xff);
    out8(machine.ports, 0x20, 0x20);
    line(&machine, 12, false);
    line(&machine, 12, true);
    assert_false(machine.output.level);
    out8(machine.ports, 0xa1, 0x00);
    assert_int_equal(take(&machine), 0x3c);
    machine_destroy(&machine);
}

static void test_priorities_and_eoi(void **state)
{
    struct machine machine;
    machine_create(&machine, 0x01);
    pulse(&machine, 5);
    pulse(&machine, 3);
    pulse(&machine, 6);
    assert_int_equal(take(&machine), 0x33);
    assert_int_equal(read_isr(&machine, 0x20), 0x08);
    assert_int_equal(read_irr(&machine, 0x20), 0x60);
    assert_false(machine.output.level); /* 5 and 6 wait */
    pulse(&machine, 1);
    assert_int_equal(take(&machine), 0x31); /* more urgent: nests */
    assert_int_equal(read_isr(&machine, 0x20), 0x0a);
    out8(machine.ports, 0x20, 0x20); /* the most urgent ends */
    assert_int_equal(read_isr(&machine, 0x20), 0x08);
    out8(machine.ports, 0x20, 0x60 | 3); /* specific */
    assert_int_equal(read_isr(&machine, 0x20), 0x00);
    assert_int_equal(take(&machine), 0x35);
    out8(machine.ports, 0x20, 0x20);
    assert_int_equal(take(&machine), 0x36);
    out8(machine.ports, 0x20, 0x20);
    out8(machine.ports, 0x20, 0x20); /* nothing in service */
    assert_int_equal(take(&machine), -1);
    machine_destroy(&machine);
}

static void test_edge_that_vanishes(void **state)
{
    struct machine machine;
    machine_create(&machine, 0x01);
    line(&machine, 4, true);
    assert_true(machine.output.level);
    line(&machine, 4, false);
    assert_false(machine.output.level);
    assert_int_equal(take(&machine), -1);
    line(&machine, 4, true);
    assert_int_equal(take(&machine), 0x34);
    out8(machine.ports, 0x20, 0x20);
    assert_int_equal(take(&machine), -1); /* still high: no second edge */
    machine_destroy(&machine);
}

static void test_level_triggered(void **state)
{
    struct machine machine;
    machine_create(&machine, 0x01);
    bus_write(machine.ports, PIC_PORT_ELCR, 2, 0xffff);
    assert_int_equal(bus_read(machine.ports, PIC_PORT_ELCR, 2), 0xdef8);
    assert_int_equal(in8(machine.ports, PIC_PORT_ELCR + 1), 0xde);
    line(&machine, 10, true);
    assert_int_equal(take(&machine), 0x3a);
    assert_false(machine.output.level);
    out8(machine.ports, 0xa0, 0x20);
    out8(machine.ports, 0x20, 0x20);
    assert_int_equal(take(&machine), 0x3a); /* still asserted: again */
    line(&machine, 10, false);
    out8(machine.ports, 0xa0, 0x20);
    out8(machine.ports, 0x20, 0x20);
    assert_int_equal(take(&machine), -1);
    machine_destroy(&machine);
}

static void test_cascade(void **state)
{
    struct machine machine;
    machine_create(&machine, 0x01);
    pulse(&machine, 12);
    assert_int_equal(take(&machine), 0x3c);
    assert_int_equal(read_isr(&machine, 0x20), 0x04);
    assert_int_equal(read_isr(&machine, 0xa0), 0x10);
    pulse(&machine, 3);
    assert_false(machine.output.level); /* less urgent than input 2 */
    pulse(&machine, 8);
    assert_false(machine.output.level); /* not nested: input 2 is in service */
    out8(machine.ports, 0xa0, 0x20);
    out8(machine.ports, 0x20, 0x20);
    assert_int_equal(take(&machine), 0x38);
    machine_destroy(&machine);

    /* Special fully nested mode lets the second controller nest. */
    machine_create(&machine, 0x11);
    pulse(&machine, 12);
    assert_int_equal(take(&machine), 0x3c);
    pulse(&machine, 8);
    assert_int_equal(take(&machine), 0x38);
    machine_destroy(&machine);
}

static void test_auto_eoi(void **state)
{
    struct machine machine;
    machine_create(&machine, 0x03);
    pulse(&machine, 5);
    pulse(&machine, 6);
    assert_int_equal(take(&machine), 0x35);
    assert_int_equal(read_isr(&machine, 0x20), 0);
    assert_int_equal(take(&machine), 0x36);

    out8(machine.ports, 0x20, 0x80); /* rotate on automatic EOI */
    pulse(&machine, 5);
    assert_int_equal(take(&machine), 0x35); /* now 6 is the most urgent, 5 the least */
    pulse(&machine, 5);
    pulse(&machine, 7);
    assert_int_equal(take(&machine), 0x37);
    assert_int_equal(take(&machine), 0x35);
    machine_destroy(&machine);
}

static void test_rotation(void **state)
{
    struct machine machine;
    machine_create(&machine, 0x01);
    pulse(&machine, 3);
    assert_int_equal(take(&machine), 0x33);
    out8(machine.ports, 0x20, 0xa0); /* end, and 3 becomes the least urgent */
    pulse(&machine, 3);
    pulse(&machine, 4);
    assert_int_equal(take(&machine), 0x34);
    out8(machine.ports, 0x20, 0x20);
    assert_int_equal(take(&machine), 0x33);
    out8(machine.ports, 0x20, 0xe0 | 3); /* the same, naming it */
    out8(machine.ports, 0x20, 0xc0 | 7); /* set priority: 0 first again */
    pulse(&machine, 0);
    pulse(&machine, 7);
    assert_int_equal(take(&machine), 0x30);
    machine_destroy(&machine);
}

static void test_special_mask(void **state)
{
    struct machine machine;
    machine_create(&machine, 0x01);
    pulse(&machine, 1);
    assert_int_equal(take(&machine), 0x31);
    out8(machine.ports, 0x21, 0x02);
    pulse(&machine, 6);
    assert_false(machine.output.level);
    out8(machine.ports, 0x20, 0x68); /* masked levels in service no longer hold others back */
    assert_int_equal(take(&machine), 0x36);
    out8(machine.ports, 0x20, 0x48);
    machine_destroy(&machine);
}

static void test_poll(void **state)
{
    struct machine machine;
    machine_create(&machine, 0x01);
    out8(machine.ports, 0x20, 0x0c);
    assert_int_equal(in8(machine.ports, 0x20), 0);
    pulse(&machine, 5);
    out8(machine.ports, 0x20, 0x0c);
    assert_int_equal(in8(machine.ports, 0x20), 0x85);
    assert_int_equal(read_isr(&machine, 0x20), 0x20);
    assert_int_equal(take(&machine), -1);
    machine_destroy(&machine);
}

/* How Linux asks whether there is a PIC at all: the mask register keeps what it is given. */
static void test_linux_probe(void **state)
{
    struct machine machine;
    machine_create(&machine, 0x01);
    out8(machine.ports, 0xa1, 0xff);
    out8(machine.ports, 0x21, 0xfb);
    assert_int_equal(in8(machine.ports, 0x21), 0xfb);
    machine_destroy(&machine);
}

/* Without ICW4, in single mode: two words and done. */
static void test_short_initialization(void **state)
{
    struct machine machine;
    machine_create(&machine, 0x01);
    out8(machine.ports, 0x20, 0x12);
    out8(machine.ports, 0x21, 0x57); /* the low bits of a vector are the input */
    out8(machine.ports, 0x21, 0xfe); /* already the mask */
    assert_int_equal(in8(machine.ports, 0x21), 0xfe);
    line(&machine, 0, true);
    assert_int_equal(take(&machine), 0x50);
    machine_destroy(&machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset_masks_all),    cmocka_unit_test(test_vectors_and_masks),
        cmocka_unit_test(test_priorities_and_eoi), cmocka_unit_test(test_edge_that_vanishes),
        cmocka_unit_test(test_level_triggered),    cmocka_unit_test(test_cascade),
        cmocka_unit_test(test_auto_eoi),           cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_special_mask),       cmocka_unit_test(test_poll),
        cmocka_unit_test(test_linux_probe),        cmocka_unit_test(test_short_initialization),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
