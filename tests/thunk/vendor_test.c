/* Where Intel's CPUs and AMD's differ the guest's is what its vendor says, which is the host's; see
 * docs/testing.md. Here a guest of either vendor on whatever host. Only SHA operands that are not
 * aligned take a host of AMD's, as no other would load them. */

#include "native.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define FLD_M32   0xd9, 0x03 /* fld dword [rbx] */
#define FNINIT    0xdb, 0xe3
#define FXSAVE64  0x48, 0x0f, 0xae, 0x03
#define XSAVE64   0x48, 0x0f, 0xae, 0x23
#define MOVUPS    0x0f, 0x10, 0x0b       /* movups xmm1, [rbx] */
#define VMOVUPS_Y 0xc5, 0xfc, 0x10, 0x0b /* vmovups ymm1, [rbx] */

/* Not a cmocka fixture: cmocka puts its own signal handlers in place between that and the test. */
static void begin(struct native *n, bool amd)
{
    native_create(n);
    n->vm.features.amd = amd;
    n->vm.vcpu->gpr[GPR_RBX] = NATIVE_PAGE;
}

static bool decodes(struct native *n, uint8_t modrm)
{
    struct insn insn;
    return native_decode(n, (const uint8_t[]){0x0f, 0x0d, modrm}, 3, &insn);
}

static void test_prefetch_of_a_register(void **state)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        struct native n;
        begin(&n, amd);
        assert_true(decodes(&n, 0x08)); /* prefetchw [rax] */
        assert_int_equal(decodes(&n, 0xc0), !amd);
        native_destroy(&n);
    }
}

static void test_pause_with_rex_b(void **state)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        struct native n;
        begin(&n, amd);
        uint64_t *gpr = n.vm.vcpu->gpr;
        gpr[GPR_RAX] = 1;
        gpr[8] = 2;
        assert_int_equal(NATIVE_DO(&n, 0xf3, 0x90), NATIVE_NO_FAULT);
        assert_true(gpr[GPR_RAX] == 1 && gpr[8] == 2);
        assert_int_equal(NATIVE_DO(&n, 0xf3, 0x41, 0x90), NATIVE_NO_FAULT);
        assert_true(gpr[GPR_RAX] == (amd ? 2 : 1) && gpr[8] == (amd ? 1 : 2));
        native_destroy(&n);
    }
}

static void test_sha_operand_alignment(void **state)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        struct native n;
        native_create(&n);
        bool possible = features_has(&n.vm.features, FEATURE_SHA) && (!amd || n.vm.features.amd);
        native_destroy(&n);
        if (!possible)
            continue;
        begin(&n, amd);
        n.vm.vcpu->gpr[GPR_RBX] = NATIVE_PAGE + 1;
        /* sha1msg1 xmm1, [rbx]; addps xmm1, [rbx] */
        assert_int_equal(NATIVE_DO(&n, 0x0f, 0x38, 0xc9, 0x0b), amd ? NATIVE_NO_FAULT : VECTOR_GP);
        assert_int_equal(NATIVE_DO(&n, 0x0f, 0x58, 0x0b), VECTOR_GP);
        native_destroy(&n);
    }
}

/* What comes first where a store's result is an unmasked exception and its page is not there. */
static void test_page_fault_of_a_failing_store(void **state)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        struct native n;
        begin(&n, amd);
        struct xstate_image *image = xstate_of(n.vm.vcpu);
        n.vm.vcpu->gpr[GPR_RBX] = NATIVE_END;
        assert_int_equal(NATIVE_DO(&n, FNINIT), NATIVE_NO_FAULT);
        image->fcw = FCW_INITIAL & ~1u; /* invalid operation: the stack is empty */
        /* fstp qword [rbx] */
        assert_int_equal(NATIVE_DO(&n, 0xdd, 0x1b), amd ? VECTOR_PF : NATIVE_NO_FAULT);
        assert_int_equal((image->fsw & FSW_ES) != 0, !amd);

        if (features_has(&n.vm.features, FEATURE_F16C)) {
            const uint32_t signaling = 0x7f800001;
            memcpy(image->xmm[1], &signaling, sizeof(signaling));
            image->mxcsr = MXCSR_INITIAL & ~0x80u;
            /* vcvtps2ph [rbx], xmm1, 0 */
            assert_int_equal(NATIVE_DO(&n, 0xc4, 0xe3, 0x79, 0x1d, 0x0b, 0),
                             amd ? VECTOR_PF : VECTOR_XM);
        }
        native_destroy(&n);
    }
}

static uint64_t saved(struct native *n, size_t offset, size_t size)
{
    uint64_t value = 0;
    assert_int_equal(pmap_read(n->vm.map, NATIVE_PAGE + 512 + offset, &value, size), STATUS_OK);
    return value;
}

/* Does the image that has been stored last have the pointers of an FLD of [NATIVE_PAGE]? */
static bool has_pointers(struct native *n)
{
    bool fip = saved(n, offsetof(struct xstate_image, fip), 8) != 0;
    bool fdp = saved(n, offsetof(struct xstate_image, fdp), 8) == NATIVE_PAGE;
    assert_int_equal(fip, fdp);
    return fip;
}

