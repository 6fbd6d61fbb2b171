/* Exceptions and interrupts on their way to a handler, in every mode. */

#include "fixture.h"

GUEST(ud2_64, "64", "ud2");
GUEST(load_far_64, "64", "mov $0x100000000, %rax; mov (%rax), %rbx; hlt");
GUEST(store_far_64, "64", "mov $0x100000008, %rax; mov %rbx, (%rax); hlt");
GUEST(int_80_64, "64", "mov $0x1234, %eax; int $0x80; hlt");
GUEST(bad_segment_64, "64", "mov $0xff8, %eax; mov %ax, %ds; hlt");
GUEST(int3_64, "64", "nop; int3; hlt");
GUEST(noncanonical_64, "64", "mov $0x800000000000, %rax; mov (%rax), %rbx; hlt");
GUEST(divide_64, "64", "xor %ecx, %ecx; div %ecx; hlt");

/* Frame in 64-bit mode: [error], RIP, CS, RFLAGS, RSP, SS from the top of the stack. */
struct frame {
    uint64_t rip, cs, rflags, rsp, ss;
};

static struct frame frame64(struct testvm *vm, unsigned error_bytes)
{
    struct frame frame;
    assert_int_equal(
        pmap_read(vm->map, vm->vcpu->gpr[GPR_RSP] + error_bytes, &frame, sizeof(frame)), STATUS_OK);
    return frame;
}

static void undefined_long(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->rflags |= FLAG_IF;
    assert_int_equal(fixture_run(&vm, ud2_64), VCPU_EXIT_HALTED);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], STACK - 40);
    struct frame frame = frame64(&vm, 0);
    assert_int_equal(frame.rip, CODE);
    assert_int_equal(frame.cs, CODE64);
    assert_int_equal(frame.rsp, STACK);
    assert_int_equal(frame.ss, DATA_FLAT);
    /* A fault: RF in the image; an interrupt gate: IF cleared for the handler. */
    assert_int_equal(frame.rflags, FLAG_FIXED | FLAG_IF | FLAG_RF);
    assert_int_equal(vm.vcpu->rflags & (FLAG_IF | FLAG_RF), 0);
    testvm_destroy(&vm);
}

static void trap_gate_keeps_if(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->rflags |= FLAG_IF | FLAG_NT;
    fixture_set_gate(&vm, VECTOR_UD, CODE64, HANDLERS + 16 * VECTOR_UD, 0x8f, 0);
    fixture_run(&vm, ud2_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_UD);
    assert_int_equal(vm.vcpu->rflags & (FLAG_IF | FLAG_NT), FLAG_IF);
    testvm_destroy(&vm);
}

static void stack_is_aligned(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->gpr[GPR_RSP] = STACK - 7;
    fixture_run(&vm, ud2_64);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], STACK - 16 - 40);
    assert_int_equal(frame64(&vm, 0).rsp, STACK - 7);
    testvm_destroy(&vm);
}

static void page_fault_long(void **state)
{
    static const struct {
        const uint8_t *code, *end;
        bool user;
        uint32_t error;
        uint64_t address;
    } cases[] = {
        {load_far_64, load_far_64_end, false, 0, NO_MEMORY},
        {store_far_64, store_far_64_end, false, 2, NO_MEMORY + 8},
        {load_far_64, load_far_64_end, true, 4, NO_MEMORY},
        {store_far_64, store_far_64_end, true, 6, NO_MEMORY + 8},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_LONG, 8);
        if (cases[i].user)
            fixture_enter_user(&vm);
        fixture_run_bytes(&vm, cases[i].code, (size_t)(cases[i].end - cases[i].code));
        assert_int_equal(fixture_caught(&vm), VECTOR_PF);
        assert_int_equal(vm.vcpu->cr2, cases[i].address);
        assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), cases[i].error);
        assert_int_equal(frame64(&vm, 8).rip, CODE + 10);
        assert_int_equal(vm.vcpu->gpr[GPR_RSP], (cases[i].user ? INNER_STACK : STACK) - 48);
        assert_int_equal(vm.vcpu->stats.exceptions[VECTOR_PF], 1);
        testvm_destroy(&vm);
    }
}

