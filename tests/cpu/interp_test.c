/*
 * The interpreter around its handlers: fetching, the cache of decoded blocks, self-modifying code,
 * restartable string instructions, and what every mode makes of random bytes.
 *
 * Guest programs are bytes with their assembly beside them. In long mode each exception has a stub
 * of its own that halts, so that RIP tells which one was taken.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/engine.h"
#include "cpu/exception.h"
#include "cpu/insn.h"
#include "encode.h"
#include "testvm.h"

#define RAM_SIZE   (8u << 20)
#define STUBS      0x6000u /* 16 bytes each */
#define IDT        0x7000u
#define PAGE_TABLE 0x8000u /* 4 KiB pages for the first 2 MiB */
#define STACK_TOP  0xa000u
#define CODE       0x10000u
#define DATA       0x20000u

#define PUT(vm, at, ...)                                                                           \
    do {                                                                                           \
        const uint8_t put_bytes[] = {__VA_ARGS__};                                                 \
        testvm_put(vm, at, put_bytes, sizeof(put_bytes));                                          \
    } while (0)

static void put_u64(struct testvm *vm, uint64_t gpa, uint64_t value)
{
    testvm_put(vm, gpa, &value, sizeof(value));
}

static uint64_t get_u64(struct testvm *vm, uint64_t gpa)
{
    uint64_t value = 0;
    assert_int_equal(pmap_read(vm->map, gpa, &value, sizeof(value)), STATUS_OK);
    return value;
}

static void set_page(struct testvm *vm, uint64_t linear, bool present)
{
    put_u64(vm, PAGE_TABLE + 8 * (linear >> PAGE_SHIFT), linear | (present ? 7 : 0));
    mmu_flush(&vm->vcpu->mmu, false);
}

static void set_up_long(struct testvm *vm)
{
    testvm_create(vm, RAM_SIZE);
    testvm_set_mode(vm, MODE_LONG, 8);
    for (unsigned vector = 0; vector < 32; vector++) {
        uint64_t stub = STUBS + 16 * vector;
        PUT(vm, stub, 0xf4); /* hlt */
        put_u64(vm, IDT + 16 * vector, (stub & 0xffff) | 0x08 << 16 | (uint64_t)0x8e00 << 32);
        put_u64(vm, IDT + 16 * vector + 8, 0);
    }
    for (uint64_t i = 0; i < 512; i++)
        put_u64(vm, PAGE_TABLE + 8 * i, i << PAGE_SHIFT | 7);
    put_u64(vm, 0x3000, PAGE_TABLE | 7);
    mmu_flush(&vm->vcpu->mmu, false);
    vm->vcpu->idtr = (struct descriptor_table){IDT, 32 * 16 - 1};
    vm->vcpu->gpr[GPR_RSP] = STACK_TOP;
}

/* Runs until HLT. */
static void run(struct testvm *vm, uint64_t rip)
{
    assert_int_equal(testvm_run(vm, rip), VCPU_EXIT_HALTED);
}

static void assert_exception(const struct testvm *vm, unsigned vector)
{
    assert_int_equal(vm->vcpu->rip, STUBS + 16 * vector + 1);
}

/* RIP that the exception's handler would return to; with_error: an error code lies before it. */
static uint64_t saved_rip(struct testvm *vm, bool with_error)
{
    return get_u64(vm, vm->vcpu->gpr[GPR_RSP] + (with_error ? 8 : 0));
}

/* ------------------------------------------------------------------------- code that changes */

static void test_patch_ahead_in_block(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    PUT(&vm, CODE, 0xc6, 0x04, 0x25, 0x09, 0x00, 0x01, 0x00, 0x05, /* mov byte [CODE + 9], 5 */
        0xb0, 0x01,                                                /* mov al, 1 */
        0xf4);                                                     /* hlt */
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX] & 0xff, 5);
    testvm_destroy(&vm);
}

