/*
 * What translated code does where the TLB has no entry in the first place: it finds one that has
 * given way in the spare table without a call of C, whatever kind of probe it was and wherever
 * flags are; and pages that are walked to leave the interpreter out, and all registers as they
 * were.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/thunk/xstate.h"
#include "cpu/translate/translate.h"
#include "testvm.h"

#define CODE     0x100000u
#define RAM_SIZE 0x400000u
#define PAGES    3u
#define LINEAR   0x2000000u /* of the first; in the program below, too */
#define TABLES   0x6000u
#define POOL     0x300000u
#define APART    0x2000000u /* of one slot; in the program, too */
#define ROUNDS   1000u

_Static_assert(APART % (TLB_ENTRIES * PAGE_SIZE) == 0, "of one slot");

/* RBX, RSI and RSP are in the three pages. Flags of ADD, CMP and INC live across probes. */
static const uint8_t program[] = {
    0x48, 0x8b, 0x03,                               /* mov rax, [rbx] */
    0x48, 0x03, 0x06,                               /* add rax, [rsi] */
    0x48, 0x13, 0x14, 0x25, 0x10, 0x00, 0x00, 0x02, /* adc rdx, [0x2000010] */
    0x48, 0x89, 0x43, 0x20,                         /* mov [rbx+0x20], rax */
    0x48, 0x11, 0x56, 0x20,                         /* adc [rsi+0x20], rdx */
    0x48, 0x13, 0x14, 0x25, 0x18, 0x00, 0x00, 0x06, /* adc rdx, [0x6000018] */
    0x9c,                                           /* pushf */
    0x48, 0x39, 0xd0,                               /* cmp rax, rdx */
    0x48, 0x8b, 0x3c, 0x25, 0x20, 0x00, 0x00, 0x04, /* mov rdi, [0x4000020] */
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
    assert_int_equal(translate_of(translated.vcpu)->stats.slow_paths, 0);
    assert_in_range(translated.vcpu->mmu.stats.tlb_misses, 1, 30);
    testvm_destroy(&translated);
    testvm_destroy(&interpreted);
}

/* ------------------------------------------------------------------------- constants */

/* Constant addresses at both ends of what a displacement can say, and beyond one of them: each is
 * missed once, and then found. */
static void test_constants(void **state)
{
    (void)state;
    static const uint8_t code[] = {
        0x48, 0x8b, 0x04, 0x25, 0x10, 0x00, 0x00, 0x80, /* mov rax, [0xffffffff80000010] */
        0x48, 0x03, 0x04, 0x25, 0xf8, 0xff, 0xff, 0x7f, /* add rax, [0x7ffffff8] */
        0x48, 0x03, 0x05, 0xe9, 0xff, 0xef, 0x7f,       /* add rax, [rip+0x7fefffe9]: 0x80000000 */
        0x48, 0x01, 0x04, 0x25, 0xf0, 0xff, 0xff, 0xff, /* add [0xfffffffffffffff0], rax */
        0x48, 0x01, 0x04, 0x25, 0x08, 0xf0, 0xff, 0x7f, /* add [0x7ffff008], rax */
        0xff, 0xc9,                                     /* dec ecx */
        0x75, 0x00,                                     /* jnz to the start */
        0xf4,                                           /* hlt */
    };
    static const struct engine_ops *const engines[2] = {&interp_engine, &translate_engine};
    struct testvm machines[2];
    uint64_t sums[2][2];
    for (unsigned i = 0; i < 2; i++) {
        struct testvm *vm = &machines[i];
        const uint64_t tables[] = {0x2007, 0x3007}, last = 0x200087;
        const uint8_t distance = (uint8_t) - (int)(sizeof(code) - 1);
        testvm_create(vm, RAM_SIZE);
        testvm_use_engine(vm, engines[i]);
        testvm_set_mode(vm, MODE_LONG, 8);
        testvm_put(vm, CODE, code, sizeof(code));
        testvm_put(vm, CODE + sizeof(code) - 2, &distance, 1);
        /* Every GiB from 1 on that is used is the first one, and its last 2 MiB those at 2 MiB. */
        testvm_put(vm, 0x1000 + 8 * 511, &tables[0], 8);
        for (unsigned gib = 1; gib < 512; gib = gib == 2 ? 510 : gib + 1)
            testvm_put(vm, 0x2000 + 8 * gib, &tables[1], 8);
        testvm_put(vm, 0x3000 + 8 * 511, &last, 8);
        for (uint64_t at = 0; at < 0x20; at += 8)
            testvm_put(vm, at, &(uint64_t){at * 0x9e3779b97f4a7c15u + 1}, 8);
        testvm_put(vm, 0x3ffff0, &last, 8);
        mmu_flush(&vm->vcpu->mmu, false);
        vm->vcpu->gpr[GPR_RCX] = 10;
        assert_int_equal(testvm_run(vm, CODE), VCPU_EXIT_HALTED);
        pmap_read(vm->map, 0x3ffff0, &sums[i][0], 8);
        pmap_read(vm->map, 0x3ff008, &sums[i][1], 8);
    }
    assert_memory_equal(machines[0].vcpu->gpr, machines[1].vcpu->gpr,
                        sizeof(machines[0].vcpu->gpr));
    assert_memory_equal(sums[0], sums[1], sizeof(sums[0]));
    assert_int_not_equal(sums[0][0], 0);
    assert_int_equal(translate_of(machines[1].vcpu)->stats.slow_paths, 0);
    for (unsigned i = 0; i < 2; i++)
        testvm_destroy(&machines[i]);
}

