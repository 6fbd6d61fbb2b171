/* What thunks refuse, check and survive; what forms.S cannot say because the host runs 64-bit code
 * only or would have to lend its stack pointer. */

#include "native.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* Not a cmocka fixture: cmocka puts its own signal handlers in place between that and the test. */
static struct native *begin(void **state)
{
    static struct native n;
    native_create(&n);
    *state = &n;
    return &n;
}

static int teardown(void **state)
{
    native_destroy(*state);
    return 0;
}

static struct xstate_image *image_of(struct native *n)
{
    return xstate_of(n->vm.vcpu);
}

/* thunk_bind alone, past the decoder's other tables. */
static bool binds(struct native *n, const uint8_t *bytes, unsigned length)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    struct insn insn = {0};
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    assert_true(ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, length, &decoded, operands)));
    assert_int_equal(decoded.length, length);
    return thunk_bind(n->vm.thunks, n->vm.vcpu, &decoded, operands, bytes, &insn);
}

#define BINDS(n, ...)                                                                              \
    binds(n, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

static void test_refuses_what_is_not_listed(void **state)
{
    struct native *n = begin(state);
    assert_true(BINDS(n, 0x0f, 0x58, 0xc1)); /* addps, for comparison */

    assert_false(BINDS(n, 0x0f, 0x01, 0xc1));                   /* vmcall */
    assert_false(BINDS(n, 0x0f, 0x01, 0xd0));                   /* xgetbv */
    assert_false(BINDS(n, 0x0f, 0x01, 0xd1));                   /* xsetbv */
    assert_false(BINDS(n, 0x0f, 0x01, 0xf8));                   /* swapgs */
    assert_false(BINDS(n, 0x0f, 0x30));                         /* wrmsr */
    assert_false(BINDS(n, 0x0f, 0x33));                         /* rdpmc */
    assert_false(BINDS(n, 0x0f, 0x31));                         /* rdtsc */
    assert_false(BINDS(n, 0x0f, 0x05));                         /* syscall */
    assert_false(BINDS(n, 0x0f, 0xa2));                         /* cpuid */
    assert_false(BINDS(n, 0xf4));                               /* hlt */
    assert_false(BINDS(n, 0xcd, 0x80));                         /* int 0x80 */
    assert_false(BINDS(n, 0x0f, 0x0b));                         /* ud2 */
    assert_false(BINDS(n, 0xc3));                               /* ret */
    assert_false(BINDS(n, 0xff, 0xe0));                         /* jmp rax */
    assert_false(BINDS(n, 0x50));                               /* push rax */
    assert_false(BINDS(n, 0x48, 0x01, 0xc8));                   /* add rax, rcx */
    assert_false(BINDS(n, 0x48, 0x89, 0xc4));                   /* mov rsp, rax */
    assert_false(BINDS(n, 0x0f, 0x44, 0xc1));                   /* cmove */
    assert_false(BINDS(n, 0x8e, 0xd8));                         /* mov ds, eax */
    assert_false(BINDS(n, 0x0f, 0x22, 0xd8));                   /* mov cr3, rax */
    assert_false(BINDS(n, 0xf3, 0x0f, 0xae, 0xd0));             /* wrfsbase */
    assert_false(BINDS(n, 0x0f, 0xae, 0xe8));                   /* lfence */
    assert_false(BINDS(n, 0x0f, 0xae, 0x38));                   /* clflush */
    assert_false(BINDS(n, 0x0f, 0x18, 0x08));                   /* prefetcht0 */
    assert_false(BINDS(n, 0x0f, 0xae, 0x20));                   /* xsave: a state handler's */
    assert_false(BINDS(n, 0x0f, 0xc7, 0x28));                   /* xsaves */
    assert_false(BINDS(n, 0xd9, 0x30));                         /* fnstenv: a state handler's */
    assert_false(BINDS(n, 0xdb, 0xe3));                         /* fninit: the same */
    assert_false(BINDS(n, 0xc7, 0xf8, 0, 0, 0, 0));             /* xbegin */
    assert_false(BINDS(n, 0x0f, 0x01, 0xd5));                   /* xend */
    assert_false(BINDS(n, 0x0f, 0x01, 0xd6));                   /* xtest */
    assert_false(BINDS(n, 0xf3, 0x0f, 0x1e, 0xfa));             /* endbr64 */
    assert_false(BINDS(n, 0xf3, 0x0f, 0x01, 0xe8));             /* setssbsy */
    assert_false(BINDS(n, 0x0f, 0x01, 0xee));                   /* rdpkru */
    assert_false(BINDS(n, 0x0f, 0x01, 0xc8));                   /* monitor */
    assert_false(BINDS(n, 0x0f, 0x01, 0xe8));                   /* serialize */
    assert_false(BINDS(n, 0x66, 0x0f, 0x38, 0xf8, 0x00));       /* movdir64b */
    assert_false(BINDS(n, 0x0f, 0x0f, 0xc1, 0x9e));             /* pfadd (3DNow!) */
    assert_false(BINDS(n, 0xf2, 0x0f, 0x79, 0xc1));             /* insertq (SSE4a) */
    assert_false(BINDS(n, 0x8f, 0xe9, 0x78, 0x81, 0xc1));       /* vfrczpd (XOP) */
    assert_false(BINDS(n, 0xc4, 0xe3, 0xf1, 0x69, 0xc2, 0x30)); /* vfmaddpd (FMA4) */
    assert_false(BINDS(n, 0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2)); /* vaddps zmm */
    assert_false(BINDS(n, 0x62, 0xf1, 0x74, 0x08, 0x58, 0xc2)); /* vaddps xmm, EVEX */
    assert_false(BINDS(n, 0xc5, 0xf8, 0x92, 0xc8));             /* kmovw k1, eax */
    assert_false(BINDS(n, 0xc4, 0xe2, 0x78, 0x49, 0xc0));       /* tilerelease */
    assert_false(BINDS(n, 0xc4, 0xe2, 0x71, 0x50, 0xc2));       /* vpdpbusd (AVX-VNNI) */
    assert_false(BINDS(n, 0xf3, 0x0f, 0x38, 0xfa, 0xc1));       /* encodekey128 */

    /* Gathers that name one register twice: dest and index, mask and index, dest and mask. */
    struct insn insn;
    assert_true(native_decode(n, (const uint8_t[]){0xc4, 0xe2, 0x69, 0x92, 0x04, 0x08}, 6, &insn));
    assert_false(native_decode(n, (const uint8_t[]){0xc4, 0xe2, 0x69, 0x92, 0x04, 0x00}, 6, &insn));
    assert_false(native_decode(n, (const uint8_t[]){0xc4, 0xe2, 0x69, 0x92, 0x04, 0x10}, 6, &insn));
    assert_false(native_decode(n, (const uint8_t[]){0xc4, 0xe2, 0x69, 0x92, 0x14, 0x08}, 6, &insn));
}

static void test_refuses_what_is_not_offered(void **state)
{
    struct native *n = begin(state);
    static const struct {
        enum feature feature;
        uint8_t length, bytes[8];
    } cases[] = {
        {FEATURE_SSE3, 4, {0xf2, 0x0f, 0x7c, 0xc1}},               /* haddps */
        {FEATURE_SSSE3, 5, {0x66, 0x0f, 0x38, 0x00, 0xc1}},        /* pshufb */
        {FEATURE_SSE4_1, 5, {0x66, 0x0f, 0x38, 0x40, 0xc1}},       /* pmulld */
        {FEATURE_SSE4_2, 5, {0x66, 0x0f, 0x38, 0x37, 0xc1}},       /* pcmpgtq */
        {FEATURE_AESNI, 5, {0x66, 0x0f, 0x38, 0xdc, 0xc1}},        /* aesenc */
        {FEATURE_PCLMULQDQ, 6, {0x66, 0x0f, 0x3a, 0x44, 0xc1, 0}}, /* pclmulqdq */
        {FEATURE_AVX, 4, {0xc5, 0xf0, 0x58, 0xc2}},                /* vaddps */
        {FEATURE_AVX, 3, {0xc5, 0xf8, 0x77}},                      /* vzeroupper */
        {FEATURE_AVX, 4, {0xc5, 0xf8, 0x10, 0xc2}},                /* vmovups */
        {FEATURE_AVX2, 4, {0xc5, 0xf5, 0xfe, 0xc2}},               /* vpaddd ymm */
        {FEATURE_AVX2, 6, {0xc4, 0xe2, 0x69, 0x90, 0x04, 0x08}},   /* vpgatherdd */
        {FEATURE_FMA, 5, {0xc4, 0xe2, 0x71, 0xa8, 0xc2}},          /* vfmadd213ps */
        {FEATURE_F16C, 5, {0xc4, 0xe2, 0x79, 0x13, 0xc1}},         /* vcvtph2ps */
        {FEATURE_BMI1, 5, {0xc4, 0xe2, 0x70, 0xf2, 0xc2}},         /* andn */
        {FEATURE_BMI2, 5, {0xc4, 0xe2, 0x73, 0xf5, 0xc2}},         /* pdep */
        {FEATURE_RDRAND, 3, {0x0f, 0xc7, 0xf0}},                   /* rdrand */
        {FEATURE_RDSEED, 3, {0x0f, 0xc7, 0xf8}},                   /* rdseed */
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct features *features = &n->vm.features;
        uint32_t *word = &features->words[(unsigned)cases[i].feature / 32];
        uint32_t mask = 1u << (unsigned)cases[i].feature % 32, before = *word;
        if (before & mask)
            assert_true(binds(n, cases[i].bytes, cases[i].length));
        *word = before & ~mask;
        assert_false(binds(n, cases[i].bytes, cases[i].length));
        *word = before;
    }
}

/* ---- Availability ---- */

#define ADDPS      0x0f, 0x58, 0xc1
#define MOVUPS     0x0f, 0x10, 0xc1
#define VADDPS     0xc5, 0xf0, 0x58, 0xc2
#define PADDB      0x0f, 0xfc, 0xc1
#define FADD       0xd8, 0xc1
#define CRC32      0xf2, 0x0f, 0x38, 0xf1, 0xc1
#define PSHUFB_MMX 0x0f, 0x38, 0x00, 0xc1

static void test_control_bits_forbid(void **state)
{
    struct native *n = begin(state);
    struct mmu *mmu = &n->vm.vcpu->mmu;
    uint64_t cr0 = mmu->cr0, cr4 = mmu->cr4;

    mmu->cr0 = cr0 | CR0_TS;
    assert_int_equal(NATIVE_DO(n, ADDPS), VECTOR_NM);
    assert_int_equal(NATIVE_DO(n, MOVUPS), VECTOR_NM);
    assert_int_equal(NATIVE_DO(n, PADDB), VECTOR_NM);
    assert_int_equal(NATIVE_DO(n, FADD), VECTOR_NM);
    assert_int_equal(NATIVE_DO(n, CRC32), NATIVE_NO_FAULT);
    assert_int_equal(NATIVE_DO(n, 0x9b), NATIVE_NO_FAULT); /* fwait without MP */
    mmu->cr0 = cr0 | CR0_TS | CR0_MP;
    assert_int_equal(NATIVE_DO(n, 0x9b), VECTOR_NM);
    mmu->cr0 = cr0 | CR0_EM;
    assert_int_equal(NATIVE_DO(n, ADDPS), VECTOR_UD);
    assert_int_equal(NATIVE_DO(n, PADDB), VECTOR_UD);
    assert_int_equal(NATIVE_DO(n, FADD), VECTOR_NM);
    assert_int_equal(NATIVE_DO(n, 0x0f, 0x77), VECTOR_UD); /* emms */
    mmu->cr0 = cr0 | CR0_EM | CR0_TS;
    assert_int_equal(NATIVE_DO(n, ADDPS), VECTOR_UD);
    mmu->cr0 = cr0;

    mmu->cr4 = cr4 & ~(uint64_t)CR4_OSFXSR;
    assert_int_equal(NATIVE_DO(n, ADDPS), VECTOR_UD);
    assert_int_equal(NATIVE_DO(n, MOVUPS), VECTOR_UD);
    assert_int_equal(NATIVE_DO(n, PADDB), NATIVE_NO_FAULT);
    assert_int_equal(NATIVE_DO(n, PSHUFB_MMX), NATIVE_NO_FAULT);
    assert_int_equal(NATIVE_DO(n, CRC32), NATIVE_NO_FAULT);
    mmu->cr4 = cr4;

    if (features_has(&n->vm.features, FEATURE_AVX)) {
        assert_int_equal(NATIVE_DO(n, VADDPS), NATIVE_NO_FAULT);
        mmu->cr4 = cr4 & ~(uint64_t)CR4_OSFXSR; /* of no concern to AVX */
        assert_int_equal(NATIVE_DO(n, VADDPS), NATIVE_NO_FAULT);
        mmu->cr4 = cr4 & ~(uint64_t)CR4_OSXSAVE;
        assert_int_equal(NATIVE_DO(n, VADDPS), VECTOR_UD);
        mmu->cr4 = cr4;
        n->vm.vcpu->xcr0 = 3;
        assert_int_equal(NATIVE_DO(n, VADDPS), VECTOR_UD);
        n->vm.vcpu->xcr0 = 7;
        mmu->cr0 = cr0 | CR0_TS;
        assert_int_equal(NATIVE_DO(n, VADDPS), VECTOR_NM);
        mmu->cr0 = cr0;
    }
}

static void test_simd_exception_without_osxmmexcpt_is_undefined(void **state)
{
    struct native *n = begin(state);
    struct native_state s;
    struct insn insn;
    const uint8_t divps[] = {0x0f, 0x5e, 0xc1};
    native_random_state(n, &s, true);
    memset(s.image.xmm[1], 0, 16); /* divide by zero, */
    const uint32_t one = 0x3f800000;
    for (unsigned i = 0; i < 4; i++)
        memcpy(s.image.xmm[0] + 4 * i, &one, 4);
    s.image.mxcsr = MXCSR_INITIAL & ~0x200u; /* unmasked */
    struct native_state expected = s;
    expected.image.mxcsr |= 4;
    assert_true(native_decode(n, divps, sizeof(divps), &insn));
    struct native_state guest = s;
    assert_int_equal(native_run_guest(n, &guest, &insn), VECTOR_XM);
    assert_null(native_difference(&guest, &expected));
    n->vm.vcpu->mmu.cr4 &= ~(uint64_t)CR4_OSXMMEXCPT;
    guest = s;
    assert_int_equal(native_run_guest(n, &guest, &insn), VECTOR_UD);
    assert_null(native_difference(&guest, &expected));
    n->vm.vcpu->mmu.cr4 |= CR4_OSXMMEXCPT;
}

/* ---- Registers the host needs for itself ---- */

static void test_stack_pointer_is_an_ordinary_register(void **state)
{
    struct native *n = begin(state);
    struct vcpu *vcpu = n->vm.vcpu;
    vcpu->gpr[GPR_RSP] = 0x1122334455667788;
    vcpu->gpr[GPR_RDI] = 0x99;
    assert_int_equal(NATIVE_DO(n, 0x66, 0x48, 0x0f, 0x6e, 0xcc),
                     NATIVE_NO_FAULT); /* movq xmm1, rsp */
    uint64_t low;
    memcpy(&low, image_of(n)->xmm[1], 8);
    assert_true(low == 0x1122334455667788);
    assert_int_equal(NATIVE_DO(n, 0x66, 0x48, 0x0f, 0x7e, 0xcf),
                     NATIVE_NO_FAULT); /* movq rdi, xmm1 */
    assert_true(vcpu->gpr[GPR_RDI] == 0x1122334455667788);
    memset(image_of(n)->xmm[2], 0xff, 16);
    assert_int_equal(NATIVE_DO(n, 0x66, 0x0f, 0xd7, 0xe2),
                     NATIVE_NO_FAULT); /* pmovmskb esp, xmm2 */
    assert_true(vcpu->gpr[GPR_RSP] == 0xffff);
    if (features_has(&n->vm.features, FEATURE_BMI2)) {
        vcpu->gpr[GPR_RDX] = 3;
        vcpu->gpr[GPR_RDI] = 5;
        /* mulx rsp, rsi, rdi */
        assert_int_equal(NATIVE_DO(n, 0xc4, 0xe2, 0xcb, 0xf6, 0xe7), NATIVE_NO_FAULT);
        assert_true(vcpu->gpr[GPR_RSP] == 0 && vcpu->gpr[GPR_RSI] == 15);
    }
}

static void test_host_state_is_left_clean(void **state)
{
    struct native *n = begin(state);
    struct native_state s;
    struct insn insn;
    const uint8_t fld[] = {0xd9, 0xeb}, addps[] = {0x0f, 0x58, 0xc1};
    native_random_state(n, &s, true);
    s.image.mxcsr = 0x7f80 | 0x8000;
    s.image.fcw = 0xf7f;
    native_load_guest(n, &s);
    assert_true(native_decode(n, fld, sizeof(fld), &insn));
    assert_int_equal(native_exec(n, &insn), NATIVE_NO_FAULT);
    assert_true(native_decode(n, addps, sizeof(addps), &insn));
    assert_int_equal(native_exec(n, &insn), NATIVE_NO_FAULT);
    uint32_t mxcsr;
    struct {
        uint32_t control, status, tags, rest[4];
    } environment;
    __asm__ volatile("stmxcsr %0; fnstenv %1; fldenv %1" : "=m"(mxcsr), "=m"(environment));
    assert_int_equal(mxcsr & 0xffc0, MXCSR_INITIAL);
    assert_int_equal(environment.control & 0xffff, FCW_INITIAL);
    assert_int_equal(environment.tags & 0xffff, 0xffff);
}

/* ---- x87 pointers ---- */

static void test_x87_pointers_are_the_guests(void **state)
{
    struct native *n = begin(state);
    struct vcpu *vcpu = n->vm.vcpu;
    struct xstate_image *image = image_of(n);
    native_random_memory(n);
    vcpu->gpr[GPR_RBX] = NATIVE_PAGE + 64;
    vcpu->rip = 0x4242;
    assert_int_equal(NATIVE_DO(n, 0xdb, 0xe3), NATIVE_NO_FAULT); /* fninit */
    assert_int_equal(image->fip, 0);
    assert_int_equal(NATIVE_DO(n, 0xd9, 0x03), NATIVE_NO_FAULT); /* fld dword [rbx] */
    assert_int_equal(image->fip, 0x4242);
    assert_int_equal(image->fdp, NATIVE_PAGE + 64);
    vcpu->rip = 0x5000;
    assert_int_equal(NATIVE_DO(n, 0xd9, 0xe8), NATIVE_NO_FAULT); /* fld1: no operand */
    assert_int_equal(image->fip, 0x5000);
    assert_int_equal(image->fdp, NATIVE_PAGE + 64);
    vcpu->rip = 0x6000;
    assert_int_equal(NATIVE_DO(n, 0x0f, 0xfc, 0xc1), NATIVE_NO_FAULT); /* paddb mm0, mm1 */
    assert_int_equal(NATIVE_DO(n, 0xd9, 0x6b, 0x00), NATIVE_NO_FAULT); /* fldcw: control */
    assert_int_equal(image->fip, 0x5000);
    /* An unmasked exception: #MF comes with the next waiting instruction, FOP is known. */
    assert_int_equal(NATIVE_DO(n, 0xdb, 0xe3), NATIVE_NO_FAULT);
    image->fcw = 0x37b; /* zero divide unmasked */
    assert_int_equal(NATIVE_DO(n, 0xd9, 0xe8), NATIVE_NO_FAULT);
    assert_int_equal(NATIVE_DO(n, 0xd9, 0xee), NATIVE_NO_FAULT); /* fldz */
    assert_int_equal(NATIVE_DO(n, 0xde, 0xf9), NATIVE_NO_FAULT); /* fdivp st(1), st */
    assert_int_equal(image->fop, 0x6f9);
    assert_true(image->fsw & FSW_ES);
    assert_int_equal(NATIVE_DO(n, 0xdf, 0xe0), NATIVE_NO_FAULT); /* fnstsw ax */
    assert_int_equal(NATIVE_DO(n, 0xd9, 0xe8), VECTOR_MF);
    assert_int_equal(NATIVE_DO(n, 0x9b), VECTOR_MF);
    assert_int_equal(NATIVE_DO(n, 0x0f, 0xfc, 0xc1), VECTOR_MF);
    assert_int_equal(NATIVE_DO(n, 0x0f, 0x77), VECTOR_MF);
    assert_int_equal(NATIVE_DO(n, ADDPS), NATIVE_NO_FAULT);
    assert_int_equal(NATIVE_DO(n, 0xdb, 0xe2), NATIVE_NO_FAULT); /* fnclex */
    assert_int_equal(NATIVE_DO(n, 0x9b), NATIVE_NO_FAULT);
}

/* ---- Other modes ---- */

static void test_sixteen_and_thirty_two_bit_code(void **state)
{
    struct native *n = begin(state);
    struct vcpu *vcpu = n->vm.vcpu;
    const float four[4] = {1, 2, 3, 4};
    float sum[4];
    testvm_put(&n->vm, 0x6000, four, sizeof(four));

    testvm_set_mode(&n->vm, MODE_PROTECTED, 4);
    memcpy(image_of(n)->xmm[1], four, 16);
    vcpu->gpr[GPR_RBX] = 0x5000;
    vcpu->gpr[GPR_RSI] = 0x800;
    /* addps xmm1, [ebx + 2*esi]; */
    assert_int_equal(NATIVE_DO(n, 0x0f, 0x58, 0x0c, 0x73), NATIVE_NO_FAULT);
    memcpy(sum, image_of(n)->xmm[1], 16);
    assert_true(sum[0] == 2 && sum[1] == 4 && sum[2] == 6 && sum[3] == 8);
    /* movd eax, xmm1 */
    vcpu->gpr[GPR_RAX] = ~(uint64_t)0;
    assert_int_equal(NATIVE_DO(n, 0x66, 0x0f, 0x7e, 0xc8), NATIVE_NO_FAULT);
    assert_true(vcpu->gpr[GPR_RAX] == 0x40000000);
    if (features_has(&n->vm.features, FEATURE_AVX)) {
        /* vmovd ecx, xmm1 with a W that means nothing here */
        memset(image_of(n)->xmm[1], 0x5a, 16);
        assert_int_equal(NATIVE_DO(n, 0xc4, 0xe1, 0xf9, 0x7e, 0xc9), NATIVE_NO_FAULT);
        assert_true(vcpu->gpr[GPR_RCX] == 0x5a5a5a5a);
    }
    /* fninit; fld dword [0x6004]; fistp word [ebp - 6] */
    assert_int_equal(NATIVE_DO(n, 0xdb, 0xe3), NATIVE_NO_FAULT);
    vcpu->gpr[GPR_RBP] = 0x7000;
    vcpu->seg[SEG_DS].selector = 0x20;
    assert_int_equal(NATIVE_DO(n, 0xd9, 0x05, 0x04, 0x60, 0, 0), NATIVE_NO_FAULT);
    assert_true(image_of(n)->fdp == ((uint64_t)0x20 << 32 | 0x6004));
    assert_int_equal(NATIVE_DO(n, 0xdf, 0x5d, 0xfa), NATIVE_NO_FAULT);
    uint16_t stored;
    assert_int_equal(pmap_read(n->vm.map, 0x6ffa, &stored, 2), STATUS_OK);
    assert_int_equal(stored, 2);

    testvm_set_mode(&n->vm, MODE_PROTECTED, 2);
    vcpu->gpr[GPR_RBX] = 0xffff5000;
    vcpu->gpr[GPR_RSI] = 0xffff1000;
    memcpy(image_of(n)->xmm[1], four, 16);
    /* addps xmm1, [bx + si] */
    assert_int_equal(NATIVE_DO(n, 0x0f, 0x58, 0x08), NATIVE_NO_FAULT);
    memcpy(sum, image_of(n)->xmm[1], 16);
    assert_true(sum[0] == 2 && sum[3] == 8);
    /* crc32 eax, cx has no prefix in 16-bit code */
    vcpu->gpr[GPR_RAX] = 0;
    vcpu->gpr[GPR_RCX] = 0xdead0001;
    assert_int_equal(NATIVE_DO(n, 0xf2, 0x0f, 0x38, 0xf1, 0xc1), NATIVE_NO_FAULT);
    uint64_t by_word = 0;
    __asm__("crc32w %w1, %k0" : "+r"(by_word) : "r"(1));
    assert_true(vcpu->gpr[GPR_RAX] == by_word);

    testvm_set_mode(&n->vm, MODE_REAL, 2);
    assert_int_equal(NATIVE_DO(n, 0xd9, 0xe8), NATIVE_NO_FAULT); /* fld1 */
    const uint8_t vaddps[] = {VADDPS};
    struct insn insn;
    if (native_decode(n, vaddps, sizeof(vaddps), &insn)) {
        int vector = native_exec(n, &insn); /* it is LDS in real mode, not VADDPS */
        assert_true(vector == VECTOR_UD);
    }
}

/* ---- Gathers ---- */

static void test_gather_matches_host(void **state)
{
    struct native *n = begin(state);
    static const struct {
        uint8_t opcode, w, l, index_size, size;
    } cases[] = {
        {0x90, 0, 0, 4, 4}, {0x90, 0, 1, 4, 4}, {0x90, 1, 0, 4, 8}, {0x90, 1, 1, 4, 8},
        {0x91, 0, 0, 8, 4}, {0x91, 0, 1, 8, 4}, {0x91, 1, 0, 8, 8}, {0x91, 1, 1, 8, 8},
        {0x92, 0, 0, 4, 4}, {0x92, 0, 1, 4, 4}, {0x92, 1, 0, 4, 8}, {0x92, 1, 1, 4, 8},
        {0x93, 0, 0, 8, 4}, {0x93, 0, 1, 8, 4}, {0x93, 1, 0, 8, 8}, {0x93, 1, 1, 8, 8},
    };
    if (!features_has(&n->vm.features, FEATURE_AVX2))
        skip();
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        /* xmm1 or ymm1, [rbx + 4 * xmm2 + 8], xmm3; and ret, where the host can execute it */
        const uint8_t code[] = {0xc4,
                                0xe2,
                                (uint8_t)(cases[i].w << 7 | 0x61 | cases[i].l << 2),
                                cases[i].opcode,
                                0x4c,
                                0x93,
                                0x08,
                                0xc3};
        uint8_t *runnable = native_code_page(code, sizeof(code));
        struct insn insn;
        assert_true(native_decode(n, code, 7, &insn));
        for (unsigned round = 0; round < 50; round++) {
            struct native_state host, guest;
            native_random_state(n, &host, true);
            native_random_memory(n);
            for (unsigned e = 0; e < 8; e++) {
                /* Within the page, and in odd rounds one beyond it. */
                int32_t index = -(int32_t)(native_random(n) % 500);
                if ((round & 1) && e == round / 2 % 8)
                    index = 600;
                int64_t wide = index;
                uint8_t *half =
                    e * cases[i].index_size < 16 ? host.image.xmm[2] : host.image.ymm_high[2];
                if (e * cases[i].index_size < 32)
                    memcpy(half + e * cases[i].index_size % 16, &wide, cases[i].index_size);
            }
            guest = host;
            host.gpr[GPR_RBX] = (uintptr_t)n->page + 2048;
            guest.gpr[GPR_RBX] = NATIVE_PAGE + 2048;
            int host_vector = native_run_host(&host, runnable);
            int guest_vector = native_run_guest(n, &guest, &insn);
            assert_int_equal(host_vector, guest_vector);
            host.gpr[GPR_RBX] = guest.gpr[GPR_RBX];
            if (host_vector == NATIVE_NO_FAULT)
                assert_null(native_difference(&host, &guest));
            else
                assert_true(n->vm.vcpu->gpr[GPR_RBX] == NATIVE_PAGE + 2048);
        }
        native_code_free(runnable);
    }
}