static void test_patch_loop(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    /* Each round increments the immediate that the next round adds. */
    PUT(&vm, CODE, 0x31, 0xc0,                            /* xor eax, eax */
        0xb9, 0x0a, 0x00, 0x00, 0x00,                     /* mov ecx, 10 */
        0xe8, 0xf4, 0x0f, 0x00, 0x00,                     /* again: call CODE + 0x1000 */
        0xfe, 0x04, 0x25, 0x01, 0x10, 0x01, 0x00,         /* inc byte [CODE + 0x1001] */
        0xff, 0xc9,                                       /* dec ecx */
        0x75, 0xf0,                                       /* jnz again */
        0xf4);                                            /* hlt */
    PUT(&vm, CODE + 0x1000, 0x05, 0x01, 0x00, 0x00, 0x00, /* add eax, 1 */
        0xc3);                                            /* ret */
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 55);
    assert_true(vm.vcpu->mmu.stats.code_writes >= 9);
    testvm_destroy(&vm);
}

static void test_device_writes_code(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    PUT(&vm, CODE, 0xb8, 1, 0, 0, 0, 0xf4); /* mov eax, 1; hlt */
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 1);
    PUT(&vm, CODE + 1, 2);
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 2);
    testvm_destroy(&vm);
}

static void test_remapped_code(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    PUT(&vm, CODE, 0xb8, 1, 0, 0, 0, 0xf4);          /* mov eax, 1; hlt */
    PUT(&vm, CODE + 0x1000, 0xb8, 2, 0, 0, 0, 0xf4); /* mov eax, 2; hlt */
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 1);
    put_u64(&vm, PAGE_TABLE + 8 * (CODE >> PAGE_SHIFT), (CODE + 0x1000) | 7);
    mmu_flush_page(&vm.vcpu->mmu, CODE);
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 2);
    testvm_destroy(&vm);
}

/* The same bytes as 64-bit and as 32-bit code: 48 is REX.W, or DEC EAX. */
static void test_modes_do_not_share_blocks(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    PUT(&vm, CODE, 0x48, 0xff, 0xc0, 0xf4); /* inc rax, or dec eax; inc eax; hlt */
    vm.vcpu->gpr[GPR_RAX] = 0xffffffff;
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0x100000000);
    testvm_set_mode(&vm, MODE_PROTECTED, 4);
    vm.vcpu->gpr[GPR_RAX] = 0xffffffff;
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0xffffffff);
    testvm_destroy(&vm);
}

/* More code than the cache holds, twice over. */
static void test_cache_is_bounded(void **state)
{
    enum { INSNS = 300000, BASE = 0x100000 };
    static const uint8_t inc_eax[] = {0xff, 0xc0};
    struct testvm vm;
    set_up_long(&vm);
    uint8_t *code = malloc(2 * INSNS + 1);
    assert_non_null(code);
    for (unsigned i = 0; i < INSNS; i++)
        memcpy(code + 2 * i, inc_eax, sizeof(inc_eax));
    code[2 * INSNS] = 0xf4;
    testvm_put(&vm, BASE, code, 2 * INSNS + 1);
    free(code);
    vm.vcpu->gpr[GPR_RAX] = 0;
    for (unsigned round = 1; round <= 2; round++) {
        uint64_t before = vm.vcpu->stats.instructions;
        run(&vm, BASE);
        assert_int_equal(vm.vcpu->gpr[GPR_RAX], round * INSNS);
        assert_int_equal(vm.vcpu->stats.instructions - before, INSNS + 1);
    }
    testvm_destroy(&vm);
}

/* ------------------------------------------------------------------------- fetching */

static void test_page_crossing(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    for (unsigned split = 1; split < 5; split++) {
        uint64_t at = CODE + 0x1000 - split;
        PUT(&vm, at, 0xb8, 0x78, 0x56, 0x34, 0x12, 0xf4); /* mov eax, 0x12345678; hlt */
        vm.vcpu->gpr[GPR_RAX] = 0;
        run(&vm, at);
        assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0x12345678);
    }
    testvm_destroy(&vm);
}

static void test_page_crossing_follows_second_page(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    uint64_t at = CODE + 0xffe;
    PUT(&vm, at, 0xb8, 1, 0, 0, 0, 0xf4); /* mov eax, 1; hlt */
    run(&vm, at);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 1);
    PUT(&vm, CODE + 0x1000, 7); /* in the middle of the immediate */
    run(&vm, at);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0x701);

    set_page(&vm, CODE + 0x1000, false);
    run(&vm, at);
    assert_exception(&vm, VECTOR_PF);
    assert_int_equal(vm.vcpu->cr2, CODE + 0x1000);
    assert_int_equal(saved_rip(&vm, true), at);
    testvm_destroy(&vm);
}

