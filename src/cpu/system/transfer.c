#include "cpu/system/code.h"
#include "cpu/system/stack.h"
#include "cpu/system/system.h"

/*
 * Far JMP and CALL: direct, and through call gates (SDM vol. 3 5.8, vol. 2 CALL, JMP).
 *
 * Task switches (a TSS or a task gate as target) are not offered: #GP(selector), as IA-32e mode has
 * it always.
 */

struct code_target code_target(struct vcpu *vcpu, struct descriptor *descriptor, uint16_t selector,
                               unsigned cpl, uint64_t rip)
{
    uint32_t attributes = descriptor_attributes(descriptor->raw);
    bool is_64bit = cpu_in_ia32e(vcpu) && (attributes & SEG_L) != 0;
    if (is_64bit && (attributes & SEG_DB) != 0)
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    selector = (uint16_t)((selector & ~SELECTOR_RPL) | cpl);
    struct code_target target = {.cs = descriptor_segment(selector, descriptor->raw), .rip = rip};
    if (is_64bit ? !access_is_canonical(rip) : rip > target.cs.limit)
        vcpu_raise(vcpu, VECTOR_GP);
    descriptor_set_accessed(vcpu, descriptor);
    target.cs.attributes |= TYPE_ACCESSED;
    return target;
}

void code_load_real(struct vcpu *vcpu, uint16_t selector, uint64_t rip)
{
    if (rip > vcpu->seg[SEG_CS].limit)
        vcpu_raise(vcpu, VECTOR_GP);
    vcpu->seg[SEG_CS].selector = selector;
    vcpu->seg[SEG_CS].base = (uint64_t)selector << 4;
    vcpu->next_rip = rip;
    vcpu->leave_block = true;
}

static void far_operand(struct vcpu *vcpu, const struct insn *insn, uint16_t *selector,
                        uint64_t *offset)
{
    if (insn->op[0].kind != OPERAND_MEMORY) {
        *offset = bits_truncate(insn->immediate, insn->operand_size);
        *selector = (uint16_t)insn->displacement;
        return;
    }
    uint64_t address = insn_address(vcpu, insn);
    *offset = access_load(vcpu, insn->seg, address, insn->operand_size);
    address = bits_truncate(address + insn->operand_size, insn->address_size);
    *selector = (uint16_t)access_load(vcpu, insn->seg, address, 2);
}

/* What a far pointer names: a code segment or a call gate. */
static struct descriptor find_target(struct vcpu *vcpu, uint16_t selector)
{
    struct descriptor descriptor;
    if (selector_is_null(selector))
        vcpu_raise(vcpu, VECTOR_GP);
    if (!descriptor_find(vcpu, selector, &descriptor))
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    return descriptor;
}

/* Privilege rules of a direct transfer to a code segment: no change of level. */
static void check_direct(struct vcpu *vcpu, uint16_t selector, uint32_t attributes)
{
    unsigned dpl = attributes_dpl(attributes);
    bool allowed = attributes_is_conforming(attributes)
                       ? dpl <= vcpu->cpl
                       : dpl == vcpu->cpl && (selector & SELECTOR_RPL) <= vcpu->cpl;
    if (!attributes_is_code(attributes) || !allowed)
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    if ((attributes & SEG_P) == 0)
        raise_selector(vcpu, VECTOR_NP, selector, 0);
}

struct call_gate {
    uint16_t selector; /* of the code segment */
    uint64_t offset;
    unsigned parameters;
    unsigned size; /* of pushed values: 2, 4 or 8 */
    struct descriptor code;
};

/* Opens a call gate and finds its code segment; the caller checks the level of that. */
static struct call_gate open_gate(struct vcpu *vcpu, uint16_t selector,
                                  const struct descriptor *descriptor)
{
    uint32_t attributes = descriptor_attributes(descriptor->raw);
    unsigned type = attributes_type(attributes);
    bool is_long = cpu_in_ia32e(vcpu);
    if ((attributes & SEG_S) != 0 ||
        !(type == TYPE_CALL_GATE32 || (type == TYPE_CALL_GATE16 && !is_long)))
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    unsigned dpl = attributes_dpl(attributes);
    if (dpl < vcpu->cpl || dpl < (selector & SELECTOR_RPL))
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    if ((attributes & SEG_P) == 0)
        raise_selector(vcpu, VECTOR_NP, selector, 0);

    uint64_t raw = descriptor->raw;
    struct call_gate gate = {.selector = (uint16_t)(raw >> 16), .offset = raw & 0xffff, .size = 2};
    if (type == TYPE_CALL_GATE32) {
        gate.offset |= raw >> 32 & 0xffff0000;
        gate.size = 4;
    }
    gate.parameters = raw >> 32 & 0x1f;
    if (is_long) {
        uint64_t high;
        if (!descriptor_find_high(vcpu, selector, descriptor, &high) || (high >> 40 & 0x1f) != 0)
            raise_selector(vcpu, VECTOR_GP, selector, 0);
        gate.offset |= high << 32;
        gate.parameters = 0;
        gate.size = 8;
    }

    gate.code = find_target(vcpu, gate.selector);
    uint32_t code = descriptor_attributes(gate.code.raw);
    if (!attributes_is_code(code) || attributes_dpl(code) > vcpu->cpl ||
        (is_long && (code & (SEG_L | SEG_DB)) != SEG_L))
        raise_selector(vcpu, VECTOR_GP, gate.selector, 0);
    if ((code & SEG_P) == 0)
        raise_selector(vcpu, VECTOR_NP, gate.selector, 0);
    return gate;
}

