/*
 * Instructions and pages that are away, on both engines: what overwrites a whole page does not read
 * it back, and an instruction whose page is lost leaves in good order and can be tried again.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../mem/memory_store.h"
#include "testvm.h"

#define CODE  0x10000u
#define STACK 0x20000u
#define DATA  0x30000u /* pages of 0x11, 0x22, ... bytes */
#define PAGES 4u
#define RAM   (4 * MIB)

struct suite {
    struct testvm vm;
    struct memory_store *store;
};

static const struct engine_ops *const engines[] = {&interp_engine, &translate_engine};

static void make(struct suite *suite, const struct engine_ops *engine)
{
    testvm_create(&suite->vm, RAM);
    testvm_use_engine(&suite->vm, engine);
    testvm_set_mode(&suite->vm, MODE_LONG, 8);
    suite->store = memory_store_create();
    pmap_set_store(suite->vm.map, &memory_store_ops, suite->store);
    for (unsigned i = 0; i < PAGES; i++) {
        uint8_t bytes[1 << PAGE_SHIFT];
        memset(bytes, (int)(0x11 * (i + 1)), sizeof(bytes));
        testvm_put(&suite->vm, DATA + i * PAGE_SIZE, bytes, sizeof(bytes));
    }
}

static void unmake(struct suite *suite)
{
    struct error err = {0};
    assert_int_equal(suite->store->misused, 0);
    if (pmap_check(suite->vm.map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    testvm_destroy(&suite->vm);
    memory_store_destroy(suite->store);
}

static void evict(struct suite *suite, uint64_t gpa)
{
    struct pmap *map = suite->vm.map;
    struct page_batch batch = {.count = 1, .ppn = {gpa >> PAGE_SHIFT}};
    uint8_t bytes[1 << PAGE_SHIFT];
    page_leave_begin(map, &batch, PAGE_LEAVE_ACTIVE);
    assert_int_equal(batch.count, 1);
    assert_true(page_leave_copy(map, batch.ppn[0], bytes));
    uint64_t payload = memory_store_put(suite->store, PAGE_SWAPPED, bytes);
    assert_true(page_leave_end(map, &batch, 0, PAGE_SWAPPED, payload));
    page_punch(map, batch.ppn, 1);
}

static struct pmap_stats stats_of(const struct suite *suite)
{
    struct pmap_stats stats;
    pmap_get_stats(suite->vm.map, &stats);
    return stats;
}

static void check_page(const struct suite *suite, uint64_t gpa, const uint8_t *pattern, size_t size)
{
    uint8_t bytes[1 << PAGE_SHIFT];
    assert_int_equal(pmap_read(suite->vm.map, gpa, bytes, sizeof(bytes)), STATUS_OK);
    for (size_t i = 0; i < sizeof(bytes); i++)
        assert_int_equal(bytes[i], pattern[i % size]);
}

struct string_case {
    const char *code;
    unsigned code_size;
    uint64_t rdi, rcx;
    bool backward, reads_back; /* the destination */
    uint64_t done_rdi;
};

/* rep stosq, rep stosb; whole pages and all others. */
static void test_stos(void **state)
{
    static const struct string_case cases[] = {
        {"\xf3\x48\xab\xf4", 4, DATA, 512, false, false, DATA + PAGE_SIZE},
        {"\xf3\xaa\xf4", 3, DATA, 4096, false, false, DATA + PAGE_SIZE},
        {"\xf3\x48\xab\xf4", 4, DATA + PAGE_SIZE - 8, 512, true, false, DATA - 8},
        {"\xf3\x48\xab\xf4", 4, DATA, 511, false, true, DATA + PAGE_SIZE - 8},
        {"\xf3\xaa\xf4", 3, DATA + 1, 4096, false, true, DATA + PAGE_SIZE + 1},
    };
    static const uint8_t value[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (unsigned e = 0; e < ARRAY_LENGTH(engines); e++) {
        for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
            const struct string_case *c = &cases[i];
            struct suite suite;
            make(&suite, engines[e]);
            struct vcpu *vcpu = suite.vm.vcpu;
            testvm_put(&suite.vm, CODE, c->code, c->code_size);
            evict(&suite, DATA);
            vcpu->gpr[GPR_RDI] = c->rdi;
            vcpu->gpr[GPR_RCX] = c->rcx;
            memcpy(&vcpu->gpr[GPR_RAX], value, 8);
            vcpu->rflags |= c->backward ? FLAG_DF : 0;
            assert_int_equal(testvm_run(&suite.vm, CODE), VCPU_EXIT_HALTED);
            assert_int_equal(vcpu->gpr[GPR_RDI], c->done_rdi);
            assert_int_equal(vcpu->gpr[GPR_RCX], 0);
            assert_int_equal(stats_of(&suite).faults_swap_in, c->reads_back);
            assert_int_equal(stats_of(&suite).overwritten, !c->reads_back);
            if (!c->reads_back)
                check_page(&suite, DATA, value, c->code_size == 3 ? 1 : 8);
            uint8_t neighbour = 0;
            assert_int_equal(pmap_read(suite.vm.map, DATA + PAGE_SIZE + 4, &neighbour, 1),
                             STATUS_OK);
            assert_int_equal(neighbour, 0x22);
            unmake(&suite);
        }
    }
}

static void test_movs(void **state)
{
    static const uint8_t pattern[] = {0x11};
    for (unsigned e = 0; e < ARRAY_LENGTH(engines); e++) {
        for (unsigned backward = 0; backward < 2; backward++) {
            struct suite suite;
            make(&suite, engines[e]);
            struct vcpu *vcpu = suite.vm.vcpu;
            testvm_put(&suite.vm, CODE, "\xf3\x48\xa5\xf4", 4); /* rep movsq; hlt */
            evict(&suite, DATA);
            evict(&suite, DATA + 2 * PAGE_SIZE);
            uint64_t first = backward ? PAGE_SIZE - 8 : 0;
            vcpu->gpr[GPR_RSI] = DATA + first;
            vcpu->gpr[GPR_RDI] = DATA + 2 * PAGE_SIZE + first;
            vcpu->gpr[GPR_RCX] = 512;
            vcpu->rflags |= backward ? FLAG_DF : 0;
            assert_int_equal(testvm_run(&suite.vm, CODE), VCPU_EXIT_HALTED);
            assert_int_equal(vcpu->gpr[GPR_RCX], 0);
            assert_int_equal(stats_of(&suite).faults_swap_in, 1); /* the source */
            assert_int_equal(stats_of(&suite).overwritten, 1);
            check_page(&suite, DATA + 2 * PAGE_SIZE, pattern, 1);
            check_page(&suite, DATA, pattern, 1);
            unmake(&suite);
        }
    }
}

/* The instruction that needs the lost page has not happened; run again, it does. */
static void test_lost(void **state)
{
    static const struct {
        const char *code;
        unsigned size;
        uint64_t lost; /* the page */
    } cases[] = {
        {"\x48\xff\xc0\x48\x8b\x1f\xf4", 7, DATA},                 /* inc rax; mov rbx, [rdi] */
        {"\x48\xff\xc0\x48\xff\x07\x48\x8b\x1f\xf4", 10, DATA},    /* inc rax; inc qword [rdi] */
        {"\x48\xff\xc0\x57\x5b\x48\x8b\x1f\xf4", 9, STACK - 4096}, /* push rdi; pop rbx */
        {"\x48\xff\xc0\x48\x8b\x1f\xf4", 7, CODE},
    };
    for (unsigned e = 0; e < ARRAY_LENGTH(engines); e++) {
        for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
            struct suite suite;
            make(&suite, engines[e]);
            struct vcpu *vcpu = suite.vm.vcpu;
            testvm_put(&suite.vm, CODE, cases[i].code, cases[i].size);
            testvm_put(&suite.vm, STACK - 8, "", 1);
            evict(&suite, cases[i].lost);
            vcpu->gpr[GPR_RDI] = DATA;
            vcpu->gpr[GPR_RSP] = STACK;
            vcpu->gpr[GPR_RAX] = 0;
            suite.store->is_broken = true;
            assert_int_equal(testvm_run(&suite.vm, CODE), VCPU_EXIT_LOST);
            assert_int_equal(vcpu->rip, cases[i].lost == CODE ? CODE : CODE + 3);
            assert_int_equal(vcpu->gpr[GPR_RAX], cases[i].lost != CODE);
            assert_int_equal(suite.vm.engine->run(vcpu), VCPU_EXIT_LOST);
            suite.store->is_broken = false;
            assert_int_equal(suite.vm.engine->run(vcpu), VCPU_EXIT_HALTED);
            assert_int_equal(vcpu->gpr[GPR_RAX], 1);
            assert_int_equal(vcpu->gpr[GPR_RBX], 0x1111111111111111 + (i == 1));
            assert_int_equal(stats_of(&suite).swapped, 0);
            unmake(&suite);
        }
    }
}

#define VECTOR  0x40u
#define IDT     0x40000u
#define HANDLER 0x8000u

static int pending(void *context)
{
    return *(bool *)context ? (int)VECTOR : -1;
}

static int acknowledge(void *context)
{
    *(bool *)context = false;
    return VECTOR;
}

/* An interrupt that its controller has given away is not lost with the page that its frame needs.
 */
static void test_interrupt_meets_lost_page(void **state)
{
    static const struct vcpu_apic_ops ops = {.pending = pending, .acknowledge = acknowledge};
    for (unsigned e = 0; e < ARRAY_LENGTH(engines); e++) {
        struct suite suite;
        make(&suite, engines[e]);
        struct vcpu *vcpu = suite.vm.vcpu;
        bool is_pending = true;
        uint64_t gate[2] = {(uint64_t)vcpu->seg[SEG_CS].selector << 16 | (uint64_t)0x8e << 40 |
                            HANDLER};
        testvm_put(&suite.vm, IDT + VECTOR * sizeof(gate), gate, sizeof(gate));
        testvm_put(&suite.vm, CODE, "\xf4", 1);                /* hlt */
        testvm_put(&suite.vm, HANDLER, "\x48\xff\xc0\xf4", 4); /* inc rax; hlt */
        testvm_put(&suite.vm, STACK - 8, "", 1);
        evict(&suite, STACK - PAGE_SIZE);
        vcpu->idtr.base = IDT;
        vcpu->idtr.limit = 0xfff;
        vcpu->apic = &ops;
        vcpu->apic_context = &is_pending;
        vcpu->gpr[GPR_RSP] = STACK;
        vcpu->gpr[GPR_RAX] = 0;
        vcpu->rflags |= FLAG_IF;
        atomic_fetch_or(&vcpu->attention, ATTENTION_IRQ);
        suite.store->is_broken = true;
        for (unsigned i = 0; i < 2; i++) {
            enum vcpu_exit exit = i == 0 ? testvm_run(&suite.vm, CODE) : suite.vm.engine->run(vcpu);
            assert_int_equal(exit, VCPU_EXIT_LOST);
            assert_int_equal(vcpu->rip, CODE);
            assert_int_equal(vcpu->stats.interrupts, 0);
        }
        assert_false(is_pending);
        suite.store->is_broken = false;
        assert_int_equal(suite.vm.engine->run(vcpu), VCPU_EXIT_HALTED);
        assert_int_equal(vcpu->gpr[GPR_RAX], 1);
        assert_int_equal(vcpu->stats.interrupts, 1);
        unmake(&suite);
    }
}

/* In another page, so that the jump cache has it. */
#define SUBROUTINE (CODE + PAGE_SIZE)

static uint64_t made_of(const struct suite *suite)
{
    struct engine_stats stats = {0};
    if (suite->vm.engine->get_stats != NULL)
        suite->vm.engine->get_stats(suite->vm.vcpu, &stats);
    return suite->vm.vcpu->stats.blocks_decoded + stats.translations;
}

/* Code whose page begins to leave is kept; to run it is to want the page. */
static void test_code_that_leaves(void **state)
{
    for (unsigned e = 0; e < ARRAY_LENGTH(engines); e++) {
        struct suite suite;
        make(&suite, engines[e]);
        struct vcpu *vcpu = suite.vm.vcpu;
        struct pmap *map = suite.vm.map;
        uint8_t bytes[1 << PAGE_SHIFT], call[] = {0xe8, 0xfb, 0x0f, 0, 0, 0xf4}; /* call; hlt */
        testvm_put(&suite.vm, CODE, call, sizeof(call));
        testvm_put(&suite.vm, SUBROUTINE, "\x48\xff\xc0\xc3", 4); /* inc rax; ret */
        testvm_put(&suite.vm, STACK - 8, "", 1);
        uint64_t runs = 0, made = 0;
        vcpu->gpr[GPR_RAX] = 0;
        for (unsigned round = 0; round < 6; round++) {
            struct page_batch batch = {.count = 1, .ppn = {SUBROUTINE >> PAGE_SHIFT}};
            bool is_left = round > 1, is_run = round % 2 != 0, is_taken = round == 4;
            if (is_left) {
                page_leave_begin(map, &batch, PAGE_LEAVE_ACTIVE | PAGE_LEAVE_KEEP_CODE);
                assert_int_equal(batch.count, 1);
                assert_true(pmap_has_code(map, batch.ppn[0]));
            }
            if (is_run || !is_left) {
                vcpu->gpr[GPR_RSP] = STACK;
                assert_int_equal(testvm_run(&suite.vm, CODE), VCPU_EXIT_HALTED);
                assert_int_equal(vcpu->gpr[GPR_RAX], ++runs);
            }
            if (round == 1)
                made = made_of(&suite);
            if (!is_left)
                continue;
            assert_int_equal(made_of(&suite), made);
            page_leave_code(map, &batch);
            assert_int_equal(pmap_has_code(map, batch.ppn[0]), is_run);
            assert_true(page_leave_copy(map, batch.ppn[0], bytes));
            uint64_t payload = memory_store_put(suite.store, PAGE_SWAPPED, bytes);
            if (is_taken) {
                assert_true(page_leave_end(map, &batch, 0, PAGE_SWAPPED, payload));
                page_punch(map, batch.ppn, 1);
            } else {
                if (is_run)
                    assert_false(page_leave_end(map, &batch, 0, PAGE_SWAPPED, payload));
                else
                    page_leave_cancel(map, &batch, 0);
                memory_store_drop(suite.store, PAGE_SWAPPED, payload);
            }
            if (!is_run) { /* the code has gone */
                testvm_put(&suite.vm, SUBROUTINE, "\x48\xff\xc0\xc3", 4);
                vcpu->gpr[GPR_RSP] = STACK;
                assert_int_equal(testvm_run(&suite.vm, CODE), VCPU_EXIT_HALTED);
                assert_int_equal(vcpu->gpr[GPR_RAX], ++runs);
                assert_true(made_of(&suite) > made);
                made = made_of(&suite);
            }
        }
        unmake(&suite);
    }
}

static void evict_code(void *context)
{
    struct suite *suite = context;
    assert_true(suite->vm.vcpu->mmu.parked); /* a running vCPU waits for nothing */
    if (pmap_state(suite->vm.map, CODE >> PAGE_SHIFT) == PAGE_PRIVATE)
        evict(suite, CODE);
}

static void never_over(void *context)
{
    (void)context;
}

static bool never_refused(void *context)
{
    (void)context;
    return false;
}

/* The page of two pushes leaves while the vCPU waits for the first one's stack. */
static void test_code_leaves_in_a_run(void **state)
{
    static const struct page_pressure_ops ops = {
        .over = never_over, .wait = evict_code, .refused = never_refused};
    for (unsigned e = 0; e < ARRAY_LENGTH(engines); e++) {
        struct suite suite;
        make(&suite, engines[e]);
        struct vcpu *vcpu = suite.vm.vcpu;
        testvm_put(&suite.vm, CODE, "\x57\x50\x5b\x59\xf4", 5); /* push rdi, rax; pop rbx, rcx */
        testvm_put(&suite.vm, STACK - 8, "", 1);
        evict(&suite, STACK - PAGE_SIZE);
        pmap_set_pressure(suite.vm.map, &ops, &suite);
        pmap_set_limits(suite.vm.map, UINT64_MAX, 0);
        vcpu->gpr[GPR_RSP] = STACK;
        vcpu->gpr[GPR_RDI] = 1;
        vcpu->gpr[GPR_RAX] = 2;
        assert_int_equal(testvm_run(&suite.vm, CODE), VCPU_EXIT_HALTED);
        assert_int_equal(vcpu->gpr[GPR_RBX], 2);
        assert_int_equal(vcpu->gpr[GPR_RCX], 1);
        assert_int_equal(vcpu->gpr[GPR_RSP], STACK);
        assert_int_equal(stats_of(&suite).faults_swap_in, 2);
        pmap_set_limits(suite.vm.map, UINT64_MAX, UINT64_MAX);
        unmake(&suite);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stos),
        cmocka_unit_test(test_movs),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_interrupt_meets_lost_page),
        cmocka_unit_test(test_code_that_leaves),
        cmocka_unit_test(test_code_leaves_in_a_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
