#include "cpu/system/cpuid.h"

#include <string.h>

#include "cpu/system/control.h"
#include "cpu/system/msr.h"
#include "util/clock.h"

/*
 * CPUID leaves (SDM vol. 2 CPUID; AMD vol. 3 app. E), all derived from the offered features, so
 * that no two leaves can disagree.
 *
 * Topology: cpu_count cores of one package, one thread each; APIC id = index.
 */

#define LEAF_BASIC_MAX      0x16u
#define LEAF_HYPERVISOR     0x40000000u
#define LEAF_HYPERVISOR_MAX 0x40000010u
#define LEAF_EXTENDED       0x80000000u
#define LEAF_EXTENDED_MAX   0x80000008u

#define XSAVE_LEGACY_SIZE 576u /* 512 bytes and the header */
#define XSAVE_AVX_SIZE    256u

/* KVM's feature bits (Linux Documentation/virt/kvm/x86/cpuid.rst). None that needs a hypercall. */
#define KVM_FEATURE_CLOCKSOURCE        (1u << 0)
#define KVM_FEATURE_NOP_IO_DELAY       (1u << 1)
#define KVM_FEATURE_CLOCKSOURCE2       (1u << 3)
#define KVM_FEATURE_CLOCKSOURCE_STABLE (1u << 24)

/*
 * Family and model. A kernel turns on work-arounds and probes model-specific registers by model, so
 * the host's own model could ask for MSRs that do not exist here. Programs go by model too: GCC's
 * target_clones("arch=...") takes the variant for a model without a look at the features, so a
 * model that has AVX-512 makes programs use it. Chosen are models that have no feature for programs
 * beyond those offered, that no erratum list of Linux 6.1 to 6.12 names for what a guest could not
 * leave out, and whose drivers for uncore, RAPL and EDAC stay away under a hypervisor: Intel 06_3C
 * (Haswell), AMD 19_01.
 */
uint32_t cpuid_signature(const struct features *features)
{
    return features->amd ? 0x00a00f11 : 0x000306c3;
}

/*
 * Flaws that need guest code to run a faulting or assisted load natively, which no engine lets it:
 * an interpreted load is a software look-up in the tables of the current privilege, and thunks are
 * given buffers of ours. So Meltdown (RDCL), L1TF, MDS, TAA, the MMIO stale data kin, GDS and RFDS
 * do not exist between guest user and guest kernel, and PSCHANGE_MC (multi-hit) neither. Branch
 * prediction and store bypass are not claimed: the host's predictors run the engine itself.
 */
uint64_t cpuid_arch_capabilities(void)
{
    return bit(0) |                      /* RDCL_NO */
           bit(3) |                      /* SKIP_L1DFL_VMENTRY */
           bit(5) | bit(6) |             /* MDS_NO, PSCHANGE_MC_NO */
           bit(8) |                      /* TAA_NO */
           bit(13) | bit(14) | bit(15) | /* SBDR_SSDP_NO, FBSDP_NO, PSDP_NO */
           bit(26) | bit(27);            /* GDS_NO, RFDS_NO */
}

static uint32_t text(const char *four)
{
    uint32_t value;
    memcpy(&value, four, sizeof(value));
    return value;
}

static struct cpuid_result vendor_leaf(const struct vcpu *vcpu, uint32_t max)
{
    if (vcpu->features->amd)
        return (struct cpuid_result){max, text("Auth"), text("cAMD"), text("enti")};
    return (struct cpuid_result){max, text("Genu"), text("ntel"), text("ineI")};
}

static bool apic_is_enabled(const struct vcpu *vcpu)
{
    const uint64_t enable = 1u << 11;
    uint64_t base;
    return vcpu->apic == NULL ||
           !vcpu->apic->read_msr(vcpu->apic_context, MSR_IA32_APIC_BASE, &base) ||
           (base & enable) != 0;
}

static struct cpuid_result leaf_1(const struct vcpu *vcpu)
{
    const uint32_t osxsave = 1u << 27, apic = 1u << 9, htt = 1u << 28;
    const uint32_t clflush_quadwords = 8u << 8;
    uint32_t count = vcpu->cpu_count > 255 ? 255 : vcpu->cpu_count;
    struct cpuid_result result = {
        .eax = cpuid_signature(vcpu->features),
        .ebx = vcpu->index << 24 | count << 16 | clflush_quadwords,
        .ecx = vcpu->features->words[FEATURE_1_ECX],
        .edx = vcpu->features->words[FEATURE_1_EDX],
    };
    if ((vcpu->mmu.cr4 & CR4_OSXSAVE) != 0)
        result.ecx |= osxsave;
    if (!apic_is_enabled(vcpu))
        result.edx &= ~apic;
    if (vcpu->cpu_count > 1)
        result.edx |= htt;
    return result;
}

static uint32_t round_up_power(uint32_t value)
{
    uint32_t power = 1;
    while (power < value)
        power *= 2;
    return power;
}

struct cache {
    uint8_t type; /* 1 data, 2 instruction, 3 unified */
    uint8_t level;
    bool is_shared; /* by all cores */
    uint32_t ways, sets;
};