/* The instruction ends where its page does: the next page is no business of it. */
static void test_ends_with_page(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    set_page(&vm, CODE + 0x1000, false);
    PUT(&vm, CODE + 0xffa, 0xb8, 1, 0, 0, 0, 0xf4); /* mov eax, 1; hlt */
    run(&vm, CODE + 0xffa);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], 1);
    assert_int_equal(vm.vcpu->rip, CODE + 0x1000);
    testvm_destroy(&vm);
}

static void test_longest_instruction(void **state)
{
    struct testvm vm;
    uint8_t bytes[17];
    set_up_long(&vm);
    memset(bytes, 0x66, sizeof(bytes));
    bytes[14] = 0x90; /* 15 bytes: nop */
    bytes[15] = 0xf4;
    testvm_put(&vm, CODE, bytes, sizeof(bytes));
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->rip, CODE + 16);

    bytes[14] = 0x66;
    bytes[15] = 0x90;
    testvm_put(&vm, CODE, bytes, sizeof(bytes));
    run(&vm, CODE);
    assert_exception(&vm, VECTOR_GP);
    assert_int_equal(saved_rip(&vm, true), CODE);

    testvm_put(&vm, CODE + 0xff8, bytes, sizeof(bytes)); /* across a page */
    run(&vm, CODE + 0xff8);
    assert_exception(&vm, VECTOR_GP);
    testvm_destroy(&vm);
}

static void test_not_canonical(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    PUT(&vm, CODE, 0x48, 0xb8, 0, 0, 0, 0, 0, 0x80, 0, 0, /* mov rax, 0x800000000000 */
        0xff, 0xe0);                                      /* jmp rax */
    run(&vm, CODE);
    assert_exception(&vm, VECTOR_GP);
    assert_int_equal(saved_rip(&vm, true), CODE + 10); /* the jump's, not the target's */
    testvm_destroy(&vm);
}

static void test_code_limit(void **state)
{
    struct testvm vm;
    testvm_create(&vm, RAM_SIZE);
    testvm_set_mode(&vm, MODE_REAL, 2);
    vm.vcpu->idtr = (struct descriptor_table){0, 0x3ff};
    PUT(&vm, 13 * 4, 0x00, 0x60, 0x00, 0x00); /* #GP at 0:6000 */
    PUT(&vm, 0x6000, 0xf4);
    PUT(&vm, 0xfffe, 0xb0, 0x05); /* mov al, 5, and no more */
    run(&vm, 0xfffe);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX] & 0xff, 5);
    assert_int_equal(vm.vcpu->rip, 0x6001);

    PUT(&vm, 0xffff, 0xb0); /* its second byte is beyond the limit */
    vm.vcpu->gpr[GPR_RSP] = 0x7ff0;
    run(&vm, 0xffff);
    assert_int_equal(vm.vcpu->rip, 0x6001);
    assert_int_equal(get_u64(&vm, vm.vcpu->gpr[GPR_RSP]) & 0xffff, 0xffff);
    testvm_destroy(&vm);
}

/* A block decoded under one limit and executed under a smaller one. */
static void test_code_limit_of_known_block(void **state)
{
    struct testvm vm;
    testvm_create(&vm, RAM_SIZE);
    testvm_set_mode(&vm, MODE_PROTECTED, 4);
    PUT(&vm, CODE, 0xb0, 1, 0xb4, 2, 0xf4); /* mov al, 1; mov ah, 2; hlt */
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX] & 0xffff, 0x201);
    vm.vcpu->gpr[GPR_RAX] = 0;
    vm.vcpu->seg[SEG_CS].limit = CODE + 2;                       /* AH's immediate is outside */
    assert_int_equal(testvm_run(&vm, CODE), VCPU_EXIT_SHUTDOWN); /* no IDT */
    assert_int_equal(vm.vcpu->gpr[GPR_RAX] & 0xffff, 1);
    testvm_destroy(&vm);
}

/* ------------------------------------------------------------------------- faults */

