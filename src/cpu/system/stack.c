#include "cpu/system/stack.h"

#include <string.h>

#include "cpu/system/interrupt_flag.h"

struct stack stack_current(const struct vcpu *vcpu)
{
    return (struct stack){
        .ss = vcpu->seg[SEG_SS],
        .pointer = bits_truncate(vcpu->gpr[GPR_RSP], vcpu->stack_size),
        .width = vcpu->stack_size,
        .cpl = vcpu->cpl,
    };
}

/* Reads SS:SP of a privilege level from the TSS, 16-bit or 32-bit. */
static void tss_read_stack(struct vcpu *vcpu, unsigned cpl, uint32_t ext, uint16_t *selector,
                           uint64_t *pointer)
{
    unsigned type = attributes_type(vcpu->tr.attributes);
    bool is_32bit = type == TYPE_TSS32 || type == TYPE_TSS32_BUSY;
    unsigned offset = is_32bit ? 4 + 8 * cpl : 2 + 4 * cpl;
    unsigned size = is_32bit ? 4 : 2;
    if (offset + size + 1 > vcpu->tr.limit)
        raise_selector(vcpu, VECTOR_TS, vcpu->tr.selector, ext);
    *pointer = system_load(vcpu, system_linear(vcpu, vcpu->tr.base, offset), size);
    *selector = (uint16_t)system_load(vcpu, system_linear(vcpu, vcpu->tr.base, offset + size), 2);
}

struct stack stack_from_tss(struct vcpu *vcpu, unsigned new_cpl, uint32_t ext)
{
    uint16_t selector;
    uint64_t pointer;
    tss_read_stack(vcpu, new_cpl, ext, &selector, &pointer);

    struct descriptor descriptor;
    if (selector_is_null(selector))
        vcpu_raise_error(vcpu, VECTOR_TS, ext);
    if (!descriptor_find(vcpu, selector, &descriptor))
        raise_selector(vcpu, VECTOR_TS, selector, ext);
    uint32_t attributes = descriptor_attributes(descriptor.raw);
    if ((selector & SELECTOR_RPL) != new_cpl || attributes_dpl(attributes) != new_cpl ||
        !attributes_is_writable_data(attributes))
        raise_selector(vcpu, VECTOR_TS, selector, ext);
    if ((attributes & SEG_P) == 0)
        raise_selector(vcpu, VECTOR_SS, selector, ext);
    descriptor_set_accessed(vcpu, &descriptor);

    struct stack stack = {.ss = descriptor_segment(selector, descriptor.raw),
                          .cpl = (uint8_t)new_cpl};
    stack.width = stack.ss.attributes & SEG_DB ? 4 : 2;
    stack.pointer = bits_truncate(pointer, stack.width);
    return stack;
}

struct stack stack_from_tss64(struct vcpu *vcpu, unsigned offset, unsigned new_cpl, uint32_t ext)
{
    if (offset + 7 > vcpu->tr.limit)
        raise_selector(vcpu, VECTOR_TS, vcpu->tr.selector, ext);
    uint64_t pointer = system_load(vcpu, vcpu->tr.base + offset, 8);
    if (!access_is_canonical(pointer))
        vcpu_raise_error(vcpu, VECTOR_SS, ext);
    return (struct stack){
        .ss = segment_null_stack(new_cpl), .pointer = pointer, .width = 8, .cpl = (uint8_t)new_cpl};
}

/* Linear address of one slot, or #SS. */
static uint64_t slot_address(struct vcpu *vcpu, const struct stack *stack, uint64_t offset,
                             unsigned size, uint32_t error_code)
{
    if (!segment_contains(&stack->ss, offset, size))
        vcpu_raise_error(vcpu, VECTOR_SS, error_code);
    return (uint32_t)(stack->ss.base + offset);
}

/* Segmented stacks: slot by slot, since the pointer may wrap within the segment. */
static void push_segmented(struct vcpu *vcpu, struct stack *stack, const uint64_t *values,
                           unsigned count, unsigned size, uint32_t error_code)
{
    uint64_t offset = stack->pointer;
    for (unsigned i = 0; i < count; i++) {
        offset = bits_truncate(offset - size, stack->width);
        access_check_store(vcpu, slot_address(vcpu, stack, offset, size, error_code), size);
    }
    offset = stack->pointer;
    for (unsigned i = 0; i < count; i++) {
        offset = bits_truncate(offset - size, stack->width);
        uint64_t linear = slot_address(vcpu, stack, offset, size, error_code);
        access_store_bytes(vcpu, linear, &values[i], size);
    }
    stack->pointer = offset;
}

/* In 64-bit mode. The frame is one store, but what it raises is what pushes one after the other
 * would: the highest slot that faults gives CR2. */
static void push_flat(struct vcpu *vcpu, struct stack *stack, const uint64_t *values,
                      unsigned count, unsigned size, uint32_t error_code)
{
    uint8_t frame[FRAME_MAX * 8];
    unsigned length = count * size;
    for (unsigned i = 0; i < count; i++)
        memcpy(frame + length - (i + 1) * size, &values[i], size);
    uint64_t linear = stack->pointer - length;
    if (!access_is_canonical(linear) || !access_is_canonical(linear + length - 1))
        vcpu_raise_error(vcpu, VECTOR_SS, error_code);
    uint8_t *host = mmu_probe_write(&vcpu->mmu, vcpu->privilege, linear, length);
    if (likely(host != NULL)) {
        memcpy(host, frame, length);
    } else {
        for (unsigned i = 1; i <= count; i++)
            access_check_store(vcpu, stack->pointer - (uint64_t)i * size, size);
        for (unsigned at = 0; at < length; at += size)
            access_store_bytes(vcpu, linear + at, frame + at, size);
    }
    stack->pointer = linear;
}

void stack_push(struct vcpu *vcpu, struct stack *stack, const uint64_t *values, unsigned count,
                unsigned size, uint32_t error_code)
{
    /* If this raises, delivery recomputes the privilege (vcpu_deliver_fault). */
    enum mmu_privilege privilege = vcpu->privilege;
    vcpu->privilege = vcpu_privilege_at(vcpu, stack->cpl);
    if (stack->width == 8)
        push_flat(vcpu, stack, values, count, size, error_code);
    else
        push_segmented(vcpu, stack, values, count, size, error_code);
    vcpu->privilege = privilege;
}

void stack_commit(struct vcpu *vcpu, const struct stack *stack)
{
    vcpu->seg[SEG_SS] = stack->ss;
    stack_pointer_set(vcpu, stack->width, stack->pointer);
}

uint64_t stack_peek(struct vcpu *vcpu, unsigned offset, unsigned size)
{
    uint64_t pointer = bits_truncate(vcpu->gpr[GPR_RSP] + offset, vcpu->stack_size);
    return access_load(vcpu, SEG_SS, pointer, size);
}
