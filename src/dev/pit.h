#ifndef AEROSTAT_DEV_PIT_H
#define AEROSTAT_DEV_PIT_H

/*
 * 8254 interval timer: three channels at ports 0x40 to 0x43, and the system control port 0x61 with
 * the gate and output of channel 2. Channel 0's output is interrupt 0.
 *
 * Counters are not ticked: what a counter or an output shows is computed from the time since it was
 * loaded, so a channel that nobody looks at costs nothing.
 */

#include "dev/device_time.h"
#include "dev/irq.h"
#include "mem/bus.h"
#include "util/status.h"

#define PIT_HZ 1193182u

struct pit;

enum status pit_create(struct pit **pit, const struct device_time *time, struct irq_line irq,
                       struct error *err);
void pit_destroy(struct pit *pit); /* NULL is allowed */
void pit_reset(struct pit *pit);
enum status pit_attach(struct pit *pit, struct bus *ports, struct error *err);

#endif
