#ifndef AEROSTAT_CLI_ARGUMENTS_H
#define AEROSTAT_CLI_ARGUMENTS_H

/* The command line of a subcommand: options of a few forms, and operands. --help is everywhere, and
 * -f is short for --file. */

#include <stdbool.h>

struct argument_option {
    const char *name;   /* without the dashes; NULL ends the list */
    bool *given;        /* an option without a value */
    const char **value; /* or one with a value; points into argv */
};

struct arguments {
    const char *command;
    const char *help;                      /* the text of --help */
    const struct argument_option *options; /* or NULL */
    const char *operands[3];               /* what they are called, as many as there must be */
    int *rest; /* where there may be more: the place in argv of the first of those */
};

/* Fills operands[]. False: the command ends now, with *exit_status; what was wrong has been said.
 */
bool arguments_parse(const struct arguments *arguments, int argc, char **argv,
                     const char *operands[], int *exit_status);

#endif
