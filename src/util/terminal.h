#ifndef AEROSTAT_UTIL_TERMINAL_H
#define AEROSTAT_UTIL_TERMINAL_H

/* The user's terminal as a VM's serial line: raw mode, and an escape key to get out. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <termios.h>

#define TERMINAL_ESCAPE 0x1d /* Ctrl-] */

struct terminal {
    bool is_raw;
    bool escaped; /* the last byte was the escape key */
    struct termios saved;
    void (*quit)(void *context); /* Ctrl-] q; called on the thread that filters */
    void *quit_context;
};

/* Makes standard input raw where it is a terminal of whose foreground group we are, and says on
 * standard error what the escape key does ("ends the VM"); otherwise does nothing. */
void terminal_open(struct terminal *terminal, const char *what, void (*quit)(void *context),
                   void *context);
/* Puts it back, unless we are in the background by now. Idempotent. */
void terminal_close(struct terminal *terminal);

/* Takes the escape sequences out of `length` bytes of input, in place. Returns how many are left.
 */
size_t terminal_filter(void *terminal, uint8_t *bytes, size_t length);

#endif