static void test_gather_is_restartable(void **state)
{
    struct native *n = begin(state);
    if (!features_has(&n->vm.features, FEATURE_AVX2))
        skip();
    struct native_state s;
    struct insn insn;
    const uint8_t code[] = {0xc4, 0xe2, 0x61, 0x90, 0x0c, 0x93}; /* vpgatherdd xmm1,[rbx+4*xmm2] */
    const uint32_t values[4] = {11, 22, 33, 44}, indices[4] = {0, 1, 16, 2};
    const uint32_t all[4] = {~0u, ~0u, ~0u, ~0u};
    testvm_put(&n->vm, NATIVE_END - 64, values, sizeof(values));
    native_random_state(n, &s, true);
    s.gpr[GPR_RBX] = NATIVE_END - 64;
    memset(s.image.xmm[1], 0xee, 16);
    memcpy(s.image.xmm[2], indices, 16);
    memcpy(s.image.xmm[3], all, 16);
    assert_true(native_decode(n, code, sizeof(code), &insn));
    assert_int_equal(native_run_guest(n, &s, &insn), VECTOR_PF);
    uint32_t result[4], mask[4];
    memcpy(result, s.image.xmm[1], 16);
    memcpy(mask, s.image.xmm[3], 16);
    assert_int_equal(result[0], 11);
    assert_int_equal(result[1], 22);
    assert_int_equal(result[2], 0xeeeeeeee);
    assert_int_equal(mask[0], 0);
    assert_int_equal(mask[1], 0);
    assert_true(mask[2] >> 31 && mask[3] >> 31);
    /* As if the page had been brought in. */
    const uint32_t good = 3;
    memcpy(s.image.xmm[2] + 8, &good, 4);
    assert_int_equal(native_run_guest(n, &s, &insn), NATIVE_NO_FAULT);
    memcpy(result, s.image.xmm[1], 16);
    memcpy(mask, s.image.xmm[3], 16);
    assert_int_equal(result[2], 44);
    assert_int_equal(result[3], 33);
    assert_true(mask[0] == 0 && mask[1] == 0 && mask[2] == 0 && mask[3] == 0);
}