static void test_lock(void **state)
{
    static const uint8_t bad[][4] = {
        {0xf0, 0x01, 0xc0}, /* lock add eax, eax */
        {0xf0, 0x8b, 0x07}, /* lock mov eax, [rdi] */
        {0xf0, 0x39, 0x07}, /* lock cmp [rdi], eax */
        {0xf0, 0x03, 0x07}, /* lock add eax, [rdi] */
        {0xf0, 0x90},       /* lock nop */
        {0xf0, 0xd1, 0x27}, /* lock shl dword [rdi], 1 */
    };
    struct testvm vm;
    set_up_long(&vm);
    vm.vcpu->gpr[GPR_RDI] = DATA;
    for (unsigned i = 0; i < ARRAY_LENGTH(bad); i++) {
        testvm_put(&vm, CODE, bad[i], sizeof(bad[i]));
        run(&vm, CODE);
        assert_exception(&vm, VECTOR_UD);
        assert_int_equal(saved_rip(&vm, false), CODE);
    }
    PUT(&vm, CODE, 0xf0, 0x01, 0x07, 0xf4); /* lock add [rdi], eax; hlt */
    put_u64(&vm, DATA, 40);
    vm.vcpu->gpr[GPR_RAX] = 2;
    run(&vm, CODE);
    assert_int_equal(get_u64(&vm, DATA), 42);
    testvm_destroy(&vm);
}

static void test_cmpxchg16b(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    PUT(&vm, CODE, 0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0xf4); /* lock cmpxchg16b [rdi]; hlt */
    vm.vcpu->gpr[GPR_RDI] = DATA + 8;
    run(&vm, CODE);
    assert_exception(&vm, VECTOR_GP);

    put_u64(&vm, DATA, 11);
    put_u64(&vm, DATA + 8, 22);
    vm.vcpu->gpr[GPR_RDI] = DATA;
    vm.vcpu->gpr[GPR_RAX] = 11;
    vm.vcpu->gpr[GPR_RDX] = 22;
    vm.vcpu->gpr[GPR_RBX] = 33;
    vm.vcpu->gpr[GPR_RCX] = 44;
    run(&vm, CODE);
    assert_true(vm.vcpu->rflags & FLAG_ZF);
    assert_int_equal(get_u64(&vm, DATA), 33);
    assert_int_equal(get_u64(&vm, DATA + 8), 44);
    testvm_destroy(&vm);
}

/* A read-modify-write that may not write changes nothing, flags included, even where the
 * comparison of a CMPXCHG fails. */
static void test_rmw_faults_first(void **state)
{
    static const uint8_t codes[][4] = {
        {0x48, 0x01, 0x07},       /* add [rdi], rax */
        {0x48, 0xff, 0x07},       /* inc qword [rdi] */
        {0x48, 0xd3, 0x27},       /* shl qword [rdi], cl */
        {0x48, 0x0f, 0xb1, 0x17}, /* cmpxchg [rdi], rdx */
        {0x48, 0x0f, 0xc1, 0x07}, /* xadd [rdi], rax */
        {0x48, 0x87, 0x07},       /* xchg [rdi], rax */
        {0x48, 0x0f, 0xab, 0x07}, /* bts [rdi], rax */
        {0x8f, 0x07},             /* pop [rdi] */
    };
    struct testvm vm;
    set_up_long(&vm);
    vm.vcpu->mmu.cr0 |= CR0_WP;
    put_u64(&vm, DATA, 5);
    put_u64(&vm, PAGE_TABLE + 8 * (DATA >> PAGE_SHIFT), DATA | 5); /* read-only */
    mmu_flush(&vm.vcpu->mmu, false);
    for (unsigned i = 0; i < ARRAY_LENGTH(codes); i++) {
        testvm_put(&vm, CODE, codes[i], sizeof(codes[i]));
        vm.vcpu->gpr[GPR_RDI] = DATA;
        vm.vcpu->gpr[GPR_RAX] = 3;
        vm.vcpu->gpr[GPR_RCX] = 1;
        vm.vcpu->gpr[GPR_RSP] = STACK_TOP;
        vm.vcpu->rflags = FLAG_FIXED | FLAG_CF | FLAG_OF | FLAG_SF;
        run(&vm, CODE);
        assert_exception(&vm, VECTOR_PF);
        assert_int_equal(vm.vcpu->cr2, DATA);
        assert_int_equal(get_u64(&vm, vm.vcpu->gpr[GPR_RSP]) & 3, 3); /* a write, present */
        assert_int_equal(saved_rip(&vm, true), CODE);
        assert_int_equal(get_u64(&vm, vm.vcpu->gpr[GPR_RSP] + 24) & FLAGS_STATUS,
                         FLAG_CF | FLAG_OF | FLAG_SF);
        assert_int_equal(get_u64(&vm, vm.vcpu->gpr[GPR_RSP] + 32), STACK_TOP);
        assert_int_equal(vm.vcpu->gpr[GPR_RAX], 3);
        assert_int_equal(get_u64(&vm, DATA), 5);
    }
    testvm_destroy(&vm);
}

