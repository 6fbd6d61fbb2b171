#ifndef AEROSTAT_UTIL_LOG_H
#define AEROSTAT_UTIL_LOG_H

/* Diagnostics on standard error: one line each, "aerostat: warning: ...". A guest must never be
 * able to flood the log: what a guest can provoke is logged at DEBUG, or once. */

enum log_level { LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG };

/* Before anything is logged; "aerostat" otherwise. */
void log_set_program(const char *name);

/* Lines above `level` are dropped. The default is LOG_WARNING. */
void log_set_level(enum log_level level);

/* True when a line of this level would be printed: lets callers skip costly arguments. */
int log_enabled(enum log_level level);

void log_write(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...)   log_write(LOG_ERROR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_info(...)    log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...)   log_write(LOG_DEBUG, __VA_ARGS__)

#endif
