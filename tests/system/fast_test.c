/* SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, FS/GS bases. */

#include "fixture.h"

#define STAR_VALUE ((uint64_t)(USER_CODE32 | 3) << 48 | (uint64_t)CODE64 << 32)

GUEST(syscall_64, "64", "mov $0x55, %eax; syscall; mov %cs, %ebx; ud2");
GUEST(handler_sysret, "64",
      "mov %rsp, 0x30000; mov %cs, 0x30008; mov %ss, 0x3000a\n"
      "pushfq; popq 0x30010; sysretq");
GUEST(handler_sysretl, "64", "sysretl");
GUEST(just_hlt, "64", "hlt");

/* SYSRET's selectors are STAR[63:48] + 16 for 64-bit code, + 8 for the stack: with USER_CODE32
 * these are USER_CODE64 and USER_DATA. */
static void set_star(struct testvm *vm, const uint8_t *handler, size_t length)
{
    fixture_create(vm, MODE_LONG, 8);
    vm->vcpu->msr.star = STAR_VALUE;
    vm->vcpu->msr.lstar = 0x11000;
    testvm_put(vm, 0x11000, handler, length);
    fixture_enter_user(vm);
}

static void syscall_and_back(void **state)
{
    struct testvm vm;
    set_star(&vm, handler_sysret, (size_t)(handler_sysret_end - handler_sysret));
    vm.vcpu->msr.sfmask = FLAG_IF | FLAG_DF;
    vm.vcpu->rflags |= FLAG_IF | FLAG_DF | FLAG_CF;
    fixture_run(&vm, syscall_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], CODE + 7);
    assert_int_equal(vm.vcpu->gpr[GPR_R11], FLAG_FIXED | FLAG_IF | FLAG_DF | FLAG_CF);
    assert_int_equal(fixture_peek(&vm, DATA, 8), STACK); /* RSP is the kernel's business */
    assert_int_equal(fixture_peek(&vm, DATA + 8, 2), CODE64);
    assert_int_equal(fixture_peek(&vm, DATA + 10, 2), CODE64 + 8);
    assert_int_equal(fixture_peek(&vm, DATA + 0x10, 8), FLAG_FIXED | FLAG_CF);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], USER_CODE64 | 3);
    uint64_t frame = vm.vcpu->gpr[GPR_RSP];
    assert_int_equal(fixture_peek(&vm, frame + 8, 2), USER_CODE64 | 3);
    assert_int_equal(fixture_peek(&vm, frame + 16, 8),
                     FLAG_FIXED | FLAG_IF | FLAG_DF | FLAG_CF | FLAG_RF);
    assert_int_equal(fixture_peek(&vm, frame + 32, 2), USER_DATA | 3);
    testvm_destroy(&vm);
}

static void sysret_to_compatibility(void **state)
{
    struct testvm vm;
    set_star(&vm, handler_sysretl, (size_t)(handler_sysretl_end - handler_sysretl));
    fixture_run(&vm, syscall_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    uint64_t frame = vm.vcpu->gpr[GPR_RSP];
    assert_int_equal(fixture_peek(&vm, frame + 8, 2), USER_CODE32 | 3);
    assert_int_equal(fixture_peek(&vm, frame + 32, 2), USER_DATA | 3);
    testvm_destroy(&vm);
}

GUEST(sysret_bad, "64", "mov $0x800000000000, %rcx; mov $2, %r11d; sysretq");

static void sysret_checks_rip_at_cpl0(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, sysret_bad);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], STACK - 48); /* not from user: no stack switch */
    assert_int_equal(fixture_peek(&vm, STACK - 48 + 16, 2), CODE64);
    testvm_destroy(&vm);
}

static void syscall_needs_sce(void **state)
{
    struct testvm vm;
    set_star(&vm, just_hlt, 1);
    vm.vcpu->mmu.efer &= ~(uint64_t)EFER_SCE;
    fixture_run(&vm, syscall_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), CODE + 5);
    testvm_destroy(&vm);
}

GUEST(syscall_32, "32", "syscall; hlt");

static void syscall_in_compatibility_mode_by_vendor(void **state)
{
    for (int amd = 0; amd < 2; amd++) {
        struct testvm vm;
        fixture_create(&vm, MODE_COMPATIBILITY, 4);
        vm.features.amd = amd;
        vm.vcpu->msr.star = STAR_VALUE;
        vm.vcpu->msr.cstar = 0x11000;
        testvm_put(&vm, 0x11000, just_hlt, 1);
        fixture_enter_user(&vm);
        fixture_run(&vm, syscall_32);
        if (amd) {
            assert_int_equal(vm.vcpu->rip, 0x11001);
            assert_int_equal(vm.vcpu->mode, MODE_LONG);
            assert_int_equal(vm.vcpu->gpr[GPR_RCX], CODE + 2);
        } else {
            assert_int_equal(fixture_caught(&vm), VECTOR_UD);
        }
        testvm_destroy(&vm);
    }
}

GUEST(sysenter_32, "32", "sysenter; hlt");

GUEST(handler_sysexit, "64", "mov $0x30000, %edx; mov $0x1f000, %ecx; sysexitl");

GUEST(user_stop_32, "32", "mov %cs, %eax; mov %ss, %ebx; ud2");

