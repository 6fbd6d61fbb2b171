/* Segment registers, descriptor tables, LAR and its kin. */

#include "cpu/system/descriptor.h"
#include "fixture.h"

GUEST(mov_ds_32, "32", "mov %eax, %ds; mov %ds, %ebx; hlt");
GUEST(mov_ss_32, "32", "mov %eax, %ss; hlt");
GUEST(mov_ss_64, "64", "mov %eax, %ss; hlt");

enum { FINE = -1 };

#define DATA_READ_ONLY  0x00cf91000000ffffull
#define CODE_ONLY       0x00cf99000000ffffull /* execute-only */
#define DATA_ABSENT     0x00cf13000000ffffull
#define DATA_FRESH      0x00cf92345678ffffull /* not accessed, base 0x345678 */
#define CODE_CONFORMING 0x00cf9f000000ffffull
#define DATA_SMALL      0x004093030000000full /* 16 bytes at DATA */
#define DATA_DOWN       0x0040970300000fffull /* expand-down: offsets from 0x1000 */

static void data_loads(void **state)
{
    static const struct {
        uint64_t descriptor;
        uint16_t selector;
        bool user;
        int vector;
        uint32_t error;
    } cases[] = {
        {0, 0, false, FINE, 0},
        {0, 3, false, FINE, 0},
        {DATA_READ_ONLY, SPARE, false, FINE, 0},
        {DATA_FRESH, SPARE | 3, false, VECTOR_GP, SPARE}, /* RPL outside DPL */
        {DATA_FRESH, SPARE, true, VECTOR_GP, SPARE},      /* CPL outside DPL */
        {CODE_ONLY, SPARE, false, VECTOR_GP, SPARE},
        {CODE_CONFORMING, SPARE | 3, true, FINE, 0},
        {DATA_ABSENT, SPARE, false, VECTOR_NP, SPARE},
        {0, TSS_SELECTOR, false, VECTOR_GP, TSS_SELECTOR},
        {0, GDT_END, false, VECTOR_GP, GDT_END},
        {0, 0x54 | 3, false, VECTOR_GP, 0x54}, /* no LDT */
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_PROTECTED, 4);
        if (cases[i].user)
            fixture_enter_user(&vm);
        vm.vcpu->ldtr.attributes = SEG_UNUSABLE;
        if (cases[i].descriptor != 0)
            fixture_set_descriptor(&vm, SPARE, cases[i].descriptor);
        struct segment before = vm.vcpu->seg[SEG_DS];
        vm.vcpu->gpr[GPR_RAX] = cases[i].selector;
        fixture_run(&vm, mov_ds_32);
        /* A user program ends in #GP at HLT, with the load done. */
        if (cases[i].vector == FINE) {
            assert_int_equal(fixture_caught(&vm), cases[i].user ? VECTOR_GP : -1);
            assert_int_equal(vm.vcpu->seg[SEG_DS].selector, cases[i].selector);
            assert_int_equal(vm.vcpu->gpr[GPR_RBX], cases[i].selector);
        } else {
            assert_int_equal(fixture_caught(&vm), cases[i].vector);
            assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 4), cases[i].error);
            assert_memory_equal(&vm.vcpu->seg[SEG_DS], &before, sizeof(before));
        }
        testvm_destroy(&vm);
    }
}

static void accessed_bit_is_set(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_set_descriptor(&vm, SPARE, DATA_FRESH);
    vm.vcpu->gpr[GPR_RAX] = SPARE;
    fixture_run(&vm, mov_ds_32);
    assert_int_equal(fixture_peek(&vm, GDT + SPARE, 8), DATA_FRESH | 1ull << 40);
    assert_int_equal(vm.vcpu->seg[SEG_DS].base, 0x345678);
    assert_int_equal(vm.vcpu->seg[SEG_DS].limit, UINT32_MAX);
    assert_int_equal(vm.vcpu->seg[SEG_DS].attributes, 0xc093);
    testvm_destroy(&vm);
}

