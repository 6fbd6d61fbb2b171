/*
 * The page of the stack that generated code keeps beside the TLB (struct stack_page): what the
 * guest does to that page counts at once, and what is near its end is in the right pages. The
 * interpreter says what is right.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/translate/translate.h"
#include "testvm.h"

#define CODE      0x100000u
#define USER_CODE 0x101000u
#define RAM_SIZE  0x400000u
#define LINEAR    0x2000000u /* three pages of stack, not side by side in RAM */
#define PAGES     3u
#define TABLE     0x6000u /* their entries; in programs, too */
#define POOL      0x300000u
#define OTHER     (POOL + 7 * PAGE_SIZE)
#define USABLE    0x67u /* of a page: present, writable, of the user, accessed and dirty */

enum { WRITABLE = 2, OF_USER = 4 };

static uint64_t page_of(unsigned number)
{
    return POOL + 2 * number * PAGE_SIZE;
}

static void machine_create(struct testvm *vm, const struct engine_ops *engine, unsigned page_bits)
{
    const uint64_t directory = TABLE | USABLE;
    testvm_create(vm, RAM_SIZE);
    testvm_use_engine(vm, engine);
    testvm_set_mode(vm, MODE_LONG, 8);
    testvm_put(vm, 0x3000 + 8 * (LINEAR >> 21), &directory, sizeof(directory));
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t entry = page_of(i) | page_bits;
        testvm_put(vm, TABLE + 8 * i, &entry, sizeof(entry));
    }
    for (uint64_t at = POOL; at < RAM_SIZE; at += 8) {
        uint64_t value = at * 0x9e3779b97f4a7c15u;
        testvm_put(vm, at, &value, sizeof(value));
    }
    vm->vcpu->mmu.cr0 |= CR0_WP;
    mmu_flush(&vm->vcpu->mmu, false);
    for (unsigned gpr = 0; gpr < GPR_COUNT; gpr++)
        vm->vcpu->gpr[gpr] = gpr * 0x123456789abcdefu;
}

static void machines_compare(struct testvm *interpreted, struct testvm *translated)
{
    static uint8_t left[RAM_SIZE - POOL], right[RAM_SIZE - POOL];
    enum vcpu_exit exit = testvm_run(interpreted, CODE);
    assert_int_equal(testvm_run(translated, CODE), exit);
    assert_memory_equal(interpreted->vcpu->gpr, translated->vcpu->gpr,
                        sizeof(translated->vcpu->gpr));
    assert_int_equal(interpreted->vcpu->rip, translated->vcpu->rip);
    assert_int_equal(interpreted->vcpu->cr2, translated->vcpu->cr2);
    pmap_read(interpreted->map, POOL, left, sizeof(left));
    pmap_read(translated->map, POOL, right, sizeof(right));
    assert_memory_equal(left, right, sizeof(left));
}

/* Both engines run the program ROUNDS times, then HLT. R13 is where the stack is, RBP counts down:
 * the program does that. In the last round everything has been translated and kept, and C is not
 * called but for what the program asks of it. */
#define ROUNDS 24u

struct program {
    uint8_t bytes[128];
    unsigned length;
};

static void add(struct program *program, const void *bytes, size_t length)
{
    assert_true(program->length + length <= sizeof(program->bytes));
    memcpy(program->bytes + program->length, bytes, length);
    program->length += (unsigned)length;
}

static void compare(struct program program, uint64_t stack, uint64_t r12, uint64_t r14,
                    unsigned page_bits)
{
    static const struct engine_ops *const engines[2] = {&interp_engine, &translate_engine};
    static const uint8_t test[] = {0x48, 0x85, 0xed, 0x75}; /* test rbp, rbp; jnz */
    struct testvm machines[2];
    add(&program, test, sizeof(test));
    add(&program, (const uint8_t[]){(uint8_t) - (int)(program.length + 1), 0xf4}, 2);
    for (unsigned i = 0; i < 2; i++) {
        machine_create(&machines[i], engines[i], page_bits);
        testvm_put(&machines[i], CODE, program.bytes, program.length);
        machines[i].vcpu->gpr[GPR_RBP] = ROUNDS;
        machines[i].vcpu->gpr[GPR_R12] = r12;
        machines[i].vcpu->gpr[GPR_R13] = stack;
        machines[i].vcpu->gpr[GPR_R14] = r14;
    }
    machines_compare(&machines[0], &machines[1]);
    for (unsigned i = 0; i < 2; i++)
        testvm_destroy(&machines[i]);
}

