/* CR0, CR3, CR4, CR8, EFER, XCR0: what is allowed, and what it does. */

#include "fixture.h"

GUEST(mov_cr0, "64", "mov %rax, %cr0; hlt");
GUEST(mov_cr3, "64", "mov %rax, %cr3; hlt");
GUEST(mov_cr4, "64", "mov %rax, %cr4; hlt");
GUEST(mov_cr8, "64", "mov %rax, %cr8; mov %cr8, %rbx; hlt");
GUEST(wrmsr_64, "64", "mov %rax, %rdx; shr $32, %rdx; wrmsr; hlt");
GUEST(xsetbv_64, "64", "mov %rax, %rdx; shr $32, %rdx; xsetbv; hlt");
GUEST(mov_cr0_32, "32", "mov %eax, %cr0; hlt");
GUEST(mov_cr4_32, "32", "mov %eax, %cr4; hlt");

#define RUN_WITH(vm, code, value)                                                                  \
    ((vm)->vcpu->gpr[GPR_RAX] = (value), fixture_run(vm, code), fixture_caught(vm))

enum { FINE = -1 };

static void cr0_rules(void **state)
{
    static const struct {
        uint64_t value;
        int vector;
    } cases[] = {
        {CR0_PE | CR0_PG | CR0_ET | CR0_WP, FINE},
        {CR0_PG | CR0_ET, VECTOR_GP},          /* paging without protection */
        {CR0_PE | CR0_PG | CR0_NW, VECTOR_GP}, /* NW without CD */
        {CR0_PE | CR0_PG | CR0_NW | CR0_CD, FINE},
        {CR0_PE, VECTOR_GP}, /* paging off in 64-bit mode */
        {CR0_PE | CR0_PG | 1ull << 32, VECTOR_GP},
        {CR0_PE | CR0_PG | 1ull << 20, FINE}, /* reserved low bits are ignored */
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_LONG, 8);
        uint64_t before = vm.vcpu->mmu.cr0;
        assert_int_equal(RUN_WITH(&vm, mov_cr0, cases[i].value), cases[i].vector);
        if (cases[i].vector == FINE)
            assert_int_equal(vm.vcpu->mmu.cr0, (cases[i].value | CR0_ET) & ~(1ull << 20));
        else
            assert_int_equal(vm.vcpu->mmu.cr0, before);
        testvm_destroy(&vm);
    }
}

static void long_mode_needs_pae(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    vm.vcpu->mmu.efer = EFER_LME;
    assert_int_equal(RUN_WITH(&vm, mov_cr0_32, CR0_PE | CR0_PG), VECTOR_GP);
    assert_int_equal(vm.vcpu->mmu.efer, EFER_LME);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_PROTECTED, 4);
    vm.vcpu->mmu.efer = EFER_LME;
    vm.vcpu->mmu.cr4 |= CR4_PAE;
    vm.vcpu->mmu.cr3 = 0x1000;
    assert_int_equal(RUN_WITH(&vm, mov_cr0_32, CR0_PE | CR0_PG), FINE);
    assert_int_equal(vm.vcpu->mmu.efer, EFER_LME | EFER_LMA);
    assert_int_equal(vm.vcpu->mode, MODE_COMPATIBILITY);
    testvm_destroy(&vm);

    /* With CS.L set already, activation is refused. */
    fixture_create(&vm, MODE_PROTECTED, 4);
    vm.vcpu->mmu.efer = EFER_LME;
    vm.vcpu->mmu.cr4 |= CR4_PAE;
    vm.vcpu->mmu.cr3 = 0x1000;
    vm.vcpu->seg[SEG_CS].attributes |= SEG_L;
    assert_int_equal(RUN_WITH(&vm, mov_cr0_32, CR0_PE | CR0_PG), VECTOR_GP);
    testvm_destroy(&vm);
}

