#include "cpu/system/code.h"
#include "cpu/system/handlers.h"
#include "cpu/system/interrupt_flag.h"
#include "cpu/system/stack.h"
#include "cpu/system/system.h"

#include <Zydis/Zydis.h>

/*
 * Far RET and IRET, in all modes (SDM vol. 2 RET, IRET).
 *
 * Not offered: virtual-8086 mode (an IRET that would set VM is #GP(0)) and returning from a nested
 * task (NT set is #GP(0), as IA-32e mode has it always).
 */

/* The code segment to return to. Privilege: RPL is the new CPL, never more inner than the old. */
static struct code_target return_code(struct vcpu *vcpu, uint16_t selector, uint64_t rip)
{
    struct descriptor descriptor;
    if (selector_is_null(selector))
        vcpu_raise(vcpu, VECTOR_GP);
    if (!descriptor_find(vcpu, selector, &descriptor))
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    uint32_t attributes = descriptor_attributes(descriptor.raw);
    unsigned rpl = selector & SELECTOR_RPL;
    unsigned dpl = attributes_dpl(attributes);
    bool allowed = attributes_is_conforming(attributes) ? dpl <= rpl : dpl == rpl;
    if (!attributes_is_code(attributes) || rpl < vcpu->cpl || !allowed)
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    if ((attributes & SEG_P) == 0)
        raise_selector(vcpu, VECTOR_NP, selector, 0);
    return code_target(vcpu, &descriptor, selector, rpl, rip);
}

/* The stack that was popped. Null is good for 64-bit code inside level 3. */
static struct stack return_stack(struct vcpu *vcpu, const struct code_target *target,
                                 uint16_t selector, uint64_t pointer)
{
    unsigned cpl = target->cs.selector & SELECTOR_RPL;
    bool is_64bit = code_is_64bit(vcpu, &target->cs);
    struct stack stack = {.cpl = (uint8_t)cpl};
    if (selector_is_null(selector)) {
        if (!is_64bit || cpl == 3 || (selector & SELECTOR_RPL) != cpl)
            vcpu_raise(vcpu, VECTOR_GP);
        stack.ss = segment_null_stack(cpl);
    } else {
        struct descriptor descriptor;
        if (!descriptor_find(vcpu, selector, &descriptor))
            raise_selector(vcpu, VECTOR_GP, selector, 0);
        uint32_t attributes = descriptor_attributes(descriptor.raw);
        if ((selector & SELECTOR_RPL) != cpl || attributes_dpl(attributes) != cpl ||
            !attributes_is_writable_data(attributes))
            raise_selector(vcpu, VECTOR_GP, selector, 0);
        if ((attributes & SEG_P) == 0)
            raise_selector(vcpu, VECTOR_SS, selector, 0);
        descriptor_set_accessed(vcpu, &descriptor);
        stack.ss = descriptor_segment(selector, descriptor.raw);
    }
    stack.width = is_64bit ? 8 : stack.ss.attributes & SEG_DB ? 4 : 2;
    stack.pointer = pointer;
    return stack;
}

/* Data segments that the outer level may not use become null. */
static void drop_inner_segments(struct vcpu *vcpu, unsigned cpl)
{
    static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < ARRAY_LENGTH(data); i++) {
        struct segment *segment = &vcpu->seg[data[i]];
        if ((segment->attributes & SEG_UNUSABLE) == 0 &&
            !attributes_is_conforming(segment->attributes) &&
            attributes_dpl(segment->attributes) < cpl)
            *segment = (struct segment){.attributes = SEG_UNUSABLE};
    }
}

static void release_stack(struct vcpu *vcpu, uint64_t bytes)
{
    stack_pointer_set(vcpu, vcpu->stack_size, vcpu->gpr[GPR_RSP] + bytes);
}

