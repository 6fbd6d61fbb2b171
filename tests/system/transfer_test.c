/* Far jumps, calls, returns, IRET, and the way from real mode to 64-bit mode and back. */

#include "fixture.h"

/* Real mode, protected mode, long mode and out again, each step leaving a mark. */
GUEST(tour_16, "16",
      "lgdtl %cs:(9f - tour_16)\n"
      "mov %cr0, %eax; or $1, %al; mov %eax, %cr0\n"
      "ljmpl $0x10, $(0x10000 + 1f - tour_16)\n"
      ".code32\n"
      "1: mov $0x20, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss; mov $0x20000, %esp\n"
      "movl $0x11111111, 0x30000\n"
      "mov %cr4, %eax; or $0x20, %eax; mov %eax, %cr4\n"
      "mov $0x1000, %eax; mov %eax, %cr3\n"
      "mov $0xc0000080, %ecx; rdmsr; or $0x900, %eax; wrmsr\n"
      "mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0\n"
      "movl $0x22222222, 0x30004\n" /* compatibility mode now */
      "ljmpl $0x08, $(0x10000 + 2f - tour_16)\n"
      ".code64\n"
      "2: mov $0x3333333333333333, %rax; mov %rax, 0x30008\n"
      "mov $0xc0000080, %ecx; rdmsr; mov %eax, 0x30010\n"
      /* to compatibility mode */
      "pushq $0x10; pushq $(0x10000 + 3f - tour_16); .byte 0x48; lret\n"
      ".code32\n"
      "3: mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0\n" /* leaves IA-32e mode */
      "mov $0xc0000080, %ecx; rdmsr; mov %eax, 0x30014\n"
      "movl $0x44444444, 0x30018\n"
      "ljmpl $0x50, $(4f - tour_16)\n"
      ".code16\n"
      "4: mov %cr0, %eax; and $0xfe, %al; mov %eax, %cr0\n"
      "ljmpw $0x1000, $(5f - tour_16)\n"
      "5: xor %ax, %ax; mov %ax, %ds; movw $0x5555, %ds:0x6ff0\n"
      "hlt\n"
      "9: .word 0x6f; .long 0x7000");

static void tour_of_modes(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_REAL, 2);
    /* 16-bit code based where the program is. */
    fixture_set_descriptor(&vm, SPARE, 0x00009b010000ffff);
    assert_int_equal(fixture_run(&vm, tour_16), VCPU_EXIT_HALTED);
    assert_int_equal(fixture_caught(&vm), -1);
    assert_int_equal(fixture_peek(&vm, DATA, 4), 0x11111111);
    assert_int_equal(fixture_peek(&vm, DATA + 4, 4), 0x22222222);
    assert_int_equal(fixture_peek(&vm, DATA + 8, 8), 0x3333333333333333);
    assert_int_equal(fixture_peek(&vm, DATA + 0x10, 4), EFER_LME | EFER_LMA | EFER_NXE);
    assert_int_equal(fixture_peek(&vm, DATA + 0x14, 4), EFER_LME | EFER_NXE);
    assert_int_equal(fixture_peek(&vm, DATA + 0x18, 4), 0x44444444);
    assert_int_equal(fixture_peek(&vm, 0x6ff0, 2), 0x5555);
    assert_int_equal(vm.vcpu->mode, MODE_REAL);
    assert_int_equal(vm.vcpu->seg[SEG_CS].selector, 0x1000);
    testvm_destroy(&vm);
}

GUEST(iretq_to_user, "64",
      "pushq $0x33; pushq $0x1f000; pushq $0x202; pushq $0x3b; pushq $0x30000; iretq");
GUEST(user_int80_64, "64", "mov %rsp, %rax; mov %cs, %ebx; int $0x80");

static void iret_to_user_and_back(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_set_gate(&vm, 0x80, CODE64, HANDLERS + 16 * 0x80, 0xee, 0);
    testvm_put(&vm, DATA, user_int80_64, (size_t)(user_int80_64_end - user_int80_64));
    vm.vcpu->nmi_blocked = true;
    fixture_run(&vm, iretq_to_user);
    assert_int_equal(fixture_caught(&vm), 0x80);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0x1f000);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], USER_CODE64 | 3);
    assert_int_equal(fixture_peek(&vm, INNER_STACK - 24, 8), 0x202);
    assert_false(vm.vcpu->nmi_blocked);
    /* Data segments of level 0 were taken away. */
    assert_true(vm.vcpu->seg[SEG_DS].attributes & SEG_UNUSABLE);
    assert_int_equal(vm.vcpu->seg[SEG_DS].selector, 0);
    testvm_destroy(&vm);
}