static void stack_loads(void **state)
{
    static const struct {
        uint64_t descriptor;
        uint16_t selector;
        int vector;
        uint32_t error;
    } cases[] = {
        {0, 0, VECTOR_GP, 0},
        {DATA_READ_ONLY, SPARE, VECTOR_GP, SPARE},
        {DATA_FRESH, SPARE | 1, VECTOR_GP, SPARE},
        {DATA_ABSENT, SPARE, VECTOR_SS, SPARE},
        {0, USER_DATA, VECTOR_GP, USER_DATA},
        {0, CODE32, VECTOR_GP, CODE32},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_PROTECTED, 4);
        if (cases[i].descriptor != 0)
            fixture_set_descriptor(&vm, SPARE, cases[i].descriptor);
        vm.vcpu->gpr[GPR_RAX] = cases[i].selector;
        fixture_run(&vm, mov_ss_32);
        assert_int_equal(fixture_caught(&vm), cases[i].vector);
        assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 4), cases[i].error);
        testvm_destroy(&vm);
    }
}

static void null_stack_in_long_mode(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->gpr[GPR_RAX] = 0;
    fixture_run(&vm, mov_ss_64);
    assert_int_equal(fixture_caught(&vm), FINE);
    assert_true(vm.vcpu->seg[SEG_SS].attributes & SEG_UNUSABLE);
    assert_int_equal(vm.vcpu->cpl, 0);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_LONG, 8);
    fixture_enter_user(&vm);
    vm.vcpu->gpr[GPR_RAX] = 3;
    fixture_run(&vm, mov_ss_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP] + 8, 8), CODE);
    testvm_destroy(&vm);
}

/* FS and GS bases come from MSRs in 64-bit mode; a selector load replaces them. */
GUEST(mov_fs_64, "64", "mov %eax, %fs; hlt");

static void fs_base_in_long_mode(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->seg[SEG_FS].base = 0xffff888000000000;
    fixture_set_descriptor(&vm, SPARE, DATA_FRESH);
    vm.vcpu->gpr[GPR_RAX] = SPARE;
    fixture_run(&vm, mov_fs_64);
    assert_int_equal(vm.vcpu->seg[SEG_FS].base, 0x345678);
    testvm_destroy(&vm);
}

GUEST(inside_32, "32", "mov $0x50, %eax; mov %eax, %ds; mov 12, %ebx; hlt");

GUEST(outside_32, "32", "mov $0x50, %eax; mov %eax, %ds; mov 13, %ebx; hlt");

GUEST(down_inside_32, "32", "mov $0x50, %eax; mov %eax, %ds; mov 0x1000, %ebx; hlt");

GUEST(down_outside_32, "32", "mov $0x50, %eax; mov %eax, %ds; mov 0xffd, %ebx; hlt");

static void limits(void **state)
{
    static const struct {
        uint64_t descriptor;
        const uint8_t *code, *end;
        int vector;
    } cases[] = {
        {DATA_SMALL, inside_32, inside_32_end, FINE},
        {DATA_SMALL, outside_32, outside_32_end, VECTOR_GP},
        {DATA_DOWN, down_inside_32, down_inside_32_end, FINE},
        {DATA_DOWN, down_outside_32, down_outside_32_end, VECTOR_GP},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_PROTECTED, 4);
        fixture_set_descriptor(&vm, SPARE, cases[i].descriptor);
        fixture_run_bytes(&vm, cases[i].code, (size_t)(cases[i].end - cases[i].code));
        assert_int_equal(fixture_caught(&vm), cases[i].vector);
        testvm_destroy(&vm);
    }
}

/* "Unreal mode": limits from protected mode stay when real mode loads a selector. */
GUEST(mov_ds_16, "16", "mov $0x3000, %ax; mov %ax, %ds; mov 4, %bx; pop %es; hlt");

static void real_mode_loads_base_alone(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_REAL, 2);
    vm.vcpu->seg[SEG_DS].limit = UINT32_MAX;
    fixture_poke(&vm, DATA + 4, 0xbeef, 2);
    fixture_poke(&vm, 0x5000, 0x1234, 2);
    fixture_run(&vm, mov_ds_16);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], 0xbeef);
    assert_int_equal(vm.vcpu->seg[SEG_DS].base, DATA);
    assert_int_equal(vm.vcpu->seg[SEG_DS].limit, UINT32_MAX);
    assert_int_equal(vm.vcpu->seg[SEG_ES].base, 0x12340);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], 0x5002);
    testvm_destroy(&vm);
}

