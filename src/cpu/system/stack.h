#ifndef AEROSTAT_CPU_SYSTEM_STACK_H
#define AEROSTAT_CPU_SYSTEM_STACK_H

/* Stack frames of control transfers: written whole or not at all, perhaps on a stack that is not
 * yet the current one. */

#include "cpu/system/descriptor.h"

#define FRAME_MAX 40 /* values: SS, SP, 31 parameters of a call gate, CS, IP and some room */

struct stack {
    struct segment ss;
    uint64_t pointer;
    uint8_t width; /* of the pointer: 2, 4 or 8 */
    uint8_t cpl;   /* whose privilege the accesses have */
};

/* The stack in use. */
struct stack stack_current(const struct vcpu *vcpu);

/* The inner stack that the TSS holds for new_cpl (0-2), with all checks of SDM vol. 3 6.12.1 and
 * 5.8.5: #TS, #SS, #NP. Only outside IA-32e mode. */
struct stack stack_from_tss(struct vcpu *vcpu, unsigned new_cpl, uint32_t ext);

/* RSP0-2 or IST1-7 by its offset in the 64-bit TSS. SS is null with new_cpl. */
struct stack stack_from_tss64(struct vcpu *vcpu, unsigned offset, unsigned new_cpl, uint32_t ext);

/* Pushes `count` values of `size` bytes, the first one first. Checks everything, then writes, then
 * moves stack->pointer. A segment or canonical violation is #SS(error_code). */
void stack_push(struct vcpu *vcpu, struct stack *stack, const uint64_t *values, unsigned count,
                unsigned size, uint32_t error_code);

/* Makes it the current one: SS (accessed bit included already), stack pointer. Cannot fail. The
 * caller calls vcpu_update_mode when CS is loaded too. */
void stack_commit(struct vcpu *vcpu, const struct stack *stack);

/* Value `n` (0 = top) of `size` bytes on the current stack, without moving the pointer. */
uint64_t stack_peek(struct vcpu *vcpu, unsigned offset, unsigned size);

#endif
