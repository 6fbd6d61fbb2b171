/* The ACPI tables, read back by a parser that shares nothing with the writer: numbers here are
 * offsets from the specification. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "boot/acpi.h"
#include "util/bits.h"

struct machine {
    struct pmap *map;
    uint64_t rsdp;
    uint8_t *area; /* ACPI_TABLES_SIZE bytes */
};

static struct acpi_config make_config(const struct acpi_virtio *virtio, unsigned count,
                                      unsigned cpus)
{
    return (struct acpi_config){
        .cpu_count = cpus,
        .lapic_base = 0xfee00000,
        .ioapic_base = 0xfec00000,
        .sleep_port = 0x600,
        .reset_port = 0xcf9,
        .reset_value = 6,
        .s5_type = 5,
        .power_gsi = 21,
        .virtio = virtio,
        .virtio_count = count,
    };
}

static struct pmap *make_map(uint64_t size)
{
    struct pmap *map;
    struct ram_range range = {0, size};
    struct error err;
    assert_int_equal(pmap_create(&map, &range, 1, &err), STATUS_OK);
    return map;
}

static struct machine make_machine(const struct acpi_config *config)
{
    struct machine machine = {.map = make_map(2 * MIB), .area = malloc(ACPI_TABLES_SIZE)};
    struct error err = {0};
    if (acpi_write_tables(machine.map, config, &machine.rsdp, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_int_equal(pmap_read(machine.map, ACPI_TABLES_BASE, machine.area, ACPI_TABLES_SIZE),
                     STATUS_OK);
    return machine;
}

static void free_machine(struct machine *machine)
{
    free(machine->area);
    pmap_destroy(machine->map);
}

static uint64_t number(const uint8_t *bytes, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

static uint8_t sum(const uint8_t *bytes, size_t size)
{
    unsigned total = 0;
    for (size_t i = 0; i < size; i++)
        total += bytes[i];
    return total & 0xff;
}

/* The table at a guest address: inside the area, right signature, right checksum. */
static const uint8_t *table(const struct machine *machine, uint64_t address, const char *signature,
                            uint32_t *length)
{
    assert_in_range(address, ACPI_TABLES_BASE, ACPI_TABLES_BASE + ACPI_TABLES_SIZE - 36);
    assert_int_equal(address % 4, 0);
    const uint8_t *bytes = machine->area + (address - ACPI_TABLES_BASE);
    assert_memory_equal(bytes, signature, 4);
    *length = (uint32_t)number(bytes + 4, 4);
    assert_in_range(*length, 36, ACPI_TABLES_BASE + ACPI_TABLES_SIZE - address);
    assert_int_equal(sum(bytes, *length), 0);
    return bytes;
}

static const uint8_t *find(const struct machine *machine, const char *signature, uint32_t *length)
{
    assert_int_equal(machine->rsdp % 16, 0);
    const uint8_t *rsdp = machine->area + (machine->rsdp - ACPI_TABLES_BASE);
    assert_memory_equal(rsdp, "RSD PTR ", 8);
    assert_int_equal(rsdp[15], 2);
    assert_int_equal(sum(rsdp, 20), 0);
    assert_int_equal(number(rsdp + 20, 4), 36);
    assert_int_equal(sum(rsdp, 36), 0);
    uint32_t xsdt_length;
    const uint8_t *xsdt = table(machine, number(rsdp + 24, 8), "XSDT", &xsdt_length);
    assert_int_equal((xsdt_length - 36) % 8, 0);
    for (uint32_t at = 36; at < xsdt_length; at += 8) {
        uint64_t address = number(xsdt + at, 8);
        if (memcmp(machine->area + (address - ACPI_TABLES_BASE), signature, 4) == 0)
            return table(machine, address, signature, length);
    }
    fail_msg("no %s in the XSDT", signature);
    return NULL;
}

static void assert_io_byte(const uint8_t *gas, uint64_t port)
{
    assert_int_equal(gas[0], 1);
    assert_int_equal(gas[1], 8);
    assert_int_equal(gas[2], 0);
    assert_int_equal(gas[3], 1);
    assert_int_equal(number(gas + 4, 8), port);
}

static void test_fadt(void **state)
{
    struct acpi_config config = make_config(NULL, 0, 1);
    struct machine machine = make_machine(&config);
    uint32_t length;
    const uint8_t *fadt = find(&machine, "FACP", &length);
    assert_int_equal(length, 276);
    assert_int_equal(fadt[8], 6);
    uint64_t flags = number(fadt + 112, 4);
    assert_true(flags & 1 << 20);                      /* hardware-reduced */
    assert_true(flags & 1 << 10);                      /* has a reset register */
    assert_true(flags & 1 << 0);                       /* WBINVD works */
    assert_false(flags & 1 << 21);                     /* no low-power S0 */
    assert_int_equal(number(fadt + 46, 2), 0);         /* SCI */
    assert_int_equal(number(fadt + 48, 4), 0);         /* SMI command */
    assert_int_equal(number(fadt + 109, 2) & 0x22, 0); /* no 8042; and there is a CMOS clock */
    assert_io_byte(fadt + 116, 0xcf9);
    assert_int_equal(fadt[128], 6);
    assert_io_byte(fadt + 244, 0x600);
    assert_io_byte(fadt + 256, 0x601);
    assert_int_equal(number(fadt + 40, 4), number(fadt + 140, 8));
    uint32_t dsdt_length;
    table(&machine, number(fadt + 140, 8), "DSDT", &dsdt_length);
    for (size_t at = 148; at < 244; at++)
        assert_int_equal(fadt[at], 0); /* no fixed hardware */
    free_machine(&machine);
}

static void check_madt(unsigned cpus)
{
    struct acpi_config config = make_config(NULL, 0, cpus);
    struct machine machine = make_machine(&config);
    uint32_t length;
    const uint8_t *madt = find(&machine, "APIC", &length);
    assert_int_equal(number(madt + 36, 4), 0xfee00000);
    assert_int_equal(number(madt + 40, 4), 0);
    unsigned next = 0, ioapics = 0, overrides = 0;
    for (uint32_t at = 44; at < length;) {
        const uint8_t *entry = madt + at;
        assert_true(at + 2 <= length && entry[1] >= 2 && at + entry[1] <= length);
        switch (entry[0]) {
        case 0:
            assert_int_equal(entry[1], 8);
            assert_int_equal(entry[2], next);
            assert_int_equal(entry[3], next++);
            assert_int_equal(number(entry + 4, 4), 1);
            break;
        case 9:
            assert_int_equal(entry[1], 16);
            assert_int_equal(number(entry + 4, 4), next);
            assert_int_equal(number(entry + 8, 4), 1);
            assert_int_equal(number(entry + 12, 4), next++);
            assert_true(next > 255);
            break;
        case 1:
            assert_int_equal(entry[1], 12);
            assert_int_equal(number(entry + 4, 4), 0xfec00000);
            assert_int_equal(number(entry + 8, 4), 0);
            ioapics++;
            break;
        case 2:
            assert_int_equal(entry[1], 10);
            assert_int_equal(entry[3], 0);
            assert_int_equal(number(entry + 4, 4), 2);
            overrides++;
            break;
        default:
            fail_msg("unexpected entry of type %u", entry[0]);
        }
        at += entry[1];
    }
    assert_int_equal(next, cpus);
    assert_int_equal(ioapics, 1);
    assert_int_equal(overrides, 1);
    free_machine(&machine);
}

static void test_madt(void **state)
{
    check_madt(1);
    check_madt(2);
    check_madt(255);
    check_madt(300);
}

/* A walk of the DSDT's blocks, following the grammar of AML for what it may contain. */

struct walk {
    const uint8_t *bytes;
    size_t at, end;
};

static uint8_t next_byte(struct walk *walk)
{
    assert_true(walk->at < walk->end);
    return walk->bytes[walk->at++];
}

static struct walk enter(struct walk *walk)
{
    size_t start = walk->at;
    uint8_t lead = next_byte(walk);
    size_t length = lead & 0x3f;
    unsigned extra = lead >> 6;
    if (extra > 0) {
        assert_int_equal(lead & 0x30, 0);
        length &= 0xf;
        for (unsigned i = 0; i < extra; i++)
            length |= (size_t)next_byte(walk) << (4 + 8 * i);
    }
    assert_true(length >= walk->at - start && start + length <= walk->end);
    struct walk inside = {walk->bytes, walk->at, start + length};
    walk->at = start + length;
    return inside;
}

static uint64_t integer(struct walk *walk)
{
    uint8_t opcode = next_byte(walk);
    unsigned size = opcode == 0x0a ? 1 : opcode == 0x0b ? 2 : opcode == 0x0c ? 4 : 0;
    if (size == 0) {
        assert_in_range(opcode, 0, 1);
        return opcode;
    }
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)next_byte(walk) << (8 * i);
    return value;
}

static void name(struct walk *walk, char text[5])
{
    for (unsigned i = 0; i < 4; i++)
        text[i] = (char)next_byte(walk);
    text[4] = 0;
}

struct device {
    char name[5];
    char hid[9];
    uint64_t eisa_id, uid;
    uint64_t base, size, gsi, port, ports, irqs;
    bool is_edge;
    char notifies[5]; /* the device that the method _EVT notifies, and of what */
    uint64_t event;
};

static void read_resources(struct walk walk, struct device *device)
{
    uint64_t length = integer(&walk);
    assert_int_equal(length, walk.end - walk.at);
    for (;;) {
        uint8_t tag = next_byte(&walk);
        const uint8_t *body = walk.bytes + walk.at;
        size_t size = tag & 0x80 ? 2 + number(body, 2) : tag & 7u;
        assert_true(walk.at + size <= walk.end);
        switch (tag) {
        case 0x86: /* Memory32Fixed */
            assert_int_equal(size, 2 + 9);
            assert_int_equal(body[2], 1);
            device->base = number(body + 3, 4);
            device->size = number(body + 7, 4);
            break;
        case 0x89: /* extended interrupt */
            assert_int_equal(size, 2 + 6);
            assert_int_equal(body[2] & ~2, 1); /* consumer, active high, exclusive */
            device->is_edge = (body[2] & 2) != 0;
            assert_int_equal(body[3], 1);
            device->gsi = number(body + 4, 4);
            break;
        case 0x47: /* I/O ports */
            assert_int_equal(number(body + 1, 2), number(body + 3, 2));
            device->port = number(body + 1, 2);
            device->ports = body[6];
            break;
        case 0x22: /* IRQ */
            device->irqs = number(body, 2);
            break;
        case 0x79:
            walk.at += size;
            assert_int_equal(walk.at, walk.end);
            return;
        default:
            fail_msg("unexpected resource %02x", tag);
        }
        walk.at += size;
    }
}

static void read_method(struct walk walk, struct device *device)
{
    char text[5];
    name(&walk, text);
    assert_string_equal(text, "_EVT");
    assert_int_equal(next_byte(&walk) & 7, 1); /* the interrupt's number */
    assert_int_equal(next_byte(&walk), 0x86);
    name(&walk, device->notifies);
    device->event = integer(&walk);
    assert_int_equal(walk.at, walk.end);
}

static struct device read_device(struct walk walk)
{
    struct device device = {0};
    name(&walk, device.name);
    while (walk.at < walk.end) {
        char field[5];
        uint8_t opcode = next_byte(&walk);
        if (opcode == 0x14) {
            read_method(enter(&walk), &device);
            continue;
        }
        assert_int_equal(opcode, 0x08);
        name(&walk, field);
        if (strcmp(field, "_HID") == 0 && walk.bytes[walk.at] == 0x0d) {
            walk.at++;
            for (unsigned i = 0; i < 9; i++)
                device.hid[i] = (char)next_byte(&walk);
            assert_int_equal(device.hid[8], 0);
        } else if (strcmp(field, "_HID") == 0) {
            device.eisa_id = integer(&walk);
        } else if (strcmp(field, "_UID") == 0) {
            device.uid = integer(&walk);
        } else if (strcmp(field, "_CRS") == 0) {
            assert_int_equal(next_byte(&walk), 0x11);
            read_resources(enter(&walk), &device);
        } else {
            fail_msg("unexpected %s", field);
        }
    }
    return device;
}

static void check_dsdt(unsigned count)
{
    struct acpi_virtio *virtio = calloc(count + 1, sizeof(*virtio));
    for (unsigned i = 0; i < count; i++)
        virtio[i] = (struct acpi_virtio){0xd0000000 + i * 0x1000, 0x1000, 5 + i};
    struct acpi_config config = make_config(virtio, count, 1);
    struct machine machine = make_machine(&config);
    uint32_t length;
    const uint8_t *fadt = find(&machine, "FACP", &length);
    const uint8_t *dsdt = table(&machine, number(fadt + 140, 8), "DSDT", &length);
    assert_int_equal(dsdt[8], 2); /* 64-bit integers */

    struct walk walk = {dsdt, 36, length};
    assert_int_equal(next_byte(&walk), 0x10);
    struct walk scope = enter(&walk);
    assert_int_equal(next_byte(&scope), '\\');
    char text[5];
    name(&scope, text);
    assert_string_equal(text, "_SB_");
    unsigned seen = 0;
    bool serial = false, rtc = false, button = false, events = false;
    while (scope.at < scope.end) {
        assert_int_equal(next_byte(&scope), 0x5b);
        assert_int_equal(next_byte(&scope), 0x82);
        struct device device = read_device(enter(&scope));
        if (device.eisa_id == 0x0105d041) { /* PNP0501 */
            assert_int_equal(device.port, 0x3f8);
            assert_int_equal(device.ports, 8);
            assert_int_equal(device.irqs, 1 << 4);
            serial = true;
        } else if (device.eisa_id == 0x000bd041) { /* PNP0B00 */
            assert_int_equal(device.port, 0x70);
            assert_int_equal(device.irqs, 1 << 8);
            rtc = true;
        } else if (device.eisa_id == 0x0c0cd041) { /* PNP0C0C */
            assert_string_equal(device.name, "PWRB");
            button = true;
        } else if (strcmp(device.hid, "ACPI0013") == 0) {
            assert_int_equal(device.gsi, 21);
            assert_true(device.is_edge);
            assert_string_equal(device.notifies, "PWRB");
            assert_int_equal(device.event, 0x80);
            events = true;
        } else {
            assert_false(device.is_edge);
            assert_string_equal(device.hid, "LNRO0005");
            assert_int_equal(device.uid, seen);
            assert_int_equal(device.base, virtio[seen].base);
            assert_int_equal(device.size, 0x1000);
            assert_int_equal(device.gsi, virtio[seen].gsi);
            assert_int_equal(device.name[0], 'V');
            assert_int_equal(atoi(device.name + 1), seen);
            seen++;
        }
    }
    assert_true(serial && rtc && button && events);
    assert_int_equal(seen, count);
    assert_int_equal(next_byte(&walk), 0x08);
    name(&walk, text);
    assert_string_equal(text, "_S5_");
    assert_int_equal(next_byte(&walk), 0x12);
    struct walk package = enter(&walk);
    assert_int_equal(next_byte(&package), 4);
    assert_int_equal(integer(&package), 5);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(integer(&package), 0);
    assert_int_equal(package.at, package.end);
    assert_int_equal(walk.at, walk.end);
    free_machine(&machine);
    free(virtio);
}

/* Counts that make the scope's length need one, two and three further bytes. */
static void test_dsdt(void **state)
{
    check_dsdt(0);
    check_dsdt(1);
    check_dsdt(16);
    for (unsigned count = 50; count < 80; count++)
        check_dsdt(count);
    check_dsdt(999);
}

static void test_reset_vector(void **state)
{
    struct acpi_config config = make_config(NULL, 0, 1);
    struct machine machine = make_machine(&config);
    const uint8_t code[] = {0xb0, 0x06, 0xba, 0xf9, 0x0c, 0xee, 0xf4, 0xeb, 0xfd};
    assert_memory_equal(machine.area + 0x1fff0, code, sizeof(code));
    free_machine(&machine);
}

static void test_refused(void **state)
{
    struct pmap *map = make_map(2 * MIB);
    uint64_t rsdp;
    struct error err = {0};
    struct acpi_config config = make_config(NULL, 0, 0);
    assert_int_equal(acpi_write_tables(map, &config, &rsdp, &err), STATUS_INVALID);
    struct acpi_virtio high = {4 * GIB - 0x800, 0x1000, 5};
    config = make_config(&high, 1, 1);
    assert_int_equal(acpi_write_tables(map, &config, &rsdp, &err), STATUS_INVALID);
    config = make_config(NULL, 0, 20000);
    assert_int_equal(acpi_write_tables(map, &config, &rsdp, &err), STATUS_NO_SPACE);
    struct acpi_virtio *many = calloc(2500, sizeof(*many));
    config = make_config(many, 2500, 1);
    assert_int_equal(acpi_write_tables(map, &config, &rsdp, &err), STATUS_NO_SPACE);
    free(many);
    pmap_destroy(map);

    map = make_map(512 * KIB);
    config = make_config(NULL, 0, 1);
    assert_int_equal(acpi_write_tables(map, &config, &rsdp, &err), STATUS_INVALID);
    pmap_destroy(map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fadt),    cmocka_unit_test(test_madt),
        cmocka_unit_test(test_dsdt),    cmocka_unit_test(test_reset_vector),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
