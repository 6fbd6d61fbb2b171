#include "cpu/exception.h"
#include "cpu/system/debug.h"
#include "cpu/system/interrupt_flag.h"
#include "cpu/vcpu.h"

/*
 * What happens between two instructions, in the order of SDM vol. 3 table 6-2: INIT, SIPI; debug
 * traps on the instruction before; NMI; external interrupts; instruction breakpoints on the one to
 * come.
 *
 * Stepping. While ATTENTION_STEP is set the engine runs one instruction per call of vcpu_service.
 * The call before an instruction notes in vcpu->step what it begins with (TF, an interrupt shadow),
 * and the call after it concludes what follows from that: the single-step trap, the shadow ended.
 * RF is cleared when the instruction begins, after the check for a breakpoint on it; a repeated
 * string instruction that stops between two iterations sets it, so that whatever event comes then
 * finds it set, and the breakpoint does not hit again (SDM vol. 3 17.3.1.1). Delivery of any event
 * clears step.active, since the instruction that was begun did not end, or handed over to a handler
 * that must not inherit its trap. The bit stays set as long as the next instruction needs it:
 *
 *     popf            sets TF: attention |= STEP
 *     vcpu_service    active = trap = true
 *     nop
 *     vcpu_service    pending_debug |= BS; raised as a trap, RIP behind the nop
 */

/* What the completed instruction leaves behind. */
static void conclude_step(struct vcpu *vcpu)
{
    struct vcpu_step *step = &vcpu->step;
    if (!step->active)
        return;
    step->active = false;
    if (step->trap)
        vcpu->pending_debug |= DR6_BS;
    if (step->shadowed) {
        vcpu->interrupt_shadow = false;
        step->shadow_debug = false;
    }
}

static void begin_step(struct vcpu *vcpu)
{
    struct vcpu_step *step = &vcpu->step;
    step->trap = (vcpu->rflags & FLAG_TF) != 0;
    step->shadowed = vcpu->interrupt_shadow;
    step->active =
        step->trap || step->shadowed || vcpu->pending_debug != 0 || debug_has_code_breakpoint(vcpu);
    vcpu->rflags &= ~(uint64_t)FLAG_RF;
    if (step->active)
        atomic_fetch_or(&vcpu->attention, ATTENTION_STEP);
    else
        atomic_fetch_and(&vcpu->attention, ~(uint32_t)ATTENTION_STEP);
}

static bool take(struct vcpu *vcpu, uint32_t attention)
{
    return (atomic_fetch_and(&vcpu->attention, ~attention) & attention) != 0;
}

/* Starts an application processor in real mode at vector * 4096 (SDM vol. 3 8.4.3). */
static void start_up(struct vcpu *vcpu)
{
    uint8_t vector = atomic_load(&vcpu->sipi_vector);
    vcpu->wait_for_sipi = false;
    vcpu->seg[SEG_CS].selector = (uint16_t)(vector << 8);
    vcpu->seg[SEG_CS].base = (uint64_t)vector << 12;
    vcpu->rip = vcpu->next_rip = 0;
    vcpu_update_mode(vcpu);
}

/* INIT and SIPI. True: there is nothing to run yet. */
static bool service_start(struct vcpu *vcpu)
{
    if (take(vcpu, ATTENTION_INIT))
        vcpu_reset(vcpu, true);
    if (take(vcpu, ATTENTION_SIPI) && vcpu->wait_for_sipi)
        start_up(vcpu);
    return vcpu->wait_for_sipi;
}

static bool service_nmi(struct vcpu *vcpu)
{
    if (vcpu->nmi_blocked || vcpu->interrupt_shadow || !take(vcpu, ATTENTION_NMI))
        return true;
    vcpu->nmi_blocked = true;
    vcpu->halted = false;
    return vcpu_deliver_interrupt(vcpu, VECTOR_NMI);
}

/* An interrupt whose delivery found that a page cannot be had: it begins again. */
static bool service_undelivered(struct vcpu *vcpu)
{
    return vcpu->undelivered == 0 || vcpu_deliver_interrupt(vcpu, (uint8_t)(vcpu->undelivered - 1));
}

static bool service_interrupt(struct vcpu *vcpu)
{
    if (vcpu->interrupt_shadow)
        return true; /* the bit stays for the next call */
    /* The bit goes before the APIC is asked, so that a later kick is not lost. */
    if (!take(vcpu, ATTENTION_IRQ) || vcpu->apic == NULL)
        return true;
    if ((vcpu->rflags & FLAG_IF) == 0) {
        vcpu->irq_waiting = 1;
        return true;
    }
    if (vcpu->apic->pending(vcpu->apic_context) < 0)
        return true;
    int vector = vcpu->apic->acknowledge(vcpu->apic_context);
    if (vector < 0)
        return true;
    vcpu->halted = false;
    if (!vcpu_deliver_interrupt(vcpu, (uint8_t)vector))
        return false;
    /* There may be more: to be asked for as soon as IF is set, which it still is through a trap
     * gate. */
    if (vcpu->apic->pending(vcpu->apic_context) < 0)
        return true;
    if ((vcpu->rflags & FLAG_IF) != 0)
        atomic_fetch_or(&vcpu->attention, ATTENTION_IRQ);
    else
        vcpu->irq_waiting = 1;
    return true;
}

static void service_debug_traps(struct vcpu *vcpu)
{
    if (vcpu->pending_debug == 0 || (vcpu->interrupt_shadow && vcpu->step.shadow_debug))
        return;
    uint64_t bits = vcpu->pending_debug;
    vcpu->pending_debug = 0;
    vcpu->halted = false;
    vcpu_raise_debug(vcpu, bits, true);
}

bool vcpu_service(struct vcpu *vcpu, enum vcpu_exit *exit)
{
    uint32_t attention = atomic_load(&vcpu->attention);
    vcpu->next_rip = vcpu->rip;
    if ((attention & ATTENTION_MMU) != 0)
        mmu_service(&vcpu->mmu);
    if ((attention & ATTENTION_EXIT) != 0 && take(vcpu, ATTENTION_EXIT)) {
        *exit = VCPU_EXIT_REQUESTED;
        return true;
    }
    conclude_step(vcpu);
    if (service_start(vcpu)) {
        *exit = VCPU_EXIT_HALTED;
        return true;
    }
    service_debug_traps(vcpu);
    if (!service_undelivered(vcpu) || !service_nmi(vcpu) || !service_interrupt(vcpu)) {
        *exit = VCPU_EXIT_SHUTDOWN;
        return true;
    }
    if (vcpu->halted) {
        /* ATTENTION_STEP stays, so that a premature run asks here again. */
        *exit = VCPU_EXIT_HALTED;
        return true;
    }
    if ((vcpu->rflags & FLAG_RF) == 0 && debug_has_code_breakpoint(vcpu)) {
        uint64_t hits = debug_code_hits(vcpu);
        if (hits != 0)
            vcpu_raise_debug(vcpu, hits, false);
    }
    begin_step(vcpu);
    return false;
}
