#ifndef AEROSTAT_DEV_SERIAL_H
#define AEROSTAT_DEV_SERIAL_H

/*
 * 16550A serial port whose line is a pair of host descriptors.
 *
 * Output never blocks a vCPU and is never lost: it goes to a buffer that the loop writes to the
 * host, and while the buffer is full the guest sees a transmitter that is not ready. Input is read
 * ahead into a buffer and paused while that is full; the guest gets it once it asserts DTR or RTS
 * or enables receive interrupts. When the host's side is gone (closed, EPIPE, disk full) further
 * output is dropped and one warning logged.
 *
 * Descriptors may be terminals, pipes, sockets, regular files, /dev/null. The output descriptor is
 * reopened where possible, to be written without blocking and without changing the flags of an open
 * file that other processes share.
 */

#include <stddef.h>
#include <stdint.h>

#include "dev/irq.h"
#include "mem/bus.h"
#include "util/io_loop.h"
#include "util/status.h"

struct serial;

struct serial_config {
    struct io_loop *loop; /* outlives the device */
    struct irq_line irq;
    int output_fd; /* -1: output is dropped. Not owned. */
    int input_fd;  /* -1: no input. Not owned. */
    /* Looks at input before the guest does: changes `bytes` in place, returns how many are left
     * (at most count). On the loop's thread, without locks. May be NULL. */
    size_t (*filter)(void *context, uint8_t *bytes, size_t count);
    void *filter_context;
};

enum status serial_create(struct serial **serial, const struct serial_config *config,
                          struct error *err);
/* Output still buffered is dropped: see serial_flush. NULL is allowed. */
void serial_destroy(struct serial *serial);
void serial_reset(struct serial *serial);
enum status serial_attach(struct serial *serial, struct bus *ports, struct error *err);

/* Waits until everything that the guest wrote is with the host, at most timeout_ns. Not on the
 * loop, which must be running. */
void serial_flush(struct serial *serial, uint64_t timeout_ns);

#endif
