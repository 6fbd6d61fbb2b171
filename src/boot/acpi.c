/*
 * The tables, in the order in which they lie from ACPI_TABLES_BASE:
 *
 *   RSDP -> XSDT -> FADT -> DSDT (virtio-mmio windows, serial port, clock, power button, off)
 *                -> MADT (local APICs, I/O APIC)
 *
 * and at its very end the reset vector. They are built in a host buffer with their final guest
 * addresses and copied when whole. Field offsets are of ACPI 6.5 chapter 5; the DSDT's code is in
 * aml.c.
 *
 * In hardware-reduced mode Linux assumes no 8259 and no legacy interrupts: it learns that the
 * serial port is on GSI 4 and the clock on GSI 8 from their DSDT devices alone.
 */

#include "boot/acpi.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot/aml.h"
#include "dev/platform.h"
#include "util/bits.h"

/* The tables stop short of the reset vector. */
#define RESET_VECTOR 0xffff0u
#define TABLES_MAX   (RESET_VECTOR - ACPI_TABLES_BASE)

#define OEM_ID     "AEROST"
#define OEM_TABLE  "AEROSTAT"
#define CREATOR_ID "AERO"

/* Generic address structure, for a byte-wide I/O port. */
struct __attribute__((packed)) gas {
    uint8_t space; /* 1: system I/O */
    uint8_t bit_width, bit_offset;
    uint8_t access_size; /* 1: byte */
    uint64_t address;
};

struct __attribute__((packed)) table_header {
    char signature[4];
    uint32_t length;
    uint8_t revision;
    uint8_t checksum;
    char oem_id[6];
    char oem_table_id[8];
    uint32_t oem_revision;
    char creator_id[4];
    uint32_t creator_revision;
};

struct __attribute__((packed)) rsdp {
    char signature[8];
    uint8_t checksum; /* of the first 20 bytes */
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
    uint8_t extended_checksum; /* of all */
    uint8_t reserved[3];
};

struct __attribute__((packed)) xsdt {
    struct table_header header;
    uint64_t entries[2];
};

struct __attribute__((packed)) fadt {
    struct table_header header;
    uint32_t facs, dsdt;
    uint8_t reserved0;
    uint8_t preferred_profile;
    uint8_t legacy_hardware[62]; /* fixed hardware, which a hardware-reduced machine lacks */
    uint8_t century;
    uint16_t iapc_boot_arch;
    uint8_t reserved1;
    uint32_t flags;
    struct gas reset_register;
    uint8_t reset_value;
    uint16_t arm_boot_arch;
    uint8_t minor_version;
    uint64_t x_facs, x_dsdt;
    uint8_t x_legacy_hardware[96]; /* eight generic addresses */
    struct gas sleep_control, sleep_status;
    uint64_t hypervisor_id;
};

_Static_assert(sizeof(struct rsdp) == 36, "RSDP, revision 2");
_Static_assert(sizeof(struct table_header) == 36, "table header");
_Static_assert(offsetof(struct fadt, century) == 108, "FADT");
_Static_assert(offsetof(struct fadt, flags) == 112, "FADT");
_Static_assert(offsetof(struct fadt, x_dsdt) == 140, "FADT");
_Static_assert(offsetof(struct fadt, sleep_control) == 244, "FADT");
_Static_assert(sizeof(struct fadt) == 276, "FADT of ACPI 6");

enum fadt_flags {
    FADT_WBINVD = 1 << 0,
    FADT_NO_POWER_BUTTON = 1 << 4, /* not as fixed hardware */
    FADT_NO_SLEEP_BUTTON = 1 << 5,
    FADT_RESET_REGISTER = 1 << 10,
    FADT_HW_REDUCED = 1 << 20,
};

enum boot_arch {
    BOOT_ARCH_LEGACY_DEVICES = 1 << 0, /* the serial port */
    BOOT_ARCH_NO_VGA = 1 << 2,
    BOOT_ARCH_NO_MSI = 1 << 3,
};

enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_X2APIC = 9 };
enum { CPU_ENABLED = 1, X2APIC_ID_FIRST = 255, SLEEP_STATES = 4, RTC_CENTURY = 0x32 };

struct __attribute__((packed)) madt {
    struct table_header header;
    uint32_t lapic_base;
    uint32_t flags; /* bit 0: has 8259s */
};

