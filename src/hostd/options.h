#ifndef AEROSTAT_HOSTD_OPTIONS_H
#define AEROSTAT_HOSTD_OPTIONS_H

/* The command line of aerostatd. */

#include <stdbool.h>
#include <stdint.h>

#include "util/status.h"

struct hostd_options {
    uint64_t memory;      /* bytes; 0: what the host can spare */
    uint64_t swap;        /* bytes; POLICY_NO_LIMIT: not limited */
    const char *swap_dir; /* NULL: VMs choose */
    double tax;           /* on idle memory, 0 to POLICY_TAX_MOST */
    uint32_t scan_ppm;    /* CPU time for finding equal pages, millionths of one CPU; 0: none */
    bool scan_always;     /* all of it is used, always */
    const char *socket;   /* another one to be asked at; NULL: none */
    bool help;
};

/* Strings point into argv. INVALID with the line to print. */
enum status hostd_options_parse(int argc, char *const *argv, struct hostd_options *options,
                                struct error *err);

extern const char hostd_options_help[];

#endif
