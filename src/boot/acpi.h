#ifndef AEROSTAT_BOOT_ACPI_H
#define AEROSTAT_BOOT_ACPI_H

/* ACPI 6 hardware-reduced tables: RSDP, XSDT, FADT, MADT, DSDT. They describe exactly this machine.
 */

#include <stdint.h>

#include "mem/pmap.h"
#include "util/status.h"

#define ACPI_TABLES_BASE 0xe0000u
#define ACPI_TABLES_SIZE 0x20000u

struct acpi_virtio {
    uint64_t base; /* MMIO window */
    uint32_t size;
    uint32_t gsi; /* level-triggered, active high */
};

struct acpi_config {
    unsigned cpu_count;
    uint64_t lapic_base, ioapic_base;
    uint16_t sleep_port; /* sleep control register; sleep status at sleep_port + 1 */
    uint16_t reset_port;
    uint8_t reset_value;
    uint8_t s5_type;    /* SLP_TYP of soft off */
    uint32_t power_gsi; /* an edge: somebody has pressed the power button */
    const struct acpi_virtio *virtio;
    unsigned virtio_count;
};

/* Writes the tables at ACPI_TABLES_BASE and gives the RSDP's address; and code at F000:FFF0, where
 * guests jump to reboot, that writes the reset register. */
enum status acpi_write_tables(struct pmap *map, const struct acpi_config *config, uint64_t *rsdp,
                              struct error *err);

#endif
