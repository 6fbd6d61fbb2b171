/*
 * Alignment checks: #AC at CPL 3 with CR0.AM and RFLAGS.AC.
 *
 * What is expected was measured on an Intel CPU, and on an AMD one. Where the SDM leaves a choice
 * (vectors that need not be aligned, FXSAVE, gathers) that is the choice taken.
 */

#include "fixture.h"

/* RBX is the address; UD2 is reached where nothing was raised. */
#define OPERAND(name, text) GUEST(name, "64", text "; ud2")

OPERAND(load_2, "mov (%rbx), %ax");
OPERAND(load_8, "mov (%rbx), %rax");
OPERAND(add_4, "lock addl $1, (%rbx)");
OPERAND(movss, "movss (%rbx), %xmm0");
OPERAND(movsd_store, "movsd %xmm0, (%rbx)");
OPERAND(pmovzxbd, "pmovzxbd (%rbx), %xmm0");
OPERAND(pinsrw, "pinsrw $1, (%rbx), %xmm0");
OPERAND(movups, "movups (%rbx), %xmm0");
OPERAND(movdqu_store, "movdqu %xmm0, (%rbx)");
OPERAND(movaps, "movaps (%rbx), %xmm0");
OPERAND(lddqu, "lddqu (%rbx), %xmm0");
OPERAND(pcmpistri, "pcmpistri $0, (%rbx), %xmm0");
OPERAND(cmpxchg16b, "cmpxchg16b (%rbx)");
OPERAND(fld_10, "fldt (%rbx)");
OPERAND(fstp_10, "fninit; fldz; fstpt (%rbx)");
OPERAND(fnstenv, "fnstenv (%rbx)");
OPERAND(fnstenv_16, "data16 fnstenv (%rbx)");
OPERAND(fnsave, "fnsave (%rbx)");
OPERAND(movq_mmx, "movq (%rbx), %mm0");
OPERAND(stmxcsr, "stmxcsr (%rbx)");
OPERAND(fxsave, "fxsave (%rbx)");
OPERAND(prefetch, "prefetcht0 (%rbx)");
OPERAND(enter, "mov %rbx, %rsp; enter $0, $0");
OPERAND(vmovups, "vmovups (%rbx), %ymm0");
OPERAND(vaddps, "vaddps (%rbx), %ymm0, %ymm0");
OPERAND(vmaskmov, "vpcmpeqd %xmm1, %xmm1, %xmm1; vmaskmovps (%rbx), %xmm1, %xmm0");
OPERAND(vmaskmov_store, "vpcmpeqd %xmm1, %xmm1, %xmm1; vmaskmovps %xmm0, %xmm1, (%rbx)");
OPERAND(vgather, "vpcmpeqd %xmm1, %xmm1, %xmm1; vpxor %xmm2, %xmm2, %xmm2\n"
                 "vpgatherdd %xmm1, (%rbx,%xmm2,4), %xmm0");

#define CODE_OF(name) name, name##_end

enum case_flags {
    AVX2 = 1, /* needs it */
    AMD = 2,  /* #AC in a guest on AMD's CPUs */
};

