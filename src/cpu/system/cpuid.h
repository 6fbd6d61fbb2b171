#ifndef AEROSTAT_CPU_SYSTEM_CPUID_H
#define AEROSTAT_CPU_SYSTEM_CPUID_H

#include "cpu/vcpu.h"

struct cpuid_result {
    uint32_t eax, ebx, ecx, edx;
};

/* What CPUID gives; depends on the vCPU's index, CR4.OSXSAVE, XCR0 and APIC state. */
struct cpuid_result cpuid_query(const struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf);

/* EAX of leaf 1, which is also EDX after reset. */
uint32_t cpuid_signature(const struct features *features);

/* IA32_ARCH_CAPABILITIES as offered by leaf 7. */
uint64_t cpuid_arch_capabilities(void);

/* Bit of leaf 7 EDX. */
#define CPUID_ARCH_CAPABILITIES (1u << 29)

#endif