static void test_masked_store_is_all_or_nothing(void **state)
{
    struct native *n = begin(state);
    if (!features_has(&n->vm.features, FEATURE_AVX))
        skip();
    struct native_state s;
    struct insn insn;
    const uint8_t code[] = {0xc4, 0xe2, 0x69, 0x2e, 0x1b}; /* vmaskmovps [rbx], xmm2, xmm3 */
    native_random_memory(n);
    native_random_state(n, &s, true);
    memset(s.image.xmm[2], 0xff, 16);
    s.gpr[GPR_RBX] = NATIVE_END - 8;
    assert_true(native_decode(n, code, sizeof(code), &insn));
    assert_int_equal(native_run_guest(n, &s, &insn), VECTOR_PF);
    assert_true(native_memory_equal(n));
    memset(s.image.xmm[2] + 8, 0, 8);
    assert_int_equal(native_run_guest(n, &s, &insn), NATIVE_NO_FAULT);
    memcpy(n->page + PAGE_SIZE - 8, s.image.xmm[3], 8);
    assert_true(native_memory_equal(n));
}

/* ---- The bound ---- */

static void test_hostile_encodings_stay_bounded(void **state)
{
    struct native *n = begin(state);
    struct native_state s, guest, host;
    unsigned bound = 0;
    native_random_state(n, &s, true);
    for (unsigned i = 0; i < 100000; i++) {
        /* Registers, prefixes, immediates of legacy and VEX instructions with an immediate. */
        static const uint8_t opcodes[] = {0x0f, 0x08, 0x09, 0x0c, 0x0d, 0x0e, 0x44, 0x63, 0x40};
        uint8_t modrm = (uint8_t)(0xc0 | native_random(n) % 64);
        uint8_t rex = (uint8_t)(0x40 | native_random(n) % 16);
        const uint8_t legacy[] = {0x66, rex, 0x0f, 0x3a, opcodes[i % 9], modrm, (uint8_t)(i / 9)};
        const uint8_t vex[] = {0xc5, (uint8_t)(0x81 | native_random(n) % 16 << 3 | i % 3), 0xc6,
                               modrm, (uint8_t)(i / 3)};
        const uint8_t cmpps[] = {0x0f, 0xc2, modrm, (uint8_t)(i / 7)};
        struct insn insn;
        const uint8_t *code = i % 3 == 0 ? legacy : i % 3 == 1 ? vex : cmpps;
        unsigned length = i % 3 == 0 ? sizeof(legacy) : i % 3 == 1 ? sizeof(vex) : sizeof(cmpps);
        if (!native_decode(n, code, length, &insn))
            continue;
        bound++;
        if (i % 64 == 0)
            native_run_guest(n, &s, &insn);
        s.image.mxcsr = MXCSR_INITIAL;
    }
    /* Fill it up whatever came before: every immediate of every instruction that has one. */
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        for (unsigned imm = 0; imm < 256; imm++) {
            const uint8_t legacy[] = {0x66, 0x0f, 0x3a, (uint8_t)opcode, 0xc1, (uint8_t)imm};
            const uint8_t vex[] = {0xc4, 0xe3, 0x75, (uint8_t)opcode, 0xc1, (uint8_t)imm};
            const uint8_t shift[] = {0x66, 0x0f, 0x70 + opcode % 4, 0xd1, (uint8_t)imm};
            const uint8_t shuffle[] = {0xf2, 0x0f, 0x70, 0xd1, (uint8_t)imm};
            struct insn insn;
            bound += native_decode(n, legacy, sizeof(legacy), &insn);
            bound += native_decode(n, vex, sizeof(vex), &insn);
            bound += native_decode(n, shift, sizeof(shift), &insn);
            bound += native_decode(n, shuffle, sizeof(shuffle), &insn);
        }
    }
    struct thunk_set_stats stats, later;
    thunk_set_get_stats(n->vm.thunks, &stats);
    assert_true(bound > 50000);
    assert_true(stats.code_bytes <= 256 * KIB);
    assert_true(stats.thunks <= 4096);
    assert_int_equal(stats.refused, 0);

    /* It is full, and what is new still runs, with and without memory, x87 and exceptions. */
    static const uint8_t news[][8] = {
        {0x66, 0x0f, 0x38, 0x40, 0xca, 0xc3},       /* pmulld xmm1, xmm2 */
        {0x0f, 0x5e, 0x0b, 0xc3},                   /* divps xmm1, [rbx] */
        {0xd9, 0xfe, 0xc3},                         /* fsin */
        {0x66, 0x0f, 0x3a, 0x16, 0xc8, 0x01, 0xc3}, /* pextrd eax, xmm1, 1 */
        {0xdd, 0x1b, 0xc3},                         /* fstp qword [rbx] */
    };
    for (size_t i = 0; i < ARRAY_LENGTH(news); i++) {
        uint8_t *runnable = native_code_page(news[i], sizeof(news[i]));
        struct insn insn;
        assert_true(native_decode(n, news[i], sizeof(news[i]), &insn));
        for (unsigned round = 0; round < 20; round++) {
            native_random_state(n, &host, round % 2);
            native_random_memory(n);
            unsigned offset = 4096 - 16 + (round % 5 == 4 ? 16 : 0);
            guest = host;
            host.gpr[GPR_RBX] = (uintptr_t)n->page + offset;
            guest.gpr[GPR_RBX] = NATIVE_PAGE + offset;
            assert_int_equal(native_run_host(&host, runnable), native_run_guest(n, &guest, &insn));
            host.gpr[GPR_RBX] = guest.gpr[GPR_RBX];
            assert_null(native_difference(&host, &guest));
            assert_true(native_memory_equal(n));
        }
        native_code_free(runnable);
    }
    thunk_set_get_stats(n->vm.thunks, &later);
    assert_true(later.uncached_runs > stats.uncached_runs);
    assert_int_equal(later.code_bytes, stats.code_bytes);
}

