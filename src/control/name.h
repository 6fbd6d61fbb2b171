#ifndef AEROSTAT_CONTROL_NAME_H
#define AEROSTAT_CONTROL_NAME_H

/* Names of VMs. They become file names and arguments of commands, so they can be neither paths nor
 * options: 1 to CONTROL_NAME_MOST letters, digits, '-', '_' and '.', the first a letter or digit.
 */

#include "util/status.h"

#define CONTROL_NAME_MOST 64u

/* The manager's, at whose socket it is found as a VM at its own; so it is no VM's. */
#define CONTROL_MANAGER "manager"

/* STATUS_INVALID, with the line to print, for what is none. */
enum status control_name_check(const char *name, struct error *err);

#endif
