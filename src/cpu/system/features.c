#include "cpu/features.h"

#include <cpuid.h>
#include <string.h>

#include "cpu/system/cpuid.h"

/*
 * The offered feature set.
 *
 * Each word has two masks: `ours`, what the engines do themselves on any host (integer and system
 * instructions, the MMU's and the APIC's features), and `hosts`, what runs on the host CPU by
 * thunks and so needs it there. A bit in neither is not offered: no AVX-512, TSX, MPX, AMX,
 * protection keys, LA57, CET, MONITOR, VMX, machine-check banks, performance counters, VM86
 * extensions.
 *
 * Vendor. The guest sees the host's vendor: what runs on the host behaves as its vendor's does
 * (which x87 pointers FXSAVE keeps, approximate reciprocals), and programs choose by vendor. The
 * model is another matter; see cpuid_signature.
 */

#define B(n) (1u << (n))

struct word_masks {
    uint32_t ours, hosts;
};

static const struct word_masks masks[FEATURE_WORDS] =
    {
        [FEATURE_1_EDX] =
            {
                /* DE, PSE, TSC, MSR, PAE, CX8, APIC, SEP, MTRR, PGE, CMOV, PAT, PSE36 */
                .ours = B(2) | B(3) | B(4) | B(5) | B(6) | B(8) | B(9) | B(11) | B(12) | B(13) |
                        B(15) | B(16) | B(17),
                /* FPU, CLFLUSH, MMX, FXSR, SSE, SSE2 */
                .hosts = B(0) | B(19) | B(23) | B(24) | B(25) | B(26),
            },
        [FEATURE_1_ECX] =
            {
                /* CX16, PCID, x2APIC, MOVBE, POPCNT, TSC deadline, hypervisor */
                .ours = B(13) | B(17) | B(21) | B(22) | B(23) | B(24) | B(31),
                /* SSE3, PCLMULQDQ, SSSE3, FMA, SSE4.1, SSE4.2, AES, XSAVE, AVX, F16C, RDRAND */
                .hosts = B(0) | B(1) | B(9) | B(12) | B(19) | B(20) | B(25) | B(26) | B(28) |
                         B(29) | B(30),
            },
        [FEATURE_7_EBX] =
            {
                /* FSGSBASE, SMEP, ERMS, INVPCID, SMAP */
                .ours = B(0) | B(7) | B(9) | B(10) | B(20),
                /* BMI1, AVX2, FDP only on exceptions, BMI2, no FCS/FDS, RDSEED, ADX, CLFLUSHOPT,
                 * CLWB, SHA */
                .hosts = B(3) | B(5) | B(6) | B(8) | B(13) | B(18) | B(19) | B(23) | B(24) | B(29),
            },
        [FEATURE_7_ECX] =
            {
                .ours = B(2) | B(22),         /* UMIP, RDPID */
                .hosts = B(8) | B(9) | B(10), /* GFNI, VAES, VPCLMULQDQ */
            },
        [FEATURE_7_EDX] =
            {
                .ours = B(4), /* fast short REP MOVSB: one handler call copies it all */
                .hosts = 0,
            },
        [FEATURE_D1_EAX] = {.ours = 0, .hosts = B(0) | B(1) | B(2)}, /* XSAVEOPT, XSAVEC, XGETBV1 */
        [FEATURE_E1_EDX] =
            {
                /* SYSCALL, NX, 1 GiB pages, RDTSCP, long mode */
                .ours = B(11) | B(20) | B(26) | B(27) | B(29),
                .hosts = 0,
            },
        [FEATURE_E1_ECX] = {.ours = B(0) | B(5) | B(8), .hosts = 0}, /* LAHF, LZCNT, PREFETCHW */
};