static void sysenter_and_sysexit(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_COMPATIBILITY, 4);
    vm.features.amd = false;
    /* SYSEXIT to 32-bit code: CS + 16, SS + 24. */
    vm.vcpu->msr.sysenter_cs = CODE32;
    vm.vcpu->msr.sysenter_esp = INNER_STACK;
    vm.vcpu->msr.sysenter_eip = 0x11000;
    vm.vcpu->rflags |= FLAG_IF;
    testvm_put(&vm, 0x11000, handler_sysexit, (size_t)(handler_sysexit_end - handler_sysexit));
    testvm_put(&vm, DATA, user_stop_32, (size_t)(user_stop_32_end - user_stop_32));
    fixture_enter_user(&vm);
    fixture_run(&vm, sysenter_32);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], (CODE32 + 16) | 3);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], (CODE32 + 24) | 3);
    uint64_t frame = vm.vcpu->gpr[GPR_RSP];
    assert_int_equal(fixture_peek(&vm, frame + 24, 8), 0x1f000);
    assert_int_equal(fixture_peek(&vm, frame + 16, 8) & FLAG_IF, 0); /* SYSENTER cleared it */
    testvm_destroy(&vm);
}

GUEST(sysenter_64, "64", "sysenter; hlt");

static void sysenter_needs_cs(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.features.amd = false;
    vm.vcpu->msr.sysenter_cs = 3;
    fixture_run(&vm, sysenter_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_LONG, 8);
    vm.features.amd = true;
    vm.vcpu->msr.sysenter_cs = CODE64;
    fixture_run(&vm, sysenter_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    testvm_destroy(&vm);
}

GUEST(swapgs_64, "64", "swapgs; mov %gs:8, %rax; hlt");

static void swapgs_exchanges(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->seg[SEG_GS].base = 0x1234;
    vm.vcpu->msr.kernel_gs_base = DATA;
    fixture_poke(&vm, DATA + 8, 0xabcdef, 8);
    fixture_run(&vm, swapgs_64);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0xabcdef);
    assert_int_equal(vm.vcpu->msr.kernel_gs_base, 0x1234);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_LONG, 8);
    fixture_enter_user(&vm);
    fixture_run(&vm, swapgs_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    testvm_destroy(&vm);
}

GUEST(bases_64, "64",
      "mov $0x123456789abc, %rax; wrfsbase %rax; rdfsbase %rbx; rdfsbase %ecx\n"
      "mov $0xffffffff9abcdef0, %rax; wrgsbase %eax; rdgsbase %rdx; wrgsbase %rax; hlt");

GUEST(base_bad_64, "64", "mov $0x800000000000, %rax; wrfsbase %rax; hlt");

static void bases_by_instruction(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, bases_64); /* CR4.FSGSBASE is off */
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->mmu.cr4 |= CR4_FSGSBASE;
    fixture_run(&vm, bases_64);
    assert_int_equal(fixture_caught(&vm), -1);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], 0x123456789abc);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0x56789abc);
    assert_int_equal(vm.vcpu->gpr[GPR_RDX], 0x9abcdef0);
    assert_int_equal(vm.vcpu->seg[SEG_GS].base, 0xffffffff9abcdef0);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->mmu.cr4 |= CR4_FSGSBASE;
    fixture_run(&vm, base_bad_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    testvm_destroy(&vm);
}

GUEST(stepped_syscall, "64", "pushfq; orq $0x100, (%rsp); popfq; syscall; nop; ud2");

/* TF counts as SYSCALL and SYSRET leave it: the kernel that masks it is not stepped, the program
 * is, behind its SYSCALL. */
static void single_step_over_syscall(void **state)
{
    struct testvm vm;
    set_star(&vm, handler_sysret, (size_t)(handler_sysret_end - handler_sysret));
    vm.vcpu->msr.sfmask = FLAG_TF;
    fixture_run(&vm, stepped_syscall);
    assert_int_equal(fixture_caught(&vm), VECTOR_DB);
    uint64_t frame = vm.vcpu->gpr[GPR_RSP];
    assert_int_equal(fixture_peek(&vm, frame, 8), CODE + 12);
    assert_int_equal(fixture_peek(&vm, frame + 8, 2), USER_CODE64 | 3);
    assert_int_equal(fixture_peek(&vm, frame + 16, 8), FLAG_FIXED | FLAG_TF);
    assert_int_equal(fixture_peek(&vm, DATA + 0x10, 8), FLAG_FIXED); /* the handler ran */
    testvm_destroy(&vm);

    set_star(&vm, handler_sysret, (size_t)(handler_sysret_end - handler_sysret));
    fixture_run(&vm, stepped_syscall); /* not masked: a trap at the kernel's entry */
    assert_int_equal(fixture_caught(&vm), VECTOR_DB);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), 0x11000);
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(syscall_and_back),
        cmocka_unit_test(sysret_to_compatibility),
        cmocka_unit_test(sysret_checks_rip_at_cpl0),
        cmocka_unit_test(syscall_needs_sce),
        cmocka_unit_test(syscall_in_compatibility_mode_by_vendor),
        cmocka_unit_test(sysenter_and_sysexit),
        cmocka_unit_test(sysenter_needs_cs),
        cmocka_unit_test(swapgs_exchanges),
        cmocka_unit_test(bases_by_instruction),
        cmocka_unit_test(single_step_over_syscall),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
