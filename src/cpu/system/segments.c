#include "cpu/system/descriptor.h"
#include "cpu/system/interrupt_flag.h"
#include "cpu/system/system.h"

#include <Zydis/Zydis.h>

#include "cpu/system/handlers.h"

/*
 * Segment registers: MOV, PUSH, POP, LDS and family (SDM vol. 2 MOV; vol. 3 5.6 and 5.7).
 *
 * In real mode a load changes selector and base alone, so that limits set in protected mode stay
 * ("unreal mode"), as on hardware.
 */

static void load_stack(struct vcpu *vcpu, uint16_t selector)
{
    if (selector_is_null(selector)) {
        if (vcpu->mode != MODE_LONG || vcpu->cpl == 3 || (selector & SELECTOR_RPL) != vcpu->cpl)
            vcpu_raise(vcpu, VECTOR_GP);
        vcpu->seg[SEG_SS] = segment_null_stack(vcpu->cpl);
        return;
    }
    struct descriptor descriptor;
    if (!descriptor_find(vcpu, selector, &descriptor))
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    uint32_t attributes = descriptor_attributes(descriptor.raw);
    if ((selector & SELECTOR_RPL) != vcpu->cpl || !attributes_is_writable_data(attributes) ||
        attributes_dpl(attributes) != vcpu->cpl)
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    if ((attributes & SEG_P) == 0)
        raise_selector(vcpu, VECTOR_SS, selector, 0);
    descriptor_set_accessed(vcpu, &descriptor);
    vcpu->seg[SEG_SS] = descriptor_segment(selector, descriptor.raw);
}

static void load_data(struct vcpu *vcpu, enum segment_register seg, uint16_t selector)
{
    if (selector_is_null(selector)) {
        vcpu->seg[seg] = (struct segment){.selector = selector, .attributes = SEG_UNUSABLE};
        return;
    }
    struct descriptor descriptor;
    if (!descriptor_find(vcpu, selector, &descriptor))
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    uint32_t attributes = descriptor_attributes(descriptor.raw);
    if (!attributes_is_readable(attributes))
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    unsigned dpl = attributes_dpl(attributes);
    if (!attributes_is_conforming(attributes) &&
        (dpl < vcpu->cpl || dpl < (selector & SELECTOR_RPL)))
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    if ((attributes & SEG_P) == 0)
        raise_selector(vcpu, VECTOR_NP, selector, 0);
    descriptor_set_accessed(vcpu, &descriptor);
    vcpu->seg[seg] = descriptor_segment(selector, descriptor.raw);
}

void segment_load(struct vcpu *vcpu, enum segment_register seg, uint16_t selector)
{
    if (vcpu->mode == MODE_REAL) {
        vcpu->seg[seg].selector = selector;
        vcpu->seg[seg].base = (uint64_t)selector << 4;
    } else if (seg == SEG_SS) {
        load_stack(vcpu, selector);
    } else {
        load_data(vcpu, seg, selector);
    }
    if (seg == SEG_SS)
        vcpu_update_mode(vcpu);
}

/* MOV SS and POP SS hold back interrupts and debug traps for one instruction, so that the stack
 * pointer can follow. LSS does not need it. */
static void shadow_stack_load(struct vcpu *vcpu)
{
    vcpu->interrupt_shadow = true;
    vcpu->step.shadow_debug = true;
    vcpu_attend(vcpu, ATTENTION_STEP);
}

void system_mov_segment(struct vcpu *vcpu, const struct insn *insn)
{
    if (insn->op[0].kind != OPERAND_SEGMENT) {
        /* To a register the selector is zero-extended to the operand size; to memory 16 bits. */
        uint16_t selector = vcpu->seg[insn->op[1].reg].selector;
        if (insn->op[0].kind == OPERAND_MEMORY)
            access_store(vcpu, insn->seg, insn_address(vcpu, insn), 2, selector);
        else
            insn_gpr_set(vcpu, insn->op[0].reg, insn->op[0].size, selector);
        return;
    }
    enum segment_register seg = insn->op[0].reg;
    if (seg == SEG_CS || seg >= SEG_COUNT)
        vcpu_raise(vcpu, VECTOR_UD);
    uint16_t selector = (uint16_t)insn_read(vcpu, insn, 1);
    segment_load(vcpu, seg, selector);
    if (seg == SEG_SS)
        shadow_stack_load(vcpu);
}

void system_push_segment(struct vcpu *vcpu, const struct insn *insn)
{
    /* With a 32-bit operand size Intel's processors write 16 bits and leave the upper half of the
     * slot as it was; AMD's, and the manuals' pseudo-code, zero-extend. So do we. */
    access_push(vcpu, insn->operand_size, vcpu->seg[insn->op[0].reg].selector);
}

void system_pop_segment(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t pointer = bits_truncate(vcpu->gpr[GPR_RSP], vcpu->stack_size);
    unsigned width = vcpu->stack_size;
    enum segment_register seg = insn->op[0].reg;
    if (seg == SEG_CS || seg >= SEG_COUNT)
        vcpu_raise(vcpu, VECTOR_UD);
    uint16_t selector = (uint16_t)access_load(vcpu, SEG_SS, pointer, insn->operand_size);
    segment_load(vcpu, seg, selector);
    stack_pointer_set(vcpu, width, pointer + insn->operand_size);
    if (seg == SEG_SS)
        shadow_stack_load(vcpu);
}

/* LDS, LES, LSS, LFS, LGS: a far pointer from memory. */
static void load_far_pointer(struct vcpu *vcpu, const struct insn *insn, enum segment_register seg)
{
    unsigned size = insn->operand_size;
    uint64_t address = insn_address(vcpu, insn);
    uint64_t offset = access_load(vcpu, insn->seg, address, size);
    uint64_t after = bits_truncate(address + size, insn->address_size);
    uint16_t selector = (uint16_t)access_load(vcpu, insn->seg, after, 2);
    segment_load(vcpu, seg, selector);
    insn_gpr_set(vcpu, insn->op[0].reg, size, offset);
    vcpu->leave_block = true;
}

void system_lds(struct vcpu *vcpu, const struct insn *insn)
{
    load_far_pointer(vcpu, insn, SEG_DS);
}

void system_les(struct vcpu *vcpu, const struct insn *insn)
{
    load_far_pointer(vcpu, insn, SEG_ES);
}

void system_lfs(struct vcpu *vcpu, const struct insn *insn)
{
    load_far_pointer(vcpu, insn, SEG_FS);
}

void system_lgs(struct vcpu *vcpu, const struct insn *insn)
{
    load_far_pointer(vcpu, insn, SEG_GS);
}

void system_lss(struct vcpu *vcpu, const struct insn *insn)
{
    load_far_pointer(vcpu, insn, SEG_SS);
}
