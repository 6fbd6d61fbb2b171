#include "cpu/system/descriptor.h"
#include "cpu/system/handlers.h"

/* Descriptor table registers: GDTR, IDTR, LDTR, TR. */

/* UMIP keeps SGDT, SIDT, SLDT, STR and SMSW from user code. */
static void check_umip(struct vcpu *vcpu)
{
    if ((vcpu->mmu.cr4 & CR4_UMIP) != 0 && vcpu->cpl > 0)
        vcpu_raise(vcpu, VECTOR_GP);
}

static void require_protected(struct vcpu *vcpu)
{
    if (vcpu->mode == MODE_REAL)
        vcpu_raise(vcpu, VECTOR_UD);
}

static uint64_t after_limit(const struct insn *insn, uint64_t address)
{
    return bits_truncate(address + 2, insn->address_size);
}

static void store_table(struct vcpu *vcpu, const struct insn *insn,
                        const struct descriptor_table *table)
{
    check_umip(vcpu);
    unsigned size = vcpu->mode == MODE_LONG ? 8 : 4;
    uint64_t address = insn_address(vcpu, insn);
    /* Both parts are checked before the first is written: an access_linear of the second only
     * finds segment faults, the store check finds paging ones. */
    uint64_t base = access_linear(vcpu, insn->seg, after_limit(insn, address), size, MMU_WRITE);
    uint64_t limit = access_linear(vcpu, insn->seg, address, 2, MMU_WRITE);
    access_check_store(vcpu, limit, 2);
    access_check_store(vcpu, base, size);
    access_store_linear(vcpu, limit, 2, table->limit);
    access_store_linear(vcpu, base, size, bits_truncate(table->base, size));
}

static void load_table(struct vcpu *vcpu, const struct insn *insn, struct descriptor_table *table)
{
    require_cpl0(vcpu);
    unsigned size = vcpu->mode == MODE_LONG ? 8 : 4;
    uint64_t address = insn_address(vcpu, insn);
    uint16_t limit = (uint16_t)access_load(vcpu, insn->seg, address, 2);
    uint64_t base = access_load(vcpu, insn->seg, after_limit(insn, address), size);
    if (size == 8 && !access_is_canonical(base))
        vcpu_raise(vcpu, VECTOR_GP);
    if (size == 4 && insn->operand_size == 2)
        base &= 0xffffff;
    *table = (struct descriptor_table){.base = base, .limit = limit};
}

void system_sgdt(struct vcpu *vcpu, const struct insn *insn)
{
    store_table(vcpu, insn, &vcpu->gdtr);
}

void system_sidt(struct vcpu *vcpu, const struct insn *insn)
{
    store_table(vcpu, insn, &vcpu->idtr);
}

void system_lgdt(struct vcpu *vcpu, const struct insn *insn)
{
    load_table(vcpu, insn, &vcpu->gdtr);
}

void system_lidt(struct vcpu *vcpu, const struct insn *insn)
{
    load_table(vcpu, insn, &vcpu->idtr);
}

/* The selector, to memory as 16 bits, to a register zero-extended. */
static void store_selector(struct vcpu *vcpu, const struct insn *insn, uint16_t selector)
{
    require_protected(vcpu);
    check_umip(vcpu);
    if (insn->op[0].kind == OPERAND_MEMORY)
        access_store(vcpu, insn->seg, insn_address(vcpu, insn), 2, selector);
    else
        insn_gpr_set(vcpu, insn->op[0].reg, insn->operand_size, selector);
}

void system_sldt(struct vcpu *vcpu, const struct insn *insn)
{
    store_selector(vcpu, insn, vcpu->ldtr.selector);
}

void system_str(struct vcpu *vcpu, const struct insn *insn)
{
    store_selector(vcpu, insn, vcpu->tr.selector);
}

/* Fetches a system descriptor from the GDT for LLDT and LTR, with its upper base in IA-32e mode. */
static struct segment load_system(struct vcpu *vcpu, uint16_t selector, unsigned type_mask,
                                  struct descriptor *descriptor)
{
    if ((selector & SELECTOR_LDT) != 0 || !descriptor_find(vcpu, selector, descriptor))
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    uint32_t attributes = descriptor_attributes(descriptor->raw);
    if ((attributes & SEG_S) != 0 || (1u << attributes_type(attributes) & type_mask) == 0)
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    uint64_t high = 0;
    if (cpu_in_ia32e(vcpu) && !descriptor_find_high(vcpu, selector, descriptor, &high))
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    if ((attributes & SEG_P) == 0)
        raise_selector(vcpu, VECTOR_NP, selector, 0);
    struct segment segment = descriptor_segment(selector, descriptor->raw);
    segment.base |= high << 32;
    if (!access_is_canonical(segment.base) || (high >> 40 & 0x1f) != 0)
        raise_selector(vcpu, VECTOR_GP, selector, 0);
    return segment;
}

void system_lldt(struct vcpu *vcpu, const struct insn *insn)
{
    require_protected(vcpu);
    require_cpl0(vcpu);
    uint16_t selector = (uint16_t)insn_read(vcpu, insn, 0);
    if (selector_is_null(selector)) {
        vcpu->ldtr = (struct segment){.selector = selector, .attributes = SEG_UNUSABLE};
        return;
    }
    struct descriptor descriptor;
    vcpu->ldtr = load_system(vcpu, selector, 1u << TYPE_LDT, &descriptor);
}

void system_ltr(struct vcpu *vcpu, const struct insn *insn)
{
    require_protected(vcpu);
    require_cpl0(vcpu);
    uint16_t selector = (uint16_t)insn_read(vcpu, insn, 0);
    if (selector_is_null(selector))
        vcpu_raise(vcpu, VECTOR_GP);
    unsigned available = 1u << TYPE_TSS32;
    if (!cpu_in_ia32e(vcpu))
        available |= 1u << TYPE_TSS16;
    struct descriptor descriptor;
    struct segment segment = load_system(vcpu, selector, available, &descriptor);
    descriptor_set_type(vcpu, &descriptor, 2); /* busy */
    segment.attributes |= 2;
    vcpu->tr = segment;
}
