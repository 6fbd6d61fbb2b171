#ifndef AEROSTAT_CLI_PROGRAM_H
#define AEROSTAT_CLI_PROGRAM_H

/* The programs that come with this one, in the same folder: aerostat-vm and aerostatd. */

#include <stddef.h>
#include <sys/types.h>

#include "util/status.h"

/* The path of the program of that name. */
enum status program_find(const char *name, char *path, size_t size, struct error *err);

/* Starts it in a session of its own, without input and with its output going to `output`, and its
 * errors to `errors` (-1: where ours go). The caller waits for the process. */
enum status program_start(const char *name, char *const *argv, int output, int errors, pid_t *pid,
                          struct error *err);

#endif
