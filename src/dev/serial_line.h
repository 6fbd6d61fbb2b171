#ifndef AEROSTAT_DEV_SERIAL_LINE_H
#define AEROSTAT_DEV_SERIAL_LINE_H

/*
 * The host's end of a serial port: an output and an input descriptor behind two ring buffers,
 * served by an io_loop. It knows nothing of registers.
 *
 * Locks for itself; `changed` is called without the lock, on the loop's thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/io_loop.h"
#include "util/status.h"

struct serial_line;

/* Output counts as congested while there is less room than this. */
#define SERIAL_LINE_LOW 64u

struct serial_line_config {
    struct io_loop *loop;
    int output_fd, input_fd; /* -1: none. Not owned. */
    size_t (*filter)(void *context, uint8_t *bytes, size_t count);
    void *filter_context;
    /* There is input where there was none, or output is no longer congested. */
    void (*changed)(void *context);
    void *context;
};

enum status serial_line_create(struct serial_line **line, const struct serial_line_config *config,
                               struct error *err);
void serial_line_destroy(struct serial_line *line); /* NULL is allowed */

/* Bytes that serial_line_put will take now. */
size_t serial_line_room(struct serial_line *line);
/* False, and the byte is lost, where there is no room. */
bool serial_line_put(struct serial_line *line, uint8_t byte);
/* Takes at most `count` bytes of input; returns how many. */
size_t serial_line_get(struct serial_line *line, uint8_t *bytes, size_t count);
/* Waits until all output is with the host, at most timeout_ns. Not on the loop. */
void serial_line_flush(struct serial_line *line, uint64_t timeout_ns);

#endif