/* The page is another one, or none, or may not be written any more: from the flush on. */
static void test_page_is_changed(void **state)
{
    (void)state;
    static const uint64_t changes[] = {OTHER | USABLE, 0, OTHER | (USABLE & ~(unsigned)WRITABLE)};
    static const uint8_t begin[] = {
        0x4c, 0x89, 0xec,                         /* mov rsp, r13 */
        0x50, 0x51, 0x52,                         /* push rax; push rcx; push rdx */
        0x48, 0x8b, 0x74, 0x24, 0x08,             /* mov rsi, [rsp+8] */
        0x48, 0xff, 0xcd,                         /* dec rbp */
        0x4d, 0x0f, 0x44, 0xe6,                   /* cmovz r12, r14 */
        0x4c, 0x89, 0x24, 0x25, 0x08, 0x60, 0, 0, /* mov [TABLE + 8], r12 */
    };
    static const uint8_t invlpg[] = {0x0f, 0x01, 0x3c, 0x24};               /* [rsp] */
    static const uint8_t load_cr3[] = {0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8}; /* the same */
    static const uint8_t rest[] = {
        0x5f,                         /* pop rdi */
        0x48, 0x8b, 0x5c, 0x24, 0x08, /* mov rbx, [rsp+8] */
        0x41, 0x50,                   /* push r8 */
    };
    for (unsigned i = 0; i < 2 * ARRAY_LENGTH(changes); i++) {
        struct program program = {.length = 0};
        add(&program, begin, sizeof(begin));
        if (i % 2 == 0)
            add(&program, invlpg, sizeof(invlpg));
        else
            add(&program, load_cr3, sizeof(load_cr3));
        add(&program, rest, sizeof(rest));
        compare(program, LINEAR + PAGE_SIZE + 0x800, page_of(1) | USABLE, changes[i / 2], USABLE);
    }
}

/* It can be read, and has been, but not written. */
static void test_page_cannot_be_written(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {
        0x4d, 0x8b, 0x06,       /* mov r8, [r14] */
        0x48, 0xff, 0xcd,       /* dec rbp */
        0x4d, 0x0f, 0x44, 0xee, /* cmovz r13, r14 */
        0x4c, 0x89, 0xec,       /* mov rsp, r13 */
        0x48, 0x8b, 0x04, 0x24, /* mov rax, [rsp] */
        0x31, 0xff,             /* xor edi, edi */
        0x4a, 0x8d, 0x24, 0x2f, /* lea rsp, [rdi+r13]: another run */
        0x53,                   /* push rbx */
    };
    struct program program = {.length = 0};
    add(&program, bytes, sizeof(bytes));
    for (unsigned bits = 0; bits <= WRITABLE; bits += WRITABLE)
        compare(program, POOL + 0x10800, 0, LINEAR + 0x800, (USABLE & ~(unsigned)WRITABLE) | bits);
}