/* A feature that makes no sense without another. Applied in order. */
static const struct {
    uint16_t feature, needs;
} dependencies[] = {
    {FEATURE_AVX, FEATURE_XSAVE},
    {FEATURE_FMA, FEATURE_AVX},
    {FEATURE_F16C, FEATURE_AVX},
    {FEATURE_AVX2, FEATURE_AVX},
    {FEATURE_VAES, FEATURE_AVX},
    {FEATURE_VPCLMULQDQ, FEATURE_AVX},
    {FEATURE_XSAVEOPT, FEATURE_XSAVE},
    {FEATURE_XSAVEC, FEATURE_XSAVE},
    {FEATURE_XGETBV1, FEATURE_XSAVE},
    {FEATURE_VAES, FEATURE_AESNI},
    {FEATURE_VPCLMULQDQ, FEATURE_PCLMULQDQ},
};

static void clear_feature(struct features *features, unsigned feature)
{
    features->words[feature / 32] &= ~(1u << (feature % 32));
}

static void read_host(uint32_t words[FEATURE_WORDS], bool *amd)
{
    unsigned a, b, c, d;
    memset(words, 0, FEATURE_WORDS * sizeof(words[0]));
    if (__get_cpuid(0, &a, &b, &c, &d))
        *amd = b == signature_AMD_ebx || memcmp(&b, "Hygo", 4) == 0;
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        words[FEATURE_1_EDX] = d;
        words[FEATURE_1_ECX] = c;
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        words[FEATURE_7_EBX] = b;
        words[FEATURE_7_ECX] = c;
        words[FEATURE_7_EDX] = d;
    }
    if (__get_cpuid_count(0xd, 1, &a, &b, &c, &d))
        words[FEATURE_D1_EAX] = a;
    if (__get_cpuid(0x80000001, &a, &b, &c, &d)) {
        words[FEATURE_E1_EDX] = d;
        words[FEATURE_E1_ECX] = c;
    }
}

/* XSAVE and AVX count only when the host's kernel has turned them on. */
static bool host_enables_avx(const uint32_t words[FEATURE_WORDS])
{
    const uint32_t osxsave = B(27);
    if ((words[FEATURE_1_ECX] & osxsave) == 0)
        return false;
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 6) == 6;
}

/* The host side of x86-64-v2 (System V psABI); the integer side is ours. */
static const struct {
    uint16_t feature;
    const char *name;
} required[] = {
    {FEATURE(FEATURE_1_EDX, 0), "x87"},
    {FEATURE(FEATURE_1_EDX, 23), "MMX"},
    {FEATURE(FEATURE_1_EDX, 24), "FXSR"},
    {FEATURE(FEATURE_1_EDX, 25), "SSE"},
    {FEATURE(FEATURE_1_EDX, 26), "SSE2"},
    {FEATURE_SSE3, "SSE3"},
    {FEATURE_SSSE3, "SSSE3"},
    {FEATURE_SSE4_1, "SSE4.1"},
    {FEATURE_SSE4_2, "SSE4.2"},
};

enum status features_detect(struct features *features, struct error *err)
{
    uint32_t host[FEATURE_WORDS];
    *features = (struct features){0};
    read_host(host, &features->amd);
    for (unsigned i = 0; i < FEATURE_WORDS; i++)
        features->words[i] = masks[i].ours | (host[i] & masks[i].hosts);
    if (!host_enables_avx(host)) {
        clear_feature(features, FEATURE_AVX);
        clear_feature(features, FEATURE_XSAVE);
    }
    if (!features->amd)
        features->words[FEATURE_7_EDX] |= CPUID_ARCH_CAPABILITIES;
    for (unsigned i = 0; i < sizeof(dependencies) / sizeof(dependencies[0]); i++)
        if (!features_has(features, dependencies[i].needs))
            clear_feature(features, dependencies[i].feature);
    for (unsigned i = 0; i < sizeof(required) / sizeof(required[0]); i++)
        if (!features_has(features, required[i].feature))
            return error_set(err, STATUS_UNSUPPORTED,
                             "this CPU has no %s, which guests of the x86-64-v2 level need",
                             required[i].name);
    return STATUS_OK;
}
