#include "util/terminal.h"

#include <stdio.h>
#include <unistd.h>

/* In the background a process is stopped for changing the terminal. */
static bool is_in_foreground(void)
{
    return tcgetpgrp(STDIN_FILENO) == getpgrp();
}

void terminal_open(struct terminal *terminal, const char *what, void (*quit)(void *context),
                   void *context)
{
    *terminal = (struct terminal){.quit = quit, .quit_context = context};
    if (tcgetattr(STDIN_FILENO, &terminal->saved) != 0 || !is_in_foreground())
        return;
    fprintf(stderr, "aerostat: Ctrl-] q %s\n", what);

    struct termios raw = terminal->saved;
    cfmakeraw(&raw);
    raw.c_oflag |= OPOST; /* our own messages still need CR before LF */
    terminal->is_raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

void terminal_close(struct terminal *terminal)
{
    if (terminal->is_raw && is_in_foreground())
        tcsetattr(STDIN_FILENO, TCSADRAIN, &terminal->saved);
    terminal->is_raw = false;
}

size_t terminal_filter(void *context, uint8_t *bytes, size_t length)
{
    struct terminal *terminal = context;
    size_t kept = 0;
    if (!terminal->is_raw)
        return length;
    for (size_t i = 0; i < length; i++) {
        uint8_t byte = bytes[i];
        if (!terminal->escaped && byte == TERMINAL_ESCAPE) {
            terminal->escaped = true;
            continue;
        }
        if (terminal->escaped && (byte == 'q' || byte == 'Q')) {
            terminal->quit(terminal->quit_context);
        } else {
            /* Ctrl-] twice sends one; any other key after it goes through alone. */
            bytes[kept++] = byte;
        }
        terminal->escaped = false;
    }
    return kept;
}
