#ifndef AEROSTAT_CPU_SYSTEM_PVCLOCK_H
#define AEROSTAT_CPU_SYSTEM_PVCLOCK_H

/* KVM's paravirtual clock (Linux Documentation/virt/kvm/x86/msr.rst). */

#include "cpu/vcpu.h"

/* Writes to the two MSRs. False: #GP. Own thread, running (they park around guest memory). */
bool pvclock_set_system(struct vcpu *vcpu, uint64_t value);
bool pvclock_set_wall(struct vcpu *vcpu, uint64_t value);

/* After the TSC was written: the guest's page is brought up to date. */
void pvclock_refresh(struct vcpu *vcpu);

/* Nanoseconds of the guest's clock now, as a guest would compute them. */
uint64_t pvclock_now_ns(const struct vcpu *vcpu);

#endif
