#ifndef AEROSTAT_VM_LINK_REPORT_H
#define AEROSTAT_VM_LINK_REPORT_H

/* What the VM says of itself to the manager, and whether it is worth saying. */

#include "vm/machine.h"
#include "vm/sharing.h"

struct link_reporter {
    struct link_report last; /* as it was looked at last */
    struct link_report said;
    struct link_report ended; /* counters of machines before this one */
    struct link_report raw;   /* counters of this one */
};

void link_reporter_fill(struct link_reporter *reporter, struct machine *machine,
                        struct sharing *sharing);
/* The same; true: it has changed since it was true last. An idle VM's clock ticks do not count. */
bool link_reporter_look(struct link_reporter *reporter, struct machine *machine,
                        struct sharing *sharing);

/* Memory that the process takes beside the guest's, at most. Bytes. */
uint64_t link_report_overhead(const struct vm_options *options);

#endif
