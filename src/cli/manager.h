#ifndef AEROSTAT_CLI_MANAGER_H
#define AEROSTAT_CLI_MANAGER_H

/* The manager of this user's VMs, aerostatd, seen from the commands. docs/protocol.md. */

#include <jansson.h>

#include "cli/vm_file.h"
#include "control/folder.h"
#include "util/status.h"

/* As client_ask. NOT_FOUND: no manager is running. */
enum status manager_ask(struct control_folder *folder, json_t *request, json_t **reply,
                        struct error *err);

/* Asks for the memory of a VM that is about to start. A refusal (NO_MEMORY, ...) begins with
 * `label`, ": ", and says by how much it does not fit. `swap` is the space the VM will have. */
enum status manager_admit(struct control_folder *folder, const char *label,
                          const struct vm_spec *vm, uint64_t swap, struct error *err);

/* Starts a manager in the background, for what the file says, and waits until it answers. */
enum status manager_start(struct control_folder *folder, const struct vm_file *file,
                          struct error *err);

/* Whether the manager that runs is one that manager_start has started. */
bool manager_is_ours(struct control_folder *folder);

/* Ends it, and waits until it is gone. */
enum status manager_quit(struct control_folder *folder, struct error *err);

#endif
