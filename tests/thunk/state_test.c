/* XSAVE and family: layout, header checks, init optimization, round trips; and that what the host's
 * XRSTOR makes of our images is what we mean. */

#include "native.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define AREA 0x7000u /* 64-byte aligned guest memory */

/* [rbx] */
#define XSAVE      0x0f, 0xae, 0x23
#define XSAVE64    0x48, 0x0f, 0xae, 0x23
#define XSAVEOPT64 0x48, 0x0f, 0xae, 0x33
#define XSAVEC64   0x48, 0x0f, 0xc7, 0x23
#define XRSTOR     0x0f, 0xae, 0x2b
#define XRSTOR64   0x48, 0x0f, 0xae, 0x2b

static struct native *begin(void **state)
{
    static struct native n;
    native_create(&n);
    *state = &n;
    if (!features_has(&n.vm.features, FEATURE_AVX)) {
        native_destroy(&n);
        *state = NULL;
        skip();
    }
    return &n;
}

static int teardown(void **state)
{
    if (*state != NULL)
        native_destroy(*state);
    return 0;
}

static void ask(struct native *n, uint64_t mask, uint64_t address)
{
    struct vcpu *vcpu = n->vm.vcpu;
    vcpu->gpr[GPR_RAX] = mask;
    vcpu->gpr[GPR_RDX] = 0;
    vcpu->gpr[GPR_RBX] = address;
}

static void get_area(struct native *n, struct xstate_image *area)
{
    assert_int_equal(pmap_read(n->vm.map, AREA, area, sizeof(*area)), STATUS_OK);
}

static void put_area(struct native *n, const struct xstate_image *area)
{
    testvm_put(&n->vm, AREA, area, sizeof(*area));
}

static void fill_area(struct native *n, uint8_t byte)
{
    struct xstate_image area;
    memset(&area, byte, sizeof(area));
    memset(&area.xstate_bv, 0, 64);
    put_area(n, &area);
}

static void test_round_trip(void **state)
{
    struct native *n = begin(state);
    for (unsigned i = 0; i < 100; i++) {
        struct native_state before, other, after;
        native_random_state(n, &before, i % 2);
        native_random_state(n, &other, i % 3);
        bool with_pointers = !n->vm.features.amd || (before.image.fsw & FSW_ES);
        before.image.xstate_bv = 7;
        before.image.fip = 0x123456789a;
        before.image.fdp = 0x23456789ab;
        native_load_guest(n, &before);
        fill_area(n, (uint8_t)i);
        ask(n, 7, AREA);
        if (i % 4 < 3)
            assert_int_equal(NATIVE_DO(n, XSAVE64), NATIVE_NO_FAULT);
        else if (features_has(&n->vm.features, FEATURE_XSAVEC))
            assert_int_equal(NATIVE_DO(n, XSAVEC64), NATIVE_NO_FAULT);
        else
            continue;
        native_load_guest(n, &other);
        ask(n, 7, AREA);
        assert_int_equal(NATIVE_DO(n, XRSTOR64), NATIVE_NO_FAULT);
        native_store_guest(n, &after);
        memcpy(after.gpr, before.gpr, sizeof(after.gpr));
        after.rflags = before.rflags;
        assert_null(native_difference(&before, &after));
        assert_true(after.image.fip == (with_pointers ? before.image.fip : 0));
        assert_true(after.image.fdp == (with_pointers ? before.image.fdp : 0));

        /* The host agrees about the layout. */
        struct native_state host = before;
        get_area(n, &host.image);
        if (!(host.image.xcomp_bv >> 63)) {
            assert_int_equal(native_run_host(&host, (const void *)(uintptr_t)host_nop),
                             NATIVE_NO_FAULT);
            assert_null(native_difference(&before, &host));
        }
    }
}