static void test_x87_pointers_in_images(void **state)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        struct native n;
        begin(&n, amd);
        struct vcpu *vcpu = n.vm.vcpu;
        const struct xstate_image *image = xstate_of(vcpu);
        bool has_xsave = features_has(&n.vm.features, FEATURE_XSAVE);
        vcpu->rip = 0x4242;
        assert_int_equal(NATIVE_DO(&n, FNINIT), NATIVE_NO_FAULT);
        assert_int_equal(NATIVE_DO(&n, FLD_M32), NATIVE_NO_FAULT);
        if (amd)
            assert_int_equal(image->fop, 0x103);
        vcpu->gpr[GPR_RBX] = NATIVE_PAGE + 512;
        vcpu->gpr[GPR_RAX] = 7;
        vcpu->gpr[GPR_RDX] = 0;
        assert_int_equal(NATIVE_DO(&n, FXSAVE64), NATIVE_NO_FAULT);
        assert_int_equal(has_pointers(&n), !amd);
        if (has_xsave) {
            assert_int_equal(NATIVE_DO(&n, XSAVE64), NATIVE_NO_FAULT);
            assert_int_equal(has_pointers(&n), !amd);
        }
        /* The environment has them on all. */
        assert_int_equal(NATIVE_DO(&n, 0xd9, 0x33), NATIVE_NO_FAULT); /* fnstenv [rbx] */
        assert_int_equal(saved(&n, 12, 4), 0x4242);
        assert_int_equal(saved(&n, 20, 4), NATIVE_PAGE);
        assert_int_equal(saved(&n, 18, 2), amd ? 0x103 : image->fop);

        /* An unmasked exception that is pending. */
        xstate_of(vcpu)->fcw = FCW_INITIAL & ~1u;
        vcpu->gpr[GPR_RBX] = NATIVE_PAGE;
        assert_int_equal(NATIVE_DO(&n, 0xd8, 0x03), NATIVE_NO_FAULT); /* fadd dword [rbx] */
        xstate_of(vcpu)->fsw |= FSW_ES;
        vcpu->gpr[GPR_RBX] = NATIVE_PAGE + 512;
        assert_int_equal(NATIVE_DO(&n, FXSAVE64), NATIVE_NO_FAULT);
        assert_true(has_pointers(&n));
        if (has_xsave) {
            assert_int_equal(NATIVE_DO(&n, XSAVE64), NATIVE_NO_FAULT);
            assert_true(has_pointers(&n));
        }
        native_destroy(&n);
    }
}

static int at(struct native *n, uint64_t address, const uint8_t *code, unsigned length)
{
    n->vm.vcpu->gpr[GPR_RBX] = address;
    return native_do(n, code, length);
}

/* #AC of vectors, which Intel's CPUs never raise, and of state images. */
static void test_alignment_checks(void **state)
{
    static const uint8_t movups[] = {MOVUPS}, vmovups[] = {VMOVUPS_Y}, fxsave[] = {FXSAVE64},
                         xsave[] = {XSAVE64}, addps[] = {0x0f, 0x58, 0x0b};
    for (unsigned amd = 0; amd < 2; amd++) {
        struct native n;
        begin(&n, amd);
        n.vm.vcpu->privilege = MMU_USER_CHECKED;
        const int vector = amd ? VECTOR_AC : NATIVE_NO_FAULT;
        assert_int_equal(at(&n, NATIVE_PAGE + 8, movups, sizeof(movups)), vector);
        assert_int_equal(at(&n, NATIVE_PAGE + 16, movups, sizeof(movups)), NATIVE_NO_FAULT);
        assert_int_equal(at(&n, NATIVE_PAGE + 8, addps, sizeof(addps)), VECTOR_GP);
        assert_int_equal(at(&n, NATIVE_PAGE + 1, fxsave, sizeof(fxsave)), VECTOR_AC);
        assert_int_equal(at(&n, NATIVE_PAGE + 4, fxsave, sizeof(fxsave)), VECTOR_GP);
        if (features_has(&n.vm.features, FEATURE_AVX)) {
            assert_int_equal(at(&n, NATIVE_PAGE + 8, vmovups, sizeof(vmovups)), vector);
            assert_int_equal(at(&n, NATIVE_PAGE + 16, vmovups, sizeof(vmovups)), NATIVE_NO_FAULT);
            assert_int_equal(at(&n, NATIVE_PAGE + 1, xsave, sizeof(xsave)),
                             amd ? VECTOR_GP : VECTOR_AC);
        }
        native_destroy(&n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefetch_of_a_register),
        cmocka_unit_test(test_pause_with_rex_b),
        cmocka_unit_test(test_sha_operand_alignment),
        cmocka_unit_test(test_page_fault_of_a_failing_store),
        cmocka_unit_test(test_x87_pointers_in_images),
        cmocka_unit_test(test_alignment_checks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
