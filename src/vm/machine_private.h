#ifndef AEROSTAT_VM_MACHINE_PRIVATE_H
#define AEROSTAT_VM_MACHINE_PRIVATE_H

/* What machine_build.c (making and freeing) and machine.c (running) share. */

#include <pthread.h>
#include <stdatomic.h>

#include "cpu/vcpu.h"
#include "dev/acpi_pm.h"
#include "dev/apic_bus.h"
#include "dev/debug_exit.h"
#include "dev/guest_clock.h"
#include "dev/ioapic.h"
#include "dev/isa_irq.h"
#include "dev/keyboard.h"
#include "dev/lapic.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/rtc.h"
#include "dev/serial.h"
#include "mem/bus.h"
#include "mem/pmap.h"
#include "mmu/mmu.h"
#include "util/io_loop.h"
#include "vm/idle.h"
#include "vm/machine.h"
#include "vm/paging.h"
#include "vm/virtio_set.h"

#define MACHINE_REPORT_SIZE 4096u

/* One virtual processor: its vCPU, what belongs to it alone, and its thread. */
struct machine_cpu {
    struct machine *machine;
    struct bus *bus; /* its local APIC, then the machine's */
    struct lapic *lapic;
    struct vcpu *vcpu;
    pthread_t thread;
    struct idle idle; /* the thread's own */
    bool has_thread, is_attached;
    _Atomic clockid_t clock; /* of the thread's CPU time; 0: it has not begun */
};

struct machine {
    const struct machine_host *host;
    const struct engine_ops *engine;

    struct pmap *map;
    struct paging *paging;
    struct bus *mmio, *ports;
    struct mmu_domain *domain;
    struct guest_clock *clock;
    struct io_loop *loop; /* timers, serial port, virtio devices that do not block */

    struct apic_bus *apic_bus;
    struct ioapic *ioapic;
    struct pic *pic;
    struct pit *pit;
    struct rtc *rtc;
    struct serial *serial;
    struct isa_irq isa_pit, isa_rtc, isa_serial;
    struct acpi_pm acpi_pm;
    struct keyboard keyboard;
    struct debug_exit debug_exit;
    struct virtio_set *virtio;

    struct machine_cpu cpus[OPTIONS_MAX_CPUS];
    unsigned cpu_count;

    pthread_mutex_t lock; /* guards the fields below; under it only the clock's and vcpu_kick's */
    pthread_cond_t ended, pause_changed;
    enum machine_end end;
    uint32_t end_value;
    char report[MACHINE_REPORT_SIZE];

    unsigned cpus_running; /* vCPU threads, but for those that stand still */

    /* What has been asked of the VM: memory is short. */
    _Atomic bool is_resident_limited, is_balloon_wanted;

    /* Written with the lock held. */
    _Atomic bool stopping; /* vCPU threads are to return */
    _Atomic bool pausing;  /* or to stand still */
};

/* Any thread: ends the machine; the first end counts. */
void machine_finish(struct machine *machine, enum machine_end end, uint32_t value);

/* CPU time that the vCPUs have used. */
uint64_t machine_cpu_ns(void *machine);

/* machine_pause.c, around the life of a vCPU's thread: begins before it is made, ends by itself;
 * and while machine->pausing, waits in it. */
void machine_cpu_begins(struct machine *machine);
void machine_cpu_ends(struct machine *machine);
void machine_cpu_stands_still(struct machine *machine);
/* Before it runs the guest: waits as long as machine_set_blocked says. */
void machine_cpu_waits_blocked(struct machine *machine);
/* Begins a pause of a machine that runs, and says why. Of one that does not run, nothing. */
void machine_pause_for_memory(struct machine *machine, const struct error *err);

#endif
