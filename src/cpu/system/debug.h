#ifndef AEROSTAT_CPU_SYSTEM_DEBUG_H
#define AEROSTAT_CPU_SYSTEM_DEBUG_H

/* Debug registers (SDM vol. 3 ch. 17). Data breakpoints are found by memory access (access.c);
 * here are DR0-DR7 themselves, instruction and I/O breakpoints. */

#include "cpu/vcpu.h"

#define DR6_FIXED 0xffff0ff0ull
#define DR6_BD    (1ull << 13)
#define DR6_BS    (1ull << 14)
#define DR7_FIXED 0x400ull

/* True when DR7 has an instruction breakpoint on. */
bool debug_has_code_breakpoint(const struct vcpu *vcpu);
/* DR6 bits of the instruction breakpoints at the current CS:RIP. */
uint64_t debug_code_hits(const struct vcpu *vcpu);
/* An I/O access was made: notes the I/O breakpoints (CR4.DE) it hits as pending traps. */
void debug_port_access(struct vcpu *vcpu, uint16_t port, unsigned size);
/* Tells the MMU which pages have data breakpoints. After any change of DR0-DR3, DR7. */
void debug_update_watch(struct vcpu *vcpu);

#endif