void system_far_return(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = insn->operand_size;
    unsigned release = insn->op[0].kind == OPERAND_IMMEDIATE ? (uint16_t)insn->immediate : 0;
    uint64_t rip = stack_peek(vcpu, 0, size);
    uint16_t selector = (uint16_t)stack_peek(vcpu, size, size);

    if (vcpu->mode == MODE_REAL) {
        code_load_real(vcpu, selector, rip);
        release_stack(vcpu, 2 * size + release);
        return;
    }
    struct code_target target = return_code(vcpu, selector, rip);
    unsigned cpl = target.cs.selector & SELECTOR_RPL;
    if (cpl == vcpu->cpl) {
        release_stack(vcpu, 2 * size + release);
        code_commit(vcpu, &target);
        return;
    }
    uint64_t pointer = stack_peek(vcpu, 2 * size + release, size);
    uint16_t ss = (uint16_t)stack_peek(vcpu, 3 * size + release, size);
    struct stack stack = return_stack(vcpu, &target, ss, pointer);
    stack.pointer += release;
    stack_commit(vcpu, &stack);
    code_commit(vcpu, &target);
    drop_inner_segments(vcpu, cpl);
}

/* RFLAGS after an IRET of this operand size by code at `cpl` with the IOPL it has. */
static uint64_t return_flags(const struct vcpu *vcpu, uint64_t popped, unsigned size, unsigned cpl)
{
    uint64_t mask = FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT;
    if (size > 2)
        mask |= FLAG_RF | FLAG_AC | FLAG_ID;
    if (cpl <= (vcpu->rflags & FLAG_IOPL) >> 12)
        mask |= FLAG_IF;
    if (cpl == 0)
        mask |= FLAG_IOPL;
    if (cpl == 0 && size > 2)
        mask |= FLAG_VIF | FLAG_VIP;
    return (vcpu->rflags & ~mask) | (popped & mask);
}

static void iret_real(struct vcpu *vcpu, unsigned size)
{
    uint64_t rip = stack_peek(vcpu, 0, size);
    uint16_t selector = (uint16_t)stack_peek(vcpu, size, size);
    uint64_t flags = stack_peek(vcpu, 2 * size, size);
    code_load_real(vcpu, selector, rip);
    release_stack(vcpu, 3 * size);
    vcpu_set_rflags(vcpu, return_flags(vcpu, flags, size, 0));
}

static void iret_protected(struct vcpu *vcpu, unsigned size)
{
    if ((vcpu->rflags & FLAG_NT) != 0)
        vcpu_raise(vcpu, VECTOR_GP);
    uint64_t rip = stack_peek(vcpu, 0, size);
    uint16_t selector = (uint16_t)stack_peek(vcpu, size, size);
    uint64_t popped = stack_peek(vcpu, 2 * size, size);
    if (!cpu_in_ia32e(vcpu) && vcpu->cpl == 0 && (popped & FLAG_VM) != 0)
        vcpu_raise(vcpu, VECTOR_GP);

    struct code_target target = return_code(vcpu, selector, rip);
    unsigned cpl = target.cs.selector & SELECTOR_RPL;
    unsigned old_cpl = vcpu->cpl;
    uint64_t flags = return_flags(vcpu, popped, size, old_cpl);
    /* In 64-bit mode the stack is popped whatever the level and the operand size. */
    if (cpl != old_cpl || vcpu->mode == MODE_LONG) {
        uint64_t pointer = stack_peek(vcpu, 3 * size, size);
        uint16_t ss = (uint16_t)stack_peek(vcpu, 4 * size, size);
        struct stack stack = return_stack(vcpu, &target, ss, pointer);
        stack_commit(vcpu, &stack);
    } else {
        release_stack(vcpu, 3 * size);
    }
    code_commit(vcpu, &target);
    if (cpl != old_cpl)
        drop_inner_segments(vcpu, cpl);
    vcpu_set_rflags(vcpu, flags);
}

void system_iret(struct vcpu *vcpu, const struct insn *insn)
{
    /* The mnemonic tells the size for sure. */
    unsigned size = insn->mnemonic == ZYDIS_MNEMONIC_IRETQ   ? 8
                    : insn->mnemonic == ZYDIS_MNEMONIC_IRETD ? 4
                                                             : 2;
    vcpu->nmi_blocked = false; /* even by an IRET that faults: SDM vol. 3 6.7.1 */
    if (vcpu->mode == MODE_REAL)
        iret_real(vcpu, size);
    else
        iret_protected(vcpu, size);
}
