#ifndef AEROSTAT_DEV_KEYBOARD_H
#define AEROSTAT_DEV_KEYBOARD_H

/*
 * What is left of the keyboard controller (ports 0x60, 0x64) and of system control port A (0x92):
 * the ways to reset the machine. There is no keyboard.
 *
 * A driver that probes must give up at once. The output buffer seems to hold 32 stale bytes: Linux
 * drains at most 16, then says "No controller found" without waiting for anything. The input buffer
 * is never full, so that loops that wait to send the reset command end; loops that drain the output
 * buffer end too.
 */

#include <stdatomic.h>
#include <stdint.h>

#include "mem/bus.h"
#include "util/status.h"

struct keyboard {
    /* On the writing vCPU's thread; may come more than once. */
    void (*reset)(void *context);
    void *context;
    _Atomic uint32_t drained; /* start with 0: stale bytes that were read */
};

/* `device` is kept. */
enum status keyboard_attach(struct keyboard *device, struct bus *ports, struct error *err);

#endif
