#ifndef AEROSTAT_UTIL_CALL_FILTER_H
#define AEROSTAT_UTIL_CALL_FILTER_H

/*
 * The system calls that this process may make from now on, by seccomp; all others fail with EPERM.
 * Whatever the lists say, it may map no code, and make threads but no processes; abort works.
 */

#include <stddef.h>
#include <stdint.h>

#include "util/status.h"

/* Of an int the kernel looks at this half of the register alone. */
#define CALL_WHOLE_INT UINT32_MAX

/* A call that is allowed where argument `index`, as far as `mask` goes, is `value`. */
struct judged_call {
    int call;
    unsigned index;
    uint64_t mask, value;
};

struct call_list {
    const int *allowed; /* with any arguments; SCMP_SYS(...) */
    size_t allowed_count;
    const struct judged_call *judged;
    size_t judged_count;
};

/*
 * For all threads that there are and will be, and for good; no privileges can be had by executing a
 * program either. UNSUPPORTED: the host has no such filters. In builds with a sanitizer whose leak
 * check stops and traces the process at its end, which is just what must not be possible, it does
 * nothing.
 */
enum status call_filter_enter(const struct call_list *list, struct error *err);

#endif