static void user_to_kernel_stack(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_enter_user(&vm);
    fixture_set_gate(&vm, 0x80, CODE64, HANDLERS + 16 * 0x80, 0xee, 0);
    fixture_run(&vm, int_80_64);
    assert_int_equal(fixture_caught(&vm), 0x80);
    assert_int_equal(vm.vcpu->cpl, 0);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0x1234);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], INNER_STACK - 40);
    assert_int_equal(vm.vcpu->seg[SEG_SS].selector, 0);
    assert_true(vm.vcpu->seg[SEG_SS].attributes & SEG_UNUSABLE);
    struct frame frame = frame64(&vm, 0);
    assert_int_equal(frame.rip, CODE + 7); /* a trap: behind INT */
    assert_int_equal(frame.cs, USER_CODE64 | 3);
    assert_int_equal(frame.ss, USER_DATA | 3);
    assert_int_equal(frame.rsp, STACK);
    assert_int_equal(frame.rflags, FLAG_FIXED);
    testvm_destroy(&vm);
}

static void software_interrupt_needs_dpl(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_enter_user(&vm);
    fixture_run(&vm, int_80_64); /* the gate has DPL 0 */
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), 0x80 * 8 + 2);
    assert_int_equal(frame64(&vm, 8).rip, CODE + 5); /* a fault: at INT */
    testvm_destroy(&vm);
}

static void breakpoint_pushes_next(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, int3_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_BP);
    assert_int_equal(frame64(&vm, 0).rip, CODE + 2);
    assert_int_equal(frame64(&vm, 0).rflags & FLAG_RF, 0);
    testvm_destroy(&vm);
}

static void error_code_of_selector(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, bad_segment_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), 0xff8);
    testvm_destroy(&vm);
}

static void interrupt_stack_table(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_set_gate(&vm, VECTOR_PF, CODE64, HANDLERS + 16 * VECTOR_PF, 0x8e, 1);
    fixture_run(&vm, load_far_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_PF);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], IST_STACK - 48);
    /* No change of level: SS stays. */
    assert_int_equal(vm.vcpu->seg[SEG_SS].selector, DATA_FLAT);
    testvm_destroy(&vm);
}

static void missing_gate_is_np_with_ext(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_set_gate(&vm, VECTOR_UD, CODE64, HANDLERS, 0x0e, 0);
    fixture_run(&vm, ud2_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_NP);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), VECTOR_UD * 8 + 3);
    assert_int_equal(frame64(&vm, 8).rip, CODE);
    testvm_destroy(&vm);
}

static void bad_gate_targets(void **state)
{
    static const struct {
        uint16_t selector;
        uint8_t type;
        uint32_t error;
    } cases[] = {
        {CODE64, 0x85, VECTOR_UD * 8 + 3}, /* task gate */
        {CODE64, 0x86, VECTOR_UD * 8 + 3}, /* 16-bit gates do not exist in IA-32e mode */
        {CODE32, 0x8e, CODE32 + 1},        /* not 64-bit code */
        {DATA_FLAT, 0x8e, DATA_FLAT + 1},
        {0, 0x8e, 1},
        {0x8000, 0x8e, 0x8001},
        {USER_CODE64 | 3, 0x8e, USER_CODE64 + 1}, /* to an outer level */
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_LONG, 8);
        fixture_set_gate(&vm, VECTOR_UD, cases[i].selector, HANDLERS, cases[i].type, 0);
        fixture_run(&vm, ud2_64);
        assert_int_equal(fixture_caught(&vm), VECTOR_GP);
        assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), cases[i].error);
        testvm_destroy(&vm);
    }
}

