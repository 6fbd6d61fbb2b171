#ifndef AEROSTAT_UTIL_STATUS_H
#define AEROSTAT_UTIL_STATUS_H

/* Typed results, and the one line that explains a failure to a person. */

#include <stddef.h>

enum status {
    STATUS_OK = 0,
    STATUS_INVALID,   /* malformed input or argument: the user's, the file's or the guest's fault */
    STATUS_NOT_FOUND, /* a named thing does not exist */
    STATUS_BUSY,      /* held by somebody else */
    STATUS_UNSUPPORTED, /* understood, and not offered */
    STATUS_NO_MEMORY,   /* the host gave no memory */
    STATUS_NO_SPACE,    /* a table, disk or range is full */
    STATUS_IO,          /* the host failed a read or a write */
    STATUS_INTERNAL,    /* a broken invariant of ours */
};

#define ERROR_TEXT_SIZE 512

/* Why an operation failed. `text` is one line without a newline, empty while status is OK. */
struct error {
    enum status status;
    char text[ERROR_TEXT_SIZE];
};

/* Fills *err (which may be NULL) and returns `status`, so that callers can write
 * `return error_set(err, STATUS_IO, "...")`. Over-long text is cut. */
enum status error_set(struct error *err, enum status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The name of a status for logs: "ok", "invalid", ... Never NULL. */
const char *status_name(enum status status);

#endif
