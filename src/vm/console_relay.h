#ifndef AEROSTAT_VM_CONSOLE_RELAY_H
#define AEROSTAT_VM_CONSOLE_RELAY_H

/*
 * The serial console of a VM in the background: keeps the last of what the guest has printed, and
 * passes it on to those who attach (CONSOLE_CLIENTS_MOST of them at once), with what they type
 * going back. Nobody who attaches can hold the guest up: who reads too slowly misses what the ring
 * no longer has.
 *
 * All of it runs on one loop's thread, and everything here is called on it, or before it runs or
 * after it has stopped.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/io_loop.h"
#include "util/status.h"

#define CONSOLE_RING_SIZE    65536u
#define CONSOLE_CLIENTS_MOST 4u

struct console_relay;

/* *guest_end is a socket for the machine's console, output and input; both ends are the relay's. */
enum status console_relay_create(struct console_relay **relay, struct io_loop *loop, int *guest_end,
                                 struct error *err);
/* After the loop has stopped: passes on what the guest has printed last, for at most a second, to
 * clients that take it. NULL is allowed. */
void console_relay_destroy(struct console_relay *relay);

bool console_relay_has_room(const struct console_relay *relay);
/* Takes the connection over, where there is room. `greeting` (at most 256 bytes) goes out before
 * anything else; `typed` (at most 4096) is input that has come already. On failure fd is still the
 * caller's. */
enum status console_relay_attach(struct console_relay *relay, int fd, const char *greeting,
                                 const char *typed, size_t typed_length);

#endif