GUEST(lfs_32, "32", "movl $0xdeadbeef, 0x30000; movw $0x50, 0x30004; lfs 0x30000, %ecx; hlt");

static void far_pointer_loads(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_set_descriptor(&vm, SPARE, DATA_FRESH);
    fixture_run(&vm, lfs_32);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0xdeadbeef);
    assert_int_equal(vm.vcpu->seg[SEG_FS].selector, SPARE);
    testvm_destroy(&vm);

    /* A bad selector leaves the register as it was. */
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_run(&vm, lfs_32);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0);
    testvm_destroy(&vm);
}

GUEST(push_fs_64, "64",
      "push %fs; pop %gs; mov %rsp, %rbx; pushq $-1; pop %rcx; push %fs\n"
      "mov (%rsp), %rdx; pop %fs; hlt");

static void push_and_pop_segments(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_run(&vm, push_fs_64);
    assert_int_equal(fixture_caught(&vm), FINE);
    assert_int_equal(vm.vcpu->seg[SEG_GS].selector, DATA_FLAT);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], STACK);
    assert_int_equal(vm.vcpu->gpr[GPR_RDX], DATA_FLAT);
    assert_int_equal(vm.vcpu->gpr[GPR_RSP], STACK);
    testvm_destroy(&vm);
}

GUEST(tables_64, "64",
      "sgdt 0x30000; sidt 0x30010; str %ebx; sldt %ecx; smsw %edx\n"
      "lidt 0x30020; lgdt 0x30030; hlt");

static void tables_round_trip(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_poke(&vm, DATA + 0x20, 0xabc, 2);
    fixture_poke(&vm, DATA + 0x22, 0xffff800012345678, 8);
    fixture_poke(&vm, DATA + 0x30, 0x77, 2);
    fixture_poke(&vm, DATA + 0x32, 0x4000, 8);
    fixture_run(&vm, tables_64);
    assert_int_equal(fixture_peek(&vm, DATA, 2), GDT_END - 1);
    assert_int_equal(fixture_peek(&vm, DATA + 2, 8), GDT);
    assert_int_equal(fixture_peek(&vm, DATA + 0x10, 2), 0xfff);
    assert_int_equal(fixture_peek(&vm, DATA + 0x12, 8), IDT);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], TSS_SELECTOR);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0);
    assert_int_equal(vm.vcpu->idtr.base, 0xffff800012345678);
    assert_int_equal(vm.vcpu->idtr.limit, 0xabc);
    assert_int_equal(vm.vcpu->gdtr.base, 0x4000);
    testvm_destroy(&vm);
}

GUEST(lgdt_64, "64", "lgdt 0x30000; hlt");

static void noncanonical_table_base(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_poke(&vm, DATA + 2, 1ull << 47, 8);
    fixture_run(&vm, lgdt_64);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(vm.vcpu->gdtr.base, GDT);
    testvm_destroy(&vm);
}

static void umip(void **state)
{
    static const uint8_t forms[][3] = {{0x0f, 0x01, 0x00}, /* sgdt (rax) */
                                       {0x0f, 0x01, 0x08}, /* sidt (rax) */
                                       {0x0f, 0x00, 0xc0}, /* sldt eax */
                                       {0x0f, 0x00, 0xc8}, /* str eax */
                                       {0x0f, 0x01, 0xe0} /* smsw eax */};
    for (unsigned i = 0; i < ARRAY_LENGTH(forms); i++) {
        for (int on = 0; on < 2; on++) {
            struct testvm vm;
            fixture_create(&vm, MODE_LONG, 8);
            fixture_enter_user(&vm);
            vm.vcpu->mmu.cr4 |= on ? CR4_UMIP : 0;
            vm.vcpu->gpr[GPR_RAX] = DATA;
            uint8_t code[5] = {forms[i][0], forms[i][1], forms[i][2], 0x0f, 0x0b};
            fixture_run_bytes(&vm, code, sizeof(code));
            assert_int_equal(fixture_caught(&vm), on ? VECTOR_GP : VECTOR_UD);
            testvm_destroy(&vm);
        }
    }
}