GUEST(iret_same_level, "64",
      "pushq $0x20; pushq $0x1e000; pushq $0x246; pushq $8; pushq $0x10100; iretq");

static void iretq_pops_stack_at_same_level(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    testvm_put(&vm, CODE + 0x100, "\xf4", 1);
    fixture_run(&vm, iret_same_level);
    assert_int_equal(vm.vcpu->rip, CODE + 0x101);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], 0x1e000);
    assert_int_equal(vm.vcpu->rflags, 0x246);
    testvm_destroy(&vm);
}

GUEST(iretl_same_level, "64",
      "sub $20, %rsp; movl $0x10100, (%rsp); movl $8, 4(%rsp); movl $0x246, 8(%rsp)\n"
      "movl $0x1e000, 12(%rsp); movl $0x20, 16(%rsp); iretl");

/* So does IRETD in 64-bit mode (SDM vol. 2 IRET, IA-32e-MODE). */
static void iretd_pops_stack_in_long_mode(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    testvm_put(&vm, CODE + 0x100, "\xf4", 1);
    fixture_run(&vm, iretl_same_level);
    assert_int_equal(vm.vcpu->rip, CODE + 0x101);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], 0x1e000);
    assert_int_equal(vm.vcpu->rflags, 0x246);
    testvm_destroy(&vm);
}

/* Frames that IRETQ refuses: nothing moves, and the error code names the selector. */
static void iret_refuses(void **state)
{
    static const uint8_t iretq[] = {0x48, 0xcf};
    static const struct {
        uint64_t rip, cs, rflags, rsp, ss;
        int vector;
        uint32_t error;
    } cases[] = {
        {DATA, 0, 2, STACK, USER_DATA | 3, VECTOR_GP, 0},
        {DATA, 0x8000 | 3, 2, STACK, USER_DATA | 3, VECTOR_GP, 0x8000},
        {DATA, DATA_FLAT, 2, STACK, DATA_FLAT, VECTOR_GP, DATA_FLAT},
        {DATA, CODE64 | 3, 2, STACK, USER_DATA | 3, VECTOR_GP, CODE64},
        {DATA, USER_CODE64 | 3, 2, STACK, DATA_FLAT, VECTOR_GP, DATA_FLAT},
        {DATA, USER_CODE64 | 3, 2, STACK, 0, VECTOR_GP, 0},
        {1ull << 47, USER_CODE64 | 3, 2, STACK, USER_DATA | 3, VECTOR_GP, 0},
        {1ull << 32, USER_CODE32 | 3, 2, STACK, USER_DATA | 3, VECTOR_GP, 0},
        {DATA, USER_CODE64 | 3, 2, STACK, SPARE | 3, VECTOR_SS, SPARE},
        {DATA, SPARE2 | 3, 2, STACK, USER_DATA | 3, VECTOR_NP, SPARE2},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_LONG, 8);
        fixture_set_descriptor(&vm, SPARE, 0x00cf73000000ffff);  /* user data, not present */
        fixture_set_descriptor(&vm, SPARE2, 0x00af7b000000ffff); /* user code64, not present */
        vm.vcpu->gpr[GPR_RSP] = STACK - 40;
        testvm_put(&vm, STACK - 40, &cases[i], 40);
        fixture_run_bytes(&vm, iretq, sizeof(iretq));
        assert_int_equal(fixture_caught(&vm), cases[i].vector);
        uint64_t rsp = vm.vcpu->gpr[GPR_RSP];
        assert_int_equal(fixture_peek(&vm, rsp, 8), cases[i].error);
        assert_int_equal(fixture_peek(&vm, rsp + 8, 8), CODE);
        assert_int_equal(fixture_peek(&vm, rsp + 32, 8), STACK - 40);
        testvm_destroy(&vm);
    }
}

static void iret_nested_task_is_refused(void **state)
{
    static const uint8_t iretq[] = {0x48, 0xcf};
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->rflags |= FLAG_NT;
    fixture_run_bytes(&vm, iretq, sizeof(iretq));
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    testvm_destroy(&vm);
}

