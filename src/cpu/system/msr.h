#ifndef AEROSTAT_CPU_SYSTEM_MSR_H
#define AEROSTAT_CPU_SYSTEM_MSR_H

/* Model-specific registers by number. */

#include "cpu/vcpu.h"

enum msr {
    MSR_IA32_TSC = 0x10,
    MSR_KVM_WALL_CLOCK_OLD = 0x11,
    MSR_KVM_SYSTEM_TIME_OLD = 0x12,
    MSR_IA32_PLATFORM_ID = 0x17,
    MSR_IA32_APIC_BASE = 0x1b,
    MSR_IA32_BIOS_SIGN_ID = 0x8b,
    MSR_IA32_MTRRCAP = 0xfe,
    MSR_IA32_ARCH_CAPABILITIES = 0x10a,
    MSR_IA32_SYSENTER_CS = 0x174,
    MSR_IA32_SYSENTER_ESP = 0x175,
    MSR_IA32_SYSENTER_EIP = 0x176,
    MSR_IA32_MISC_ENABLE = 0x1a0,
    MSR_IA32_DEBUGCTL = 0x1d9,
    MSR_IA32_MTRR_PHYSBASE0 = 0x200,
    MSR_IA32_MTRR_FIX64K = 0x250,
    MSR_IA32_MTRR_FIX16K = 0x258, /* and 0x259 */
    MSR_IA32_MTRR_FIX4K = 0x268,  /* to 0x26f */
    MSR_IA32_PAT = 0x277,
    MSR_IA32_MTRR_DEF_TYPE = 0x2ff,
    MSR_IA32_TSC_DEADLINE = 0x6e0,
    MSR_X2APIC_BASE = 0x800,
    MSR_X2APIC_END = 0x900,
    MSR_KVM_WALL_CLOCK = 0x4b564d00,
    MSR_KVM_SYSTEM_TIME = 0x4b564d01,
};

#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_SFMASK         0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u
#define MSR_AMD_SYSCFG     0xc0010010u
#define MSR_AMD_HWCR       0xc0010015u
#define MSR_AMD_DE_CFG     0xc0011029u

#define PAT_POWER_ON         0x0007040600070406ull
#define MISC_ENABLE_POWER_ON 0x1801ull /* fast strings; no BTS, no PEBS */

/* False: #GP. Neither raises. */
bool msr_read(struct vcpu *vcpu, uint32_t number, uint64_t *value);
bool msr_write(struct vcpu *vcpu, uint32_t number, uint64_t value);

/* Memory type range registers: storage that obeys the reserved bits (mtrr.c). *known says whether
 * the number is one of theirs. */
bool mtrr_access(struct vcpu *vcpu, uint32_t number, uint64_t *value, bool is_write, bool *known);
bool mtrr_type_is_valid(uint64_t type);

/* As firmware leaves them: on, write-back everywhere. */
void mtrr_reset(struct vcpu_msrs *msrs);

#endif
