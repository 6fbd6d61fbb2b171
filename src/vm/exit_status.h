#ifndef AEROSTAT_VM_EXIT_STATUS_H
#define AEROSTAT_VM_EXIT_STATUS_H

/* What `aerostat` and aerostat-vm end with. A guest that ends through the debug-exit port gives
 * (value << 1) | 1 instead; a VM ended by a signal gives 128 + its number. */
enum exit_status {
    EXIT_STATUS_OK = 0,       /* the guest powered off, or reset under --no-reboot */
    EXIT_STATUS_NOT_YET = 1,  /* aerostat stop: the guest has not shut down in time */
    EXIT_STATUS_USAGE = 2,    /* the user's mistake: nothing was started */
    EXIT_STATUS_SHUTDOWN = 3, /* triple fault */
    EXIT_STATUS_FAILURE = 4,  /* the VMM itself failed */
};

#endif
