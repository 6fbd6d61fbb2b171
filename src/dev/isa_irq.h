#ifndef AEROSTAT_DEV_ISA_IRQ_H
#define AEROSTAT_DEV_ISA_IRQ_H

/* An ISA interrupt wire goes to two places at once: an input of the PIC and a pin of the I/O APIC.
 * The guest listens to one of them and masks the other. */

#include "dev/irq.h"

struct isa_irq {
    struct irq_line pic, ioapic;
};

/* The device's end; `irq` is kept. */
struct irq_line isa_irq_line(struct isa_irq *irq);

#endif
