#ifndef AEROSTAT_CONTROL_FOLDER_H
#define AEROSTAT_CONTROL_FOLDER_H

/*
 * Where this user's VMs and their manager are found: a folder that is the user's alone, with a
 * socket NAME.sock for each VM, and NAME.log for one in the background; the manager is the one that
 * is named CONTROL_MANAGER. It is $XDG_RUNTIME_DIR/aerostat where that
 * variable names a folder of the user's, else /tmp/aerostat-UID.
 *
 * A VM cannot remove its socket: by its end it is in a sandbox, or was killed. So a socket that
 * nobody listens at is what a dead VM has left, and whoever comes across it removes it. That, and
 * making a new one, is done with the folder locked (flock), or two could take the same name.
 */

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "control/name.h"
#include "util/status.h"

struct control_folder {
    int fd;
    char path[PATH_MAX]; /* for messages */
};

/* Makes the folder where it is missing. Refuses one that others can get into. */
enum status control_folder_open(struct control_folder *folder, struct error *err);
void control_folder_close(struct control_folder *folder);

/* Takes a name, and listens at its socket (the caller's from then on, non-blocking). A NULL name
 * takes the first free one of vm1, vm2, ... `taken` gets the name. STATUS_BUSY: a VM has it. */
enum status control_folder_claim(struct control_folder *folder, const char *name,
                                 char taken[CONTROL_NAME_MOST + 1], int *listener,
                                 struct error *err);

/* Gives up a name that was claimed: whoever looks for it from then on finds nobody, though the
 * listener may be open still. */
void control_folder_leave(struct control_folder *folder, const char *name);

/* Connects to a VM, waiting at most `seconds` for one that is busy. STATUS_NOT_FOUND: there is
 * none, and what a dead one left has been removed. */
enum status control_folder_connect(struct control_folder *folder, const char *name,
                                   unsigned seconds, int *fd, struct error *err);

/* Removes what a VM of that name has left, if it is dead. */
void control_folder_tidy(struct control_folder *folder, const char *name);

/* The names for which there are sockets, sorted: free each, and the list. */
enum status control_folder_list(struct control_folder *folder, char ***names, size_t *count,
                                struct error *err);

/* Is a file of that name a VM's socket? If so, cuts the name down to the VM's. */
bool control_folder_is_socket(char *file);

/* Opens NAME.log, empty, for a VM that has the name. */
enum status control_folder_open_log(struct control_folder *folder, const char *name, int *fd,
                                    struct error *err);

/* The process at the other end of a connection, as it was when it began to listen or connected. */
bool control_peer(int fd, pid_t *pid, uid_t *uid);

#endif
