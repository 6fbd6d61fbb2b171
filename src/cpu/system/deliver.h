#ifndef AEROSTAT_CPU_SYSTEM_DELIVER_H
#define AEROSTAT_CPU_SYSTEM_DELIVER_H

/* One attempt to enter the handler of an event: returns with CS:RIP at the handler, or raises what
 * stood in the way with nothing changed but accessed bits. */

#include "cpu/vcpu.h"

struct delivery {
    uint8_t vector;
    bool has_error_code;
    uint32_t error_code;
    bool check_dpl; /* INT n, INT3, INTO: the gate must allow the CPL */
    uint32_t ext;   /* SELECTOR_EXT for what the program did not ask for, else 0 */
    uint64_t return_rip;
    uint64_t flags; /* as pushed */
};

void deliver_real(struct vcpu *vcpu, const struct delivery *delivery);
void deliver_protected(struct vcpu *vcpu, const struct delivery *delivery);
void deliver_long(struct vcpu *vcpu, const struct delivery *delivery);

#endif