struct __attribute__((packed)) madt_lapic {
    uint8_t type, length, processor_uid, apic_id;
    uint32_t flags;
};

struct __attribute__((packed)) madt_x2apic {
    uint8_t type, length;
    uint16_t reserved;
    uint32_t apic_id, flags, processor_uid;
};

struct __attribute__((packed)) madt_ioapic {
    uint8_t type, length, id, reserved;
    uint32_t base, gsi_base;
};

struct __attribute__((packed)) madt_override {
    uint8_t type, length, bus, irq;
    uint32_t gsi;
    uint16_t flags;
};

/* The tables as they grow. */
struct tables {
    uint8_t *bytes; /* TABLES_MAX, zeroed */
    size_t size;
    bool overflow;
};

static uint8_t checksum(const void *bytes, size_t length)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < length; i++)
        sum = (uint8_t)(sum + ((const uint8_t *)bytes)[i]);
    return (uint8_t)-sum;
}

/* The next `length` bytes, or NULL when the area is full. */
static void *tables_append(struct tables *tables, size_t length)
{
    if (length > TABLES_MAX - tables->size) {
        tables->overflow = true;
        return NULL;
    }
    void *bytes = tables->bytes + tables->size;
    tables->size += length;
    return bytes;
}

static void tables_align(struct tables *tables)
{
    size_t aligned = (tables->size + 15) & ~(size_t)15;
    tables->size = aligned < TABLES_MAX ? aligned : TABLES_MAX;
}

/* Fills the header of a table of `length` bytes and its checksum, last. */
static void table_finish(void *table, const char *signature, uint8_t revision, size_t length)
{
    struct table_header header = {
        .length = (uint32_t)length,
        .revision = revision,
        .oem_revision = 1,
        .creator_revision = 1,
    };
    memcpy(header.signature, signature, sizeof(header.signature));
    memcpy(header.oem_id, OEM_ID, sizeof(header.oem_id));
    memcpy(header.oem_table_id, OEM_TABLE, sizeof(header.oem_table_id));
    memcpy(header.creator_id, CREATOR_ID, sizeof(header.creator_id));
    memcpy(table, &header, sizeof(header));
    header.checksum = checksum(table, length);
    memcpy(table, &header, sizeof(header));
}

static uint64_t guest_address(const struct tables *tables, const void *table)
{
    return ACPI_TABLES_BASE + (uint64_t)((const uint8_t *)table - tables->bytes);
}

static void put_virtio(struct aml *aml, const struct acpi_virtio *virtio, unsigned index)
{
    struct aml_block device;
    struct aml_resources resources;
    char name[5];
    snprintf(name, sizeof(name), "V%03u", index % 1000);

    aml_device_begin(aml, &device, name);
    aml_name_string(aml, "_HID", "LNRO0005");
    aml_name_integer(aml, "_UID", index);
    aml_resources_begin(aml, &resources);
    aml_resource_memory32(&resources, (uint32_t)virtio->base, virtio->size);
    aml_resource_interrupt(&resources, virtio->gsi);
    aml_resources_end(aml, &resources);
    aml_end(aml, &device);
}

static void put_isa_device(struct aml *aml, const char *name, const char *id, uint16_t port,
                           uint8_t count, unsigned irq)
{
    struct aml_block device;
    struct aml_resources resources;

    aml_device_begin(aml, &device, name);
    aml_name_eisa_id(aml, "_HID", id);
    aml_name_integer(aml, "_UID", 0);
    aml_resources_begin(aml, &resources);
    aml_resource_io(&resources, port, count);
    aml_resource_isa_irq(&resources, irq);
    aml_resources_end(aml, &resources);
    aml_end(aml, &device);
}

/* Without fixed hardware the button is a device, and a generic event device (ACPI 6.5
 * section 5.6.9) says when it was pressed: its method is run at an interrupt, and notifies the
 * button. */
static void put_power_button(struct aml *aml, uint32_t gsi)
{
    enum { BUTTON_PRESSED = 0x80 };
    struct aml_block device, method;
    struct aml_resources resources;

    aml_device_begin(aml, &device, "PWRB");
    aml_name_eisa_id(aml, "_HID", "PNP0C0C");
    aml_name_integer(aml, "_UID", 0);
    aml_end(aml, &device);

    aml_device_begin(aml, &device, "GED0");
    aml_name_string(aml, "_HID", "ACPI0013");
    aml_name_integer(aml, "_UID", 0);
    aml_resources_begin(aml, &resources);
    aml_resource_interrupt_edge(&resources, gsi);
    aml_resources_end(aml, &resources);
    aml_method_begin(aml, &method, "_EVT", 1);
    aml_notify(aml, "PWRB", BUTTON_PRESSED);
    aml_end(aml, &method);
    aml_end(aml, &device);
}

