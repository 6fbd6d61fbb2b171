#ifndef AEROSTAT_VM_MACHINE_H
#define AEROSTAT_VM_MACHINE_H

/*
 * One virtual machine from power-on to its end: memory, buses, devices, vCPUs, all wired together.
 *
 * A reset does not exist here: the machine ends with MACHINE_RESET, and the caller destroys it and
 * makes a new one, so that nothing of the old can be left in the new.
 *
 * Threads: one a vCPU, the event loops of the devices, and the caller's, which waits in
 * machine_run. Order at the end: vCPUs are stopped and joined, then the event loops, then all is
 * freed; so device callbacks never meet a machine that is half gone.
 */

#include <jansson.h>

#include "cpu/features.h"
#include "util/status.h"
#include "vm/options.h"
#include "vm/terminal.h"

enum machine_end {
    MACHINE_RUNNING,
    MACHINE_POWER_OFF,
    MACHINE_RESET,
    MACHINE_DEBUG_EXIT, /* value: what the guest wrote */
    MACHINE_SHUTDOWN,   /* triple fault; machine_report has the vCPU's state */
    MACHINE_STOPPED,    /* machine_stop; value: its argument */
    MACHINE_FAILED,     /* it cannot go on, and the log says why */
};

/* What outlives machines: made once a process. */
struct machine_host {
    const struct vm_options *options;
    struct features features;
    struct thunk_set *thunks;
    struct code_pool *code_pool; /* the translator's, else NULL */
    struct terminal *terminal;
    int console_out; /* descriptor of the serial port's output */
    int console_in;  /* and input, -1 for none */
};

struct machine;

/* Builds the machine and loads its kernel; nothing runs yet. */
enum status machine_create(struct machine **machine, const struct machine_host *host,
                           struct error *err);
/* Runs until something ends it. */
enum status machine_run(struct machine *machine, enum machine_end *end, uint32_t *value,
                        struct error *err);
/* Any thread, also before machine_run: ends the machine with MACHINE_STOPPED. */
void machine_stop(struct machine *machine, uint32_t value);
void machine_destroy(struct machine *machine);

/* After machine_run: the registers of the vCPU that shut down, as lines of text; "" for none. */
const char *machine_report(const struct machine *machine);
/* After machine_run: counters since this machine was made, as an object the caller owns. */
json_t *machine_stats(const struct machine *machine);

#endif
