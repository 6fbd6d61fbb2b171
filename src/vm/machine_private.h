#ifndef AEROSTAT_VM_MACHINE_PRIVATE_H
#define AEROSTAT_VM_MACHINE_PRIVATE_H

/* What machine_build.c (making and freeing) and machine.c (running) share. */

#include <pthread.h>
#include <stdatomic.h>

#include "cpu/vcpu.h"
#include "dev/acpi_pm.h"
#include "dev/apic_bus.h"
#include "dev/debug_exit.h"
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
#include "vm/machine.h"
#include "vm/virtio_set.h"

#define MACHINE_REPORT_SIZE 4096u

/* One virtual processor: its vCPU, what belongs to it alone, and its thread. */
struct machine_cpu {
    struct machine *machine;
    struct bus *bus; /* its local APIC, then the machine's */
    struct lapic *lapic;
    struct vcpu *vcpu;
    pthread_t thread;
    bool has_thread, is_attached;
};

struct machine {
    const struct machine_host *host;
    const struct engine_ops *engine;

    struct pmap *map;
    struct bus *mmio, *ports;
    struct mmu_domain *domain;
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

    pthread_mutex_t lock; /* leaf; guards the fields below */
    pthread_cond_t ended;
    enum machine_end end;
    uint32_t end_value;
    char report[MACHINE_REPORT_SIZE];

    _Atomic bool stopping; /* vCPU threads are to return */
};

/* Any thread: ends the machine; the first end counts. */
void machine_finish(struct machine *machine, enum machine_end end, uint32_t value);

#endif
