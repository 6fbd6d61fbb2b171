#ifndef AEROSTAT_VM_SANDBOX_H
#define AEROSTAT_VM_SANDBOX_H

/*
 * What the VM's process gives up before it looks at a kernel or runs one: root's capabilities, new
 * privileges (setuid programs and file capabilities no longer count), every system call that a VM
 * has no use for, and descriptors beyond what its devices and a guest's connections may take. Who
 * breaks out into this process finds no exec, no fork, no ptrace, no mount, no namespaces, no new
 * executable memory, no new files, no signals to others, no local sockets, no input into the user's
 * terminal.
 *
 * What is left: files that this user may open can be opened, to boot again after a reset; root's
 * process is a user like others then, whom files' modes bind.
 */

#include "util/status.h"

/* Before other threads start: their capabilities would stay. Calls that are refused fail with
 * EPERM. STATUS_UNSUPPORTED where the host has no seccomp. */
enum status sandbox_enter(struct error *err);

#endif
