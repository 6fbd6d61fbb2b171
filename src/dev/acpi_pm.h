#ifndef AEROSTAT_DEV_ACPI_PM_H
#define AEROSTAT_DEV_ACPI_PM_H

/*
 * ACPI hardware-reduced sleep control and status registers (ACPI 6 section 4.8.3.7), and the reset
 * register at port 0xcf9 (section 4.8.3.6).
 */

#include <stdint.h>

#include "mem/bus.h"
#include "util/status.h"

#define ACPI_PM_S5_TYPE     5u    /* SLP_TYP of soft off, for the DSDT's \_S5 */
#define ACPI_PM_RESET_VALUE 0x06u /* for the FADT's RESET_VALUE */

struct acpi_pm {
    /* On the writing vCPU's thread; may come more than once. */
    void (*power_off)(void *context);
    void (*reset)(void *context);
    void *context;
};

/* Adds the sleep registers at PLATFORM_PORT_SLEEP and the reset register. `device` is kept. */
enum status acpi_pm_attach(struct acpi_pm *device, struct bus *ports, struct error *err);

#endif
