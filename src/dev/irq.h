#ifndef AEROSTAT_DEV_IRQ_H
#define AEROSTAT_DEV_IRQ_H

/* An interrupt line from a device to whatever takes it (an I/O APIC pin, a PIC input). */

#include <stdbool.h>

struct irq_line {
    void (*set)(void *context, unsigned pin, bool level); /* any thread; locks for itself */
    void *context;
    unsigned pin;
};

/* Level as on a wire: true = asserted. Setting the level it has is harmless. */
static inline void irq_set(const struct irq_line *line, bool level)
{
    if (line->set != 0)
        line->set(line->context, line->pin, level);
}

#endif
