#include "cpu/system/control.h"
#include "cpu/access.h"
#include "cpu/insn.h"
#include "cpu/system/descriptor.h"
#include "cpu/system/handlers.h"
#include "cpu/system/interrupt_flag.h"
#include "cpu/system/system.h"

/*
 * Control registers (SDM vol. 3 2.5, 4.1, 4.10.4, 9.8.5).
 *
 * What is flushed. A change of CR3 drops all translations but global ones; with PCIDs those of the
 * new one, or with bit 63 set none (mmu_load_cr3). Changes of CR0.PG, PE, WP and of the CR4 and
 * EFER bits that take part in translation drop everything.
 */

#define CR0_DEFINED                                                                                \
    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD |     \
     CR0_PG)
#define CR3_NO_FLUSH (1ull << 63)
#define CR3_PCID     0xfffull

static bool uses_pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & CR0_PG) != 0 && (cr4 & CR4_PAE) != 0 && (efer & EFER_LMA) == 0;
}

static void mode_changed(struct vcpu *vcpu)
{
    vcpu->leave_block = true;
    vcpu_update_mode(vcpu);
}

/* Entering and leaving IA-32e mode goes with CR0.PG (SDM vol. 3 9.8.5). */
static uint64_t efer_for_paging(struct vcpu *vcpu, uint64_t cr0)
{
    uint64_t efer = vcpu->mmu.efer;
    bool was_on = (vcpu->mmu.cr0 & CR0_PG) != 0;
    bool is_on = (cr0 & CR0_PG) != 0;
    if (is_on && !was_on && (efer & EFER_LME) != 0) {
        unsigned tss = attributes_type(vcpu->tr.attributes);
        bool tss_is_16bit = tss == TYPE_TSS16 || tss == TYPE_TSS16_BUSY;
        if ((vcpu->mmu.cr4 & CR4_PAE) == 0 || (vcpu->seg[SEG_CS].attributes & SEG_L) != 0 ||
            tss_is_16bit)
            vcpu_raise(vcpu, VECTOR_GP);
        efer |= EFER_LMA;
    } else if (was_on && !is_on) {
        if (vcpu->mode == MODE_LONG || (vcpu->mmu.cr4 & CR4_PCIDE) != 0)
            vcpu_raise(vcpu, VECTOR_GP);
        efer &= ~(uint64_t)EFER_LMA;
    }
    return efer;
}

static void load_pdptes(struct vcpu *vcpu, uint64_t cr3)
{
    enum mmu_outcome outcome = mmu_load_pdptes(&vcpu->mmu, cr3);
    if (outcome == MMU_LOST)
        vcpu_lose(vcpu);
    if (outcome == MMU_FAULT)
        vcpu_raise(vcpu, VECTOR_GP);
}

void control_write_cr0(struct vcpu *vcpu, uint64_t value)
{
    struct mmu *mmu = &vcpu->mmu;
    if (value >> 32 != 0 || ((value & CR0_PG) != 0 && (value & CR0_PE) == 0) ||
        ((value & CR0_NW) != 0 && (value & CR0_CD) == 0))
        vcpu_raise(vcpu, VECTOR_GP);
    value = (value & CR0_DEFINED) | CR0_ET;
    uint64_t efer = efer_for_paging(vcpu, value);
    uint64_t changed = mmu->cr0 ^ value;
    if (uses_pae_paging(value, mmu->cr4, efer) && (changed & (CR0_PG | CR0_CD | CR0_NW)) != 0)
        load_pdptes(vcpu, mmu->cr3);
    mmu->cr0 = value;
    mmu->efer = efer;
    if ((changed & (CR0_PG | CR0_PE | CR0_WP)) != 0)
        mmu_flush(mmu, false);
    mode_changed(vcpu);
}