GUEST(ltr_64, "64", "mov $0x40, %eax; ltr %ax; str %ebx; ltr %ax; hlt");

static void load_task_register(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_poke(&vm, GDT + TSS_SELECTOR + 8, 0xffff9000, 4);
    fixture_run(&vm, ltr_64);
    /* The second one finds it busy. */
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 8), TSS_SELECTOR);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], TSS_SELECTOR);
    assert_int_equal(vm.vcpu->tr.base, 0xffff900000005000);
    assert_int_equal(vm.vcpu->tr.limit, 0x67);
    assert_int_equal(fixture_peek(&vm, GDT + TSS_SELECTOR + 5, 1), 0x8b);
    testvm_destroy(&vm);
}

GUEST(lldt_32, "32", "mov $0x50, %eax; lldt %ax; mov $0xc, %eax; mov %eax, %ds; sldt %bx; hlt");

GUEST(lldt_null_32, "32", "xor %eax, %eax; lldt %ax; mov $4, %eax; mov %eax, %ds; hlt");

static void local_descriptor_table(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_set_descriptor(&vm, SPARE, 0x000082030000000f); /* 16 bytes at DATA */
    fixture_poke(&vm, DATA + 8, DATA_FRESH, 8);
    fixture_run(&vm, lldt_32);
    assert_int_equal(fixture_caught(&vm), FINE);
    assert_int_equal(vm.vcpu->seg[SEG_DS].selector, 0xc);
    assert_int_equal(vm.vcpu->seg[SEG_DS].base, 0x345678);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], SPARE);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_run(&vm, lldt_null_32);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(fixture_peek(&vm, vm.vcpu->gpr[GPR_RSP], 4), 4);
    testvm_destroy(&vm);
}

GUEST(ask_32, "32",
      "lar %eax, %ebx; setz 0x30000; lsl %eax, %ecx; setz 0x30001\n"
      "verr %ax; setz 0x30002; verw %ax; setz 0x30003; ud2");

static void questions_about_selectors(void **state)
{
    static const struct {
        uint64_t descriptor;
        uint16_t selector;
        bool user;
        uint8_t answers[4]; /* LAR, LSL, VERR, VERW */
        uint32_t rights, limit;
    } cases[] = {
        {0, 0, false, {0, 0, 0, 0}, 0, 0},
        {0, DATA_FLAT, false, {1, 1, 1, 1}, 0xcf9300 & 0xf0ff00, UINT32_MAX},
        {DATA_READ_ONLY, SPARE, false, {1, 1, 1, 0}, 0xc09100, UINT32_MAX},
        {CODE_ONLY, SPARE, false, {1, 1, 0, 0}, 0xc09900, UINT32_MAX},
        {DATA_SMALL, SPARE, false, {1, 1, 1, 1}, 0x409300, 15},
        {DATA_FRESH, SPARE, true, {0, 0, 0, 0}, 0, 0},
        {CODE_CONFORMING, SPARE, true, {1, 1, 1, 0}, 0xc09f00, UINT32_MAX},
        {0, TSS_SELECTOR, false, {1, 1, 0, 0}, 0x8900, 0x67},
        {0x00008e0000000000, SPARE, false, {0, 0, 0, 0}, 0, 0},      /* an interrupt gate */
        {0x00008c0000000000, SPARE, false, {1, 0, 0, 0}, 0x8c00, 0}, /* a call gate */
        {0, GDT_END, false, {0, 0, 0, 0}, 0, 0},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_PROTECTED, 4);
        if (cases[i].descriptor != 0)
            fixture_set_descriptor(&vm, SPARE, cases[i].descriptor);
        if (cases[i].user)
            fixture_enter_user(&vm);
        vm.vcpu->gpr[GPR_RAX] = cases[i].selector;
        vm.vcpu->gpr[GPR_RBX] = vm.vcpu->gpr[GPR_RCX] = 0x5a5a;
        fixture_run(&vm, ask_32);
        assert_int_equal(fixture_caught(&vm), VECTOR_UD);
        for (unsigned n = 0; n < 4; n++)
            if (fixture_peek(&vm, DATA + n, 1) != cases[i].answers[n])
                fail_msg("case %u, question %u", i, n);
        assert_int_equal(vm.vcpu->gpr[GPR_RBX], cases[i].answers[0] ? cases[i].rights : 0x5a5a);
        assert_int_equal(vm.vcpu->gpr[GPR_RCX], cases[i].answers[1] ? cases[i].limit : 0x5a5a);
        testvm_destroy(&vm);
    }
}

