#ifndef AEROSTAT_CPU_SYSTEM_CONTROL_H
#define AEROSTAT_CPU_SYSTEM_CONTROL_H

#include "cpu/vcpu.h"

#define PHYSICAL_ADDRESS_BITS 46 /* as pmap_create allows */
#define LINEAR_ADDRESS_BITS   48

#define XCR0_X87 1ull
#define XCR0_SSE 2ull
#define XCR0_AVX 4ull

/* Offsets in the XSAVE area (SDM vol. 1 13.4). */
#define XSAVE_FCW       0
#define XSAVE_FTW       4 /* abridged tag word */
#define XSAVE_MXCSR     24
#define XSAVE_XSTATE_BV 512

/* Raise #GP for what the SDM forbids; otherwise flush and switch modes as needed. */
void control_write_cr0(struct vcpu *vcpu, uint64_t value);
void control_write_efer(struct vcpu *vcpu, uint64_t value);

#endif
