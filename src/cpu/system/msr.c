#include "cpu/system/msr.h"

#include "cpu/access.h"
#include "cpu/insn.h"
#include "cpu/system/control.h"
#include "cpu/system/cpuid.h"
#include "cpu/system/descriptor.h"
#include "cpu/system/handlers.h"
#include "cpu/system/pvclock.h"
#include "util/clock.h"

/*
 * RDMSR and WRMSR. What is here exists because CPUID or the architecture says that it does; every
 * other number is #GP, which kernels that probe expect.
 *
 * Not offered, and so absent: machine-check banks (CPUID MCE, MCA clear), performance counters,
 * TSC_ADJUST, SPEC_CTRL and PRED_CMD, XSS, RTIT, RAPL.
 */

static bool is_apic_msr(uint32_t number)
{
    return number == MSR_IA32_APIC_BASE || number == MSR_IA32_TSC_DEADLINE ||
           (number >= MSR_X2APIC_BASE && number < MSR_X2APIC_END);
}

/* Plain 64-bit storage that must hold a canonical address. */
static uint64_t *address_slot(struct vcpu *vcpu, uint32_t number)
{
    switch (number) {
    case MSR_IA32_SYSENTER_ESP:
        return &vcpu->msr.sysenter_esp;
    case MSR_IA32_SYSENTER_EIP:
        return &vcpu->msr.sysenter_eip;
    case MSR_LSTAR:
        return &vcpu->msr.lstar;
    case MSR_CSTAR:
        return &vcpu->msr.cstar;
    case MSR_FS_BASE:
        return &vcpu->seg[SEG_FS].base;
    case MSR_GS_BASE:
        return &vcpu->seg[SEG_GS].base;
    case MSR_KERNEL_GS_BASE:
        return &vcpu->msr.kernel_gs_base;
    default:
        return NULL;
    }
}

/* What Linux touches on AMD without asking CPUID first. */
static bool amd_read(uint32_t number, uint64_t *value)
{
    switch (number) {
    case MSR_AMD_SYSCFG:
    case MSR_AMD_HWCR:
        *value = 0;
        return true;
    case MSR_AMD_DE_CFG:
        *value = 2; /* LFENCE is serializing, as the engines have it */
        return true;
    default:
        return false;
    }
}

bool msr_read(struct vcpu *vcpu, uint32_t number, uint64_t *value)
{
    bool known;
    const uint64_t *slot = address_slot(vcpu, number);
    if (slot != NULL) {
        *value = *slot;
        return true;
    }
    if (is_apic_msr(number))
        return vcpu->apic != NULL && vcpu->apic->read_msr(vcpu->apic_context, number, value);
    *value = 0;
    if (mtrr_access(vcpu, number, value, false, &known))
        return true;
    if (vcpu->features->amd && amd_read(number, value))
        return true;
    switch (number) {
    case MSR_IA32_TSC:
        *value = vcpu_tsc(vcpu);
        return true;
    case MSR_IA32_PLATFORM_ID:
    case MSR_IA32_DEBUGCTL:
        return true;
    case MSR_IA32_BIOS_SIGN_ID:
        *value = vcpu->msr.bios_sign;
        return true;
    case MSR_IA32_ARCH_CAPABILITIES:
        *value = cpuid_arch_capabilities();
        return (vcpu->features->words[FEATURE_7_EDX] & CPUID_ARCH_CAPABILITIES) != 0;
    case MSR_IA32_SYSENTER_CS:
        *value = vcpu->msr.sysenter_cs;
        return true;
    case MSR_IA32_MISC_ENABLE:
        *value = vcpu->msr.misc_enable;
        return !vcpu->features->amd;
    case MSR_IA32_PAT:
        *value = vcpu->msr.pat;
        return true;
    case MSR_EFER:
        *value = vcpu->mmu.efer;
        return true;
    case MSR_STAR:
        *value = vcpu->msr.star;
        return true;
    case MSR_SFMASK:
        *value = vcpu->msr.sfmask;
        return true;
    case MSR_TSC_AUX:
        *value = vcpu->msr.tsc_aux;
        return features_has(vcpu->features, FEATURE_RDTSCP);
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_OLD:
        *value = vcpu->msr.pvclock_system;
        return true;
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_OLD:
        *value = vcpu->msr.pvclock_wall;
        return true;
    default:
        return false;
    }
}