/* ---- Several vCPUs ---- */

struct worker {
    struct testvm vm;
    struct thunk_set *shared;
    unsigned seed, wrong, faults;
};

/* Every immediate of pshufd, most of them from the scratch place, and a fault now and then. The
 * thread begins with all signals blocked. */
static void *run_worker(void *context)
{
    struct worker *w = context;
    struct vcpu *vcpu = w->vm.vcpu;
    jmp_buf fault;
    mmu_unpark(&vcpu->mmu);
    vcpu->fault_exit = &fault;
    for (unsigned round = 0; round < 3000; round++) {
        unsigned imm = (round * 7 + w->seed) & 255;
        const uint8_t pshufd[] = {0x66, 0x0f, 0x70, 0xca, (uint8_t)imm}; /* xmm1, xmm2, imm */
        const uint8_t divps[] = {0x0f, 0x5e, 0xd9};                      /* xmm3, xmm1 */
        struct xstate_image *image = xstate_of(vcpu);
        struct insn insn;
        bool ends_block;
        const uint32_t lanes[4] = {round, round + 1, round + 2, round + 3};
        uint32_t result[4];
        memcpy(image->xmm[2], lanes, 16);
        if (insn_decode(vcpu, pshufd, sizeof(pshufd), &insn, &ends_block) != INSN_DECODED)
            w->wrong++;
        else
            insn.exec(vcpu, &insn);
        memcpy(result, image->xmm[1], 16);
        for (unsigned lane = 0; lane < 4; lane++)
            w->wrong += result[lane] != lanes[imm >> (2 * lane) & 3];
        if (round % 16 != 0)
            continue;
        memset(image->xmm[1], 0, 16);
        memset(image->xmm[3], 0, 16);
        image->mxcsr = 0; /* 0/0, unmasked */
        insn_decode(vcpu, divps, sizeof(divps), &insn, &ends_block);
        if (setjmp(fault) == 0)
            insn.exec(vcpu, &insn);
        else
            w->faults += vcpu->fault.vector == VECTOR_XM;
    }
    mmu_park(&vcpu->mmu);
    return NULL;
}

