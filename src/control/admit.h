#ifndef AEROSTAT_CONTROL_ADMIT_H
#define AEROSTAT_CONTROL_ADMIT_H

/* Asking the manager for the memory of a VM that is about to start. docs/protocol.md, `admit`. */

#include <stdint.h>

#include "control/folder.h"
#include "util/status.h"

/* The name that the manager's socket has in the folder is CONTROL_MANAGER. Bytes. */
struct control_wish {
    const char *name;
    const char *group; /* NULL: none */
    uint64_t max, min;
    uint64_t shares;   /* 0: the default */
    uint64_t swap;     /* space that it will have */
    uint64_t overhead; /* of its process beside the guest's memory, at most */
};

/* What is kept for a VM of that name is this from now on, until it runs or has not come for a
 * while. NOT_FOUND: no manager is running. A refusal (NO_MEMORY, ...) begins with `label`, ": ",
 * and says by how much it does not fit. */
enum status control_admit(struct control_folder *folder, const char *label,
                          const struct control_wish *wish, struct error *err);

#endif