void system_far_jump(struct vcpu *vcpu, const struct insn *insn)
{
    uint16_t selector;
    uint64_t offset;
    far_operand(vcpu, insn, &selector, &offset);
    if (vcpu->mode == MODE_REAL) {
        code_load_real(vcpu, selector, offset);
        return;
    }
    struct descriptor descriptor = find_target(vcpu, selector);
    uint32_t attributes = descriptor_attributes(descriptor.raw);
    if ((attributes & SEG_S) == 0) {
        struct call_gate gate = open_gate(vcpu, selector, &descriptor);
        uint32_t code = descriptor_attributes(gate.code.raw);
        if (!attributes_is_conforming(code) && attributes_dpl(code) != vcpu->cpl)
            raise_selector(vcpu, VECTOR_GP, gate.selector, 0);
        descriptor = gate.code;
        selector = gate.selector;
        offset = gate.offset;
    } else {
        check_direct(vcpu, selector, attributes);
    }
    struct code_target target = code_target(vcpu, &descriptor, selector, vcpu->cpl, offset);
    code_commit(vcpu, &target);
}

/* Through a gate to an inner level: on the stack of the TSS, with the caller's parameters. */
static void call_inner(struct vcpu *vcpu, struct call_gate *gate, unsigned new_cpl)
{
    bool is_long = cpu_in_ia32e(vcpu);
    struct stack stack = is_long ? stack_from_tss64(vcpu, 4 + 8 * new_cpl, new_cpl, 0)
                                 : stack_from_tss(vcpu, new_cpl, 0);
    uint64_t frame[FRAME_MAX];
    unsigned count = 0;
    frame[count++] = vcpu->seg[SEG_SS].selector;
    frame[count++] = vcpu->gpr[GPR_RSP];
    for (unsigned i = gate->parameters; i > 0; i--)
        frame[count++] = stack_peek(vcpu, (i - 1) * gate->size, gate->size);
    frame[count++] = vcpu->seg[SEG_CS].selector;
    frame[count++] = vcpu->next_rip;

    struct code_target target =
        code_target(vcpu, &gate->code, gate->selector, new_cpl, gate->offset);
    stack_push(vcpu, &stack, frame, count, gate->size, stack.ss.selector & ~SELECTOR_RPL);
    stack_commit(vcpu, &stack);
    code_commit(vcpu, &target);
}

static void call_gate(struct vcpu *vcpu, uint16_t selector, const struct descriptor *descriptor)
{
    struct call_gate gate = open_gate(vcpu, selector, descriptor);
    uint32_t attributes = descriptor_attributes(gate.code.raw);
    unsigned dpl = attributes_dpl(attributes);
    if (!attributes_is_conforming(attributes) && dpl < vcpu->cpl) {
        call_inner(vcpu, &gate, dpl);
        return;
    }
    struct code_target target =
        code_target(vcpu, &gate.code, gate.selector, vcpu->cpl, gate.offset);
    struct stack stack = stack_current(vcpu);
    if (cpu_in_ia32e(vcpu)) {
        stack.width = 8; /* the callee is 64-bit code */
        stack.pointer = vcpu->gpr[GPR_RSP];
    }
    uint64_t frame[] = {vcpu->seg[SEG_CS].selector, vcpu->next_rip};
    stack_push(vcpu, &stack, frame, 2, gate.size, 0);
    stack_commit(vcpu, &stack);
    code_commit(vcpu, &target);
}

void system_far_call(struct vcpu *vcpu, const struct insn *insn)
{
    uint16_t selector;
    uint64_t offset;
    far_operand(vcpu, insn, &selector, &offset);
    struct stack stack = stack_current(vcpu);
    uint64_t frame[] = {vcpu->seg[SEG_CS].selector, vcpu->next_rip};

    if (vcpu->mode == MODE_REAL) {
        if (offset > vcpu->seg[SEG_CS].limit)
            vcpu_raise(vcpu, VECTOR_GP);
        stack_push(vcpu, &stack, frame, 2, insn->operand_size, 0);
        stack_commit(vcpu, &stack);
        code_load_real(vcpu, selector, offset);
        return;
    }
    struct descriptor descriptor = find_target(vcpu, selector);
    uint32_t attributes = descriptor_attributes(descriptor.raw);
    if ((attributes & SEG_S) == 0) {
        call_gate(vcpu, selector, &descriptor);
        return;
    }
    check_direct(vcpu, selector, attributes);
    struct code_target target = code_target(vcpu, &descriptor, selector, vcpu->cpl, offset);
    stack_push(vcpu, &stack, frame, 2, insn->operand_size, 0);
    stack_commit(vcpu, &stack);
    code_commit(vcpu, &target);
}