/* ------------------------------------------------------------------------- two vCPUs */

#define ROUNDS 20000

struct runner {
    struct vcpu *vcpu;
    enum vcpu_exit exit;
};

static void *runner_main(void *opaque)
{
    struct runner *runner = opaque;
    runner->vcpu->rip = CODE;
    runner->exit = interp_engine.run(runner->vcpu);
    return NULL;
}

/* What LOCK is for: nothing that either of two vCPUs adds is lost. */
static void test_locked_operations_are_atomic(void **state)
{
    struct testvm vm;
    struct vcpu *first, *second;
    struct error err;
    set_up_long(&vm);
    first = vm.vcpu;
    struct vcpu_config config = {
        .index = 1,
        .cpu_count = 2,
        .features = &vm.features,
        .domain = vm.domain,
        .mmio = vm.mmio,
        .ports = vm.ports,
        .thunks = vm.thunks,
        .apic = first->apic,
    };
    assert_int_equal(vcpu_create(&second, &config, &err), STATUS_OK);
    assert_int_equal(interp_engine.attach(second, &err), STATUS_OK);
    vm.vcpu = second; /* for the fixture to set up */
    testvm_set_mode(&vm, MODE_LONG, 8);
    put_u64(&vm, 0x3000, PAGE_TABLE | 7);
    vm.vcpu = first;

    PUT(&vm, CODE, 0xb9, ROUNDS & 0xff, ROUNDS >> 8, 0, 0, /* mov ecx, ROUNDS */
        0xf0, 0x48, 0xff, 0x07,                            /* again: lock inc qword [rdi] */
        0xf0, 0x83, 0x47, 0x08, 0x03,                      /* lock add dword [rdi + 8], 3 */
        0xba, 0x02, 0x00, 0x00, 0x00,                      /* mov edx, 2 */
        0xf0, 0x66, 0x0f, 0xc1, 0x57, 0x10,                /* lock xadd [rdi + 16], dx */
        0x8b, 0x47, 0x18,                                  /* mov eax, [rdi + 24] */
        0x8d, 0x58, 0x05,                                  /* retry: lea ebx, [rax + 5] */
        0xf0, 0x0f, 0xb1, 0x5f, 0x18,                      /* lock cmpxchg [rdi + 24], ebx */
        0x75, 0xf6,                                        /* jnz retry */
        0xff, 0xc9,                                        /* dec ecx */
        0x75, 0xdb,                                        /* jnz again */
        0xf4);                                             /* hlt */
    struct runner runners[] = {{.vcpu = first}, {.vcpu = second}};
    pthread_t threads[2];
    for (unsigned i = 0; i < 2; i++) {
        runners[i].vcpu->gpr[GPR_RDI] = DATA;
        runners[i].vcpu->halted = runners[i].vcpu->wait_for_sipi = false;
        assert_int_equal(pthread_create(&threads[i], NULL, runner_main, &runners[i]), 0);
    }
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(runners[0].exit, VCPU_EXIT_HALTED);
    assert_int_equal(runners[1].exit, VCPU_EXIT_HALTED);
    assert_int_equal(get_u64(&vm, DATA), 2 * ROUNDS);
    assert_int_equal(get_u64(&vm, DATA + 8), 6 * ROUNDS);
    assert_int_equal(get_u64(&vm, DATA + 16), (4 * ROUNDS) & 0xffff);
    assert_int_equal(get_u64(&vm, DATA + 24), 10 * ROUNDS);

    interp_engine.detach(second);
    vcpu_destroy(second);
    testvm_destroy(&vm);
}

