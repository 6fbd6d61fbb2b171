#ifndef AEROSTAT_DEV_DEBUG_EXIT_H
#define AEROSTAT_DEV_DEBUG_EXIT_H

/* Port 0xf4, four bytes wide: a test kernel ends the VM by writing its result there. Reads give 0.
 */

#include <stdint.h>

#include "mem/bus.h"
#include "util/status.h"

struct debug_exit {
    /* On the writing vCPU's thread, at every write. */
    void (*exit)(void *context, uint32_t value);
    void *context;
};

/* `device` is kept. */
enum status debug_exit_attach(struct debug_exit *device, struct bus *ports, struct error *err);

#endif
