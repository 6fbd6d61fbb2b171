#ifndef AEROSTAT_CPU_FEATURES_H
#define AEROSTAT_CPU_FEATURES_H

/*
 * What CPUID tells the guest, and nothing that is not implemented.
 *
 * A feature is named by its CPUID word and bit. The offered set is the host's own, cut down to what
 * the engines implement; x86-64-v2 at least, v3 where the host has AVX2, FMA, BMI and friends.
 */

#include <stdbool.h>
#include <stdint.h>

#include "util/status.h"

enum feature_word {
    FEATURE_1_EDX,
    FEATURE_1_ECX,
    FEATURE_7_EBX,
    FEATURE_7_ECX,
    FEATURE_7_EDX,
    FEATURE_D1_EAX, /* leaf 0xd, subleaf 1 */
    FEATURE_E1_EDX, /* leaf 0x80000001 */
    FEATURE_E1_ECX,
    FEATURE_WORDS
};

#define FEATURE(word, bit) ((word)*32 + (bit))

enum feature {
    FEATURE_SSE3 = FEATURE(FEATURE_1_ECX, 0),
    FEATURE_PCLMULQDQ = FEATURE(FEATURE_1_ECX, 1),
    FEATURE_SSSE3 = FEATURE(FEATURE_1_ECX, 9),
    FEATURE_FMA = FEATURE(FEATURE_1_ECX, 12),
    FEATURE_CX16 = FEATURE(FEATURE_1_ECX, 13),
    FEATURE_PCID = FEATURE(FEATURE_1_ECX, 17),
    FEATURE_SSE4_1 = FEATURE(FEATURE_1_ECX, 19),
    FEATURE_SSE4_2 = FEATURE(FEATURE_1_ECX, 20),
    FEATURE_X2APIC = FEATURE(FEATURE_1_ECX, 21),
    FEATURE_MOVBE = FEATURE(FEATURE_1_ECX, 22),
    FEATURE_POPCNT = FEATURE(FEATURE_1_ECX, 23),
    FEATURE_TSC_DEADLINE = FEATURE(FEATURE_1_ECX, 24),
    FEATURE_AESNI = FEATURE(FEATURE_1_ECX, 25),
    FEATURE_XSAVE = FEATURE(FEATURE_1_ECX, 26),
    FEATURE_AVX = FEATURE(FEATURE_1_ECX, 28),
    FEATURE_F16C = FEATURE(FEATURE_1_ECX, 29),
    FEATURE_RDRAND = FEATURE(FEATURE_1_ECX, 30),
    FEATURE_FSGSBASE = FEATURE(FEATURE_7_EBX, 0),
    FEATURE_BMI1 = FEATURE(FEATURE_7_EBX, 3),
    FEATURE_AVX2 = FEATURE(FEATURE_7_EBX, 5),
    FEATURE_SMEP = FEATURE(FEATURE_7_EBX, 7),
    FEATURE_BMI2 = FEATURE(FEATURE_7_EBX, 8),
    FEATURE_ERMS = FEATURE(FEATURE_7_EBX, 9),
    FEATURE_INVPCID = FEATURE(FEATURE_7_EBX, 10),
    FEATURE_RDSEED = FEATURE(FEATURE_7_EBX, 18),
    FEATURE_ADX = FEATURE(FEATURE_7_EBX, 19),
    FEATURE_SMAP = FEATURE(FEATURE_7_EBX, 20),
    FEATURE_CLFLUSHOPT = FEATURE(FEATURE_7_EBX, 23),
    FEATURE_CLWB = FEATURE(FEATURE_7_EBX, 24),
    FEATURE_SHA = FEATURE(FEATURE_7_EBX, 29),
    FEATURE_UMIP = FEATURE(FEATURE_7_ECX, 2),
    FEATURE_GFNI = FEATURE(FEATURE_7_ECX, 8),
    FEATURE_VAES = FEATURE(FEATURE_7_ECX, 9),
    FEATURE_VPCLMULQDQ = FEATURE(FEATURE_7_ECX, 10),
    FEATURE_RDPID = FEATURE(FEATURE_7_ECX, 22),
    FEATURE_XSAVEOPT = FEATURE(FEATURE_D1_EAX, 0),
    FEATURE_XSAVEC = FEATURE(FEATURE_D1_EAX, 1),
    FEATURE_XGETBV1 = FEATURE(FEATURE_D1_EAX, 2),
    FEATURE_SYSCALL = FEATURE(FEATURE_E1_EDX, 11),
    FEATURE_NX = FEATURE(FEATURE_E1_EDX, 20),
    FEATURE_PDPE1GB = FEATURE(FEATURE_E1_EDX, 26),
    FEATURE_RDTSCP = FEATURE(FEATURE_E1_EDX, 27),
    FEATURE_LM = FEATURE(FEATURE_E1_EDX, 29),
    FEATURE_LAHF_LM = FEATURE(FEATURE_E1_ECX, 0),
    FEATURE_LZCNT = FEATURE(FEATURE_E1_ECX, 5),
    FEATURE_PREFETCHW = FEATURE(FEATURE_E1_ECX, 8),
};

struct features {
    uint32_t words[FEATURE_WORDS];
    bool amd; /* vendor AuthenticAMD (or Hygon's), else GenuineIntel: as the host's. Says which way
                 an instruction goes where they differ: docs/testing.md */
};

/* What this host lets us offer. STATUS_UNSUPPORTED with what is missing below x86-64-v2. */
enum status features_detect(struct features *features, struct error *err);

static inline bool features_has(const struct features *features, enum feature feature)
{
    return features->words[(unsigned)feature / 32] >> ((unsigned)feature % 32) & 1;
}

#endif
