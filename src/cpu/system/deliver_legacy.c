#include "cpu/system/deliver.h"
#include "cpu/system/descriptor.h"
#include "cpu/system/interrupt_flag.h"
#include "cpu/system/stack.h"

/*
 * Event delivery in real mode (SDM vol. 3 20.1.4) and in protected mode outside IA-32e (6.12).
 *
 * Task gates are not offered: hardware task switching belongs to an era before the kernels this is
 * for, and none of them uses it for 32-bit double faults under a 64-bit CPU model. One in the IDT
 * is #GP as if it were an invalid gate.
 */

void deliver_real(struct vcpu *vcpu, const struct delivery *delivery)
{
    unsigned offset = delivery->vector * 4u;
    if (offset + 3 > vcpu->idtr.limit)
        vcpu_raise(vcpu, VECTOR_GP);
    uint32_t entry = (uint32_t)system_load(vcpu, (uint32_t)(vcpu->idtr.base + offset), 4);

    uint64_t frame[] = {delivery->flags, vcpu->seg[SEG_CS].selector, delivery->return_rip};
    struct stack stack = stack_current(vcpu);
    stack_push(vcpu, &stack, frame, 3, 2, 0);

    stack_pointer_set(vcpu, stack.width, stack.pointer);
    vcpu->seg[SEG_CS].selector = (uint16_t)(entry >> 16);
    vcpu->seg[SEG_CS].base = (uint64_t)(entry >> 16) << 4;
    vcpu->rip = entry & 0xffff;
    vcpu_set_rflags(vcpu, vcpu->rflags & ~(uint64_t)(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF));
    vcpu_update_mode(vcpu);
}

/* Fetches a usable gate. */
static uint64_t load_gate(struct vcpu *vcpu, const struct delivery *delivery, uint32_t error)
{
    unsigned offset = delivery->vector * 8u;
    if (offset + 7 > vcpu->idtr.limit)
        vcpu_raise_error(vcpu, VECTOR_GP, error);
    uint64_t gate = system_load(vcpu, (uint32_t)(vcpu->idtr.base + offset), 8);
    uint32_t attributes = descriptor_attributes(gate);
    unsigned type = attributes_type(attributes);
    bool usable =
        (attributes & SEG_S) == 0 && (type == TYPE_INTERRUPT_GATE16 || type == TYPE_TRAP_GATE16 ||
                                      type == TYPE_INTERRUPT_GATE32 || type == TYPE_TRAP_GATE32);
    if (!usable || (delivery->check_dpl && attributes_dpl(attributes) < vcpu->cpl))
        vcpu_raise_error(vcpu, VECTOR_GP, error);
    if ((attributes & SEG_P) == 0)
        vcpu_raise_error(vcpu, VECTOR_NP, error);
    return gate;
}

static struct descriptor load_code(struct vcpu *vcpu, uint16_t selector, uint32_t ext)
{
    struct descriptor code;
    if (selector_is_null(selector))
        vcpu_raise_error(vcpu, VECTOR_GP, ext);
    if (!descriptor_find(vcpu, selector, &code))
        raise_selector(vcpu, VECTOR_GP, selector, ext);
    uint32_t attributes = descriptor_attributes(code.raw);
    if (!attributes_is_code(attributes) || attributes_dpl(attributes) > vcpu->cpl)
        raise_selector(vcpu, VECTOR_GP, selector, ext);
    if ((attributes & SEG_P) == 0)
        raise_selector(vcpu, VECTOR_NP, selector, ext);
    return code;
}

void deliver_protected(struct vcpu *vcpu, const struct delivery *delivery)
{
    uint32_t ext = delivery->ext;
    uint64_t gate = load_gate(vcpu, delivery, delivery->vector * 8u | SELECTOR_IDT | ext);
    unsigned type = attributes_type(descriptor_attributes(gate));
    bool is_32bit = (type & 8) != 0;
    bool is_interrupt_gate = (type & 1) == 0;
    uint16_t selector = (uint16_t)(gate >> 16);
    uint64_t offset = is_32bit ? (gate & 0xffff) | (gate >> 32 & 0xffff0000) : gate & 0xffff;

    struct descriptor code = load_code(vcpu, selector, ext);
    uint32_t attributes = descriptor_attributes(code.raw);
    unsigned new_cpl =
        attributes_is_conforming(attributes) ? vcpu->cpl : attributes_dpl(attributes);
    bool is_inner = new_cpl < vcpu->cpl;
    struct stack stack = is_inner ? stack_from_tss(vcpu, new_cpl, ext) : stack_current(vcpu);

    uint64_t frame[6];
    unsigned count = 0;
    if (is_inner) {
        frame[count++] = vcpu->seg[SEG_SS].selector;
        frame[count++] = vcpu->gpr[GPR_RSP];
    }
    frame[count++] = delivery->flags;
    frame[count++] = vcpu->seg[SEG_CS].selector;
    frame[count++] = delivery->return_rip;
    if (delivery->has_error_code)
        frame[count++] = delivery->error_code;

    struct segment cs;
    descriptor_set_accessed(vcpu, &code);
    cs = descriptor_segment((uint16_t)((selector & ~SELECTOR_RPL) | new_cpl), code.raw);
    if (offset > cs.limit)
        vcpu_raise_error(vcpu, VECTOR_GP, ext);
    uint32_t stack_error = is_inner ? (stack.ss.selector & ~SELECTOR_RPL) | ext : ext;
    stack_push(vcpu, &stack, frame, count, is_32bit ? 4 : 2, stack_error);

    stack_commit(vcpu, &stack);
    vcpu->seg[SEG_CS] = cs;
    vcpu->rip = offset;
    uint64_t clear = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (is_interrupt_gate ? FLAG_IF : 0);
    vcpu_set_rflags(vcpu, vcpu->rflags & ~clear);
    vcpu_update_mode(vcpu);
}