static void double_fault(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    /* Contributory upon contributory. */
    fixture_set_gate(&vm, VECTOR_DE, CODE64, HANDLERS, 0x0e, 0);
    fixture_run(&vm, divide_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_DF);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), 0);
    assert_int_equal(vm.vcpu->stats.exceptions[VECTOR_DF], 1);
    testvm_destroy(&vm);
}

static void page_fault_on_pushing_page_fault(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->gpr[GPR_RSP] = NO_MEMORY + 0x1000;
    fixture_set_gate(&vm, VECTOR_DF, CODE64, HANDLERS + 16 * VECTOR_DF, 0x8e, 1);
    fixture_run(&vm, load_far_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_DF);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], IST_STACK - 48);
    assert_int_equal(frame64(&vm, 8).rsp, NO_MEMORY + 0x1000);
    assert_int_equal(vm.vcpu->cr2, NO_MEMORY + 0x1000 - 8); /* the second one's: the first push */
    testvm_destroy(&vm);
}

/* Benign first: the second is delivered in its own right. */
static void fault_on_benign_is_serial(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->gpr[GPR_RSP] = NO_MEMORY + 0x1000;
    fixture_set_gate(&vm, VECTOR_PF, CODE64, HANDLERS + 16 * VECTOR_PF, 0x8e, 1);
    fixture_run(&vm, ud2_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_PF);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), 2);
    testvm_destroy(&vm);
}

static void triple_fault(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->idtr.limit = 0;
    vm.vcpu->gpr[GPR_RBX] = 77;
    assert_int_equal(fixture_run(&vm, ud2_64), VCPU_EXIT_SHUTDOWN);
    assert_int_equal(vm.vcpu->rip, CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], STACK);

    char text[4096];
    int length = vcpu_describe(vm.vcpu, text, sizeof(text));
    assert_true(length > 500 && (size_t)length < sizeof(text));
    assert_non_null(strstr(text, "000000000000004d"));
    assert_non_null(strstr(text, "64-bit"));
    /* The length does not depend on the room. */
    assert_int_equal(vcpu_describe(vm.vcpu, text, 10), length);
    assert_int_equal(strlen(text), 9);
    assert_int_equal(vcpu_describe(vm.vcpu, NULL, 0), length);
    testvm_destroy(&vm);
}

static void noncanonical_is_gp(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, noncanonical_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), 0);
    testvm_destroy(&vm);
}

GUEST(int_21_16, "16", "mov $0x1234, %ax; int $0x21; hlt");
GUEST(divide_16, "16", "xor %cx, %cx; div %cx; hlt");

static void real_mode(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_REAL, 2);
    vm.vcpu->rflags |= FLAG_IF | FLAG_AC;
    fixture_run(&vm, int_21_16);
    assert_int_equal(fixture_caught(&vm), 0x21);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], 0x5000 - 6);
    assert_int_equal(fixture_peek(&vm, 0x5000 - 6, 2), 5);
    assert_int_equal(fixture_peek(&vm, 0x5000 - 4, 2), CODE >> 4);
    assert_int_equal(fixture_peek(&vm, 0x5000 - 2, 2), FLAG_FIXED | FLAG_IF);
    assert_int_equal(vm.vcpu->rflags & (FLAG_IF | FLAG_AC), 0);
    testvm_destroy(&vm);
}

static void real_mode_fault_has_no_error_code(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_REAL, 2);
    fixture_run(&vm, divide_16);
    assert_int_equal(fixture_caught(&vm), VECTOR_DE);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], 0x5000 - 6);
    assert_int_equal(fixture_peek(&vm, 0x5000 - 6, 2), 2); /* at DIV */
    testvm_destroy(&vm);
}

static void real_mode_table_limit(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_REAL, 2);
    vm.vcpu->idtr.limit = 4 * 14 - 1; /* INT 21h is outside: #GP, number 13 */
    fixture_run(&vm, int_21_16);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    testvm_destroy(&vm);
    fixture_create(&vm, MODE_REAL, 2);
    vm.vcpu->idtr.limit = 0;
    assert_int_equal(fixture_run(&vm, int_21_16), VCPU_EXIT_SHUTDOWN);
    testvm_destroy(&vm);
}