static void test_saves_only_what_is_asked_for(void **state)
{
    struct native *n = begin(state);
    struct native_state s;
    struct xstate_image area;
    native_random_state(n, &s, false);
    native_load_guest(n, &s);

    fill_area(n, 0xcc);
    ask(n, XSTATE_SSE, AREA);
    assert_int_equal(NATIVE_DO(n, XSAVE64), NATIVE_NO_FAULT);
    get_area(n, &area);
    assert_int_equal(area.fcw, 0xcccc);
    assert_int_equal(area.st[0][0], 0xcc);
    assert_int_equal(area.mxcsr, s.image.mxcsr);
    assert_memory_equal(area.xmm, s.image.xmm, sizeof(area.xmm));
    assert_int_equal(area.reserved1[0], 0xcc);
    assert_int_equal(area.ymm_high[0][0], 0xcc);
    assert_int_equal(area.xstate_bv, XSTATE_SSE);

    /* MXCSR goes with AVX too; XSTATE_BV keeps the bits that were not asked for. */
    area.xstate_bv = 0x11;
    area.mxcsr = 0;
    put_area(n, &area);
    ask(n, XSTATE_AVX, AREA);
    assert_int_equal(NATIVE_DO(n, XSAVE64), NATIVE_NO_FAULT);
    get_area(n, &area);
    assert_int_equal(area.xstate_bv, 0x11 | XSTATE_AVX);
    assert_int_equal(area.mxcsr, s.image.mxcsr);
    assert_memory_equal(area.ymm_high, s.image.ymm_high, sizeof(area.ymm_high));

    /* Bits of EDX:EAX that XCR0 lacks are ignored. */
    ask(n, ~(uint64_t)0, AREA);
    n->vm.vcpu->gpr[GPR_RDX] = ~(uint64_t)0;
    n->vm.vcpu->xcr0 = 3;
    fill_area(n, 0xcc);
    assert_int_equal(NATIVE_DO(n, XSAVE64), NATIVE_NO_FAULT);
    get_area(n, &area);
    assert_int_equal(area.xstate_bv, 3);
    assert_int_equal(area.ymm_high[0][0], 0xcc);
}

static void test_init_optimization(void **state)
{
    struct native *n = begin(state);
    struct xstate_image area;
    struct xstate_image *image = xstate_of(n->vm.vcpu);
    fill_area(n, 0xcc);
    area = (struct xstate_image){0};
    put_area(n, &area);
    /* XSTATE_BV 0: everything initial. The standard form still takes MXCSR from memory. */
    area.mxcsr = 0x1fa0;
    put_area(n, &area);
    ask(n, 7, AREA);
    memset(image->xmm, 0x77, sizeof(image->xmm));
    assert_int_equal(NATIVE_DO(n, XRSTOR64), NATIVE_NO_FAULT);
    assert_int_equal(image->fcw, FCW_INITIAL);
    assert_int_equal(image->xmm[3][5], 0);
    assert_int_equal(image->mxcsr, 0x1fa0);
    assert_int_equal(image->xstate_bv & 5, 0);

    if (features_has(&n->vm.features, FEATURE_XSAVEOPT)) {
        image->mxcsr = MXCSR_INITIAL;
        fill_area(n, 0xcc);
        ask(n, 7, AREA);
        assert_int_equal(NATIVE_DO(n, XSAVEOPT64), NATIVE_NO_FAULT);
        get_area(n, &area);
        assert_int_equal(area.xstate_bv, 0);
        assert_int_equal(area.fcw, 0xcccc);
        assert_int_equal(area.xmm[0][0], 0xcc);
        assert_int_equal(area.mxcsr, MXCSR_INITIAL);
    }
    if (features_has(&n->vm.features, FEATURE_XSAVEC)) {
        fill_area(n, 0xcc);
        ask(n, 7, AREA);
        assert_int_equal(NATIVE_DO(n, XSAVEC64), NATIVE_NO_FAULT);
        get_area(n, &area);
        assert_int_equal(area.xstate_bv, 0);
        assert_true(area.xcomp_bv == (bit(63) | 7));
        assert_int_equal(area.mxcsr, 0xcccccccc);
        /* MXCSR counts as SSE state here, and comes back as initial with it. */
        image->mxcsr = 0x1f81;
        assert_int_equal(NATIVE_DO(n, XSAVEC64), NATIVE_NO_FAULT);
        get_area(n, &area);
        assert_int_equal(area.xstate_bv, XSTATE_SSE);
        assert_int_equal(area.mxcsr, 0x1f81);
        area.xstate_bv = 0;
        put_area(n, &area);
        assert_int_equal(NATIVE_DO(n, XRSTOR64), NATIVE_NO_FAULT);
        assert_int_equal(image->mxcsr, MXCSR_INITIAL);
    }
    /* Instructions bring their component into use. */
    assert_int_equal(NATIVE_DO(n, 0x0f, 0x28, 0xc8), NATIVE_NO_FAULT); /* movaps */
    assert_int_equal(NATIVE_DO(n, 0xd9, 0xe8), NATIVE_NO_FAULT);       /* fld1 */
    assert_int_equal(image->xstate_bv, XSTATE_X87 | XSTATE_SSE);
    assert_int_equal(NATIVE_DO(n, 0xc5, 0xf4, 0x58, 0xc2), NATIVE_NO_FAULT); /* vaddps ymm */
    assert_int_equal(image->xstate_bv, 7);
    assert_int_equal(NATIVE_DO(n, 0xc5, 0xf8, 0x77), NATIVE_NO_FAULT); /* vzeroupper */
    assert_int_equal(image->xstate_bv, XSTATE_X87 | XSTATE_SSE);
}

