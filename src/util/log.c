#include "util/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static _Atomic int log_level = LOG_WARNING;

static const char *log_program = "aerostat";

void log_set_program(const char *name)
{
    log_program = name;
}

void log_set_level(enum log_level level)
{
    atomic_store(&log_level, (int)level);
}

int log_enabled(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&log_level, memory_order_relaxed);
}

void log_write(enum log_level level, const char *format, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if (!log_enabled(level))
        return;

    /* One buffer and one write, so that lines of several threads do not mix. */
    char line[1024];
    int used = snprintf(line, sizeof line, "%s: %s: ", log_program, names[level]);
    va_list args;
    va_start(args, format);
    vsnprintf(line + used, sizeof line - (size_t)used - 1, format, args);
    va_end(args);
    strcat(line, "\n");
    ssize_t ignored = write(STDERR_FILENO, line, strlen(line));
    (void)ignored;
}