/* ------------------------------------------------------------------------- pages to walk to */

#define FRESH_PAGES 64u

/* What brings vector registers into the CPU, or nothing, comes before the misses, which are at
 * [RBX], and again after them, in one block. RBX goes on by a page each round. CF lives from one
 * round to the next. */
struct kind {
    const char *name;
    uint8_t vectors[16];
    unsigned length;
    bool needs_avx2;
};

static const struct kind kinds[] = {
    {"no vectors", {0x90}, 1, false},
    {"XMM", {0x66, 0x0f, 0xd4, 0xc1, 0x66, 0x44, 0x0f, 0xd4, 0xfa}, 9, false},
    {"YMM", {0xc5, 0xfd, 0xfe, 0xc1, 0xc5, 0x05, 0xfe, 0xfa}, 8, true},
};

static const uint8_t misses[] = {
    0x48, 0x13, 0x03,                /* adc rax, [rbx] */
    0x4c, 0x13, 0x8b, 0x08, 0, 0, 0, /* adc r9, [rbx+8] */
    0x48, 0x11, 0x43, 0x10,          /* adc [rbx+0x10], rax */
};

static const uint8_t rest[] = {
    0x48, 0x8d, 0x9b, 0x00, 0x10, 0, 0, /* lea rbx, [rbx+0x1000] */
    0x48, 0x8d, 0x49, 0xff,             /* lea rcx, [rcx-1] */
    0xe3, 0x05,                         /* jrcxz over the next */
    0xe9, 0,    0,    0,    0,          /* jmp to the start */
    0xf4,                               /* hlt */
};