/* Which flags IRET may change depends on CPL and IOPL. */
GUEST(iretd_user, "32", "pushl $0x247fd7; pushl $0x2b; pushl $0x30000; iretl");

GUEST(user_int80_32, "32", "nop; int $0x80");

GUEST(iretd_user2, "32", "pushl $0x247ed7; pushl $0x2b; pushl $0x30000; iretl");

static void iret_flags_by_privilege(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_set_gate(&vm, 0x80, CODE32, HANDLERS + 16 * 0x80, 0xee, 0);
    testvm_put(&vm, DATA, user_int80_32, 3);
    fixture_enter_user(&vm);
    fixture_run(&vm, iretd_user);
    assert_int_equal(fixture_caught(&vm), VECTOR_DB); /* TF was loaded: the NOP was a step */
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 4), DATA + 1);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_set_gate(&vm, 0x80, CODE32, HANDLERS + 16 * 0x80, 0xee, 0);
    testvm_put(&vm, DATA, user_int80_32, 3);
    fixture_enter_user(&vm);
    fixture_run(&vm, iretd_user2);
    assert_int_equal(fixture_caught(&vm), 0x80);
    /* IF and IOPL stay 0 at CPL 3 with IOPL 0; the rest is loaded. */
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP] + 8, 4), 0x244cd7);
    testvm_destroy(&vm);
}

GUEST(iretd_vm86, "32",
      "pushl $0; pushl $0; pushl $0; pushl $0; pushl $0; pushl $0\n"
      "pushl $0x20002; pushl $0x1000; pushl $0; iretl");

static void iret_to_vm86_is_refused(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_run(&vm, iretd_vm86);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    testvm_destroy(&vm);
}

/* A call gate from level 3 to level 0 with two parameters, and the far return through it. */
GUEST(call_gate_user, "32", "pushl $0xaaaa; pushl $0xbbbb; lcall $0x53, $0; mov %esp, %ebx; ud2");
GUEST(call_gate_inner, "32",
      "mov (%esp), %eax; mov %eax, 0x30000; mov 4(%esp), %eax; mov %eax, 0x30004\n"
      "mov 8(%esp), %eax; mov %eax, 0x30008; mov 12(%esp), %eax; mov %eax, 0x3000c\n"
      "mov 16(%esp), %eax; mov %eax, 0x30010; mov 20(%esp), %eax; mov %eax, 0x30014\n"
      "mov %cs, 0x30018; lret $8");

static void call_gate_32(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    /* Call gate, DPL 3, two parameters, to CODE32:0x11000. */
    fixture_set_descriptor(&vm, SPARE, 0x0001ec0200101000);
    testvm_put(&vm, 0x11000, call_gate_inner, (size_t)(call_gate_inner_end - call_gate_inner));
    fixture_enter_user(&vm);
    fixture_run(&vm, call_gate_user);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    assert_int_equal(fixture_peek(&vm, DATA, 4), CODE + 17);
    assert_int_equal(fixture_peek(&vm, DATA + 4, 4), USER_CODE32 | 3);
    assert_int_equal(fixture_peek(&vm, DATA + 8, 4), 0xbbbb);
    assert_int_equal(fixture_peek(&vm, DATA + 12, 4), 0xaaaa);
    assert_int_equal(fixture_peek(&vm, DATA + 16, 4), STACK - 8);
    assert_int_equal(fixture_peek(&vm, DATA + 20, 4), USER_DATA | 3);
    assert_int_equal(fixture_peek(&vm, DATA + 24, 2), CODE32);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], STACK); /* parameters released on both stacks */
    testvm_destroy(&vm);
}

GUEST(call_gate_user_64, "64",
      "mov $0x30100, %eax; .byte 0x48; lcall *(%rax); mov %cs, %ebx; mov %rsp, %rcx; ud2");
GUEST(call_gate_inner_64, "64",
      "mov (%rsp), %rax; mov %rax, 0x30000; mov 8(%rsp), %rax; mov %rax, 0x30008\n"
      "mov 16(%rsp), %rax; mov %rax, 0x30010; mov 24(%rsp), %rax; mov %rax, 0x30018\n"
      "mov %ss, 0x30020; .byte 0x48; lret");