static void pae_loads_pdptes(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    vm.vcpu->mmu.cr4 |= CR4_PAE;
    vm.vcpu->mmu.cr3 = 0x31000;
    fixture_poke(&vm, 0x31000, 0x3000 | 1, 8);     /* testvm's 2 MiB pages serve PAE too */
    fixture_poke(&vm, 0x31008, 0x3000 | 1 | 6, 8); /* reserved bits set */
    assert_int_equal(RUN_WITH(&vm, mov_cr0_32, CR0_PE | CR0_PG), VECTOR_GP);
    assert_int_equal(vm.vcpu->mmu.cr0 & CR0_PG, 0);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_PROTECTED, 4);
    vm.vcpu->mmu.cr4 |= CR4_PAE;
    vm.vcpu->mmu.cr3 = 0x31000;
    fixture_poke(&vm, 0x31000, 0x3000 | 1, 8);
    assert_int_equal(RUN_WITH(&vm, mov_cr0_32, CR0_PE | CR0_PG), FINE);
    assert_int_equal(vm.vcpu->mmu.pdpte[0], 0x3001);
    testvm_destroy(&vm);
}

static void cr4_rules(void **state)
{
    const uint64_t base = CR4_PAE | CR4_OSFXSR;
    const struct {
        uint64_t value;
        int vector;
    } cases[] = {
        {base, FINE},
        {base | CR4_PGE | CR4_PSE | CR4_DE | CR4_TSD | CR4_UMIP | CR4_SMEP | CR4_SMAP, FINE},
        {CR4_OSFXSR, VECTOR_GP},     /* PAE off in long mode */
        {base | CR4_VME, VECTOR_GP}, /* not offered */
        {base | CR4_MCE, VECTOR_GP},
        {base | 1 << 13, VECTOR_GP},    /* VMX */
        {base | 1 << 12, VECTOR_GP},    /* LA57 */
        {base | 1ull << 22, VECTOR_GP}, /* protection keys */
        {base | 1ull << 63, VECTOR_GP},
        {base | CR4_PCIDE, FINE},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_LONG, 8);
        uint64_t before = vm.vcpu->mmu.cr4;
        /* SMAP would hurt nobody here: the program touches no data. The pages are user pages, so
         * SMEP must fault on the HLT that follows. */
        int vector = cases[i].vector;
        if ((cases[i].value & CR4_SMEP) != 0) {
            vm.vcpu->gpr[GPR_RAX] = cases[i].value;
            assert_int_equal(fixture_run(&vm, mov_cr4), VCPU_EXIT_SHUTDOWN);
        } else {
            assert_int_equal(RUN_WITH(&vm, mov_cr4, cases[i].value), vector);
        }
        assert_int_equal(vm.vcpu->mmu.cr4, vector == FINE ? cases[i].value : before);
        testvm_destroy(&vm);
    }
}

static void pcid_rules(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->mmu.cr3 |= 8; /* CR3[11:0] not 0 */
    assert_int_equal(RUN_WITH(&vm, mov_cr4, CR4_PAE | CR4_PCIDE), VECTOR_GP);
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_PROTECTED, 4);
    assert_int_equal(RUN_WITH(&vm, mov_cr4_32, CR4_PCIDE), VECTOR_GP); /* not in long mode */
    testvm_destroy(&vm);

    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->mmu.cr4 |= CR4_PCIDE;
    assert_int_equal(RUN_WITH(&vm, mov_cr3, 1ull << 63 | 0x1005), FINE);
    assert_int_equal(vm.vcpu->mmu.cr3, 0x1005);
    testvm_destroy(&vm);
}

static void cr3_rules(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    assert_int_equal(RUN_WITH(&vm, mov_cr3, 1ull << 63 | 0x1000), VECTOR_GP);
    testvm_destroy(&vm);
    fixture_create(&vm, MODE_LONG, 8);
    assert_int_equal(RUN_WITH(&vm, mov_cr3, 1ull << 46 | 0x1000), VECTOR_GP);
    assert_int_equal(vm.vcpu->mmu.cr3, 0x1000);
    testvm_destroy(&vm);
}

static void cr8_rules(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    assert_int_equal(RUN_WITH(&vm, mov_cr8, 15), FINE);
    testvm_destroy(&vm);
    fixture_create(&vm, MODE_LONG, 8);
    assert_int_equal(RUN_WITH(&vm, mov_cr8, 16), VECTOR_GP);
    testvm_destroy(&vm);
}