static void expect_header_fault(struct native *n, const struct xstate_image *area)
{
    struct native_state before, after;
    put_area(n, area);
    ask(n, 7, AREA);
    native_store_guest(n, &before);
    assert_int_equal(NATIVE_DO(n, XRSTOR64), VECTOR_GP);
    assert_int_equal(n->vm.vcpu->fault.error_code, 0);
    native_store_guest(n, &after);
    assert_null(native_difference(&before, &after));
}

static void test_header_is_checked(void **state)
{
    struct native *n = begin(state);
    struct xstate_image good = {.xstate_bv = 7, .mxcsr = MXCSR_INITIAL, .fcw = FCW_INITIAL}, bad;
    put_area(n, &good);
    ask(n, 7, AREA);
    assert_int_equal(NATIVE_DO(n, XRSTOR64), NATIVE_NO_FAULT);

    bad = good;
    bad.xstate_bv = 8; /* not in XCR0 */
    expect_header_fault(n, &bad);
    bad = good;
    bad.xcomp_bv = 1; /* not compacted, and not 0 */
    expect_header_fault(n, &bad);
    bad = good;
    bad.reserved2[0] = 1; /* bytes 16-23 */
    expect_header_fault(n, &bad);
    bad = good;
    bad.mxcsr = 0x10000;
    expect_header_fault(n, &bad);
    bad.xstate_bv = 0; /* even where the registers are initial */
    expect_header_fault(n, &bad);
    bad = good;
    bad.reserved2[3] = 1; /* the standard form does not look there */
    put_area(n, &bad);
    assert_int_equal(NATIVE_DO(n, XRSTOR64), NATIVE_NO_FAULT);

    bad = good;
    bad.xcomp_bv = bit(63) | 15; /* not in XCR0 */
    expect_header_fault(n, &bad);
    bad.xcomp_bv = bit(63) | 3; /* XSTATE_BV has more */
    expect_header_fault(n, &bad);
    bad.xcomp_bv = bit(63) | 7;
    bad.reserved2[5] = 1;
    expect_header_fault(n, &bad);
    bad.reserved2[5] = 0;
    put_area(n, &bad);
    assert_int_equal(NATIVE_DO(n, XRSTOR64), features_has(&n->vm.features, FEATURE_XSAVEC)
                                                 ? NATIVE_NO_FAULT
                                                 : (int)VECTOR_GP);
}

