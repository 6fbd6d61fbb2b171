#include "cpu/system/descriptor.h"
#include "cpu/system/handlers.h"

/* LAR, LSL, VERR, VERW, ARPL: questions about selectors. All answer in ZF and raise nothing for a
 * bad selector (SDM vol. 2). */

static void require_protected(struct vcpu *vcpu)
{
    if (vcpu->mode == MODE_REAL)
        vcpu_raise(vcpu, VECTOR_UD);
}

static void set_zero_flag(struct vcpu *vcpu, bool value)
{
    vcpu->rflags = value ? vcpu->rflags | FLAG_ZF : vcpu->rflags & ~(uint64_t)FLAG_ZF;
}

/* Conforming code is visible from everywhere, all else from CPL and RPL at or inside its DPL. */
static bool is_visible(const struct vcpu *vcpu, uint16_t selector, uint32_t attributes)
{
    unsigned dpl = attributes_dpl(attributes);
    return attributes_is_conforming(attributes) ||
           (dpl >= vcpu->cpl && dpl >= (selector & SELECTOR_RPL));
}

/* Bit sets of the system descriptor types that LAR and LSL accept (SDM vol. 2 tables 3-54, 3-57).
 */
#define LAR_LEGACY 0x1a3eu /* both TSS kinds, LDT, both call gates, task gate */
#define LAR_IA32E  0x1a04u
#define LSL_LEGACY 0x0a0eu
#define LSL_IA32E  0x0a04u

static bool find_visible(struct vcpu *vcpu, const struct insn *insn, uint32_t legacy,
                         uint32_t ia32e, struct descriptor *descriptor)
{
    require_protected(vcpu);
    uint16_t selector = (uint16_t)insn_read(vcpu, insn, 1);
    if (selector_is_null(selector) || !descriptor_find(vcpu, selector, descriptor))
        return false;
    uint32_t attributes = descriptor_attributes(descriptor->raw);
    uint32_t types = cpu_in_ia32e(vcpu) ? ia32e : legacy;
    if ((attributes & SEG_S) == 0 && (types >> attributes_type(attributes) & 1) == 0)
        return false;
    return is_visible(vcpu, selector, attributes);
}

void system_lar(struct vcpu *vcpu, const struct insn *insn)
{
    struct descriptor descriptor;
    bool found = find_visible(vcpu, insn, LAR_LEGACY, LAR_IA32E, &descriptor);
    if (found)
        insn_gpr_set(vcpu, insn->op[0].reg, insn->operand_size,
                     descriptor.raw >> 32 & (insn->operand_size == 2 ? 0xff00 : 0xf0ff00));
    set_zero_flag(vcpu, found);
}

void system_lsl(struct vcpu *vcpu, const struct insn *insn)
{
    struct descriptor descriptor;
    bool found = find_visible(vcpu, insn, LSL_LEGACY, LSL_IA32E, &descriptor);
    if (found)
        insn_gpr_set(vcpu, insn->op[0].reg, insn->operand_size,
                     descriptor_segment(0, descriptor.raw).limit);
    set_zero_flag(vcpu, found);
}

static void verify(struct vcpu *vcpu, const struct insn *insn, bool for_write)
{
    require_protected(vcpu);
    uint16_t selector = (uint16_t)insn_read(vcpu, insn, 0);
    struct descriptor descriptor;
    bool good = false;
    if (!selector_is_null(selector) && descriptor_find(vcpu, selector, &descriptor)) {
        uint32_t attributes = descriptor_attributes(descriptor.raw);
        good = (for_write ? attributes_is_writable_data(attributes)
                          : attributes_is_readable(attributes)) &&
               is_visible(vcpu, selector, attributes);
    }
    set_zero_flag(vcpu, good);
}

void system_verr(struct vcpu *vcpu, const struct insn *insn)
{
    verify(vcpu, insn, false);
}

void system_verw(struct vcpu *vcpu, const struct insn *insn)
{
    verify(vcpu, insn, true);
}

void system_arpl(struct vcpu *vcpu, const struct insn *insn)
{
    require_protected(vcpu);
    uint64_t destination = insn_read(vcpu, insn, 0);
    uint64_t source = insn_read(vcpu, insn, 1);
    bool raise = (destination & SELECTOR_RPL) < (source & SELECTOR_RPL);
    if (raise)
        insn_write(vcpu, insn, 0, (destination & ~(uint64_t)3) | (source & SELECTOR_RPL));
    set_zero_flag(vcpu, raise);
}
