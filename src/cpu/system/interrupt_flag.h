#ifndef AEROSTAT_CPU_SYSTEM_INTERRUPT_FLAG_H
#define AEROSTAT_CPU_SYSTEM_INTERRUPT_FLAG_H

/* The one way to write flags other than the status flags and DF: what depends on IF, TF, RF and AC
 * is brought up to date. */

#include "cpu/vcpu.h"

/* Explicit data accesses at `cpl` with RFLAGS.AC as it is now. */
static inline enum mmu_privilege vcpu_privilege_at(const struct vcpu *vcpu, unsigned cpl)
{
    if (cpl == 3) {
        bool checked = (vcpu->rflags & FLAG_AC) != 0 && (vcpu->mmu.cr0 & CR0_AM) != 0;
        return checked ? MMU_USER_CHECKED : MMU_USER;
    }
    if ((vcpu->rflags & FLAG_AC) != 0 && (vcpu->mmu.cr4 & CR4_SMAP) != 0)
        return MMU_SUPERVISOR_AC;
    return MMU_SUPERVISOR;
}

/* Own thread: has vcpu_service called before the next instruction. */
static inline void vcpu_attend(struct vcpu *vcpu, uint32_t attention)
{
    atomic_fetch_or_explicit(&vcpu->attention, attention, memory_order_relaxed);
    vcpu->leave_block = true;
}

/* A repeated string instruction stops between two iterations, to be executed again: events that are
 * taken now find RF set. */
static inline void vcpu_suspend_repeat(struct vcpu *vcpu)
{
    vcpu->next_rip = vcpu->rip;
    vcpu->rflags |= FLAG_RF;
    vcpu_attend(vcpu, ATTENTION_STEP);
}

/* The attention that IF asks for as it goes from 0 to 1. */
static inline uint32_t vcpu_attention_for_if(struct vcpu *vcpu)
{
    uint32_t attention = vcpu->irq_waiting != 0 ? ATTENTION_IRQ : 0;
    vcpu->irq_waiting = 0;
    return attention;
}

/* SYSCALL and SYSRET: whether a single-step trap follows is up to TF as they leave it, so that none
 * comes in a kernel that masks TF, and one comes behind the SYSCALL of a program that is stepped.
 */
static inline void vcpu_step_by_new_flags(struct vcpu *vcpu)
{
    vcpu->step.trap = (vcpu->rflags & FLAG_TF) != 0;
    if (!vcpu->step.active) {
        vcpu->step.shadowed = false;
        vcpu->step.active = vcpu->step.trap;
    }
}

/* Writes RFLAGS whole. The caller has masked what the instruction may not change; VM is never set.
 * When IF goes from 0 to 1 an interrupt may have been waiting; TF and RF want stepping. */
static inline void vcpu_set_rflags(struct vcpu *vcpu, uint64_t value)
{
    uint64_t old = vcpu->rflags;
    uint32_t attention = 0;
    vcpu->rflags = value | FLAG_FIXED;
    if (((old ^ value) & FLAG_AC) != 0)
        vcpu->privilege = vcpu_privilege_at(vcpu, vcpu->cpl);
    if ((value & ~old & FLAG_IF) != 0)
        attention |= vcpu_attention_for_if(vcpu);
    if ((value & (FLAG_TF | FLAG_RF)) != 0)
        attention |= ATTENTION_STEP;
    if (unlikely(attention != 0))
        vcpu_attend(vcpu, attention);
}

#endif