static void test_alignment_and_availability(void **state)
{
    struct native *n = begin(state);
    struct mmu *mmu = &n->vm.vcpu->mmu;
    uint64_t cr0 = mmu->cr0, cr4 = mmu->cr4;
    ask(n, 7, AREA + 16);
    assert_int_equal(NATIVE_DO(n, XSAVE64), VECTOR_GP);
    assert_int_equal(NATIVE_DO(n, XRSTOR64), VECTOR_GP);
    ask(n, 7, AREA + 8);
    assert_int_equal(NATIVE_DO(n, 0x0f, 0xae, 0x03), VECTOR_GP); /* fxsave */
    assert_int_equal(NATIVE_DO(n, 0x0f, 0xae, 0x0b), VECTOR_GP); /* fxrstor */
    ask(n, 7, AREA);
    mmu->cr0 = cr0 | CR0_TS;
    assert_int_equal(NATIVE_DO(n, XSAVE64), VECTOR_NM);
    assert_int_equal(NATIVE_DO(n, 0x0f, 0xae, 0x03), VECTOR_NM);
    assert_int_equal(NATIVE_DO(n, 0x0f, 0xae, 0x13), VECTOR_NM); /* ldmxcsr */
    mmu->cr0 = cr0 | CR0_EM;
    assert_int_equal(NATIVE_DO(n, 0x0f, 0xae, 0x03), VECTOR_NM);
    assert_int_equal(NATIVE_DO(n, 0x0f, 0xae, 0x13), VECTOR_UD);
    mmu->cr0 = cr0;
    mmu->cr4 = cr4 & ~(uint64_t)CR4_OSXSAVE;
    assert_int_equal(NATIVE_DO(n, XSAVE64), VECTOR_UD);
    assert_int_equal(NATIVE_DO(n, XRSTOR64), VECTOR_UD);
    mmu->cr4 = cr4;
    /* Reaches over the end of what is mapped: nothing is written. */
    native_random_memory(n);
    ask(n, 7, NATIVE_END - 640);
    assert_int_equal(NATIVE_DO(n, XSAVE64), VECTOR_PF);
    assert_true(native_memory_equal(n));
    ask(n, 3, NATIVE_END - 640);
    assert_int_equal(NATIVE_DO(n, XSAVE64), NATIVE_NO_FAULT);
    struct insn insn;
    assert_false(native_decode(n, (const uint8_t[]){0x0f, 0xc7, 0x2b}, 3, &insn)); /* xsaves */
    assert_false(native_decode(n, (const uint8_t[]){0x0f, 0xc7, 0x1b}, 3, &insn)); /* xrstors */
}

static void test_thirty_two_bit_code_sees_eight_registers(void **state)
{
    struct native *n = begin(state);
    struct native_state s;
    struct xstate_image area;
    n->vm.features.amd = false; /* pointers whatever FSW says */
    testvm_set_mode(&n->vm, MODE_PROTECTED, 4);
    native_random_state(n, &s, false);
    s.image.fip = (uint64_t)0x10 << 32 | 0x12345678;
    native_load_guest(n, &s);
    fill_area(n, 0xcc);
    ask(n, 7, AREA);
    assert_int_equal(NATIVE_DO(n, XSAVE), NATIVE_NO_FAULT);
    get_area(n, &area);
    assert_memory_equal(area.xmm, s.image.xmm, 128);
    assert_int_equal(area.xmm[8][0], 0xcc);
    assert_memory_equal(area.ymm_high, s.image.ymm_high, 128);
    assert_int_equal(area.ymm_high[8][0], 0xcc);
    assert_true(area.fip == s.image.fip);
    /* Initialising them leaves the others alone, and in use. */
    memset(&area, 0, sizeof(area));
    area.mxcsr = MXCSR_INITIAL;
    put_area(n, &area);
    assert_int_equal(NATIVE_DO(n, XRSTOR), NATIVE_NO_FAULT);
    const struct xstate_image *image = xstate_of(n->vm.vcpu);
    assert_int_equal(image->xmm[7][0] | image->ymm_high[7][15], 0);
    assert_memory_equal(image->xmm[8], s.image.xmm[8], 128);
    assert_memory_equal(image->ymm_high[8], s.image.ymm_high[8], 128);
    assert_int_equal(image->xstate_bv & 6, 6);

    fill_area(n, 0xcc);
    assert_int_equal(NATIVE_DO(n, 0x0f, 0xae, 0x03), NATIVE_NO_FAULT); /* fxsave */
    get_area(n, &area);
    assert_int_equal(area.xmm[7][0], 0);
    assert_int_equal(area.xmm[8][0], 0xcc);
}

/* The environment's four formats; the two of protected mode are compared with the host elsewhere.
 */
