#ifndef AEROSTAT_VM_MANAGER_LINK_H
#define AEROSTAT_VM_MANAGER_LINK_H

/*
 * This VM's end of the link to the manager (docs/protocol.md): who it is, what it shares, what it
 * uses; and what the manager would like: frames for its pages, targets, how much is to be scanned.
 *
 * The manager may die, and a new one come, at any time: the VM goes on with what it was told last.
 * It may be broken: whatever it sends can cost this VM speed, and no more. A message that makes no
 * sense ends the link.
 *
 * One loop, whose thread does all of it, the scanning too; it exists from the first manager on. It
 * holds the machine while it does something with it.
 */

#include "vm/options.h"
#include "vm/sharing.h"
#include "vm/vm_slot.h"

struct manager_link;

struct manager_link_config {
    const struct vm_options *options; /* with the VM's name */
    struct vm_slot *slot;
    int ram; /* descriptor of the guest's memory, for reading alone; not owned */
};

/* Before the sandbox is entered. */
enum status manager_link_create(struct manager_link **link,
                                const struct manager_link_config *config, struct error *err);
/* After the last machine. NULL is fine. */
void manager_link_destroy(struct manager_link *link);

/* For the machines. */
struct sharing *manager_link_sharing(struct manager_link *link);

/* Any thread: a new link, in place of the one that there may be. Takes the descriptor over, also
 * when it fails: INVALID where it is no socket of that kind. */
enum status manager_link_adopt(struct manager_link *link, int fd, struct error *err);

#endif
