#include "dev/isa_irq.h"

static void isa_irq_set(void *context, unsigned pin, bool level)
{
    const struct isa_irq *irq = context;
    irq_set(&irq->pic, level);
    irq_set(&irq->ioapic, level);
}

struct irq_line isa_irq_line(struct isa_irq *irq)
{
    return (struct irq_line){.set = isa_irq_set, .context = irq, .pin = 0};
}
