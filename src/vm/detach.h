#ifndef AEROSTAT_VM_DETACH_H
#define AEROSTAT_VM_DETACH_H

/*
 * aerostat run --detach: the VM is a child in a session of its own. The parent waits until it has
 * started, says its name, and ends; or it ends as the child does, which tells the user why.
 *
 * The child's messages go to its log from early on. If it fails to start, it copies them to where
 * the user sees them: it is in the sandbox by then, and can no longer exchange descriptors.
 */

#include <stdbool.h>

#include "util/status.h"

struct detach {
    int started; /* the parent reads the name here; -1: not detached, or done */
    int log, user_errors;
};

#define DETACH_NONE ((struct detach){.started = -1, .log = -1, .user_errors = -1})

/* Before any thread. In the child, returns true. In the parent, false, when it is to end with
 * *exit_status. */
bool detach_fork(struct detach *detach, int *exit_status);

/* Child: from here on messages go to the log (taken over), and input and output are /dev/null. */
enum status detach_redirect(struct detach *detach, int log, struct error *err);

/* Child: the VM has started. STATUS_NOT_FOUND: the user has given up waiting. Harmless where
 * nothing is detached, as is the next. */
enum status detach_started(struct detach *detach, const char *name, struct error *err);

/* Child, at the end: if the VM never started, the user gets what the log says. */
void detach_close(struct detach *detach);

#endif
