#ifndef AEROSTAT_HOSTD_SANDBOX_H
#define AEROSTAT_HOSTD_SANDBOX_H

/*
 * What the manager gives up before it hears of any VM: new privileges, and every system call that
 * it has no use for. Whoever makes it run code of his finds no exec, no fork, no ptrace, no mount,
 * no namespaces, no executable memory, no signals to others, and sockets to local ones alone. What
 * is left, being its work: files of this user can be opened and made, and VMs asked.
 */

#include "util/status.h"

/* As of the VM (vm/sandbox.h). */
enum status hostd_sandbox_enter(struct error *err);

#endif