static void fill_set(struct native *n)
{
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        for (unsigned imm = 0; imm < 256; imm++) {
            const uint8_t code[] = {0xc4, 0xe3, 0x75, (uint8_t)opcode, 0xc1, (uint8_t)imm};
            struct insn insn;
            native_decode(n, code, sizeof(code), &insn);
        }
    }
}

static void test_vcpus_share_a_set(void **state)
{
    struct native *n = begin(state);
    static struct worker workers[2];
    pthread_t threads[2];
    sigset_t all, before;
    fill_set(n);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (unsigned i = 0; i < 2; i++) {
        testvm_create(&workers[i].vm, 4 * MIB);
        testvm_set_mode(&workers[i].vm, MODE_LONG, 8);
        workers[i].seed = i * 100;
        workers[i].shared = workers[i].vm.vcpu->thunks;
        workers[i].vm.vcpu->thunks = n->vm.thunks;
        workers[i].wrong = workers[i].faults = 0;
        assert_int_equal(pthread_create(&threads[i], NULL, run_worker, &workers[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        workers[i].vm.vcpu->thunks = workers[i].shared;
        testvm_destroy(&workers[i].vm);
        assert_int_equal(workers[i].wrong, 0);
        assert_int_equal(workers[i].faults, 3000 / 16 + 1);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (features_has(&n->vm.features, FEATURE_AVX)) { /* else it may not have been full */
        struct thunk_set_stats stats;
        thunk_set_get_stats(n->vm.thunks, &stats);
        assert_true(stats.uncached_runs > 1000);
    }
}

static void test_random_numbers(void **state)
{
    struct native *n = begin(state);
    struct vcpu *vcpu = n->vm.vcpu;
    if (!features_has(&n->vm.features, FEATURE_RDRAND))
        skip();
    vcpu->gpr[GPR_R12] = 0;
    vcpu->rflags = FLAG_FIXED | FLAG_ZF;
    assert_int_equal(NATIVE_DO(n, 0x49, 0x0f, 0xc7, 0xf4), NATIVE_NO_FAULT); /* rdrand r12 */
    assert_false(vcpu->rflags & FLAG_ZF);
    assert_true(!(vcpu->rflags & FLAG_CF) == (vcpu->gpr[GPR_R12] == 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_refuses_what_is_not_listed, teardown),
        cmocka_unit_test_teardown(test_refuses_what_is_not_offered, teardown),
        cmocka_unit_test_teardown(test_control_bits_forbid, teardown),
        cmocka_unit_test_teardown(test_simd_exception_without_osxmmexcpt_is_undefined, teardown),
        cmocka_unit_test_teardown(test_stack_pointer_is_an_ordinary_register, teardown),
        cmocka_unit_test_teardown(test_host_state_is_left_clean, teardown),
        cmocka_unit_test_teardown(test_x87_pointers_are_the_guests, teardown),
        cmocka_unit_test_teardown(test_sixteen_and_thirty_two_bit_code, teardown),
        cmocka_unit_test_teardown(test_gather_matches_host, teardown),
        cmocka_unit_test_teardown(test_gather_is_restartable, teardown),
        cmocka_unit_test_teardown(test_masked_store_is_all_or_nothing, teardown),
        cmocka_unit_test_teardown(test_hostile_encodings_stay_bounded, teardown),
        cmocka_unit_test_teardown(test_vcpus_share_a_set, teardown),
        cmocka_unit_test_teardown(test_random_numbers, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
