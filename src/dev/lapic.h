#ifndef AEROSTAT_DEV_LAPIC_H
#define AEROSTAT_DEV_LAPIC_H

/*
 * A vCPU's local APIC: xAPIC (memory-mapped) and x2APIC (MSRs). SDM vol. 3 chapter 10 (in newer
 * editions 11), "Advanced Programmable Interrupt Controller".
 *
 * It is offered as an integrated APIC, version 0x14, six LVT entries (timer, thermal, performance,
 * LINT0, LINT1, error), without EOI-broadcast suppression. The timer counts at 1 GHz before the
 * divide configuration: one tick a nanosecond.
 *
 * Reset state is as the SDM says, with what firmware would have done on top for the boot processor:
 * LINT0 unmasked as ExtINT ("virtual wire"), so that kernels that know only the 8259 work.
 *
 * Threads. Registers, MSRs, pending, acknowledge and TPR: the vCPU's own thread. Delivery, LINT0,
 * INIT and the timer: any. The kick hook is called with no lock of a local APIC held; one of an I/O
 * APIC or a PIC may be.
 */

#include <stdbool.h>
#include <stdint.h>

#include "dev/apic_bus.h"
#include "dev/device_time.h"
#include "mem/bus.h"
#include "util/status.h"

#define LAPIC_TIMER_HZ 1000000000u

#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_X2APIC_FIRST 0x800u
#define MSR_X2APIC_LAST  0x8ffu

/* What the local APIC wants of its vCPU. */
enum lapic_kick {
    LAPIC_KICK_IRQ, /* something may have become deliverable: look at lapic_pending */
    LAPIC_KICK_NMI,
    LAPIC_KICK_INIT, /* the APIC has reset itself already */
    LAPIC_KICK_SIPI, /* `vector`: start at vector * 4096 */
};

struct lapic_hooks {
    void *context;
    void (*kick)(void *context, enum lapic_kick what, uint8_t vector); /* any thread */
    /* Guest TSC minus host TSC now. Called on the vCPU's own thread. */
    int64_t (*tsc_offset)(void *context);
};

struct lapic_config {
    struct apic_bus *bus;
    uint32_t id; /* the initial APIC id, unique on the bus; 0 to 254 */
    bool boot_processor;
    bool x2apic, tsc_deadline; /* offered by CPUID */
    struct device_time time;
    struct lapic_hooks hooks;
};

enum status lapic_create(struct lapic **lapic, const struct lapic_config *config,
                         struct error *err);
/* Not while any vCPU or loop may still use its bus. NULL is allowed. */
void lapic_destroy(struct lapic *lapic);

/* Power-on state; `init`: the state after INIT, which keeps id and mode. */
void lapic_reset(struct lapic *lapic, bool init);

/* The register page: PLATFORM_LAPIC_BASE on the vCPU's own bus; context is the lapic. */
extern const struct bus_ops lapic_mmio_ops;
enum status lapic_attach(struct lapic *lapic, struct bus *mmio, struct error *err);

/* These have the shape of struct vcpu_apic_ops (cpu/vcpu.h); context is the lapic. */
int lapic_pending(void *context);
int lapic_acknowledge(void *context);
uint64_t lapic_read_tpr(void *context);
void lapic_write_tpr(void *context, uint64_t cr8);
/* False, and nothing done: #GP. IA32_APIC_BASE refuses to move the register page. */
bool lapic_read_msr(void *context, uint32_t msr, uint64_t *value);
bool lapic_write_msr(void *context, uint32_t msr, uint64_t value);

/* After the guest changed its TSC: an armed TSC deadline is computed anew. Own thread. */
void lapic_tsc_changed(void *context);

#endif