static void efer_rules(void **state)
{
    const uint64_t on = EFER_LME | EFER_LMA;
    const struct {
        uint64_t value, result;
        int vector;
    } cases[] = {
        {on | EFER_NXE | EFER_SCE, on | EFER_NXE | EFER_SCE, FINE},
        {on, on, FINE},
        {EFER_LME | EFER_SCE, on | EFER_SCE, FINE}, /* LMA cannot be written */
        {EFER_SCE, 0, VECTOR_GP},                   /* LME with paging on */
        {on | 1 << 1, 0, VECTOR_GP},
        {on | 1 << 14, 0, VECTOR_GP},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_LONG, 8);
        vm.vcpu->gpr[GPR_RCX] = 0xc0000080;
        uint64_t before = vm.vcpu->mmu.efer;
        assert_int_equal(RUN_WITH(&vm, wrmsr_64, cases[i].value), cases[i].vector);
        assert_int_equal(vm.vcpu->mmu.efer, cases[i].vector == FINE ? cases[i].result : before);
        testvm_destroy(&vm);
    }
}

static void user_may_not(void **state)
{
    static const struct {
        const char *name;
        uint8_t bytes[4];
        uint8_t length;
    } cases[] = {
        {"mov cr0", {0x0f, 0x20, 0xc0}, 3},
        {"mov to cr3", {0x0f, 0x22, 0xd8}, 3},
        {"clts", {0x0f, 0x06}, 2},
        {"hlt", {0xf4}, 1},
        {"invd", {0x0f, 0x08}, 2},
        {"wbinvd", {0x0f, 0x09}, 2},
        {"rdmsr", {0x0f, 0x32}, 2},
        {"wrmsr", {0x0f, 0x30}, 2},
        {"lgdt", {0x0f, 0x01, 0x10}, 3},
        {"lidt", {0x0f, 0x01, 0x18}, 3},
        {"lldt", {0x0f, 0x00, 0xd0}, 3},
        {"ltr", {0x0f, 0x00, 0xd8}, 3},
        {"invlpg", {0x0f, 0x01, 0x38}, 3},
        {"lmsw", {0x0f, 0x01, 0xf0}, 3},
        {"cli", {0xfa}, 1},
        {"sti", {0xfb}, 1},
        {"swapgs", {0x0f, 0x01, 0xf8}, 3},
        {"in", {0xe4, 0x70}, 2},
        {"out", {0xe6, 0x70}, 2},
        {"xsetbv", {0x0f, 0x01, 0xd1}, 3},
        {"sysretq", {0x48, 0x0f, 0x07}, 3},
        {"rdpmc", {0x0f, 0x33}, 2},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_LONG, 8);
        vm.vcpu->gpr[GPR_RAX] = DATA;
        fixture_enter_user(&vm);
        fixture_run_bytes(&vm, cases[i].bytes, cases[i].length);
        if (fixture_caught(&vm) != VECTOR_GP)
            fail_msg("%s at CPL 3: vector %d", cases[i].name, fixture_caught(&vm));
        testvm_destroy(&vm);
    }
}

static void not_offered_is_undefined(void **state)
{
    static const struct {
        const char *name;
        uint8_t bytes[4];
        uint8_t length;
    } cases[] = {
        {"vmcall", {0x0f, 0x01, 0xc1}, 3},  {"vmmcall", {0x0f, 0x01, 0xd9}, 3},
        {"monitor", {0x0f, 0x01, 0xc8}, 3}, {"mwait", {0x0f, 0x01, 0xc9}, 3},
        {"ud1", {0x0f, 0xb9, 0xc0}, 3},     {"rsm", {0x0f, 0xaa}, 2},
        {"cr1", {0x0f, 0x20, 0xc8}, 3},     {"vmxon", {0xf3, 0x0f, 0xc7, 0x30}, 4},
        {"rdpkru", {0x0f, 0x01, 0xee}, 3},  {"xbegin", {0xc7, 0xf8, 0, 0}, 4},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct testvm vm;
        fixture_create(&vm, MODE_LONG, 8);
        vm.vcpu->gpr[GPR_RAX] = DATA;
        fixture_run_bytes(&vm, cases[i].bytes, cases[i].length);
        if (fixture_caught(&vm) != VECTOR_UD)
            fail_msg("%s: vector %d", cases[i].name, fixture_caught(&vm));
        testvm_destroy(&vm);
    }
}