GUEST(int_80_32, "32", "mov $0x12345678, %eax; int $0x80; hlt");
GUEST(bad_segment_32, "32", "mov $0xff8, %eax; mov %ax, %ds; hlt");

static void protected_32_inner(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_enter_user(&vm);
    fixture_set_gate(&vm, 0x80, CODE32, HANDLERS + 16 * 0x80, 0xef, 0);
    vm.vcpu->rflags |= FLAG_IF;
    fixture_run(&vm, int_80_32);
    assert_int_equal(fixture_caught(&vm), 0x80);
    assert_int_equal(vm.vcpu->cpl, 0);
    assert_int_equal(vm.vcpu->seg[SEG_SS].selector, DATA_FLAT);
    uint64_t rsp = vm.vcpu->gpr[GPR_RSP];
    assert_int_equal(rsp, INNER_STACK - 20);
    assert_int_equal(fixture_peek(&vm, rsp, 4), CODE + 7);
    assert_int_equal(fixture_peek(&vm, rsp + 4, 4), USER_CODE32 | 3);
    assert_int_equal(fixture_peek(&vm, rsp + 8, 4), FLAG_FIXED | FLAG_IF);
    assert_int_equal(fixture_peek(&vm, rsp + 12, 4), STACK);
    assert_int_equal(fixture_peek(&vm, rsp + 16, 4), USER_DATA | 3);
    assert_true(vm.vcpu->rflags & FLAG_IF); /* a trap gate */
    testvm_destroy(&vm);
}

static void protected_32_same_level(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_run(&vm, bad_segment_32);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    uint64_t rsp = vm.vcpu->gpr[GPR_RSP];
    assert_int_equal(rsp, STACK - 16);
    assert_int_equal(fixture_peek(&vm, rsp, 4), 0xff8);
    assert_int_equal(fixture_peek(&vm, rsp + 4, 4), CODE + 5);
    assert_int_equal(fixture_peek(&vm, rsp + 12, 4), FLAG_FIXED | FLAG_RF);
    testvm_destroy(&vm);
}

static void protected_16_gate(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 2);
    vm.vcpu->rflags |= FLAG_IF;
    fixture_run(&vm, int_21_16);
    assert_int_equal(fixture_caught(&vm), 0x21);
    uint64_t rsp = vm.vcpu->gpr[GPR_RSP];
    assert_int_equal(rsp, 0xfff0 - 6);
    assert_int_equal(fixture_peek(&vm, rsp, 2), 5);
    assert_int_equal(fixture_peek(&vm, rsp + 2, 2), CODE16);
    assert_int_equal(fixture_peek(&vm, rsp + 4, 2), FLAG_FIXED | FLAG_IF);
    testvm_destroy(&vm);
}

/* The stack that the TSS names is checked before anything is pushed. */
static void protected_bad_inner_stack(void **state)
{
    static const struct {
        uint16_t selector;
        uint32_t error;
    } cases[] = {
        {0, 0},           {CODE32, CODE32},           {USER_DATA | 3, USER_DATA},
        {0x8000, 0x8000}, {DATA_FLAT | 1, DATA_FLAT},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_PROTECTED, 4);
        fixture_enter_user(&vm);
        fixture_set_gate(&vm, 0x80, CODE32, HANDLERS + 16 * 0x80, 0xee, 0);
        /* #TS cannot use that stack either: shows in a double, then triple fault. */
        fixture_poke(&vm, TSS + 8, cases[i].selector, 2);
        assert_int_equal(fixture_run(&vm, int_80_32), VCPU_EXIT_SHUTDOWN);
        assert_int_equal(vm.vcpu->stats.exceptions[VECTOR_TS], 1);
        assert_int_equal(vm.vcpu->stats.exceptions[VECTOR_DF], 1);
        assert_int_equal(vm.vcpu->fault.vector, VECTOR_TS);
        assert_int_equal(vm.vcpu->fault.error_code, cases[i].error | 1);
        assert_int_equal(vm.vcpu->gpr[GPR_RSP], STACK);
        testvm_destroy(&vm);
    }
}

