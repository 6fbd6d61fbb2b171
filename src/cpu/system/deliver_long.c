#include "cpu/system/deliver.h"
#include "cpu/system/descriptor.h"
#include "cpu/system/interrupt_flag.h"
#include "cpu/system/stack.h"

/* Event delivery in IA-32e mode, from 64-bit and from compatibility code (SDM vol. 3 6.14). */

#define TSS64_RSP0 4u
#define TSS64_IST1 36u

struct gate64 {
    uint16_t selector;
    uint64_t offset;
    unsigned ist;
    bool is_interrupt;
};

static struct gate64 load_gate(struct vcpu *vcpu, const struct delivery *delivery)
{
    uint32_t error = delivery->vector * 8u | SELECTOR_IDT | delivery->ext;
    unsigned offset = delivery->vector * 16u;
    if (offset + 15 > vcpu->idtr.limit)
        vcpu_raise_error(vcpu, VECTOR_GP, error);
    uint64_t low = system_load(vcpu, vcpu->idtr.base + offset, 8);
    uint64_t high = system_load(vcpu, vcpu->idtr.base + offset + 8, 8);
    uint32_t attributes = descriptor_attributes(low);
    unsigned type = attributes_type(attributes);
    if ((attributes & SEG_S) != 0 || (type != TYPE_INTERRUPT_GATE32 && type != TYPE_TRAP_GATE32))
        vcpu_raise_error(vcpu, VECTOR_GP, error);
    if (delivery->check_dpl && attributes_dpl(attributes) < vcpu->cpl)
        vcpu_raise_error(vcpu, VECTOR_GP, error);
    if ((attributes & SEG_P) == 0)
        vcpu_raise_error(vcpu, VECTOR_NP, error);
    return (struct gate64){
        .selector = (uint16_t)(low >> 16),
        .offset = (low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32,
        .ist = low >> 32 & 7,
        .is_interrupt = type == TYPE_INTERRUPT_GATE32,
    };
}

static struct descriptor load_code(struct vcpu *vcpu, uint16_t selector, uint32_t ext)
{
    struct descriptor code;
    if (selector_is_null(selector))
        vcpu_raise_error(vcpu, VECTOR_GP, ext);
    if (!descriptor_find(vcpu, selector, &code))
        raise_selector(vcpu, VECTOR_GP, selector, ext);
    uint32_t attributes = descriptor_attributes(code.raw);
    if (!attributes_is_code(attributes) || attributes_dpl(attributes) > vcpu->cpl ||
        (attributes & (SEG_L | SEG_DB)) != SEG_L)
        raise_selector(vcpu, VECTOR_GP, selector, ext);
    if ((attributes & SEG_P) == 0)
        raise_selector(vcpu, VECTOR_NP, selector, ext);
    return code;
}

/* Which stack the handler gets. Without a change of level or an IST it is the current one. */
static struct stack choose_stack(struct vcpu *vcpu, const struct gate64 *gate, unsigned new_cpl,
                                 uint32_t ext)
{
    bool is_inner = new_cpl < vcpu->cpl;
    if (!is_inner && gate->ist == 0)
        return (struct stack){.ss = vcpu->seg[SEG_SS],
                              .pointer = vcpu->gpr[GPR_RSP],
                              .width = 8,
                              .cpl = (uint8_t)new_cpl};
    unsigned offset = gate->ist != 0 ? TSS64_IST1 + 8 * (gate->ist - 1) : TSS64_RSP0 + 8 * new_cpl;
    struct stack stack = stack_from_tss64(vcpu, offset, new_cpl, ext);
    if (!is_inner)
        stack.ss = vcpu->seg[SEG_SS];
    return stack;
}

void deliver_long(struct vcpu *vcpu, const struct delivery *delivery)
{
    uint32_t ext = delivery->ext;
    struct gate64 gate = load_gate(vcpu, delivery);
    struct descriptor code = load_code(vcpu, gate.selector, ext);
    uint32_t attributes = descriptor_attributes(code.raw);
    unsigned new_cpl =
        attributes_is_conforming(attributes) ? vcpu->cpl : attributes_dpl(attributes);
    struct stack stack = choose_stack(vcpu, &gate, new_cpl, ext);
    stack.pointer = align_down(stack.pointer, 16);

    uint64_t frame[6] = {
        vcpu->seg[SEG_SS].selector, vcpu->gpr[GPR_RSP],   delivery->flags,
        vcpu->seg[SEG_CS].selector, delivery->return_rip, delivery->error_code,
    };
    if (!access_is_canonical(gate.offset))
        vcpu_raise_error(vcpu, VECTOR_GP, ext);
    descriptor_set_accessed(vcpu, &code);
    stack_push(vcpu, &stack, frame, delivery->has_error_code ? 6 : 5, 8, ext);

    stack_commit(vcpu, &stack);
    vcpu->seg[SEG_CS] =
        descriptor_segment((uint16_t)((gate.selector & ~SELECTOR_RPL) | new_cpl), code.raw);
    vcpu->rip = gate.offset;
    uint64_t clear = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (gate.is_interrupt ? FLAG_IF : 0);
    vcpu_set_rflags(vcpu, vcpu->rflags & ~clear);
    vcpu_update_mode(vcpu);
}
