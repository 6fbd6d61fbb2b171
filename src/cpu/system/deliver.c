#include "cpu/exception.h"

#include "cpu/system/debug.h"
#include "cpu/system/deliver.h"
#include "cpu/system/descriptor.h"
#include "cpu/system/interrupt_flag.h"

/*
 * Raising events, and what happens when delivering one fails.
 *
 * A handler raises by a jump to vcpu->fault_exit. Delivery may itself raise; then vcpu->fault_exit
 * points into deliver_event for a while, which combines both events by SDM vol. 3 table 6-5 and
 * tries again, at most until a double fault fails too.
 */

#define DR6_CAUSES 0xfull /* B0-B3 */
#define DR7_GD     (1ull << 13)

static bool vector_has_error_code(unsigned vector)
{
    const uint32_t with_code = 1u << VECTOR_DF | 1u << VECTOR_TS | 1u << VECTOR_NP |
                               1u << VECTOR_SS | 1u << VECTOR_GP | 1u << VECTOR_PF |
                               1u << VECTOR_AC;
    return vector < 32 && (with_code >> vector & 1) != 0;
}

static _Noreturn void leave(struct vcpu *vcpu, struct vcpu_event event)
{
    vcpu->fault = event;
    longjmp(*vcpu->fault_exit, 1);
}

_Noreturn void vcpu_raise(struct vcpu *vcpu, enum vector vector)
{
    leave(vcpu, (struct vcpu_event){.vector = (uint8_t)vector,
                                    .has_error_code = vector_has_error_code(vector)});
}

_Noreturn void vcpu_raise_error(struct vcpu *vcpu, enum vector vector, uint32_t error_code)
{
    leave(vcpu, (struct vcpu_event){
                    .vector = (uint8_t)vector, .has_error_code = true, .error_code = error_code});
}

_Noreturn void vcpu_raise_page_fault(struct vcpu *vcpu, const struct mmu_fault *fault)
{
    vcpu->cr2 = fault->address;
    vcpu_raise_error(vcpu, VECTOR_PF, fault->error_code);
}

_Noreturn void vcpu_raise_debug(struct vcpu *vcpu, uint64_t dr6, bool is_trap)
{
    vcpu->dr[6] = (vcpu->dr[6] & ~DR6_CAUSES) | dr6;
    leave(vcpu, (struct vcpu_event){.vector = VECTOR_DB,
                                    .is_trap = is_trap,
                                    .is_breakpoint = !is_trap && (dr6 & DR6_BD) == 0});
}

_Noreturn void vcpu_lose(struct vcpu *vcpu)
{
    vcpu->is_lost = true;
    longjmp(*vcpu->fault_exit, 1);
}

/* Table 6-5. Interrupts and INT n are benign whatever their vector. */
enum event_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE_FAULT, CLASS_DOUBLE_FAULT };

static enum event_class event_class(unsigned vector)
{
    switch (vector) {
    case VECTOR_DE:
    case VECTOR_TS:
    case VECTOR_NP:
    case VECTOR_SS:
    case VECTOR_GP:
        return CLASS_CONTRIBUTORY;
    case VECTOR_PF:
        return CLASS_PAGE_FAULT;
    case VECTOR_DF:
        return CLASS_DOUBLE_FAULT;
    default:
        return CLASS_BENIGN;
    }
}

static bool makes_double_fault(enum event_class first, enum event_class second)
{
    if (first == CLASS_CONTRIBUTORY)
        return second == CLASS_CONTRIBUTORY;
    return first == CLASS_PAGE_FAULT && second != CLASS_BENIGN;
}

static void attempt(struct vcpu *vcpu, const struct delivery *delivery)
{
    if (vcpu->mode == MODE_REAL)
        deliver_real(vcpu, delivery);
    else if (cpu_in_ia32e(vcpu))
        deliver_long(vcpu, delivery);
    else
        deliver_protected(vcpu, delivery);
    vcpu->next_rip = vcpu->rip;
    vcpu->leave_block = true;
    /* What the interrupted instruction would have trapped for is not pending for the handler. */
    vcpu->step.active = false;
    vcpu->interrupt_shadow = false;
}