static void call_gate_64(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_set_descriptor(&vm, SPARE, 0x0001ec0000081000);
    fixture_set_descriptor(&vm, SPARE + 8, 0);
    fixture_poke(&vm, DATA + 0x20, 0xffff, 2);
    fixture_poke(&vm, DATA + 0x108, SPARE | 3, 2);
    testvm_put(&vm, 0x11000, call_gate_inner_64,
               (size_t)(call_gate_inner_64_end - call_gate_inner_64));
    fixture_enter_user(&vm);
    fixture_run(&vm, call_gate_user_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    assert_int_equal(fixture_peek(&vm, DATA, 8), CODE + 8);
    assert_int_equal(fixture_peek(&vm, DATA + 8, 8), USER_CODE64 | 3);
    assert_int_equal(fixture_peek(&vm, DATA + 0x10, 8), STACK);
    assert_int_equal(fixture_peek(&vm, DATA + 0x18, 8), USER_DATA | 3);
    assert_int_equal(fixture_peek(&vm, DATA + 0x20, 2), 0); /* null SS at level 0 */
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], USER_CODE64 | 3);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], STACK);
    testvm_destroy(&vm);
}

static void gate_privilege_is_checked(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_set_descriptor(&vm, SPARE, 0x00018c0200101000); /* DPL 0 */
    fixture_enter_user(&vm);
    fixture_run(&vm, call_gate_user);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 4), SPARE);
    testvm_destroy(&vm);
}

/* A TSS as the target would be a task switch. */
GUEST(jump_tss, "32", "ljmpl $0x40, $0; hlt");

static void task_switch_is_refused(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_run(&vm, jump_tss);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 4), TSS_SELECTOR);
    testvm_destroy(&vm);
}

GUEST(jump_outer, "32", "ljmpl $0x28, $0x30000; hlt");

GUEST(jump_conforming, "32",
      "ljmpl $0x53, $(0x10000 + 1f - jump_conforming)\n"
      "1: mov %cs, %eax; ud2");

static void far_jump_privilege(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_run(&vm, jump_outer); /* CPL 0 to a DPL 3 segment */
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_set_descriptor(&vm, SPARE, 0x00cf9e000000ffff); /* conforming, DPL 0, not accessed */
    fixture_enter_user(&vm);
    fixture_run(&vm, jump_conforming);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], SPARE | 3); /* CPL stays 3 */
    assert_int_equal(fixture_peek(&vm, GDT + SPARE + 5, 1), 0x9f);
    testvm_destroy(&vm);
}

GUEST(far_call_16, "16",
      "lcallw $0x1000, $(1f - far_call_16); mov %sp, %bx; hlt\n"
      "1: mov %sp, %cx; lretw");

static void real_mode_far_call(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_REAL, 2);
    fixture_run(&vm, far_call_16);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0x5000 - 4);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], 0x5000);
    assert_int_equal(fixture_peek(&vm, 0x5000 - 4, 2), 5);
    assert_int_equal(fixture_peek(&vm, 0x5000 - 2, 2), 0x1000);
    testvm_destroy(&vm);
}

GUEST(iret_16, "16", "push $0x247; push %cs; push $(1f - iret_16); iretw; ud2\n1: hlt");

static void real_mode_iret(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_REAL, 2);
    fixture_run(&vm, iret_16);
    assert_int_equal(fixture_caught(&vm), -1);
    assert_int_equal(vm.vcpu->rflags, 0x247);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], 0x5000);
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tour_of_modes),
        cmocka_unit_test(iret_to_user_and_back),
        cmocka_unit_test(iretq_pops_stack_at_same_level),
        cmocka_unit_test(iretd_pops_stack_in_long_mode),
        cmocka_unit_test(iret_refuses),
        cmocka_unit_test(iret_nested_task_is_refused),
        cmocka_unit_test(iret_flags_by_privilege),
        cmocka_unit_test(iret_to_vm86_is_refused),
        cmocka_unit_test(call_gate_32),
        cmocka_unit_test(call_gate_64),
        cmocka_unit_test(gate_privilege_is_checked),
        cmocka_unit_test(task_switch_is_refused),
        cmocka_unit_test(far_jump_privilege),
        cmocka_unit_test(real_mode_far_call),
        cmocka_unit_test(real_mode_iret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
