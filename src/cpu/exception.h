#ifndef AEROSTAT_CPU_EXCEPTION_H
#define AEROSTAT_CPU_EXCEPTION_H

/* Raising exceptions from instruction handlers, and delivering events to the guest. */

#include "cpu/vcpu.h"

/* These leave through vcpu->fault_exit. RIP is still that of the current instruction. */
_Noreturn void vcpu_raise(struct vcpu *vcpu, enum vector vector);
_Noreturn void vcpu_raise_error(struct vcpu *vcpu, enum vector vector, uint32_t error_code);
_Noreturn void vcpu_raise_page_fault(struct vcpu *vcpu,
                                     const struct mmu_fault *fault); /* sets CR2 */
/* #DB as a fault or trap: merges `dr6` bits into DR6 (SDM vol. 3 17.2.3). */
_Noreturn void vcpu_raise_debug(struct vcpu *vcpu, uint64_t dr6, bool is_trap);

/* Leaves the run loop with VCPU_EXIT_LOST, RIP as above: the instruction needs bytes of guest
 * memory that cannot be had (MMU_LOST). */
_Noreturn void vcpu_lose(struct vcpu *vcpu);

/*
 * Delivers vcpu->fault (set by vcpu_raise; called by the engine's loop after it has been jumped
 * to), with double and triple faults as in SDM vol. 3 6.15. Before it, DR7/TF bookkeeping and
 * RF in the pushed flags are applied. False: triple fault, the CPU has shut down. Does not raise.
 */
bool vcpu_deliver_fault(struct vcpu *vcpu);

/* Delivers an external interrupt or NMI, through the IDT or the real-mode vector table. RIP is the
 * next instruction. A fault while delivering is delivered in turn. False: triple fault. */
bool vcpu_deliver_interrupt(struct vcpu *vcpu, uint8_t vector);

#endif
