/* The bus: look-up, borders, parents, and what nobody answers. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "mem/bus.h"
#include "util/bits.h"

/* A device that remembers what it was last asked. */
struct probe {
    uint64_t offset, value;
    unsigned size, reads, writes;
};

static uint64_t probe_read(void *context, uint64_t offset, unsigned size)
{
    struct probe *probe = context;
    probe->offset = offset;
    probe->size = size;
    probe->reads++;
    return 0x1122334455667788;
}

static void probe_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct probe *probe = context;
    probe->offset = offset;
    probe->size = size;
    probe->value = value;
    probe->writes++;
}

static const struct bus_ops probe_ops = {.read = probe_read, .write = probe_write};

static struct bus *make_bus(struct bus *parent)
{
    struct bus *bus = NULL;
    assert_int_equal(bus_create(&bus, parent, NULL), STATUS_OK);
    return bus;
}

static void add(struct bus *bus, uint64_t base, uint64_t size, struct probe *probe)
{
    assert_int_equal(bus_add(bus, base, size, &probe_ops, probe, NULL), STATUS_OK);
}

static void test_dispatch(void **state)
{
    struct probe probes[3] = {0};
    struct bus *bus = make_bus(NULL);
    /* Added out of order. */
    add(bus, 0x3000, 0x10, &probes[2]);
    add(bus, 0x1000, 0x1000, &probes[0]);
    add(bus, 0x2000, 0x1000, &probes[1]);

    assert_int_equal(bus_read(bus, 0x1ff8, 8), 0x1122334455667788);
    assert_int_equal(probes[0].reads, 1);
    assert_int_equal(probes[0].offset, 0xff8);
    assert_int_equal(probes[0].size, 8);
    /* What a device gives beyond the size asked for is cut off, and so is what it gets. */
    assert_int_equal(bus_read(bus, 0x2000, 2), 0x7788);
    assert_int_equal(probes[1].offset, 0);
    bus_write(bus, 0x300f, 1, 0xabcd);
    assert_int_equal(probes[2].offset, 0xf);
    assert_int_equal(probes[2].value, 0xcd);
    assert_int_equal(probes[0].writes + probes[1].writes, 0);
    bus_destroy(bus);
}

static void test_unclaimed(void **state)
{
    struct probe probes[2] = {0};
    struct bus *bus = make_bus(NULL);
    add(bus, 0x1000, 0x1000, &probes[0]);
    add(bus, 0x2000, 0x1000, &probes[1]);
    static const struct {
        uint64_t address;
        unsigned size;
    } outside[] = {{0xfff, 1},  {0xffe, 4},  {0xff9, 8}, {0x1ffc, 8},     {0x1fff, 2},
                   {0x2ffd, 4}, {0x3000, 1}, {0, 8},     {UINT64_MAX, 1}, {UINT64_MAX - 2, 8}};
    for (size_t i = 0; i < ARRAY_LENGTH(outside); i++) {
        uint64_t ones = outside[i].size == 8 ? UINT64_MAX : bit(8 * outside[i].size) - 1;
        assert_int_equal(bus_read(bus, outside[i].address, outside[i].size), ones);
        bus_write(bus, outside[i].address, outside[i].size, 0);
    }
    assert_int_equal(probes[0].reads + probes[1].reads + probes[0].writes + probes[1].writes, 0);
    bus_destroy(bus);
}

static void test_rejects(void **state)
{
    struct probe probe = {0};
    struct error err = {0};
    struct bus *bus = make_bus(NULL);
    add(bus, 0x1000, 0x1000, &probe);
    static const struct {
        uint64_t base, size;
    } bad[] = {{0x5000, 0},     {0xfff, 2},      {0x1fff, 1},     {0x1000, 0x1000},    {0x1800, 8},
               {0, UINT64_MAX}, {UINT64_MAX, 2}, {0x800, 0x2000}, {0x2000, UINT64_MAX}};
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        assert_int_equal(bus_add(bus, bad[i].base, bad[i].size, &probe_ops, &probe, &err),
                         STATUS_INVALID);
        assert_int_equal(err.status, STATUS_INVALID);
        assert_int_not_equal(err.text[0], '\0');
    }
    /* The top byte of the address space is a region like another. */
    add(bus, UINT64_MAX, 1, &probe);
    bus_write(bus, UINT64_MAX, 1, 7);
    assert_int_equal(probe.writes, 1);
    assert_int_equal(probe.offset, 0);
    /* Touching is not overlapping. */
    add(bus, 0xff8, 8, &probe);
    add(bus, 0x2000, 1, &probe);
    bus_destroy(bus);
}

static void test_parent(void **state)
{
    struct probe own = {0}, machine = {0}, hidden = {0};
    struct bus *root = make_bus(NULL), *middle = make_bus(root), *bus = make_bus(middle);
    add(root, 0x1000, 0x1000, &hidden);
    add(root, 0x8000, 0x1000, &machine);
    add(bus, 0x1000, 0x1000, &own);

    bus_read(bus, 0x1000, 4);
    assert_int_equal(own.reads, 1);
    assert_int_equal(hidden.reads, 0);
    bus_write(bus, 0x8004, 4, 1);
    assert_int_equal(machine.writes, 1);
    assert_int_equal(machine.offset, 4);
    /* The parent does not see its children's regions. */
    bus_read(root, 0x1000, 4);
    assert_int_equal(hidden.reads, 1);
    assert_int_equal(own.reads, 1);
    assert_int_equal(bus_read(bus, 0x9000, 4), UINT32_MAX);
    bus_destroy(bus);
    bus_destroy(middle);
    bus_destroy(root);
    bus_destroy(NULL);
}

/* Many regions: every byte around every border goes where a linear search says. */
static void test_many_regions(void **state)
{
    enum { COUNT = 100 };
    struct probe probes[COUNT] = {0};
    struct bus *bus = make_bus(NULL);
    for (unsigned i = 0; i < COUNT; i++) {
        unsigned n = i * 37 % COUNT; /* a permutation */
        add(bus, n * 16, 1 + n % 16, &probes[n]);
    }
    for (uint64_t address = 0; address < COUNT * 16; address++) {
        unsigned n = (unsigned)(address / 16);
        unsigned before = probes[n].reads;
        bool claimed = address % 16 < 1 + n % 16;
        assert_int_equal(bus_read(bus, address, 1), claimed ? 0x88 : 0xff);
        assert_int_equal(probes[n].reads, before + claimed);
        if (claimed)
            assert_int_equal(probes[n].offset, address % 16);
    }
    bus_destroy(bus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dispatch),     cmocka_unit_test(test_unclaimed),
        cmocka_unit_test(test_rejects),      cmocka_unit_test(test_parent),
        cmocka_unit_test(test_many_regions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
