/*
 * Slow paths (src/cpu/translate/slow.c): how often generated code calls C, and for how many
 * instructions. That what C does there is right, run_test.c says.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/translate/translate.h"
#include "testvm.h"

#define CODE     0x100000u
#define POOL     0x300000u
#define RAM_SIZE 0x400000u

/* call rsi; dec edi; jnz; hlt */
static const uint8_t caller[] = {0xff, 0xd6, 0xff, 0xcf, 0x75, 0xfa, 0xf4};

static void create_caller(struct testvm *vm)
{
    testvm_create(vm, RAM_SIZE);
    testvm_use_engine(vm, &translate_engine);
    testvm_set_mode(vm, MODE_LONG, 8);
    testvm_put(vm, CODE, caller, sizeof(caller));
}

/* Calls the function `count` times with RBX = pointer; how often generated code called C for it. */
static uint64_t call_often(struct testvm *vm, uint64_t function, uint64_t pointer, unsigned count)
{
    uint64_t before = translate_of(vm->vcpu)->stats.slow_paths;
    vm->vcpu->gpr[GPR_RSP] = POOL - 64;
    vm->vcpu->gpr[GPR_RSI] = function;
    vm->vcpu->gpr[GPR_RBX] = pointer;
    vm->vcpu->gpr[GPR_RDI] = count;
    assert_int_equal(testvm_run(vm, CODE), VCPU_EXIT_HALTED);
    return translate_of(vm->vcpu)->stats.slow_paths - before;
}

/* A block whose runs lie over a page border loses them, also where another block of the same hash
 * has lost its own before. */
static void test_bad_runs_of_one_hash(void **state)
{
    static const uint8_t function[] = {0x48, 0x8b, 0x03, 0x48, 0x8b, 0x4b, 0x08, 0xc3};
    const uint64_t first = CODE + 0x1020, second = CODE + 0x2023;
    const uint64_t good = POOL, bad = POOL + PAGE_SIZE - 8;
    struct testvm vm;
    assert_int_equal((first ^ first >> PAGE_SHIFT) % BAD_RUNS,
                     (second ^ second >> PAGE_SHIFT) % BAD_RUNS);
    create_caller(&vm);
    testvm_put(&vm, first, function, sizeof(function));
    testvm_put(&vm, second, function, sizeof(function));

    call_often(&vm, second, good, 100); /* translated, with a run */
    assert_in_range(call_often(&vm, first, bad, 1000), BAD_RUNS_MAX, 100);
    assert_in_range(call_often(&vm, second, bad, 1000), 1, 100);
    testvm_destroy(&vm);
}

/* An access over a page border between those of a run up to the end of its block: C runs it and
 * nothing else, and vector registers are in the CPU afterwards as they were before. */
static void test_border_in_run(void **state)
{
    /* push rax; movups xmm0, [rbx]; mov rdx, [rbp]; paddq xmm0, xmm0; pop rax; call r8;
     * R8: pop rax; movups [rbx + 16], xmm0; ret */
    static const uint8_t function[] = {0x50, 0x0f, 0x10, 0x03, 0x48, 0x8b, 0x55, 0x00,
                                       0x66, 0x0f, 0xd4, 0xc0, 0x58, 0x41, 0xff, 0xd0,
                                       0x58, 0x0f, 0x11, 0x43, 0x10, 0xc3};
    const uint64_t pair[] = {0x1111, 0x2222}, split = 0x3333333344444444;
    uint64_t copy[2];
    const uint64_t at = CODE + 0x1000, border = POOL + PAGE_SIZE - 4;
    struct testvm vm;
    create_caller(&vm);
    testvm_put(&vm, at, function, sizeof(function));
    testvm_put(&vm, POOL, pair, sizeof(pair));
    testvm_put(&vm, border, &split, sizeof(split));

    vm.vcpu->gpr[GPR_RBP] = border;
    vm.vcpu->gpr[GPR_R8] = at + 16;
    call_often(&vm, at, POOL, 1); /* translated, and pages brought */
    uint64_t before = translate_of(vm.vcpu)->stats.slow_instructions;
    assert_int_equal(call_often(&vm, at, POOL, 1000), 1000);
    assert_int_equal(translate_of(vm.vcpu)->stats.slow_instructions - before, 1000);
    assert_int_equal(vm.vcpu->gpr[GPR_RDX], split);
    pmap_read(vm.map, POOL + sizeof(pair), copy, sizeof(copy));
    assert_int_equal(copy[0], 2 * pair[0]);
    assert_int_equal(copy[1], 2 * pair[1]);
    testvm_destroy(&vm);
}

static bool is_kept(const struct translate *translate, uint64_t gpa)
{
    for (unsigned i = 0; i < SLOW_INSNS; i++) {
        if (translate->slow_insns[i].gpa == gpa)
            return true;
    }
    return false;
}

/* Two instructions of one hash that C runs in turns: neither is decoded each time. */
static void test_slow_of_one_hash(void **state)
{
    static const uint8_t load[] = {0x48, 0x8b, 0x13}; /* mov rdx, [rbx] */
    const uint64_t at = CODE + 0x1000, other = at + 0x41;
    uint8_t function[0x45];
    struct testvm vm;
    assert_int_equal((at ^ at >> 6) % SLOW_PAGE, (other ^ other >> 6) % SLOW_PAGE);
    memset(function, 0x90, sizeof(function));
    memcpy(function, load, sizeof(load));
    memcpy(function + (other - at), load, sizeof(load));
    function[sizeof(function) - 1] = 0xc3;
    create_caller(&vm);
    testvm_put(&vm, at, function, sizeof(function));
    call_often(&vm, at, POOL + PAGE_SIZE - 4, 2);
    assert_true(is_kept(translate_of(vm.vcpu), at));
    assert_true(is_kept(translate_of(vm.vcpu), other));
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_runs_of_one_hash),
        cmocka_unit_test(test_border_in_run),
        cmocka_unit_test(test_slow_of_one_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
