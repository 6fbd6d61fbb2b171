/*
 * Whose memory a translation may touch.
 *
 * A program at CPL 3 walks over an array, out of its own page into one of the kernel's, which the
 * kernel has just written: the supervisor's TLB has it. Right behind the loop is a SYSCALL, which
 * follows in the same translation. The walk must end with a page fault at the border.
 */

#include "cpu/translate/translate.h"
#include "fixture.h"

#define ROUNDS 8u

enum layout {
    USER_CODE = 0x200000,
    BORDER = 0x400000, /* linear; behind it is the kernel's, of guest-physical address 0 on */
};

/* R12: rounds; in the last one the program goes too far. */
GUEST(kernel, "64",
      "mov %rax, 0x400800; mov $0x400000, %esi; dec %r12; js 2f; jnz 1f; add $0x80, %rsi\n"
      "1: mov $0x200000, %ecx; mov $0x3fff80, %edi; mov $2, %r11d; mov $-1, %rax; sysretq; 2: hlt");
GUEST(program, "64", "nop; 1: mov %rax, (%rdi); add $8, %rdi; cmp %rsi, %rdi; jne 1b; syscall");

static void load(struct testvm *vm)
{
    struct vcpu *vcpu = vm->vcpu;
    fixture_poke(vm, 0x3000, 0x83, 8);      /* the kernel's */
    fixture_poke(vm, 0x3000 + 16, 0x83, 8); /* at BORDER, too */
    testvm_put(vm, CODE, kernel, (size_t)(kernel_end - kernel));
    testvm_put(vm, USER_CODE, program, (size_t)(program_end - program));
    vcpu->mmu.efer |= EFER_SCE;
    vcpu->msr.star = (uint64_t)(USER_CODE32 | 3) << 48 | (uint64_t)CODE64 << 32;
    vcpu->msr.lstar = CODE;
    vcpu->msr.sfmask = 0;
    vcpu->gpr[GPR_R12] = ROUNDS;
    mmu_flush(&vcpu->mmu, false);
}

static void test_loop_before_syscall(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    testvm_use_engine(&vm, &translate_engine);
    load(&vm);
    assert_int_equal(testvm_run(&vm, CODE), VCPU_EXIT_HALTED);
    assert_int_equal(fixture_caught(&vm), VECTOR_PF);
    assert_int_equal(vm.vcpu->cr2, BORDER);
    assert_int_equal(vm.vcpu->gpr[GPR_RDI], BORDER);
    for (unsigned at = 0; at < 0x80; at += 8)
        assert_int_equal(fixture_peek(&vm, at, 8), 0);
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_loop_before_syscall)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
