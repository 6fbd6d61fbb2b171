#ifndef AEROSTAT_CPU_SYSTEM_CODE_H
#define AEROSTAT_CPU_SYSTEM_CODE_H

/* Code segments as the target of far transfers. */

#include "cpu/system/descriptor.h"

/* CS:RIP of the target; checked, not yet loaded. */
struct code_target {
    struct segment cs;
    uint64_t rip;
};

/* Builds the target from a code descriptor found good: sets its accessed bit; #GP(selector) where L
 * and D are both set in IA-32e mode, #GP(0) where rip is outside it. */
struct code_target code_target(struct vcpu *vcpu, struct descriptor *descriptor, uint16_t selector,
                               unsigned cpl, uint64_t rip);

/* Real mode: CS base from the selector. #GP(0) where rip is outside the limit. */
void code_load_real(struct vcpu *vcpu, uint16_t selector, uint64_t rip);

/* True when the target will run 64-bit code. */
static inline bool code_is_64bit(const struct vcpu *vcpu, const struct segment *cs)
{
    return cpu_in_ia32e(vcpu) && (cs->attributes & SEG_L) != 0;
}

/* Goes there. The stack has been committed. */
static inline void code_commit(struct vcpu *vcpu, const struct code_target *target)
{
    vcpu->seg[SEG_CS] = target->cs;
    vcpu->next_rip = target->rip;
    vcpu->leave_block = true;
    vcpu_update_mode(vcpu);
}

#endif