/* 64-byte lines. A plausible hierarchy; Linux sizes a few heuristics by it. */
static const struct cache caches[] = {
    {1, 1, false, 8, 64},    /* 32 KiB */
    {2, 1, false, 8, 64},    /* 32 KiB */
    {3, 2, false, 16, 1024}, /* 1 MiB */
    {3, 3, true, 16, 16384}, /* 16 MiB */
};

static struct cpuid_result leaf_4(const struct vcpu *vcpu, uint32_t subleaf)
{
    if (subleaf >= ARRAY_LENGTH(caches))
        return (struct cpuid_result){0};
    const struct cache *cache = &caches[subleaf];
    uint32_t cores = round_up_power(vcpu->cpu_count > 64 ? 64 : vcpu->cpu_count);
    uint32_t sharing = cache->is_shared ? cores : 1;
    return (struct cpuid_result){
        .eax = (uint32_t)cache->type | (uint32_t)cache->level << 5 | 1u << 8 | (sharing - 1) << 14 |
               (cores - 1) << 26,
        .ebx = 63u | (cache->ways - 1) << 22,
        .ecx = cache->sets - 1,
    };
}

static struct cpuid_result leaf_7(const struct vcpu *vcpu, uint32_t subleaf)
{
    if (subleaf != 0)
        return (struct cpuid_result){0};
    return (struct cpuid_result){
        .ebx = vcpu->features->words[FEATURE_7_EBX],
        .ecx = vcpu->features->words[FEATURE_7_ECX],
        .edx = vcpu->features->words[FEATURE_7_EDX],
    };
}

/* Extended topology: a thread level of one, a core level of all. */
static struct cpuid_result leaf_b(const struct vcpu *vcpu, uint32_t subleaf)
{
    struct cpuid_result result = {.ecx = subleaf & 0xff, .edx = vcpu->index};
    if (subleaf == 0) {
        result.ebx = 1;
        result.ecx |= 1u << 8;
    } else if (subleaf == 1) {
        result.eax = (uint32_t)__builtin_ctz(round_up_power(vcpu->cpu_count));
        result.ebx = vcpu->cpu_count;
        result.ecx |= 2u << 8;
    }
    return result;
}

static uint32_t xsave_size(uint64_t xcr0)
{
    return (xcr0 & XCR0_AVX) != 0 ? XSAVE_LEGACY_SIZE + XSAVE_AVX_SIZE : XSAVE_LEGACY_SIZE;
}

static struct cpuid_result leaf_d(const struct vcpu *vcpu, uint32_t subleaf)
{
    if (!features_has(vcpu->features, FEATURE_XSAVE))
        return (struct cpuid_result){0};
    bool has_avx = features_has(vcpu->features, FEATURE_AVX);
    uint64_t offered = XCR0_X87 | XCR0_SSE | (has_avx ? XCR0_AVX : 0);
    switch (subleaf) {
    case 0:
        return (struct cpuid_result){
            .eax = (uint32_t)offered, .ebx = xsave_size(vcpu->xcr0), .ecx = xsave_size(offered)};
    case 1: {
        uint32_t word = vcpu->features->words[FEATURE_D1_EAX];
        bool has_compaction = features_has(vcpu->features, FEATURE_XSAVEC);
        return (struct cpuid_result){.eax = word,
                                     .ebx = has_compaction ? xsave_size(vcpu->xcr0) : 0};
    }
    case 2:
        if (has_avx)
            return (struct cpuid_result){.eax = XSAVE_AVX_SIZE, .ebx = XSAVE_LEGACY_SIZE};
        return (struct cpuid_result){0};
    default:
        return (struct cpuid_result){0};
    }
}

/* TSC frequency as a ratio to a "crystal" of 1 GHz, which is what the APIC timer counts. */
static struct cpuid_result leaf_15(void)
{
    return (struct cpuid_result){
        .eax = 1000000, .ebx = (uint32_t)clock_tsc_khz(), .ecx = 1000000000};
}

static struct cpuid_result leaf_16(void)
{
    uint32_t mhz = (uint32_t)(clock_tsc_khz() / 1000);
    return (struct cpuid_result){.eax = mhz & 0xffff, .ebx = mhz & 0xffff, .ecx = 100};
}

static struct cpuid_result basic_leaf(const struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf)
{
    bool intel = !vcpu->features->amd;
    switch (leaf) {
    case 0:
        return vendor_leaf(vcpu, LEAF_BASIC_MAX);
    case 1:
        return leaf_1(vcpu);
    case 2: /* caches: see leaf 4; TLBs: none to tell of */
        return intel ? (struct cpuid_result){.eax = 0x00feff01} : (struct cpuid_result){0};
    case 4:
        return intel ? leaf_4(vcpu, subleaf) : (struct cpuid_result){0};
    case 6: /* ARAT: the APIC timer never stops */
        return (struct cpuid_result){.eax = 1u << 2};
    case 7:
        return leaf_7(vcpu, subleaf);
    case 0xb:
        return leaf_b(vcpu, subleaf);
    case 0xd:
        return leaf_d(vcpu, subleaf);
    case 0x15:
        return intel ? leaf_15() : (struct cpuid_result){0};
    case 0x16:
        return intel ? leaf_16() : (struct cpuid_result){0};
    default:
        return (struct cpuid_result){0};
    }
}

