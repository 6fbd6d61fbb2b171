#ifndef AEROSTAT_CONTROL_CLIENT_H
#define AEROSTAT_CONTROL_CLIENT_H

/*
 * The other end of a VM's control socket (docs/control.md). What a VM says is checked as what a
 * stranger says: a guest may have broken out into it. It has a time to answer in.
 */

#include <jansson.h>

#include "control/folder.h"
#include "util/status.h"

#define CLIENT_SECONDS 10u

/* Connects and sends; `request` is taken over (NULL: out of memory). Answers in at most `seconds`.
 */
enum status client_send(struct control_folder *folder, const char *name, json_t *request,
                        unsigned seconds, int *fd, struct error *err);
/* The reply to it, an object with "ok": true, which the caller owns. What the VM refuses comes as
 * the status that it names, with its reason. Reads not a byte behind the reply. */
enum status client_receive(int fd, const char *name, json_t **reply, struct error *err);

/* All of it, from the folder of VMs on. */
enum status client_ask(const char *name, json_t *request, json_t **reply, struct error *err);

#endif