static void xcr0_rules(void **state)
{
    const struct {
        uint64_t value, index;
        int vector;
    } cases[] = {
        {1, 0, FINE},      {3, 0, FINE},          {0, 0, VECTOR_GP}, {2, 0, VECTOR_GP},
        {5, 0, VECTOR_GP}, {8 | 3, 0, VECTOR_GP}, {3, 1, VECTOR_GP}, {1ull << 32 | 3, 0, VECTOR_GP},
    };
    struct testvm vm;
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        fixture_create(&vm, MODE_LONG, 8);
        vm.vcpu->gpr[GPR_RCX] = cases[i].index;
        assert_int_equal(RUN_WITH(&vm, xsetbv_64, cases[i].value), cases[i].vector);
        if (cases[i].vector == FINE)
            assert_int_equal(vm.vcpu->xcr0, cases[i].value);
        testvm_destroy(&vm);
    }
    fixture_create(&vm, MODE_LONG, 8);
    vm.vcpu->mmu.cr4 &= ~(uint64_t)CR4_OSXSAVE;
    vm.vcpu->gpr[GPR_RCX] = 0;
    assert_int_equal(RUN_WITH(&vm, xsetbv_64, 1), VECTOR_UD);
    testvm_destroy(&vm);
}

GUEST(lmsw_32, "32", "mov $0xe, %eax; lmsw %ax; smsw %ebx; hlt");

static void lmsw_sets_and_does_not_clear(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_PROTECTED, 4);
    fixture_run(&vm, lmsw_32);
    assert_int_equal(vm.vcpu->mmu.cr0 & 0xf, 0xf);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], vm.vcpu->mmu.cr0);
    testvm_destroy(&vm);
}

/* A changed mapping is seen after INVLPG, and INVPCID of each type. */
GUEST(invlpg_64, "64",
      "mov 0x200000, %eax; mov $0x87, %edx; mov %rdx, 0x3008\n"
      "invlpg 0x200000; mov 0x200000, %ebx; hlt");

GUEST(invpcid_64, "64",
      "mov 0x200000, %eax; mov $0x87, %edx; mov %rdx, 0x3008\n"
      "movq $0, 0x30100; movq $0x200000, 0x30108\n"
      "invpcid 0x30100, %rsi; mov 0x200000, %ebx; hlt");

static void invalidation(void **state)
{
    struct testvm vm;
    fixture_create(&vm, MODE_LONG, 8);
    fixture_poke(&vm, 0, 0x11111111, 4);
    fixture_poke(&vm, 0x200000, 0x22222222, 4);
    fixture_run(&vm, invlpg_64);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0x22222222);
    assert_int_equal(vm.vcpu->gpr[GPR_RBX], 0x11111111);
    testvm_destroy(&vm);

    for (uint64_t type = 0; type < 5; type++) {
        fixture_create(&vm, MODE_LONG, 8);
        fixture_poke(&vm, 0, 0x11111111, 4);
        fixture_poke(&vm, 0x200000, 0x22222222, 4);
        vm.vcpu->gpr[GPR_RSI] = type;
        fixture_run(&vm, invpcid_64);
        assert_int_equal(fixture_caught(&vm), type < 4 ? FINE : VECTOR_GP);
        if (type < 4)
            assert_int_equal(vm.vcpu->gpr[GPR_RBX], 0x11111111);
        testvm_destroy(&vm);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cr0_rules),        cmocka_unit_test(long_mode_needs_pae),
        cmocka_unit_test(pae_loads_pdptes), cmocka_unit_test(cr4_rules),
        cmocka_unit_test(pcid_rules),       cmocka_unit_test(cr3_rules),
        cmocka_unit_test(cr8_rules),        cmocka_unit_test(efer_rules),
        cmocka_unit_test(user_may_not),     cmocka_unit_test(not_offered_is_undefined),
        cmocka_unit_test(xcr0_rules),       cmocka_unit_test(lmsw_sets_and_does_not_clear),
        cmocka_unit_test(invalidation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