static struct cpuid_result hypervisor_leaf(uint32_t leaf)
{
    switch (leaf) {
    case LEAF_HYPERVISOR:
        return (struct cpuid_result){LEAF_HYPERVISOR_MAX, text("KVMK"), text("VMKV"),
                                     text("M\0\0")};
    case LEAF_HYPERVISOR + 1:
        return (struct cpuid_result){.eax = KVM_FEATURE_CLOCKSOURCE | KVM_FEATURE_NOP_IO_DELAY |
                                            KVM_FEATURE_CLOCKSOURCE2 |
                                            KVM_FEATURE_CLOCKSOURCE_STABLE};
    case LEAF_HYPERVISOR + 0x10: /* TSC and APIC timer frequency in kHz */
        return (struct cpuid_result){.eax = (uint32_t)clock_tsc_khz(), .ebx = 1000000};
    default:
        return (struct cpuid_result){0};
    }
}

static struct cpuid_result brand_leaf(unsigned part)
{
    static const char brand[48] = "Aerostat vCPU";
    struct cpuid_result result;
    memcpy(&result, brand + 16 * part, sizeof(result));
    return result;
}

static struct cpuid_result leaf_e1(const struct vcpu *vcpu)
{
    struct cpuid_result result = {
        .eax = cpuid_signature(vcpu->features),
        .ecx = vcpu->features->words[FEATURE_E1_ECX],
        .edx = vcpu->features->words[FEATURE_E1_EDX],
    };
    if (vcpu->features->amd) {
        /* AMD repeats leaf 1's bits; and says that cores, not threads, share the package. */
        const uint32_t repeated = 0x0183f3ff, legacy_cores = 1u << 1;
        result.eax = cpuid_signature(vcpu->features);
        result.edx |= leaf_1(vcpu).edx & repeated;
        if (vcpu->cpu_count > 1)
            result.ecx |= legacy_cores;
    } else if (vcpu->mode != MODE_LONG) {
        /* Intel shows SYSCALL only where it works. */
        result.eax = 0;
        result.edx &= ~(1u << 11);
    } else {
        result.eax = 0;
    }
    return result;
}

static struct cpuid_result extended_leaf(const struct vcpu *vcpu, uint32_t leaf)
{
    switch (leaf) {
    case LEAF_EXTENDED:
        return vcpu->features->amd ? vendor_leaf(vcpu, LEAF_EXTENDED_MAX)
                                   : (struct cpuid_result){.eax = LEAF_EXTENDED_MAX};
    case LEAF_EXTENDED + 1:
        return leaf_e1(vcpu);
    case LEAF_EXTENDED + 2:
    case LEAF_EXTENDED + 3:
    case LEAF_EXTENDED + 4:
        return brand_leaf(leaf - LEAF_EXTENDED - 2);
    case LEAF_EXTENDED + 5: /* AMD: L1 caches as in `caches` */
        return vcpu->features->amd
                   ? (struct cpuid_result){.ecx = 32u << 24 | 8u << 16 | 1u << 8 | 64,
                                           .edx = 32u << 24 | 8u << 16 | 1u << 8 | 64}
                   : (struct cpuid_result){0};
    case LEAF_EXTENDED + 6: /* L2: 1 MiB, 16 ways, 64-byte lines */
        return (struct cpuid_result){.ecx = 1024u << 16 | 8u << 12 |
                                            (vcpu->features->amd ? 1u << 8 : 0) | 64};
    case LEAF_EXTENDED + 7: /* invariant TSC */
        return (struct cpuid_result){.edx = 1u << 8};
    case LEAF_EXTENDED + 8: {
        struct cpuid_result result = {.eax = LINEAR_ADDRESS_BITS << 8 | PHYSICAL_ADDRESS_BITS};
        if (vcpu->features->amd) {
            result.ebx = 1u << 2; /* XRSTOR and FXRSTOR always restore the x87 pointers */
            uint32_t bits = (uint32_t)__builtin_ctz(round_up_power(vcpu->cpu_count));
            result.ecx = bits << 12 | (vcpu->cpu_count - 1);
        }
        return result;
    }
    default:
        return (struct cpuid_result){0};
    }
}

/* Above the greatest basic leaf Intel answers with that leaf's data, AMD with zeros. Zeros are what
 * programs expect in practice. */
struct cpuid_result cpuid_query(const struct vcpu *vcpu, uint32_t leaf, uint32_t subleaf)
{
    if (leaf <= LEAF_BASIC_MAX)
        return basic_leaf(vcpu, leaf, subleaf);
    if (leaf >= LEAF_HYPERVISOR && leaf <= LEAF_HYPERVISOR_MAX)
        return hypervisor_leaf(leaf);
    if (leaf >= LEAF_EXTENDED && leaf <= LEAF_EXTENDED_MAX)
        return extended_leaf(vcpu, leaf);
    return (struct cpuid_result){0};
}
