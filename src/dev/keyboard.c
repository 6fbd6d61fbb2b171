#include "dev/keyboard.h"

#include "dev/platform.h"

#define PORT_DATA   0x60u
#define PORT_SYSTEM 0x92u

#define STALE_BYTES        32u
#define STATUS_OUTPUT_FULL 0x01u
#define COMMAND_RESET      0xfeu
#define SYSTEM_RESET       0x01u
#define SYSTEM_A20         0x02u /* address line 20 is always on */

static uint64_t data_read(void *context, uint64_t offset, unsigned size)
{
    struct keyboard *device = context;
    if (atomic_load(&device->drained) < STALE_BYTES)
        atomic_fetch_add(&device->drained, 1);
    return 0;
}

static void data_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
}

static uint64_t status_read(void *context, uint64_t offset, unsigned size)
{
    struct keyboard *device = context;
    return atomic_load(&device->drained) < STALE_BYTES ? STATUS_OUTPUT_FULL : 0;
}

static void command_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct keyboard *device = context;
    if ((uint8_t)value == COMMAND_RESET)
        device->reset(device->context);
}

static uint64_t system_read(void *context, uint64_t offset, unsigned size)
{
    return SYSTEM_A20;
}

static void system_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct keyboard *device = context;
    if (value & SYSTEM_RESET)
        device->reset(device->context);
}

enum status keyboard_attach(struct keyboard *device, struct bus *ports, struct error *err)
{
    static const struct bus_ops data_ops = {.read = data_read, .write = data_write};
    static const struct bus_ops status_ops = {.read = status_read, .write = command_write};
    static const struct bus_ops system_ops = {.read = system_read, .write = system_write};
    enum status status = bus_add(ports, PORT_DATA, 1, &data_ops, device, err);
    if (status == STATUS_OK)
        status = bus_add(ports, PLATFORM_PORT_KEYBOARD, 1, &status_ops, device, err);
    if (status == STATUS_OK)
        status = bus_add(ports, PORT_SYSTEM, 1, &system_ops, device, err);
    return status;
}
