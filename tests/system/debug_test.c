/* Single step, breakpoints, DR6 and DR7. */

#include "cpu/access.h"
#include "fixture.h"

GUEST(step_64, "64", "pushfq; orq $0x100, (%rsp); popfq; nop; nop; hlt");

static void single_step_traps_behind_next(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, step_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_DB);
    /* Not behind POPF, which sets TF, but behind the instruction that began with it. */
    uint64_t frame = vm.vcpu->gpr[GPR_RSP];
    assert_int_equal(fixture_peek(&vm, frame, 8), CODE + 11);
    assert_int_equal(fixture_peek(&vm, frame + 16, 8), FLAG_FIXED | FLAG_TF);
    assert_int_equal(vm.vcpu->dr[6], 0xffff4ff0);
    assert_int_equal(vm.vcpu->rflags & FLAG_TF, 0);
    testvm_destroy(&vm);
}

/* A handler that returns with IRETQ makes one trap an instruction. */
GUEST(count_64, "64", "incq 0x30000; iretq");

GUEST(stepped_64, "64",
      "pushfq; orq $0x100, (%rsp); popfq\n"
      "nop; inc %eax; mov $5, %ebx; pushfq; andq $~0x100, (%rsp); popfq; hlt");

static void single_step_each_instruction(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_set_gate(&vm, VECTOR_DB, CODE64, 0x11000, 0x8e, 0);
    testvm_put(&vm, 0x11000, count_64, (size_t)(count_64_end - count_64));
    fixture_run(&vm, stepped_64);
    assert_int_equal(fixture_caught(&vm), -1);
    /* NOP, INC, MOV, PUSHF, AND, and the POPF that began with TF. */
    assert_int_equal(fixture_peek(&vm, DATA, 8), 6);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], 5);
    testvm_destroy(&vm);
}

GUEST(step_ss_64, "64",
      "mov %ss, %ecx; pushfq; orq $0x100, (%rsp); popfq\n"
      "mov %ecx, %ss; mov $1, %eax; mov $2, %ebx; hlt");

static void stepping_over_mov_ss_waits(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, step_ss_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_DB);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 1);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], 0);
    testvm_destroy(&vm);
}

GUEST(plain_64, "64", "nop; nop; nop; mov $7, %eax; hlt");

static void instruction_breakpoint(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->dr[1] = CODE + 2;
    vm.vcpu->dr[7] |= 0x4; /* L1, execute, 1 byte */
    atomic_fetch_or(&vm.vcpu->attention, ATTENTION_STEP);
    fixture_run(&vm, plain_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_DB);
    uint64_t frame = vm.vcpu->gpr[GPR_RSP];
    assert_int_equal(fixture_peek(&vm, frame, 8), CODE + 2); /* a fault */
    assert_int_equal(fixture_peek(&vm, frame + 16, 8) & FLAG_RF, 0);
    assert_int_equal(vm.vcpu->dr[6], 0xffff0ff2);
    testvm_destroy(&vm);
}

/* The handler sets RF in the frame and goes on: the breakpoint does not hit at once again, and hits
 * the next time round. */
GUEST(resume_64, "64", "incq 0x30000; orq $0x10000, 16(%rsp); iretq");

GUEST(loop_64, "64", "mov $3, %ecx\n1: nop; dec %ecx; jnz 1b; pushfq; pop %rax; hlt");

static void resume_flag(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_set_gate(&vm, VECTOR_DB, CODE64, 0x11000, 0x8e, 0);
    testvm_put(&vm, 0x11000, resume_64, (size_t)(resume_64_end - resume_64));
    vm.vcpu->dr[0] = CODE + 5;
    vm.vcpu->dr[7] |= 0x1;
    atomic_fetch_or(&vm.vcpu->attention, ATTENTION_STEP);
    fixture_run(&vm, loop_64);
    assert_int_equal(fixture_caught(&vm), -1);
    assert_int_equal(fixture_peek(&vm, DATA, 8), 3);
    assert_int_equal(vm.vcpu->rflags & FLAG_RF, 0);
    testvm_destroy(&vm);
}