static void *put_dsdt(struct tables *tables, const struct acpi_config *config)
{
    struct table_header *header = tables_append(tables, sizeof(*header));
    if (header == NULL)
        return NULL;
    struct aml aml;
    struct aml_block scope;
    aml_init(&aml, tables->bytes + tables->size, TABLES_MAX - tables->size);

    aml_scope_begin(&aml, &scope, "\\_SB_");
    put_isa_device(&aml, "COM1", "PNP0501", PLATFORM_PORT_SERIAL, 8, PLATFORM_GSI_SERIAL);
    put_isa_device(&aml, "RTC0", "PNP0B00", PLATFORM_PORT_RTC, 2, PLATFORM_GSI_RTC);
    put_power_button(&aml, config->power_gsi);
    for (unsigned i = 0; i < config->virtio_count; i++)
        put_virtio(&aml, &config->virtio[i], i);
    aml_end(&aml, &scope);
    aml_name_package(&aml, "_S5_", (uint8_t[SLEEP_STATES]){config->s5_type}, SLEEP_STATES);

    if (aml.overflow || tables_append(tables, aml.size) == NULL) {
        tables->overflow = true;
        return NULL;
    }
    table_finish(header, "DSDT", 2, sizeof(*header) + aml.size);
    return header;
}

static struct gas io_byte(uint16_t port)
{
    return (struct gas){.space = 1, .bit_width = 8, .access_size = 1, .address = port};
}

static void *put_fadt(struct tables *tables, const struct acpi_config *config, uint64_t dsdt)
{
    struct fadt *fadt = tables_append(tables, sizeof(*fadt));
    if (fadt == NULL)
        return NULL;
    *fadt = (struct fadt){
        .dsdt = (uint32_t)dsdt,
        .century = RTC_CENTURY,
        .iapc_boot_arch = BOOT_ARCH_LEGACY_DEVICES | BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_MSI,
        .flags = FADT_WBINVD | FADT_NO_POWER_BUTTON | FADT_NO_SLEEP_BUTTON | FADT_RESET_REGISTER |
                 FADT_HW_REDUCED,
        .reset_register = io_byte(config->reset_port),
        .reset_value = config->reset_value,
        .minor_version = 5,
        .x_dsdt = dsdt,
        .sleep_control = io_byte(config->sleep_port),
        .sleep_status = io_byte((uint16_t)(config->sleep_port + 1)),
    };
    memcpy(&fadt->hypervisor_id, OEM_TABLE, sizeof(fadt->hypervisor_id));
    table_finish(fadt, "FACP", 6, sizeof(*fadt));
    return fadt;
}

static void put_cpu(struct tables *tables, unsigned id)
{
    if (id < X2APIC_ID_FIRST) {
        struct madt_lapic *lapic = tables_append(tables, sizeof(*lapic));
        if (lapic != NULL)
            *lapic = (struct madt_lapic){MADT_LAPIC, sizeof(*lapic), (uint8_t)id, (uint8_t)id,
                                         CPU_ENABLED};
    } else {
        struct madt_x2apic *x2apic = tables_append(tables, sizeof(*x2apic));
        if (x2apic != NULL)
            *x2apic = (struct madt_x2apic){MADT_X2APIC, sizeof(*x2apic), 0, id, CPU_ENABLED, id};
    }
}

static void *put_madt(struct tables *tables, const struct acpi_config *config)
{
    size_t start = tables->size;
    struct madt *madt = tables_append(tables, sizeof(*madt));
    if (madt == NULL)
        return NULL;
    madt->lapic_base = (uint32_t)config->lapic_base;
    for (unsigned i = 0; i < config->cpu_count && !tables->overflow; i++)
        put_cpu(tables, i);

    struct madt_ioapic *ioapic = tables_append(tables, sizeof(*ioapic));
    if (ioapic != NULL)
        *ioapic = (struct madt_ioapic){
            MADT_IOAPIC, sizeof(*ioapic), 0, 0, (uint32_t)config->ioapic_base, 0};
    /* The PIT: ISA interrupt 0, with the trigger and polarity of its bus. */
    struct madt_override *pit = tables_append(tables, sizeof(*pit));
    if (pit != NULL)
        *pit = (struct madt_override){MADT_OVERRIDE, sizeof(*pit), 0, 0, PLATFORM_GSI_PIT, 0};
    if (tables->overflow)
        return NULL;
    table_finish(madt, "APIC", 5, tables->size - start);
    return madt;
}

