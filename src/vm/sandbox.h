#ifndef AEROSTAT_VM_SANDBOX_H
#define AEROSTAT_VM_SANDBOX_H

/*
 * What the VM's process gives up before the first guest instruction: new privileges (setuid
 * programs and file capabilities no longer count), and every system call that a running VM has no
 * use for. A guest that breaks out into this process finds no exec, no fork, no ptrace, no mount,
 * no namespaces, no new executable memory.
 */

#include "util/status.h"

/* Applies to all threads of the process; call before threads start or after: both work. Calls that
 * are refused fail with EPERM. STATUS_UNSUPPORTED where the host has no seccomp. */
enum status sandbox_enter(struct error *err);

#endif