static void write_cr3(struct vcpu *vcpu, uint64_t value)
{
    struct mmu *mmu = &vcpu->mmu;
    bool keep = false;
    if (cpu_in_ia32e(vcpu)) {
        if ((mmu->cr4 & CR4_PCIDE) != 0) {
            keep = value & CR3_NO_FLUSH;
            value &= ~CR3_NO_FLUSH;
        }
        if (value >> PHYSICAL_ADDRESS_BITS != 0)
            vcpu_raise(vcpu, VECTOR_GP);
    } else if (uses_pae_paging(mmu->cr0, mmu->cr4, mmu->efer)) {
        load_pdptes(vcpu, value);
    }
    mmu_load_cr3(mmu, value, keep);
    vcpu->leave_block = true;
}

static uint64_t cr4_allowed(const struct vcpu *vcpu)
{
    const struct features *features = vcpu->features;
    uint64_t allowed =
        CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCE | CR4_OSFXSR | CR4_OSXMMEXCPT;
    if (features_has(features, FEATURE_UMIP))
        allowed |= CR4_UMIP;
    if (features_has(features, FEATURE_FSGSBASE))
        allowed |= CR4_FSGSBASE;
    if (features_has(features, FEATURE_PCID))
        allowed |= CR4_PCIDE;
    if (features_has(features, FEATURE_XSAVE))
        allowed |= CR4_OSXSAVE;
    if (features_has(features, FEATURE_SMEP))
        allowed |= CR4_SMEP;
    if (features_has(features, FEATURE_SMAP))
        allowed |= CR4_SMAP;
    return allowed;
}

static void write_cr4(struct vcpu *vcpu, uint64_t value)
{
    struct mmu *mmu = &vcpu->mmu;
    uint64_t changed = mmu->cr4 ^ value;
    if ((value & ~cr4_allowed(vcpu)) != 0)
        vcpu_raise(vcpu, VECTOR_GP);
    if (cpu_in_ia32e(vcpu) && (value & CR4_PAE) == 0)
        vcpu_raise(vcpu, VECTOR_GP);
    if ((value & changed & CR4_PCIDE) != 0 && (!cpu_in_ia32e(vcpu) || (mmu->cr3 & CR3_PCID) != 0))
        vcpu_raise(vcpu, VECTOR_GP);
    const uint64_t paging = CR4_PSE | CR4_PAE | CR4_PGE | CR4_PCIDE | CR4_SMEP | CR4_SMAP;
    if (uses_pae_paging(mmu->cr0, value, mmu->efer) &&
        (changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP)) != 0)
        load_pdptes(vcpu, mmu->cr3);
    mmu->cr4 = value;
    if ((changed & paging) != 0)
        mmu_flush(mmu, false);
    mode_changed(vcpu);
}

void control_write_efer(struct vcpu *vcpu, uint64_t value)
{
    struct mmu *mmu = &vcpu->mmu;
    uint64_t allowed = EFER_LMA;
    if (features_has(vcpu->features, FEATURE_SYSCALL))
        allowed |= EFER_SCE;
    if (features_has(vcpu->features, FEATURE_LM))
        allowed |= EFER_LME;
    if (features_has(vcpu->features, FEATURE_NX))
        allowed |= EFER_NXE;
    if ((value & ~allowed) != 0)
        vcpu_raise(vcpu, VECTOR_GP);
    uint64_t changed = mmu->efer ^ value;
    if ((changed & EFER_LME) != 0 && (mmu->cr0 & CR0_PG) != 0)
        vcpu_raise(vcpu, VECTOR_GP);
    mmu->efer = (value & ~(uint64_t)EFER_LMA) | (mmu->efer & EFER_LMA);
    if ((changed & EFER_NXE) != 0)
        mmu_flush(mmu, false);
    mode_changed(vcpu);
}