static void test_environment_formats(void **state)
{
    struct native *n = begin(state);
    struct vcpu *vcpu = n->vm.vcpu;
    uint8_t out[28];
    testvm_set_mode(&n->vm, MODE_REAL, 2);
    struct xstate_image *image = xstate_of(vcpu);
    assert_int_equal(NATIVE_DO(n, 0xdb, 0xe3), NATIVE_NO_FAULT);
    vcpu->gpr[GPR_RBX] = AREA;
    image->fip = (uint64_t)0x1234 << 32 | 0x5678; /* linear 0x179b8 */
    image->fdp = (uint64_t)0xf000 << 32 | 0xfff0; /* linear 0xffff0 */
    image->fop = 0x123;
    assert_int_equal(NATIVE_DO(n, 0xd9, 0x37), NATIVE_NO_FAULT); /* fnstenv [bx], 14 bytes */
    assert_int_equal(pmap_read(n->vm.map, AREA, out, sizeof(out)), STATUS_OK);
    const uint8_t narrow[14] = {0x7f, 0x03, 0,    0,    0xff, 0xff, 0xb8,
                                0x79, 0x23, 0x11, 0xf0, 0xff, 0,    0xf0};
    assert_memory_equal(out, narrow, sizeof(narrow));
    assert_int_equal(NATIVE_DO(n, 0x66, 0xd9, 0x37), NATIVE_NO_FAULT); /* 28 bytes */
    assert_int_equal(pmap_read(n->vm.map, AREA, out, sizeof(out)), STATUS_OK);
    const uint8_t wide[28] = {0x7f, 0x03, 0xff, 0xff, 0,    0,    0xff, 0xff, 0xff, 0xff,
                              0xff, 0xff, 0xb8, 0x79, 0xff, 0xff, 0x23, 0x11, 0,    0,
                              0xf0, 0xff, 0xff, 0xff, 0,    0xf0, 0,    0};
    assert_memory_equal(out, wide, sizeof(wide));
    assert_int_equal(NATIVE_DO(n, 0x66, 0xd9, 0x27), NATIVE_NO_FAULT); /* fldenv */
    assert_true(image->fip == 0x179b8 && image->fdp == 0xffff0 && image->fop == 0x123);

    testvm_set_mode(&n->vm, MODE_PROTECTED, 4);
    assert_int_equal(NATIVE_DO(n, 0xdb, 0xe3), NATIVE_NO_FAULT);
    vcpu->gpr[GPR_RBX] = AREA;
    image->fip = (uint64_t)0x10 << 32 | 0x12345678;
    image->fdp = (uint64_t)0x20 << 32 | 0x9abcdef0;
    image->fop = 0x765;
    assert_int_equal(NATIVE_DO(n, 0xd9, 0x33), NATIVE_NO_FAULT);
    assert_int_equal(pmap_read(n->vm.map, AREA, out, sizeof(out)), STATUS_OK);
    const uint8_t protected[16] = {0x78, 0x56, 0x34, 0x12, 0x10, 0, 0x65, 0x07,
                                   0xf0, 0xde, 0xbc, 0x9a, 0x20, 0, 0xff, 0xff};
    assert_memory_equal(out + 12, protected, sizeof(protected));
    image->fip = image->fdp = 0;
    image->fop = 0;
    assert_int_equal(NATIVE_DO(n, 0xd9, 0x23), NATIVE_NO_FAULT);
    assert_true(image->fip == ((uint64_t)0x10 << 32 | 0x12345678));
    assert_true(image->fdp == ((uint64_t)0x20 << 32 | 0x9abcdef0));
    assert_int_equal(image->fop, 0x765);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_round_trip, teardown),
        cmocka_unit_test_teardown(test_saves_only_what_is_asked_for, teardown),
        cmocka_unit_test_teardown(test_init_optimization, teardown),
        cmocka_unit_test_teardown(test_header_is_checked, teardown),
        cmocka_unit_test_teardown(test_alignment_and_availability, teardown),
        cmocka_unit_test_teardown(test_thirty_two_bit_code_sees_eight_registers, teardown),
        cmocka_unit_test_teardown(test_environment_formats, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