/* ------------------------------------------------------------------------- strings */

static void test_string_restarts(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    set_page(&vm, DATA + 0x1000, false);
    PUT(&vm, CODE, 0xf3, 0xa4, 0xf4); /* rep movsb; hlt */
    for (unsigned i = 0; i < 0x200; i++)
        PUT(&vm, DATA + 0x3000 + i, (uint8_t)(i * 7));
    vm.vcpu->gpr[GPR_RSI] = DATA + 0x3000;
    vm.vcpu->gpr[GPR_RDI] = DATA + 0xf80;
    vm.vcpu->gpr[GPR_RCX] = 0x200;
    run(&vm, CODE);
    assert_exception(&vm, VECTOR_PF);
    assert_int_equal(vm.vcpu->cr2, DATA + 0x1000);
    assert_int_equal(saved_rip(&vm, true), CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0x180);
    assert_int_equal(vm.vcpu->gpr[GPR_RSI], DATA + 0x3080);
    assert_int_equal(vm.vcpu->gpr[GPR_RDI], DATA + 0x1000);

    set_page(&vm, DATA + 0x1000, true);
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0);
    for (unsigned i = 0; i < 0x200; i += 8)
        assert_int_equal(get_u64(&vm, DATA + 0xf80 + i), get_u64(&vm, DATA + 0x3000 + i));
    testvm_destroy(&vm);
}

/* The one dividend of more than 64 bits whose quotient by -1 fits: found by a random seed. */
static void test_idiv_of_two_to_the_63(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    PUT(&vm, CODE, 0x48, 0xf7, 0xfe, 0xf4); /* idiv rsi; hlt */
    vm.vcpu->gpr[GPR_RAX] = (uint64_t)1 << 63;
    vm.vcpu->gpr[GPR_RDX] = 0;
    vm.vcpu->gpr[GPR_RSI] = UINT64_MAX;
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->rip, CODE + 4);
    assert_int_equal(vm.vcpu->gpr[GPR_RAX], (uint64_t)1 << 63);
    assert_int_equal(vm.vcpu->gpr[GPR_RDX], 0);

    vm.vcpu->gpr[GPR_RAX] = ((uint64_t)1 << 63) + 1;
    vm.vcpu->gpr[GPR_RDX] = 0;
    run(&vm, CODE);
    assert_exception(&vm, VECTOR_DE);
    testvm_destroy(&vm);
}

/* ENTER makes sure of the whole new stack: the frame may be reached before it is. */
static void test_enter_probes_its_stack(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    set_page(&vm, DATA, false);
    PUT(&vm, CODE, 0xc8, 0x00, 0x10, 0x00, 0xf4); /* enter 0x1000, 0; hlt */
    vm.vcpu->gpr[GPR_RSP] = DATA + 0x1f00;
    vm.vcpu->gpr[GPR_RBP] = 0x1234;
    run(&vm, CODE);
    assert_exception(&vm, VECTOR_PF);
    assert_int_equal(vm.vcpu->cr2, DATA + 0xef8);
    assert_int_equal(vm.vcpu->gpr[GPR_RBP], 0x1234);
    assert_int_equal(get_u64(&vm, vm.vcpu->gpr[GPR_RSP]), 2);
    assert_int_equal(get_u64(&vm, vm.vcpu->gpr[GPR_RSP] + 32), DATA + 0x1f00);
    testvm_destroy(&vm);
}

/* The flags that a SCASB which faults leaves: those from before it on Intel's CPUs, those of the
 * last element on AMD's. */
static void test_string_compare_flags_on_fault(void **state)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        struct testvm vm;
        set_up_long(&vm);
        vm.features.amd = amd;
        set_page(&vm, DATA + 0x1000, false);
        PUT(&vm, CODE, 0xf2, 0xae, 0xf4); /* repne scasb; hlt */
        vm.vcpu->gpr[GPR_RAX] = 1;
        vm.vcpu->gpr[GPR_RDI] = DATA + 0xff0;
        vm.vcpu->gpr[GPR_RCX] = 0x100;
        vm.vcpu->rflags = FLAG_FIXED | FLAG_ZF | FLAG_OF;
        run(&vm, CODE);
        assert_exception(&vm, VECTOR_PF);
        assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0xf0);
        assert_int_equal(get_u64(&vm, vm.vcpu->gpr[GPR_RSP] + 24) & FLAGS_STATUS,
                         amd ? 0 : FLAG_ZF | FLAG_OF); /* 1 - 0 leaves none */
        testvm_destroy(&vm);
    }
}

