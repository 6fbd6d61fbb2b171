#ifndef AEROSTAT_DEV_PIC_H
#define AEROSTAT_DEV_PIC_H

/*
 * The PC's pair of 8259A interrupt controllers, the second on input 2 of the first, with the
 * edge/level control registers at ports 0x4d0 and 0x4d1.
 */

#include <stdbool.h>
#include <stdint.h>

#include "dev/irq.h"
#include "mem/bus.h"
#include "util/status.h"

#define PIC_PORT_ELCR 0x4d0u

struct pic;

/* `output` is the INT pin of the first controller: apic_bus_set_lint0 fits. It is driven with the
 * PIC's lock held, so it may not call back into the PIC. */
enum status pic_create(struct pic **pic, struct irq_line output, struct error *err);
void pic_destroy(struct pic *pic); /* NULL is allowed */
void pic_reset(struct pic *pic);
enum status pic_attach(struct pic *pic, struct bus *ports, struct error *err);

/* The line of an ISA interrupt, 0 to 15 except 2; others go nowhere. */
struct irq_line pic_line(struct pic *pic, unsigned irq);

/* The vector that an acknowledge would give now, or -1. context is the pic. */
int pic_pending(void *context);
/* The INTA cycle: the vector of the highest request, now in service; the spurious vector where it
 * vanished after the output was raised; -1 where the output is not raised. */
int pic_acknowledge(void *context);

#endif