GUEST(watch_64, "64",
      "mov $0x30010, %eax; mov %rax, %dr2\n"
      "mov $0x0d000020, %eax; mov %rax, %dr7\n" /* G2, write, 4 bytes */
      "movl $1, 0x30000\n"                      /* the same page, not it */
      "mov 0x30010, %ebx\n"                     /* a read */
      "movb $2, 0x30013\n"                      /* hit */
      "nop; hlt");

static void data_breakpoint_by_guest(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, watch_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_DB);
    assert_int_equal(vm.vcpu->dr[6], 0xffff0ff4);
    assert_int_equal(fixture_peek(&vm, DATA + 0x13, 1), 2); /* a trap: the write was done */
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8),
                     CODE + (watch_64_end - watch_64) - 2);
    testvm_destroy(&vm);
}

GUEST(detect_64, "64", "mov $0x2400, %eax; mov %rax, %dr7; mov %dr0, %rbx; hlt");

static void general_detect(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, detect_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_DB);
    assert_int_equal(vm.vcpu->dr[6], 0xffff2ff0);
    assert_int_equal(vm.vcpu->dr[7], 0x400); /* the handler may use the registers */
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), CODE + 8);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP] + 16, 8), FLAG_FIXED | FLAG_RF);
    testvm_destroy(&vm);
}

GUEST(dr_fixed_64, "64",
      "mov $0xffffffff, %eax; mov %rax, %dr6; mov %dr6, %rbx\n"
      "xor %eax, %eax; mov %rax, %dr6; mov %dr6, %rcx\n"
      "xor %eax, %eax; mov %rax, %dr7; mov %dr5, %rdx; hlt");

GUEST(dr_high_64, "64", "mov $0x100000000, %rax; mov %rax, %dr7; hlt");

GUEST(dr4_64, "64", "mov %dr4, %rax; hlt");

static void register_rules(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, dr_fixed_64);
    assert_int_equal(fixture_caught(&vm), -1);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], 0xffffefff);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0xffff0ff0);
    assert_int_equal(vm.vcpu->gpr[GPR_RDX], 0x400);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, dr_high_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->mmu.cr4 |= CR4_DE;
    fixture_run(&vm, dr4_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_LONG, 8);
    fixture_enter_user(&vm);
    fixture_run(&vm, dr_high_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    testvm_destroy(&vm);
}

static void int1_has_no_cause_and_no_dpl(void **state)
{
    static const uint8_t int1[] = {0xf1};
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_enter_user(&vm);
    fixture_run_bytes(&vm, int1, 1);
    assert_int_equal(fixture_caught(&vm), VECTOR_DB);
    assert_int_equal(vm.vcpu->dr[6], 0xffff0ff0);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), CODE + 1);
    testvm_destroy(&vm);
}

GUEST(repeat_64, "64", "mov $0x30100, %edi; mov $3, %ecx; rep stosb; hlt");

/* The handler goes on with RF, which holds for all iterations, though each may stop the loop. */
static void breakpoint_on_repeat_hits_once(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_set_gate(&vm, VECTOR_DB, CODE64, 0x11000, 0x8e, 0);
    testvm_put(&vm, 0x11000, resume_64, (size_t)(resume_64_end - resume_64));
    vm.vcpu->dr[0] = CODE + 10;
    vm.vcpu->dr[7] |= 0x1;
    atomic_fetch_or(&vm.vcpu->attention, ATTENTION_STEP);
    fixture_run(&vm, repeat_64);
    assert_int_equal(fixture_caught(&vm), -1);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0);
    assert_int_equal(fixture_peek(&vm, DATA, 8), 1);
    testvm_destroy(&vm);
}