/* As pushed: RF is set for faults, so that an instruction breakpoint does not hit again on return;
 * not for that breakpoint itself, whose handler decides (SDM vol. 3 17.3.1.1). */
static struct delivery delivery_of(const struct vcpu *vcpu, const struct vcpu_event *event)
{
    bool completed = event->is_trap || event->is_software;
    struct delivery delivery = {
        .vector = event->vector,
        .has_error_code = event->has_error_code,
        .error_code = event->error_code,
        .check_dpl = event->is_software,
        .ext = event->is_software ? 0 : SELECTOR_EXT,
        .return_rip = completed ? vcpu->next_rip : vcpu->rip,
        .flags = vcpu->rflags,
    };
    if (!completed && !event->is_breakpoint)
        delivery.flags |= FLAG_RF;
    return delivery;
}

/* False: it raised, vcpu->fault says what. */
static bool try_deliver(struct vcpu *vcpu, const struct delivery *delivery)
{
    jmp_buf *const outer = vcpu->fault_exit;
    jmp_buf here;
    if (setjmp(here) != 0) {
        vcpu->fault_exit = outer;
        /* Whatever privilege the interrupted access had borrowed is given back. */
        vcpu_update_mode(vcpu);
        return false;
    }
    vcpu->fault_exit = &here;
    attempt(vcpu, delivery);
    vcpu->fault_exit = outer;
    return true;
}

/* Delivers an event of this class, and what comes of it. */
static bool deliver_event(struct vcpu *vcpu, struct delivery delivery, enum event_class class)
{
    while (!try_deliver(vcpu, &delivery)) {
        if (unlikely(vcpu->is_lost)) {
            atomic_fetch_or(&vcpu->attention, ATTENTION_IRQ); /* for vcpu->undelivered */
            vcpu_lose(vcpu);
        }
        if (class == CLASS_DOUBLE_FAULT)
            return false;
        struct vcpu_event event = vcpu->fault;
        enum event_class next = event_class(event.vector);
        if (makes_double_fault(class, next)) {
            event = (struct vcpu_event){.vector = VECTOR_DF, .has_error_code = true};
            next = CLASS_DOUBLE_FAULT;
        }
        vcpu->stats.exceptions[event.vector]++;
        delivery = delivery_of(vcpu, &event);
        class = next;
    }
    return true;
}

bool vcpu_deliver_fault(struct vcpu *vcpu)
{
    vcpu_update_mode(vcpu);
    struct vcpu_event event = vcpu->fault;
    if (event.vector == VECTOR_DB && !event.is_software)
        vcpu->dr[7] &= ~DR7_GD;
    if (event.vector < 32)
        vcpu->stats.exceptions[event.vector]++;
    /* The data breakpoints of an instruction that did not end are not reported. */
    if (!event.is_trap)
        vcpu->pending_debug = 0;
    struct delivery delivery = delivery_of(vcpu, &event);
    return deliver_event(vcpu, delivery,
                         event.is_software ? CLASS_BENIGN : event_class(event.vector));
}

bool vcpu_deliver_interrupt(struct vcpu *vcpu, uint8_t vector)
{
    struct delivery delivery = {
        .vector = vector,
        .ext = SELECTOR_EXT,
        .return_rip = vcpu->rip,
        .flags = vcpu->rflags,
    };
    /* The interrupt controller has let go of it: until it is delivered it is ours alone. */
    vcpu->undelivered = vector + 1u;
    bool is_up = deliver_event(vcpu, delivery, CLASS_BENIGN);
    vcpu->undelivered = 0;
    vcpu->stats.interrupts++;
    return is_up;
}
