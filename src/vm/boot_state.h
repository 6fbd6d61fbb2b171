#ifndef AEROSTAT_VM_BOOT_STATE_H
#define AEROSTAT_VM_BOOT_STATE_H

#include "boot/boot.h"
#include "cpu/vcpu.h"

/* Puts a vCPU that is in its reset state into the one that the loader asks for. */
void boot_state_apply(struct vcpu *vcpu, const struct boot_entry *entry);

#endif
