#ifndef AEROSTAT_CLI_STOP_H
#define AEROSTAT_CLI_STOP_H

/* Ending VMs: for `stop` and `down`. */

#include <stdbool.h>
#include <stdint.h>

#include "control/folder.h"
#include "util/status.h"

/* Presses the VM's power button. *fd: hangs up when the VM has ended. */
enum status stop_press(struct control_folder *folder, const char *vm, int *fd, struct error *err);

/* True: whoever is at the other end has hung up by the time (clock_monotonic_ns). If it had not
 * when the wait began, its process has ended too, and its memory is the host's again. */
bool stop_wait(int fd, uint64_t deadline_ns);

/* Ends the VM at once, and kills it if it hangs. NOT_FOUND: there is none. */
enum status stop_force(struct control_folder *folder, const char *vm, struct error *err);

#endif