static uint64_t read_control(struct vcpu *vcpu, unsigned number)
{
    switch (number) {
    case 0:
        return vcpu->mmu.cr0;
    case 2:
        return vcpu->cr2;
    case 3:
        return vcpu->mmu.cr3;
    case 4:
        return vcpu->mmu.cr4;
    default:
        return vcpu->apic != NULL ? vcpu->apic->read_tpr(vcpu->apic_context) : 0;
    }
}

static void write_control(struct vcpu *vcpu, unsigned number, uint64_t value)
{
    switch (number) {
    case 0:
        control_write_cr0(vcpu, value);
        break;
    case 2:
        vcpu->cr2 = value;
        break;
    case 3:
        write_cr3(vcpu, value);
        break;
    case 4:
        write_cr4(vcpu, value);
        break;
    default:
        if (value >> 4 != 0)
            vcpu_raise(vcpu, VECTOR_GP);
        if (vcpu->apic != NULL)
            vcpu->apic->write_tpr(vcpu->apic_context, value);
        vcpu_attend(vcpu, ATTENTION_IRQ);
        break;
    }
}

static void require_control(struct vcpu *vcpu, unsigned number)
{
    bool exists =
        number == 0 || (number >= 2 && number <= 4) || (number == 8 && vcpu->mode == MODE_LONG);
    if (!exists)
        vcpu_raise(vcpu, VECTOR_UD);
    require_cpl0(vcpu);
}

/* The register operand is 64 bits in 64-bit mode and 32 elsewhere, whatever the prefixes. */
void system_mov_control(struct vcpu *vcpu, const struct insn *insn)
{
    unsigned size = vcpu->mode == MODE_LONG ? 8 : 4;
    if (insn->op[0].kind == OPERAND_CONTROL) {
        require_control(vcpu, insn->op[0].reg);
        write_control(vcpu, insn->op[0].reg, insn_gpr_get(vcpu, insn->op[1].reg, size));
    } else {
        require_control(vcpu, insn->op[1].reg);
        insn_gpr_set(vcpu, insn->op[0].reg, size, read_control(vcpu, insn->op[1].reg));
    }
}

void system_lmsw(struct vcpu *vcpu, const struct insn *insn)
{
    require_cpl0(vcpu);
    const uint64_t loaded = CR0_MP | CR0_EM | CR0_TS;
    uint64_t source = insn_read(vcpu, insn, 0);
    /* PE can be set and not cleared. */
    control_write_cr0(vcpu, (vcpu->mmu.cr0 & ~loaded) | (source & (loaded | CR0_PE)));
}

void system_smsw(struct vcpu *vcpu, const struct insn *insn)
{
    if ((vcpu->mmu.cr4 & CR4_UMIP) != 0 && vcpu->cpl > 0)
        vcpu_raise(vcpu, VECTOR_GP);
    if (insn->op[0].kind == OPERAND_MEMORY)
        access_store(vcpu, insn->seg, insn_address(vcpu, insn), 2, vcpu->mmu.cr0 & 0xffff);
    else
        insn_gpr_set(vcpu, insn->op[0].reg, insn->operand_size, vcpu->mmu.cr0);
}

void system_clts(struct vcpu *vcpu, const struct insn *insn)
{
    require_cpl0(vcpu);
    vcpu->mmu.cr0 &= ~(uint64_t)CR0_TS;
    vcpu->leave_block = true;
}

static void require_osxsave(struct vcpu *vcpu)
{
    if ((vcpu->mmu.cr4 & CR4_OSXSAVE) == 0)
        vcpu_raise(vcpu, VECTOR_UD);
}