/* Keeps RIP and RFLAGS of each frame. */
GUEST(record_64, "64",
      "mov 0x30000, %r8; mov (%rsp), %r9; mov %r9, 0x30010(%r8)\n"
      "mov 16(%rsp), %r9; mov %r9, 0x30018(%r8); addq $16, 0x30000; iretq");

GUEST(step_repeat_64, "64",
      "mov $0x30100, %edi; mov $2, %ecx; pushfq; orq $0x100, (%rsp); popfq\n"
      "repne scasb; pushfq; andq $~0x100, (%rsp); popfq; hlt");

/* Traps between iterations find RF set, the one behind the last does not (SDM vol. 3 17.3.1.1). */
static void stepping_repeat_sets_rf(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_set_gate(&vm, VECTOR_DB, CODE64, 0x11000, 0x8e, 0);
    testvm_put(&vm, 0x11000, record_64, (size_t)(record_64_end - record_64));
    vm.vcpu->gpr[GPR_RAX] = 7;
    fixture_run(&vm, step_repeat_64);
    assert_int_equal(fixture_caught(&vm), -1);
    assert_int_equal(fixture_peek(&vm, DATA + 0x10, 8), CODE + 20);
    assert_int_equal(fixture_peek(&vm, DATA + 0x18, 8) & FLAG_RF, FLAG_RF);
    assert_int_equal(fixture_peek(&vm, DATA + 0x20, 8), CODE + 22);
    assert_int_equal(fixture_peek(&vm, DATA + 0x28, 8) & FLAG_RF, 0);
    assert_int_equal(vm.vcpu->rflags & FLAG_RF, 0);
    testvm_destroy(&vm);
}

GUEST(int_1_64, "64", "int $1; hlt");

/* INT 1 uses the vector, but is no debug exception. */
static void int_1_leaves_general_detect(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->dr[7] |= 1 << 13;
    fixture_run(&vm, int_1_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_DB);
    assert_int_equal(vm.vcpu->dr[7], 0x2400);
    testvm_destroy(&vm);
}

static uint8_t *rmw_place;

static void get_rmw_place(struct vcpu *vcpu)
{
    rmw_place = access_rmw(vcpu, DATA, 4);
}

/* Locked operations stay in place, and so atomic, on a page that is watched and beside it; the
 * breakpoint is noted all the same. */
static void watched_operands_stay_in_place(void **state)
{
    static const struct {
        uint64_t watched, pending;
    } cases[] = {{DATA, 1}, {DATA + 8, 0}, {DATA + 0x1000, 0}};
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_LONG, 8);
        uint64_t page = cases[i].watched & ~PAGE_MASK;
        vm.vcpu->dr[0] = cases[i].watched;
        vm.vcpu->dr[7] |= 0xd0001; /* L0, write, 4 bytes */
        mmu_unpark(&vm.vcpu->mmu);
        mmu_watch(&vm.vcpu->mmu, &page, 1);
        mmu_park(&vm.vcpu->mmu);
        rmw_place = NULL;
        assert_int_equal(fixture_raised(&vm, get_rmw_place), -1);
        assert_non_null(rmw_place);
        assert_int_equal(vm.vcpu->pending_debug, cases[i].pending);
        testvm_destroy(&vm);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_step_traps_behind_next),
        cmocka_unit_test(single_step_each_instruction),
        cmocka_unit_test(stepping_over_mov_ss_waits),
        cmocka_unit_test(instruction_breakpoint),
        cmocka_unit_test(resume_flag),
        cmocka_unit_test(data_breakpoint_by_guest),
        cmocka_unit_test(general_detect),
        cmocka_unit_test(register_rules),
        cmocka_unit_test(int1_has_no_cause_and_no_dpl),
        cmocka_unit_test(breakpoint_on_repeat_hits_once),
        cmocka_unit_test(stepping_repeat_sets_rf),
        cmocka_unit_test(int_1_leaves_general_detect),
        cmocka_unit_test(watched_operands_stay_in_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