/* From compatibility code an exception enters 64-bit code. */
static void compatibility_mode(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_COMPATIBILITY, 4);
    fixture_enter_user(&vm);
    fixture_set_gate(&vm, 0x80, CODE64, HANDLERS + 16 * 0x80, 0xee, 0);
    fixture_run(&vm, int_80_32);
    assert_int_equal(fixture_caught(&vm), 0x80);
    assert_int_equal(vm.vcpu->mode, MODE_LONG);
    assert_int_equal(frame64(&vm, 0).cs, USER_CODE32 | 3);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], INNER_STACK - 40);
    testvm_destroy(&vm);
}

/* A frame over a page border with the lower page missing: CR2 is that of the push that faults. */
static void frame_over_page_border(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    /* Two pages below 2 MiB by a page table of their own; the lower one is not there. */
    for (uint64_t i = 0; i < 512; i++)
        fixture_poke(&vm, 0x40000 + 8 * i, i == 0x50 ? 0 : i << 12 | 7, 8);
    fixture_poke(&vm, 0x3000, 0x40000 | 7, 8);
    fixture_poke(&vm, 0x51000, 0x5555, 8);
    vm.vcpu->gpr[GPR_RSP] = 0x51010;
    fixture_set_gate(&vm, VECTOR_PF, CODE64, HANDLERS + 16 * VECTOR_PF, 0x8e, 1);
    fixture_run(&vm, ud2_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_PF);
    assert_int_equal(vm.vcpu->cr2, 0x50ff8);
    assert_int_equal(fixture_peek(&vm, 0x51000, 8), 0x5555); /* nothing was written */
    testvm_destroy(&vm);
}

GUEST(
    int_resumed_64, "64",
    "pushq $0x20; pushq $0x1e000; pushq $0x10002; pushq $8; lea 1f(%rip), %rax; push %rax; iretq\n"
    "1: int $0x80; hlt");

/* RF ends when the instruction begins, so INT n does not push it. */
static void software_interrupt_pushes_no_rf(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, int_resumed_64);
    assert_int_equal(fixture_caught(&vm), 0x80);
    assert_int_equal(frame64(&vm, 0).rflags, FLAG_FIXED);
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(undefined_long),
        cmocka_unit_test(trap_gate_keeps_if),
        cmocka_unit_test(stack_is_aligned),
        cmocka_unit_test(page_fault_long),
        cmocka_unit_test(user_to_kernel_stack),
        cmocka_unit_test(software_interrupt_needs_dpl),
        cmocka_unit_test(breakpoint_pushes_next),
        cmocka_unit_test(error_code_of_selector),
        cmocka_unit_test(interrupt_stack_table),
        cmocka_unit_test(missing_gate_is_np_with_ext),
        cmocka_unit_test(bad_gate_targets),
        cmocka_unit_test(double_fault),
        cmocka_unit_test(page_fault_on_pushing_page_fault),
        cmocka_unit_test(fault_on_benign_is_serial),
        cmocka_unit_test(triple_fault),
        cmocka_unit_test(noncanonical_is_gp),
        cmocka_unit_test(real_mode),
        cmocka_unit_test(real_mode_fault_has_no_error_code),
        cmocka_unit_test(real_mode_table_limit),
        cmocka_unit_test(protected_32_inner),
        cmocka_unit_test(protected_32_same_level),
        cmocka_unit_test(protected_16_gate),
        cmocka_unit_test(protected_bad_inner_stack),
        cmocka_unit_test(compatibility_mode),
        cmocka_unit_test(frame_over_page_border),
        cmocka_unit_test(software_interrupt_pushes_no_rf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