static bool write_pat(struct vcpu *vcpu, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++) {
        uint64_t type = value >> (8 * i) & 0xff;
        if (!mtrr_type_is_valid(type) && type != 7)
            return false;
    }
    vcpu->msr.pat = value;
    return true;
}

static void write_tsc(struct vcpu *vcpu, uint64_t value)
{
    vcpu->tsc_offset = (int64_t)(value - clock_tsc());
    if (vcpu->apic != NULL)
        vcpu->apic->tsc_changed(vcpu->apic_context);
    pvclock_refresh(vcpu);
}

/* AMD: what changes nothing is accepted. */
static bool amd_write(uint32_t number, uint64_t value)
{
    switch (number) {
    case MSR_AMD_HWCR:
        return (value & ~0x01000148ull) == 0; /* TscFreqSel, FFDIS, IGNNE, CACHE_FLUSH */
    case MSR_AMD_DE_CFG:
        return (value & ~2ull) == 0;
    default:
        return false;
    }
}

bool msr_write(struct vcpu *vcpu, uint32_t number, uint64_t value)
{
    bool known;
    uint64_t *slot = address_slot(vcpu, number);
    if (slot != NULL) {
        if (!access_is_canonical(value))
            return false;
        *slot = value;
        return true;
    }
    if (is_apic_msr(number))
        return vcpu->apic != NULL && vcpu->apic->write_msr(vcpu->apic_context, number, value);
    if (mtrr_access(vcpu, number, &value, true, &known))
        return true;
    if (vcpu->features->amd && amd_write(number, value))
        return true;
    switch (number) {
    case MSR_IA32_TSC:
        write_tsc(vcpu, value);
        return true;
    case MSR_IA32_BIOS_SIGN_ID:
        /* Kernels write 0, run CPUID and read the revision; there is no microcode: 0. */
        vcpu->msr.bios_sign = 0;
        return true;
    case MSR_IA32_DEBUGCTL: /* neither branch records nor branch stepping */
        return value == 0;
    case MSR_IA32_SYSENTER_CS:
        vcpu->msr.sysenter_cs = (uint32_t)value;
        return true;
    case MSR_IA32_MISC_ENABLE:
        /* Fast strings may be turned off and on; the other bits say what is not there. */
        if (vcpu->features->amd || ((value ^ MISC_ENABLE_POWER_ON) & ~1ull) != 0)
            return false;
        vcpu->msr.misc_enable = value;
        return true;
    case MSR_IA32_PAT:
        return write_pat(vcpu, value);
    case MSR_STAR:
        vcpu->msr.star = value;
        return true;
    case MSR_SFMASK:
        if (value >> 32 != 0)
            return false;
        vcpu->msr.sfmask = value;
        return true;
    case MSR_TSC_AUX:
        if (value >> 32 != 0 || !features_has(vcpu->features, FEATURE_RDTSCP))
            return false;
        vcpu->msr.tsc_aux = value;
        return true;
    case MSR_KVM_SYSTEM_TIME:
    case MSR_KVM_SYSTEM_TIME_OLD:
        return pvclock_set_system(vcpu, value);
    case MSR_KVM_WALL_CLOCK:
    case MSR_KVM_WALL_CLOCK_OLD:
        return pvclock_set_wall(vcpu, value);
    default:
        return false;
    }
}

void system_rdmsr(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t value;
    require_cpl0(vcpu);
    if (!msr_read(vcpu, (uint32_t)vcpu->gpr[GPR_RCX], &value))
        vcpu_raise(vcpu, VECTOR_GP);
    vcpu->gpr[GPR_RAX] = (uint32_t)value;
    vcpu->gpr[GPR_RDX] = value >> 32;
}

void system_wrmsr(struct vcpu *vcpu, const struct insn *insn)
{
    require_cpl0(vcpu);
    uint32_t number = (uint32_t)vcpu->gpr[GPR_RCX];
    uint64_t value = vcpu->gpr[GPR_RDX] << 32 | (uint32_t)vcpu->gpr[GPR_RAX];
    if (number == MSR_EFER) {
        control_write_efer(vcpu, value); /* raises for itself */
        return;
    }
    if (!msr_write(vcpu, number, value))
        vcpu_raise(vcpu, VECTOR_GP);
    /* A local APIC may have been told to deliver something. */
    if (atomic_load_explicit(&vcpu->attention, memory_order_relaxed) != 0)
        vcpu->leave_block = true;
}