static void put_xsdt(const struct tables *tables, struct xsdt *xsdt, const void *fadt,
                     const void *madt)
{
    xsdt->entries[0] = guest_address(tables, fadt);
    xsdt->entries[1] = guest_address(tables, madt);
    table_finish(xsdt, "XSDT", 1, sizeof(*xsdt));
}

static void put_rsdp(struct rsdp *rsdp, uint64_t xsdt)
{
    *rsdp = (struct rsdp){.revision = 2, .length = sizeof(*rsdp), .xsdt = xsdt};
    memcpy(rsdp->signature, "RSD PTR ", sizeof(rsdp->signature));
    memcpy(rsdp->oem_id, OEM_ID, sizeof(rsdp->oem_id));
    rsdp->checksum = checksum(rsdp, offsetof(struct rsdp, length));
    rsdp->extended_checksum = checksum(rsdp, sizeof(*rsdp));
}

static enum status check_config(const struct acpi_config *config, struct error *err)
{
    if (config->cpu_count == 0 || config->lapic_base > UINT32_MAX ||
        config->ioapic_base > UINT32_MAX || config->s5_type > 7)
        return error_set(err, STATUS_INVALID, "ACPI tables cannot describe this machine");
    for (unsigned i = 0; i < config->virtio_count; i++) {
        if (!range_fits(config->virtio[i].base, config->virtio[i].size, 4 * GIB))
            return error_set(err, STATUS_INVALID, "virtio window %u is above 4 GiB", i);
    }
    return STATUS_OK;
}

/*
 * The one piece of firmware: real-mode code at F000:FFF0 that writes the reset register. Linux on a
 * hardware-reduced machine without EFI reboots by jumping there, before it would try the register
 * itself.
 */
static enum status put_reset_vector(struct pmap *map, const struct acpi_config *config)
{
    uint8_t low = (uint8_t)config->reset_port, high = (uint8_t)(config->reset_port >> 8);
    /* mov al, value; mov dx, port; out dx, al; 1: hlt; jmp 1b */
    const uint8_t code[] = {0xb0, config->reset_value, 0xba, low, high, 0xee, 0xf4, 0xeb, 0xfd};
    return pmap_write(map, RESET_VECTOR, code, sizeof(code));
}

enum status acpi_write_tables(struct pmap *map, const struct acpi_config *config, uint64_t *rsdp,
                              struct error *err)
{
    enum status status = check_config(config, err);
    if (status != STATUS_OK)
        return status;
    struct tables tables = {.bytes = calloc(1, TABLES_MAX)};
    if (tables.bytes == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for ACPI tables");

    struct rsdp *root = tables_append(&tables, sizeof(*root));
    tables_align(&tables);
    struct xsdt *xsdt = tables_append(&tables, sizeof(*xsdt));
    tables_align(&tables);
    void *dsdt = put_dsdt(&tables, config);
    tables_align(&tables);
    void *fadt = dsdt != NULL ? put_fadt(&tables, config, guest_address(&tables, dsdt)) : NULL;
    tables_align(&tables);
    void *madt = put_madt(&tables, config);

    if (tables.overflow || root == NULL || xsdt == NULL || fadt == NULL || madt == NULL) {
        status = error_set(err, STATUS_NO_SPACE,
                           "ACPI tables for %u CPUs and %u devices do not "
                           "fit",
                           config->cpu_count, config->virtio_count);
        goto out;
    }
    put_xsdt(&tables, xsdt, fadt, madt);
    put_rsdp(root, guest_address(&tables, xsdt));

    status = pmap_write(map, ACPI_TABLES_BASE, tables.bytes, tables.size);
    if (status == STATUS_OK)
        status = put_reset_vector(map, config);
    if (status != STATUS_OK)
        status = error_set(err, status, "there is no memory for ACPI tables below 1 MiB");
    else
        *rsdp = guest_address(&tables, root);
out:
    free(tables.bytes);
    return status;
}
