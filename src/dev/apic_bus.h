#ifndef AEROSTAT_DEV_APIC_BUS_H
#define AEROSTAT_DEV_APIC_BUS_H

/*
 * What joins local APICs, the I/O APIC and the legacy PIC of one machine: it finds the local APICs
 * a message is for, tells the I/O APIC about ends of interrupt, and carries the PIC's output to
 * LINT0.
 *
 * All local APICs are created before any vCPU runs; after that the set does not change, and every
 * function here may be called from any thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "util/status.h"

struct apic_bus;
struct lapic;

/* As encoded in ICR bits 10-8 and in redirection entries. */
enum apic_delivery {
    APIC_FIXED = 0,
    APIC_LOWEST_PRIORITY = 1,
    APIC_SMI = 2,
    APIC_NMI = 4,
    APIC_INIT = 5,
    APIC_SIPI = 6,
    APIC_EXTINT = 7,
};

#define APIC_BROADCAST 0xffffffffu

struct apic_message {
    /* An APIC id or a logical destination. Senders with 8-bit destinations translate their 0xff in
     * physical mode to APIC_BROADCAST. */
    uint32_t destination;
    bool logical;
    enum apic_delivery delivery;
    uint8_t vector;
    bool level; /* level triggered: its end of interrupt goes to the I/O APIC */
};

/* Room for `capacity` local APICs (1 to 255). */
enum status apic_bus_create(struct apic_bus **bus, unsigned capacity, struct error *err);
/* After the last of its local APICs. */
void apic_bus_destroy(struct apic_bus *bus);

/* True when at least one local APIC took the message. SMI and ExtINT messages are dropped. */
bool apic_bus_deliver(struct apic_bus *bus, const struct apic_message *message);

/* The end of a level-triggered interrupt, told to the I/O APIC: ioapic_eoi fits. Set before any
 * vCPU runs. Called without locks held. */
void apic_bus_set_eoi_hook(struct apic_bus *bus, void (*eoi)(void *context, uint8_t vector),
                           void *context);

/* The legacy PIC behind LINT0: pic_pending and pic_acknowledge fit. Set before any vCPU runs. */
void apic_bus_set_pic(struct apic_bus *bus, int (*pending)(void *context),
                      int (*acknowledge)(void *context), void *context);

/* The level of LINT0 on all local APICs, in the shape of an irq_line's `set`: the output of the
 * PIC. context is the bus; `pin` is not used. */
void apic_bus_set_lint0(void *context, unsigned pin, bool level);

#endif