void system_xsetbv(struct vcpu *vcpu, const struct insn *insn)
{
    require_osxsave(vcpu);
    require_cpl0(vcpu);
    uint64_t value = vcpu->gpr[GPR_RDX] << 32 | (uint32_t)vcpu->gpr[GPR_RAX];
    uint64_t offered = features_has(vcpu->features, FEATURE_AVX) ? XCR0_X87 | XCR0_SSE | XCR0_AVX
                                                                 : XCR0_X87 | XCR0_SSE;
    if ((uint32_t)vcpu->gpr[GPR_RCX] != 0 || (value & XCR0_X87) == 0 || (value & ~offered) != 0 ||
        ((value & XCR0_AVX) != 0 && (value & XCR0_SSE) == 0))
        vcpu_raise(vcpu, VECTOR_GP);
    vcpu->xcr0 = value;
    vcpu->leave_block = true;
}

void system_xgetbv(struct vcpu *vcpu, const struct insn *insn)
{
    require_osxsave(vcpu);
    uint32_t index = (uint32_t)vcpu->gpr[GPR_RCX];
    uint64_t value = vcpu->xcr0;
    if (index == 1 && features_has(vcpu->features, FEATURE_XGETBV1)) {
        uint64_t in_use;
        __builtin_memcpy(&in_use, vcpu->xstate + XSAVE_XSTATE_BV, sizeof(in_use));
        value &= in_use;
    } else if (index != 0) {
        vcpu_raise(vcpu, VECTOR_GP);
    }
    vcpu->gpr[GPR_RAX] = (uint32_t)value;
    vcpu->gpr[GPR_RDX] = value >> 32;
}

void system_invlpg(struct vcpu *vcpu, const struct insn *insn)
{
    require_cpl0(vcpu);
    uint64_t offset = insn_address(vcpu, insn);
    uint64_t linear = offset;
    if (vcpu->mode != MODE_LONG)
        linear = (uint32_t)(offset + vcpu->seg[insn->seg].base);
    else if (insn->seg >= SEG_FS)
        linear = offset + vcpu->seg[insn->seg].base;
    /* Segment limits do not count, and an address that cannot be mapped has nothing to drop. */
    if (access_is_canonical(linear))
        mmu_flush_page(&vcpu->mmu, linear);
    vcpu->leave_block = true;
}

void system_invpcid(struct vcpu *vcpu, const struct insn *insn)
{
    if (!features_has(vcpu->features, FEATURE_INVPCID))
        vcpu_raise(vcpu, VECTOR_UD);
    require_cpl0(vcpu);
    uint64_t type = insn_gpr_get(vcpu, insn->op[0].reg, vcpu->mode == MODE_LONG ? 8 : 4);
    uint64_t descriptor[2];
    uint64_t address = insn_address(vcpu, insn);
    access_load_bytes(vcpu, access_linear(vcpu, insn->seg, address, 16, MMU_READ), descriptor, 16);

    bool has_pcid = (vcpu->mmu.cr4 & CR4_PCIDE) != 0;
    if (type > 3 || descriptor[0] >> 12 != 0 || (type < 2 && !has_pcid && descriptor[0] != 0) ||
        (type == 0 && !access_is_canonical(descriptor[1])))
        vcpu_raise(vcpu, VECTOR_GP);
    bool is_current = descriptor[0] == (has_pcid ? vcpu->mmu.cr3 & CR3_PCID : 0);
    switch (type) {
    case 0: /* one address of one PCID */
        if (is_current)
            mmu_flush_page(&vcpu->mmu, descriptor[1]);
        else
            mmu_flush_space(&vcpu->mmu, (unsigned)descriptor[0]);
        break;
    case 1: /* one PCID */
        if (is_current)
            mmu_flush(&vcpu->mmu, true);
        else
            mmu_flush_space(&vcpu->mmu, (unsigned)descriptor[0]);
        break;
    case 2: /* everything */
        mmu_flush(&vcpu->mmu, false);
        break;
    default: /* everything but global pages */
        mmu_flush(&vcpu->mmu, true);
        break;
    }
    vcpu->leave_block = true;
}

/* WBINVD, INVD: there are no caches to write back, and none that could lose data. */
void system_wbinvd(struct vcpu *vcpu, const struct insn *insn)
{
    require_cpl0(vcpu);
}