/* MOVSXD AX, [the end of a page]: two bytes for Intel's CPUs, four for AMD's. */
static void test_movsxd_of_a_word(void **state)
{
    for (unsigned amd = 0; amd < 2; amd++) {
        struct testvm vm;
        set_up_long(&vm);
        vm.features.amd = amd;
        set_page(&vm, DATA + 0x1000, false);
        PUT(&vm, DATA + 0xffe, 0x34, 0x12);
        PUT(&vm, CODE, 0x66, 0x63, 0x03, 0xf4); /* movsxd ax, [rbx]; hlt */
        vm.vcpu->gpr[GPR_RAX] = 0;
        vm.vcpu->gpr[GPR_RBX] = DATA + 0xffe;
        run(&vm, CODE);
        if (amd)
            assert_exception(&vm, VECTOR_PF);
        else
            assert_int_equal(vm.vcpu->gpr[GPR_RAX], 0x1234);
        testvm_destroy(&vm);
    }
}

/* Runs that change pages on either side, in both directions, against a plain copy. */
static void test_string_runs(void **state)
{
    enum { SPAN = 0x3000 };
    static uint8_t before[SPAN], after[SPAN], expected[SPAN];
    struct random random = {0x1234567};
    struct testvm vm;
    set_up_long(&vm);
    for (unsigned round = 0; round < 400; round++) {
        unsigned size_shift = (unsigned)random_below(&random, 4), size = 1u << size_shift;
        bool backward = random_below(&random, 2);
        uint64_t count = random_below(&random, 0x1400 >> size_shift);
        uint64_t src = 0x100 + random_below(&random, 0x1800);
        uint64_t dst = random_below(&random, 2) ? 0x100 + random_below(&random, 0x1800)
                                                : src + random_below(&random, 64) - 32;
        if (backward) {
            src += 0x1400;
            dst += 0x1400;
            count = count * size > 0x1300 ? 0x1300 / size : count;
        }
        for (unsigned i = 0; i < SPAN; i++)
            before[i] = (uint8_t)random_next(&random);
        testvm_put(&vm, DATA, before, SPAN);
        PUT(&vm, CODE, size == 2 ? 0x66 : 0x90, 0xf3,
            size == 8   ? 0x48
            : size == 1 ? 0xf3
                        : 0x40,
            size == 1 ? 0xa4 : 0xa5, 0xf4);
        vm.vcpu->gpr[GPR_RSI] = DATA + src;
        vm.vcpu->gpr[GPR_RDI] = DATA + dst;
        vm.vcpu->gpr[GPR_RCX] = count;
        vm.vcpu->rflags = FLAG_FIXED | (backward ? FLAG_DF : 0);
        run(&vm, CODE);

        memcpy(expected, before, SPAN);
        for (uint64_t i = 0; i < count; i++) {
            memmove(expected + dst, expected + src, size);
            src = backward ? src - size : src + size;
            dst = backward ? dst - size : dst + size;
        }
        assert_int_equal(pmap_read(vm.map, DATA, after, SPAN), STATUS_OK);
        assert_memory_equal(after, expected, SPAN);
        assert_int_equal(vm.vcpu->gpr[GPR_RSI], DATA + src);
        assert_int_equal(vm.vcpu->gpr[GPR_RDI], DATA + dst);
        assert_int_equal(vm.vcpu->gpr[GPR_RCX], 0);
    }
    testvm_destroy(&vm);
}

/* A string that writes the page it is executed from. */
static void test_string_over_own_code(void **state)
{
    struct testvm vm;
    set_up_long(&vm);
    PUT(&vm, CODE, 0xf3, 0xaa, /* rep stosb: nops up to the hlt */
        0xeb, 0xfe,            /* would hang */
        0xeb, 0xfe, 0xf4);     /* hlt */
    vm.vcpu->gpr[GPR_RAX] = 0x90;
    vm.vcpu->gpr[GPR_RDI] = CODE + 2;
    vm.vcpu->gpr[GPR_RCX] = 4;
    run(&vm, CODE);
    assert_int_equal(vm.vcpu->rip, CODE + 7);
    testvm_destroy(&vm);
}