GUEST(arpl_32, "32",
      "mov $0x10, %eax; mov $3, %ebx; arpl %bx, %ax; setz %cl\n"
      "arpl %bx, %ax; setz %ch; hlt");

static void adjust_rpl(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_run(&vm, arpl_32);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0x13);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0x0001);
    testvm_destroy(&vm);
}

static void not_in_real_mode(void **state)
{
    static const uint8_t forms[][3] = {{0x0f, 0x00, 0xd0}, /* lldt */
                                       {0x0f, 0x00, 0xd8}, /* ltr */
                                       {0x0f, 0x00, 0xe0}, /* verr */
                                       {0x0f, 0x02, 0xc0}, /* lar */
                                       {0x0f, 0x00, 0xc8} /* str */};
    for (unsigned i = 0; i < ARRAY_LENGTH(forms); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_REAL, 2);
        fixture_run_bytes(&vm, forms[i], 3);
        assert_int_equal(fixture_caught(&vm), VECTOR_UD);
        testvm_destroy(&vm);
    }
}

GUEST(fill_read_only_32, "32",
      "mov $0x50, %eax; mov %eax, %es; mov $0x30000, %edi; mov $4, %ecx; movb $1, 0x30000\n"
      "rep stosb; hlt");

/* Runs of string instructions obey the type of their segment, also where the TLB has the page. */
static void strings_obey_segment_types(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_set_descriptor(&vm, SPARE, 0x00cf91000000ffff); /* data, read-only */
    fixture_run(&vm, fill_read_only_32);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    assert_int_equal(fixture_peek(&vm, DATA, 1), 1);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 4);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_set_descriptor(&vm, SPARE, 0x00cf9b000000ffff); /* code, readable */
    fixture_run(&vm, fill_read_only_32);
    assert_int_equal(fixture_caught(&vm), VECTOR_GP);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_set_descriptor(&vm, SPARE, 0x00cf93000000ffff); /* data, writable */
    fixture_run(&vm, fill_read_only_32);
    assert_int_equal(fixture_caught(&vm), -1);
    assert_int_equal(fixture_peek(&vm, DATA, 4), 0x50505050);
    testvm_destroy(&vm);
}

static void load_second_descriptor(struct vcpu *vcpu)
{
    segment_load(vcpu, SEG_DS, 0x10);
}

/* A table whose end is not canonical: no such address reaches the MMU. */
static void table_reaches_beyond_canonical(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->gdtr = (struct descriptor_table){0x7ffffffffff8, 0xff};
    assert_int_equal(fixture_raised(&vm, load_second_descriptor), VECTOR_GP);
    assert_int_equal(vm.vcpu->fault.error_code, 0);
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(data_loads),
        cmocka_unit_test(accessed_bit_is_set),
        cmocka_unit_test(stack_loads),
        cmocka_unit_test(null_stack_in_long_mode),
        cmocka_unit_test(fs_base_in_long_mode),
        cmocka_unit_test(limits),
        cmocka_unit_test(real_mode_loads_base_alone),
        cmocka_unit_test(far_pointer_loads),
        cmocka_unit_test(push_and_pop_segments),
        cmocka_unit_test(tables_round_trip),
        cmocka_unit_test(noncanonical_table_base),
        cmocka_unit_test(umip),
        cmocka_unit_test(load_task_register),
        cmocka_unit_test(local_descriptor_table),
        cmocka_unit_test(questions_about_selectors),
        cmocka_unit_test(adjust_rpl),
        cmocka_unit_test(not_in_real_mode),
        cmocka_unit_test(strings_obey_segment_types),
        cmocka_unit_test(table_reaches_beyond_canonical),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
