#include "dev/debug_exit.h"

#include "dev/platform.h"

static uint64_t port_read(void *context, uint64_t offset, unsigned size)
{
    return 0;
}

static void port_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    const struct debug_exit *device = context;
    device->exit(device->context, (uint32_t)value);
}

enum status debug_exit_attach(struct debug_exit *device, struct bus *ports, struct error *err)
{
    static const struct bus_ops ops = {.read = port_read, .write = port_write};
    return bus_add(ports, PLATFORM_PORT_DEBUG_EXIT, 4, &ops, device, err);
}
