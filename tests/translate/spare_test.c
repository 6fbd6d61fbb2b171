/*
 * Pages that share a slot of the TLB, in translated code: it finds the one that has given way in
 * the spare table without a call of C, whatever kind of probe it was and wherever flags are.
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
#define RAM_SIZE 0x400000u
#define PAGES    3u
#define LINEAR   0x2000000u /* of the first; in the program below, too */
#define TABLES   0x6000u
#define POOL     0x300000u
#define APART    (TLB_ENTRIES * PAGE_SIZE)
#define ROUNDS   1000u

/* RBX, RSI and RSP are in the three pages. Flags of ADD, CMP and INC live across probes. */
static const uint8_t program[] = {
    0x48, 0x8b, 0x03,                               /* mov rax, [rbx] */
    0x48, 0x03, 0x06,                               /* add rax, [rsi] */
    0x48, 0x13, 0x14, 0x25, 0x10, 0x00, 0x00, 0x02, /* adc rdx, [0x2000010] */
    0x48, 0x89, 0x43, 0x20,                         /* mov [rbx+0x20], rax */
    0x48, 0x11, 0x56, 0x20,                         /* adc [rsi+0x20], rdx */
    0x48, 0x13, 0x14, 0x25, 0x18, 0x00, 0x00, 0x04, /* adc rdx, [0x4000018] */
    0x9c,                                           /* pushf */
    0x48, 0x39, 0xd0,                               /* cmp rax, rdx */
    0x48, 0x8b, 0x3c, 0x25, 0x20, 0x00, 0x00, 0x03, /* mov rdi, [0x3000020] */
    0x48, 0x15, 0x78, 0x56, 0x34, 0x12,             /* adc rax, 0x12345678 */
    0x48, 0xff, 0xc7,                               /* inc rdi */
    0x48, 0x89, 0x3e,                               /* mov [rsi], rdi */
    0x48, 0x11, 0x03,                               /* adc [rbx], rax */
    0x5f,                                           /* pop rdi */
    0x48, 0x31, 0xfa,                               /* xor rdx, rdi */
    0xff, 0x33,                                     /* push [rbx] */
    0x48, 0x8f, 0x46, 0x10,                         /* pop [rsi+0x10] */
    0x48, 0xff, 0xc9,                               /* dec rcx */
    0x75, 0x00,                                     /* jnz to the start; the distance is put in */
    0xf4,                                           /* hlt */
};

static void machine_create(struct testvm *vm, const struct engine_ops *engine)
{
    uint8_t code[sizeof(program)];
    memcpy(code, program, sizeof(code));
    code[sizeof(code) - 2] = (uint8_t) - (int)(sizeof(code) - 1);
    testvm_create(vm, RAM_SIZE);
    testvm_use_engine(vm, engine);
    testvm_put(vm, CODE, code, sizeof(code));
    testvm_set_mode(vm, MODE_LONG, 8);
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t table = TABLES + i * PAGE_SIZE, linear = LINEAR + (uint64_t)i * APART;
        uint64_t directory = table | 7, page = (POOL + i * PAGE_SIZE) | 0x67;
        testvm_put(vm, 0x3000 + 8 * (linear >> 21), &directory, 8);
        testvm_put(vm, table, &page, 8);
        for (unsigned at = 0; at < PAGE_SIZE; at += 8) {
            uint64_t value = (at + 1) * 0x9e3779b97f4a7c15u << i;
            testvm_put(vm, POOL + i * PAGE_SIZE + at, &value, 8);
        }
    }
    mmu_flush(&vm->vcpu->mmu, false);
    vm->vcpu->gpr[GPR_RBX] = LINEAR;
    vm->vcpu->gpr[GPR_RSI] = LINEAR + APART;
    vm->vcpu->gpr[GPR_RSP] = LINEAR + 2 * APART + 0x800;
    vm->vcpu->gpr[GPR_RCX] = ROUNDS;
}

static void test_turns(void **state)
{
    (void)state;
    static uint8_t left[PAGES * PAGE_SIZE], right[PAGES * PAGE_SIZE];
    struct testvm interpreted, translated;
    machine_create(&interpreted, &interp_engine);
    machine_create(&translated, &translate_engine);
    assert_int_equal(testvm_run(&interpreted, CODE), VCPU_EXIT_HALTED);
    assert_int_equal(testvm_run(&translated, CODE), VCPU_EXIT_HALTED);
    assert_memory_equal(interpreted.vcpu->gpr, translated.vcpu->gpr, sizeof(translated.vcpu->gpr));
    assert_int_equal(interpreted.vcpu->rflags, translated.vcpu->rflags);
    pmap_read(interpreted.map, POOL, left, sizeof(left));
    pmap_read(translated.map, POOL, right, sizeof(right));
    assert_memory_equal(left, right, sizeof(left));
    /* Each page is walked to, and comes to where it stays. */
    const struct translate *translate = translate_of(translated.vcpu);
    assert_in_range(translate->stats.slow_paths, 1, 30);
    assert_in_range(translated.vcpu->mmu.stats.tlb_misses, 1, 30);
    testvm_destroy(&translated);
    testvm_destroy(&interpreted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_turns)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
