#include "dev/acpi_pm.h"

#include "dev/platform.h"

#define SLEEP_ENABLE     0x20u
#define SLEEP_TYPE(byte) ((byte) >> 2 & 7)

/* CPU reset, with or without the full-reset bit; a write of that bit alone only prepares. */
#define RESET_CPU 0x04u

/* Both registers read 0: nothing to wake from. */
static uint64_t port_read(void *context, uint64_t offset, unsigned size)
{
    return 0;
}

static void sleep_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    const struct acpi_pm *device = context;
    if (offset == 0 && (value & SLEEP_ENABLE) && SLEEP_TYPE(value) == ACPI_PM_S5_TYPE)
        device->power_off(device->context);
}

static void reset_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    const struct acpi_pm *device = context;
    if (value & RESET_CPU)
        device->reset(device->context);
}

enum status acpi_pm_attach(struct acpi_pm *device, struct bus *ports, struct error *err)
{
    static const struct bus_ops sleep_ops = {.read = port_read, .write = sleep_write};
    static const struct bus_ops reset_ops = {.read = port_read, .write = reset_write};
    enum status status = bus_add(ports, PLATFORM_PORT_SLEEP, 2, &sleep_ops, device, err);
    if (status == STATUS_OK)
        status = bus_add(ports, PLATFORM_PORT_RESET, 1, &reset_ops, device, err);
    return status;
}
