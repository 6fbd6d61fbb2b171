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
#include "mem/swap.h"
#include "util/status.h"
#include "util/terminal.h"
#include "vm/options.h"
#include "vm/overlays.h"

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
    /* Bytes that the balloon is to hold; what was asked for last, also of a machine before. */
    uint64_t balloon_target;
    uint64_t resident;         /* bytes of host memory that the guest's may take; likewise */
    struct swap *swap;         /* or NULL; of one machine at a time */
    struct overlays *overlays; /* likewise, without NULL */
    struct layer *ram;         /* of one machine at a time; NULL: each makes its own */
    struct sharing *sharing;   /* or NULL; goes from one machine to the next */
};

struct machine;

/* Builds the machine and loads its kernel; nothing runs yet. */
uint64_t machine_span_pages(const struct vm_options *options); /* PPNs are below this */
enum status machine_create(struct machine **machine, const struct machine_host *host,
                           struct error *err);
/* Runs until something ends it. */
enum status machine_run(struct machine *machine, enum machine_end *end, uint32_t *value,
                        struct error *err);
/* Any thread, also before machine_run: ends the machine with MACHINE_STOPPED. */
void machine_stop(struct machine *machine, uint32_t value);

/* Any thread: presses the power button. False: the guest does not listen for it. */
bool machine_press_power(struct machine *machine);

/* Any thread but vCPUs' and the loops': how much the balloon is to take, and how much of the
 * guest's memory may be resident. Bytes, whole pages, not more than the memory.
 * machine_watch_guest: balloon_watch (dev/virtio/balloon.h), before machine_stats, for fresh news
 * of the guest; also for machine_report_to's of a while. */
void machine_set_balloon(struct machine *machine, uint64_t size);
uint64_t machine_balloon_target(const struct machine *machine);
bool machine_watch_guest(struct machine *machine, uint64_t wait_ns);
void machine_set_resident(struct machine *machine, uint64_t size);
uint64_t machine_resident(const struct machine *machine);

/* For the link to the manager. machine_set_blocked: while the VM has more memory than it may, no
 * vCPU runs, if `blocked`; it is said anew with each new limit. */
struct pmap *machine_map(struct machine *machine);
struct scan *machine_scan(struct machine *machine);
void machine_set_blocked(struct machine *machine, bool blocked);
struct link_report;
void machine_report_to(struct machine *machine, struct link_report *report);

/* Pausing: no vCPU runs, and the guest's clocks stand still: its TSC, KVM's clock and all timers go
 * on later from where they were. Devices finish what they were asked. A machine may be paused and
 * resumed before it runs, and any number of times; the last call counts.
 *
 * machine_pause_begin: any thread, a vCPU's too; does not wait. machine_pause: not a vCPU's; waits
 * until no vCPU runs any more; false: the machine has ended. */
void machine_pause_begin(struct machine *machine);
bool machine_pause(struct machine *machine);
void machine_resume(struct machine *machine);
bool machine_is_paused(struct machine *machine);

void machine_destroy(struct machine *machine);

/* After machine_run: the registers of the vCPU that shut down, as lines of text; "" for none. */
const char *machine_report(const struct machine *machine);
/* Any thread: counters since this machine was made, as an object the caller owns; NULL when out of
 * memory. Of a machine that runs they are of about this moment, each for itself. */
json_t *machine_stats(const struct machine *machine);

#endif
