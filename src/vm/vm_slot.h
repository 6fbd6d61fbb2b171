#ifndef AEROSTAT_VM_VM_SLOT_H
#define AEROSTAT_VM_VM_SLOT_H

/*
 * Which machine this process is at the moment. A guest reset makes a new one; between two there is
 * none for a while. Signals and control requests come at any time, on other threads: what they wish
 * holds for the machine that is there and for those that come after it.
 *
 * Whoever does something with the machine holds it meanwhile; a machine that is held is not taken
 * out. The lock is not held while anybody waits for anything, so a stop always gets through.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vm/machine.h"

struct vm_slot {
    pthread_mutex_t lock; /* guards all below; above a machine's */
    pthread_cond_t changed;
    struct machine *machine;
    unsigned holders;
    unsigned resets; /* machines taken out for another */
    bool closed;     /* there will be no other */
    bool stop_wanted, pause_wanted;
    uint32_t stop_value;
};

void vm_slot_init(struct vm_slot *slot);
void vm_slot_destroy(struct vm_slot *slot);

/* Main thread. Put: the machine that is to run next. Take: waits for those who hold it. Close:
 * those who wait for a machine give up. */
void vm_slot_put(struct vm_slot *slot, struct machine *machine);
struct machine *vm_slot_take(struct vm_slot *slot);
void vm_slot_close(struct vm_slot *slot);

/* Any thread: ends the machine and all after it with MACHINE_STOPPED; the first value counts. */
void vm_slot_stop(struct vm_slot *slot, uint32_t value);

/* Any thread but the machine's own: waits for a machine if there is none. NULL: the VM is ending.
 * Release what is not NULL. */
struct machine *vm_slot_hold(struct vm_slot *slot);
void vm_slot_release(struct vm_slot *slot);

/* As machine_pause and machine_resume, of this machine and those to come. False: the VM is ending.
 */
bool vm_slot_pause(struct vm_slot *slot);
bool vm_slot_resume(struct vm_slot *slot);

unsigned vm_slot_resets(struct vm_slot *slot);

#endif