static void fresh_create(struct testvm *vm, const struct engine_ops *engine,
                         const struct kind *kind)
{
    uint8_t code[2 * sizeof(kind->vectors) + sizeof(misses) + sizeof(rest)];
    const unsigned again = kind->length + (unsigned)sizeof(misses);
    const unsigned length = again + kind->length + (unsigned)sizeof(rest);
    memcpy(code, kind->vectors, kind->length);
    memcpy(code + kind->length, misses, sizeof(misses));
    memcpy(code + again, kind->vectors, kind->length);
    memcpy(code + again + kind->length, rest, sizeof(rest));
    int32_t back = -(int32_t)(length - 1);
    memcpy(code + length - 5, &back, sizeof(back));
    testvm_create(vm, RAM_SIZE);
    testvm_use_engine(vm, engine);
    testvm_put(vm, CODE, code, length);
    testvm_set_mode(vm, MODE_LONG, 8);
    for (unsigned at = 0; at < FRESH_PAGES * PAGE_SIZE; at += 8) {
        uint64_t value = (at + 1) * 0x9e3779b97f4a7c15u;
        testvm_put(vm, POOL + at, &value, 8);
    }
    struct vcpu *vcpu = vm->vcpu;
    struct xstate_image *image = (struct xstate_image *)vcpu->xstate;
    for (unsigned i = 0; i < sizeof(image->xmm); i++) {
        ((uint8_t *)image->xmm)[i] = (uint8_t)(i * 37 + 1);
        ((uint8_t *)image->ymm_high)[i] = (uint8_t)(i * 91 + 5);
    }
    image->xstate_bv = kind->needs_avx2 ? XSTATE_SSE | XSTATE_AVX : XSTATE_SSE;
    if (!kind->needs_avx2)
        memset(image->ymm_high, 0, sizeof(image->ymm_high));
    for (unsigned i = 0; i < GPR_COUNT; i++)
        vcpu->gpr[i] = (i + 3) * 0x123456789abcdefu;
    vcpu->gpr[GPR_RBX] = POOL;
    vcpu->gpr[GPR_RCX] = FRESH_PAGES;
}

static void test_fresh_pages(void **state)
{
    (void)state;
    static uint8_t left[FRESH_PAGES * PAGE_SIZE], right[FRESH_PAGES * PAGE_SIZE];
    for (unsigned i = 0; i < ARRAY_LENGTH(kinds); i++) {
        struct testvm vms[2];
        fresh_create(&vms[0], &interp_engine, &kinds[i]);
        fresh_create(&vms[1], &translate_engine, &kinds[i]);
        bool has = !kinds[i].needs_avx2 || features_has(&vms[0].features, FEATURE_AVX2);
        for (unsigned n = 0; has && n < 2; n++)
            assert_int_equal(testvm_run(&vms[n], CODE), VCPU_EXIT_HALTED);
        const struct vcpu *a = vms[0].vcpu, *b = vms[1].vcpu;
        const struct xstate_image *x = (const struct xstate_image *)a->xstate;
        const struct xstate_image *y = (const struct xstate_image *)b->xstate;
        assert_memory_equal(a->gpr, b->gpr, sizeof(a->gpr));
        assert_int_equal(a->rflags, b->rflags);
        assert_memory_equal(x->xmm, y->xmm, sizeof(x->xmm));
        assert_memory_equal(x->ymm_high, y->ymm_high, sizeof(x->ymm_high));
        pmap_read(vms[0].map, POOL, left, sizeof(left));
        pmap_read(vms[1].map, POOL, right, sizeof(right));
        assert_memory_equal(left, right, sizeof(left));
        if (has) {
            assert_true(b->mmu.stats.tlb_misses > FRESH_PAGES);
            assert_in_range(translate_of(vms[1].vcpu)->stats.slow_paths, 0, 2);
        }
        testvm_destroy(&vms[1]);
        testvm_destroy(&vms[0]);
    }
}

/* What is no address is not taken for the one that has its lower bits. */
static void test_no_address(void **state)
{
    (void)state;
    struct testvm vm;
    fresh_create(&vm, &translate_engine, &kinds[0]);
    for (unsigned access = MMU_READ; access <= MMU_WRITE; access++) {
        unsigned look = MMU_SUPERVISOR << 1 | access;
        assert_null(slow_find(vm.vcpu, POOL | (uint64_t)1 << 48, look));
        assert_null(slow_find(vm.vcpu, POOL | (uint64_t)1 << 63, look));
        assert_non_null(slow_find(vm.vcpu, POOL, look));
    }
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_constants),
        cmocka_unit_test(test_fresh_pages),
        cmocka_unit_test(test_no_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
