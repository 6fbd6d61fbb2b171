#ifndef AEROSTAT_CONTROL_REQUEST_H
#define AEROSTAT_CONTROL_REQUEST_H

/* What can be asked of a VM through its control socket: one JSON object a line. docs/control.md. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "util/status.h"

#define CONTROL_VERSION   1
#define CONTROL_LINE_MOST 4096u /* bytes of a request, with its newline */

enum control_kind {
    CONTROL_STATS,
    CONTROL_BALLOON,  /* size */
    CONTROL_RESIDENT, /* size */
    CONTROL_PAUSE,
    CONTROL_RESUME,
    CONTROL_STOP, /* force */
    CONTROL_CONSOLE,
};

struct control_request {
    enum control_kind kind;
    uint64_t size; /* bytes */
    bool force;
};

/* `line` without its newline. What is not exactly a request is STATUS_INVALID (STATUS_UNSUPPORTED
 * for another version), with a line that repeats nothing of what was sent. */
enum status control_request_parse(const char *line, size_t length, struct control_request *request,
                                  struct error *err);

#endif
