#ifndef AEROSTAT_CLI_CLIENT_H
#define AEROSTAT_CLI_CLIENT_H

/* What commands that ask a VM, or the manager, have in common. */

#include "control/client.h"

/* Prints the line, and gives the exit status for it. */
int client_failed(const struct error *err);

#endif