/* ------------------------------------------------------------------------- garbage */

/* Runs one handler, to its end or to the exception it raises. The attention bit keeps repeated
 * strings to one element. */
static void execute(struct vcpu *vcpu, const struct insn *insn)
{
    jmp_buf fault_exit;
    vcpu->rip = CODE;
    vcpu->next_rip = CODE + insn->length;
    vcpu->fault_exit = &fault_exit;
    atomic_fetch_or(&vcpu->attention, ATTENTION_IRQ);
    mmu_unpark(&vcpu->mmu);
    if (setjmp(fault_exit) == 0)
        insn->exec(vcpu, insn);
    mmu_park(&vcpu->mmu);
    vcpu->fault_exit = NULL;
}

/* Random bytes as one instruction each, in random states of a mode: whatever they do, they return
 * here. Returns how many were instructions. */
static unsigned execute_random(struct testvm *vm, struct random *random, enum cpu_mode mode,
                               unsigned code_size, unsigned count)
{
    struct vcpu *vcpu = vm->vcpu;
    unsigned decoded = 0;
    while (count-- != 0) {
        uint8_t bytes[INSN_MAX_LENGTH];
        struct insn insn;
        bool ends_block;
        testvm_set_mode(vm, mode, code_size);
        for (unsigned i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)random_next(random);
        if (random_below(random, 2) == 0)
            bytes[0] = 0x0f;
        for (unsigned i = 0; i < GPR_COUNT; i++)
            vcpu->gpr[i] = random_below(random, 2) ? random_value(random)
                                                   : DATA + random_below(random, 0x1000);
        if (insn_decode(vcpu, bytes, sizeof(bytes), &insn, &ends_block) == INSN_DECODED)
            decoded++;
        assert_true(insn.exec != NULL);
        assert_in_range(insn.length, 1, INSN_MAX_LENGTH);
        execute(vcpu, &insn);
    }
    return decoded;
}

static void test_random_bytes(void **state)
{
    static const struct {
        enum cpu_mode mode;
        unsigned code_size;
    } modes[] = {
        {MODE_REAL, 2},          {MODE_PROTECTED, 2},     {MODE_PROTECTED, 4},
        {MODE_COMPATIBILITY, 2}, {MODE_COMPATIBILITY, 4}, {MODE_LONG, 8},
    };
    enum { INSNS = 12000 };
    struct random random = {0xfeedface};
    for (unsigned i = 0; i < ARRAY_LENGTH(modes); i++) {
        struct testvm vm;
        testvm_create(&vm, RAM_SIZE);
        unsigned decoded = execute_random(&vm, &random, modes[i].mode, modes[i].code_size, INSNS);
        assert_true(decoded > INSNS / 4);
        testvm_destroy(&vm);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_patch_ahead_in_block),
        cmocka_unit_test(test_patch_loop),
        cmocka_unit_test(test_device_writes_code),
        cmocka_unit_test(test_remapped_code),
        cmocka_unit_test(test_modes_do_not_share_blocks),
        cmocka_unit_test(test_cache_is_bounded),
        cmocka_unit_test(test_page_crossing),
        cmocka_unit_test(test_page_crossing_follows_second_page),
        cmocka_unit_test(test_ends_with_page),
        cmocka_unit_test(test_longest_instruction),
        cmocka_unit_test(test_not_canonical),
        cmocka_unit_test(test_code_limit),
        cmocka_unit_test(test_code_limit_of_known_block),
        cmocka_unit_test(test_lock),
        cmocka_unit_test(test_cmpxchg16b),
        cmocka_unit_test(test_rmw_faults_first),
        cmocka_unit_test(test_locked_operations_are_atomic),
        cmocka_unit_test(test_string_restarts),
        cmocka_unit_test(test_enter_probes_its_stack),
        cmocka_unit_test(test_idiv_of_two_to_the_63),
        cmocka_unit_test(test_string_compare_flags_on_fault),
        cmocka_unit_test(test_movsxd_of_a_word),
        cmocka_unit_test(test_string_runs),
        cmocka_unit_test(test_string_over_own_code),
        cmocka_unit_test(test_random_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
