#ifndef AEROSTAT_CLI_ADMISSION_H
#define AEROSTAT_CLI_ADMISSION_H

/* Asking the manager, where one runs, before `aerostat run` starts a VM. */

#include <stdbool.h>

#include "control/name.h"
#include "util/status.h"

/*
 * Has the VM of this command line (of `aerostat run`) admitted. Where there is no manager, or the
 * command line is for the VM itself to refuse, nothing is asked. A VM without a name is given one,
 * for the manager keeps its memory by that: then *is_named, and `name` is to be added as --name.
 */
enum status admission_ask(int argc, char *const *argv, char name[CONTROL_NAME_MOST + 1],
                          bool *is_named, struct error *err);

#endif
