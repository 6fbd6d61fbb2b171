#ifndef AEROSTAT_DEV_IOAPIC_H
#define AEROSTAT_DEV_IOAPIC_H

/*
 * I/O APIC with PLATFORM_IOAPIC_PINS pins (82093AA datasheet; version 0x20 with the EOI register).
 *
 * Lines carry "asserted", not a voltage: the polarity bit is kept for the guest to read back and
 * changes nothing. An edge that comes while its pin is masked is lost, as in the datasheet.
 */

#include <stdbool.h>
#include <stdint.h>

#include "dev/apic_bus.h"
#include "dev/irq.h"
#include "mem/bus.h"
#include "util/status.h"

struct ioapic;

enum status ioapic_create(struct ioapic **ioapic, struct apic_bus *bus, struct error *err);
void ioapic_destroy(struct ioapic *ioapic); /* NULL is allowed */
void ioapic_reset(struct ioapic *ioapic);

/* At PLATFORM_IOAPIC_BASE of the machine's bus. */
enum status ioapic_attach(struct ioapic *ioapic, struct bus *mmio, struct error *err);

/* The line of a pin (GSI); one of a pin that does not exist goes nowhere. */
struct irq_line ioapic_line(struct ioapic *ioapic, unsigned pin);

/* Whether an edge on the pin would reach a vCPU now. Any thread. */
bool ioapic_pin_is_open(struct ioapic *ioapic, unsigned pin);

/* End of a level-triggered interrupt; for apic_bus_set_eoi_hook. context is the ioapic. */
void ioapic_eoi(void *context, uint8_t vector);

#endif