static const struct {
    const uint8_t *code, *end;
    unsigned offset;
    int vector;
    unsigned flags;
} cases[] = {
    {CODE_OF(load_2), 1, VECTOR_AC, 0},
    {CODE_OF(load_2), 2, VECTOR_UD, 0},
    {CODE_OF(load_8), 4, VECTOR_AC, 0},
    {CODE_OF(add_4), 2, VECTOR_AC, 0},
    {CODE_OF(movss), 2, VECTOR_AC, 0},
    {CODE_OF(movss), 4, VECTOR_UD, 0},
    {CODE_OF(movsd_store), 4, VECTOR_AC, 0},
    {CODE_OF(pmovzxbd), 2, VECTOR_AC, 0},
    {CODE_OF(pinsrw), 1, VECTOR_AC, 0},
    {CODE_OF(movups), 1, VECTOR_UD, AMD},
    {CODE_OF(movdqu_store), 1, VECTOR_UD, AMD},
    {CODE_OF(movaps), 8, VECTOR_GP, 0},
    {CODE_OF(lddqu), 1, VECTOR_UD, AMD},
    {CODE_OF(pcmpistri), 1, VECTOR_UD, AMD},
    {CODE_OF(cmpxchg16b), 8, VECTOR_GP, 0},
    {CODE_OF(fld_10), 4, VECTOR_AC, 0},
    {CODE_OF(fld_10), 8, VECTOR_UD, 0},
    {CODE_OF(fstp_10), 4, VECTOR_AC, 0},
    {CODE_OF(fnstenv), 2, VECTOR_AC, 0},
    {CODE_OF(fnstenv), 4, VECTOR_UD, 0},
    {CODE_OF(fnstenv_16), 1, VECTOR_AC, 0},
    {CODE_OF(fnstenv_16), 2, VECTOR_UD, 0},
    {CODE_OF(fnsave), 2, VECTOR_AC, 0},
    {CODE_OF(fnsave), 4, VECTOR_UD, 0},
    {CODE_OF(movq_mmx), 4, VECTOR_AC, 0},
    {CODE_OF(stmxcsr), 2, VECTOR_AC, 0},
    {CODE_OF(fxsave), 2, VECTOR_AC, 0},
    {CODE_OF(fxsave), 4, VECTOR_GP, 0},
    {CODE_OF(prefetch), 1, VECTOR_UD, 0},
    {CODE_OF(enter), 1, VECTOR_AC, 0},
    {CODE_OF(vmovups), 1, VECTOR_UD, AVX2 | AMD},
    {CODE_OF(vaddps), 1, VECTOR_UD, AVX2 | AMD},
    {CODE_OF(vmaskmov), 1, VECTOR_UD, AVX2},
    {CODE_OF(vmaskmov_store), 1, VECTOR_UD, AVX2},
    {CODE_OF(vgather), 1, VECTOR_UD, AVX2},
};

static void set_up(struct testvm *vm)
{
    fixture_create(vm, MODE_LONG, 8);
    vm->vcpu->mmu.cr0 |= CR0_AM;
    vm->vcpu->mmu.cr4 |= CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    vm->vcpu->xcr0 = 7;
    fixture_enter_user(vm);
}

static void run_operand(unsigned i, bool amd)
{
    struct testvm vm;
    const int vector = amd && cases[i].flags & AMD ? VECTOR_AC : cases[i].vector;
    set_up(&vm);
    vm.features.amd = amd;
    if (!(cases[i].flags & AVX2) || features_has(&vm.features, FEATURE_AVX2)) {
        vm.vcpu->rflags |= FLAG_AC;
        vcpu_update_mode(vm.vcpu);
        vm.vcpu->gpr[GPR_RBX] = DATA + cases[i].offset;
        fixture_run_bytes(&vm, cases[i].code, (size_t)(cases[i].end - cases[i].code));
        if (fixture_caught(&vm) != vector)
            fail_msg("case %u: vector %d, want %d", i, fixture_caught(&vm), vector);
        if (vector == VECTOR_AC)
            assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), 0);
    }
    testvm_destroy(&vm);
}

static void operands(void **state)
{
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        run_operand(i, false);
        run_operand(i, true);
    }
}

static void without_ac_nothing_is_checked(void **state)
{
    struct testvm vm;
    set_up(&vm);
    vm.vcpu->gpr[GPR_RBX] = DATA + 1;
    fixture_run(&vm, movss);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    testvm_destroy(&vm);
}

static void comes_before_page_faults(void **state)
{
    struct testvm vm;
    set_up(&vm);
    vm.vcpu->rflags |= FLAG_AC;
    vcpu_update_mode(vm.vcpu);
    vm.vcpu->gpr[GPR_RBX] = NO_MEMORY + 1;
    fixture_run(&vm, load_8);
    assert_int_equal(fixture_caught(&vm), VECTOR_AC);
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operands),
        cmocka_unit_test(without_ac_nothing_is_checked),
        cmocka_unit_test(comes_before_page_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