/* What the kernel has of its own stack is not the user's. */
static void test_page_is_the_kernels(void **state)
{
    (void)state;
    static const uint8_t kernel[] = {
        0x4c, 0x89, 0xf4,                   /* mov rsp, r14 */
        0x50, 0x53,                         /* push rax; push rbx */
        0x48, 0x8b, 0x34, 0x24,             /* mov rsi, [rsp] */
        0x4c, 0x89, 0xec,                   /* mov rsp, r13 */
        0x48, 0xff, 0xcd,                   /* dec rbp */
        0x49, 0x0f, 0x44, 0xe6,             /* cmovz rsp, r14 */
        0xb9, 0x00, 0x10, 0x10, 0x00,       /* mov ecx, USER_CODE */
        0x41, 0xbb, 0x02, 0x02, 0x00, 0x00, /* mov r11d, IF */
        0x48, 0x0f, 0x07,                   /* sysretq */
    };
    static const uint8_t user[] = {0x5f, 0x57, 0x0f, 0x05}; /* pop rdi; push rdi; syscall */
    static const struct engine_ops *const engines[2] = {&interp_engine, &translate_engine};
    struct testvm machines[2];
    for (unsigned i = 0; i < 2; i++) {
        struct vcpu *vcpu;
        machine_create(&machines[i], engines[i], USABLE & ~(unsigned)OF_USER);
        testvm_put(&machines[i], CODE, kernel, sizeof(kernel));
        testvm_put(&machines[i], USER_CODE, user, sizeof(user));
        vcpu = machines[i].vcpu;
        vcpu->mmu.efer |= EFER_SCE;
        vcpu->msr.star = (uint64_t)0x28 << 48 | (uint64_t)0x08 << 32;
        vcpu->msr.lstar = CODE;
        vcpu->gpr[GPR_RBP] = ROUNDS;
        vcpu->gpr[GPR_R13] = POOL + 0x10800;
        vcpu->gpr[GPR_R14] = LINEAR + 0x800;
        vcpu_update_mode(vcpu);
    }
    machines_compare(&machines[0], &machines[1]);
    assert_int_equal(machines[1].vcpu->gpr[GPR_RBP], 0);
    assert_int_equal(machines[1].vcpu->cr2, LINEAR + 0x800);
    for (unsigned i = 0; i < 2; i++)
        testvm_destroy(&machines[i]);
}

/* Wherever in its page RSP is, and what is reached from it in the pages beside. */
static void test_ends_of_pages(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {
        0x31, 0xff,                                     /* xor edi, edi */
        0x4c, 0x89, 0xec,                               /* mov rsp, r13 */
        0x50, 0x53, 0x59,                               /* push rax; push rbx; pop rcx */
        0x4a, 0x8d, 0x24, 0x2f,                         /* lea rsp, [rdi+r13]: another run */
        0x48, 0x89, 0x54, 0x24, 0xf0,                   /* mov [rsp-16], rdx */
        0x8b, 0x4c, 0x24, 0x03,                         /* mov ecx, [rsp+3] */
        0x4a, 0x8d, 0x24, 0x2f,                         /* lea rsp, [rdi+r13] */
        0x44, 0x88, 0x04, 0x24,                         /* mov [rsp], r8b */
        0x4c, 0x89, 0x4c, 0x24, 0x38,                   /* mov [rsp+56], r9: STACK_SPAN_MAX */
        0x4a, 0x8d, 0x24, 0x2f,                         /* lea rsp, [rdi+r13] */
        0x66, 0x44, 0x89, 0x94, 0x24, 0x00, 0x10, 0, 0, /* mov [rsp+0x1000], r10w */
        0x4a, 0x8d, 0x24, 0x2f,                         /* lea rsp, [rdi+r13] */
        0x0f, 0x11, 0x44, 0x24, 0x41,                   /* movups [rsp+65], xmm0 */
        0x4a, 0x8d, 0x24, 0x2f,                         /* lea rsp, [rdi+r13] */
        0xff, 0x74, 0x24, 0x07,                         /* push [rsp+7] */
        0x41, 0x57, 0x41, 0x56, 0x41, 0x55,             /* push r15; push r14; push r13 */
        0x4a, 0x8d, 0x24, 0x2f,                         /* lea rsp, [rdi+r13] */
        0x48, 0x83, 0xec, 0x28,                         /* sub rsp, 40 */
        0x41, 0x5f,                                     /* pop r15 */
        0x48, 0x01, 0x34, 0x24,                         /* add [rsp], rsi */
        0x48, 0xff, 0xcd,                               /* dec rbp */
    };
    struct program program = {.length = 0};
    add(&program, bytes, sizeof(bytes));
    for (uint64_t at = 0; at < 192; at++)
        compare(program, LINEAR + PAGE_SIZE - 96 + at, 0, 0, USABLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_page_is_changed),
        cmocka_unit_test(test_page_cannot_be_written),
        cmocka_unit_test(test_page_is_the_kernels),
        cmocka_unit_test(test_ends_of_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
