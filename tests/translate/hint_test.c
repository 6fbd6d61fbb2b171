/*
 * Hints (src/cpu/translate/hint.c): probes of the TLB entry that was used last.
 *
 * As in run_test.c, two machines are given the same random program, one interprets and one
 * translates, and all state must be equal afterwards. A program is a loop with a few accesses, each
 * by a pointer of its own from a list. Pointers stay in a page for a while, then go to another one:
 * so there are good guesses and wrong ones, accesses that are not aligned and such as lie over a
 * page border, where the next page's host address is not what follows, pages that are missing and
 * the page at 0. Some loops flush what they have used.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/translate/translate.h"
#include "encode.h"
#include "testvm.h"

#define PROGRAMS   600u
#define ACCESSES   4u
#define ROUNDS     300u
#define ROUNDS_MAX 4000u
#define CODE       0x100000u
#define LISTS      0x200000u /* of pointers: one behind the other for each access */
#define TABLE      0x6000u   /* page table of PAGES */
#define PAGES      0x400000u /* linear */
#define PAGE_MAX   8u
#define POOL       0x300000u /* what they map, in any order */
#define POOL_SIZE  (PAGE_MAX * PAGE_SIZE)
#define RAM_SIZE   0x400000u

struct program {
    struct random random;
    uint8_t code[256];
    size_t length;
    unsigned accesses, rounds;
    uint64_t lists[ACCESSES][ROUNDS_MAX];
    uint64_t table[PAGE_MAX];
    uint8_t pool[POOL_SIZE];
};

static unsigned below(struct program *p, unsigned limit)
{
    return (unsigned)random_below(&p->random, limit);
}

static void put(struct program *p, const void *bytes, size_t length)
{
    memcpy(p->code + p->length, bytes, length);
    p->length += length;
}

/* RBX = the pointer of this round; then what is done there. */
static void put_access(struct program *p, unsigned n, bool flushes)
{
    static const struct {
        const char *bytes;
        size_t length;
    } accesses[] = {
#define FORM(bytes) {bytes, sizeof(bytes) - 1}
        FORM("\x02\x03"),         /* add al, [rbx] */
        FORM("\x66\x03\x03"),     /* add ax, [rbx] */
        FORM("\x03\x03"),         /* add eax, [rbx] */
        FORM("\x48\x03\x03"),     /* add rax, [rbx] */
        FORM("\x00\x03"),         /* add [rbx], al */
        FORM("\x66\x89\x03"),     /* mov [rbx], ax */
        FORM("\x11\x03"),         /* adc [rbx], eax */
        FORM("\x48\x31\x03"),     /* xor [rbx], rax */
        FORM("\x48\x0f\xc1\x03"), /* xadd [rbx], rax */
        FORM("\x48\x89\x03"),     /* mov [rbx], rax */
        FORM("\x48\x8b\x13"),     /* mov rdx, [rbx] */
        FORM("\x0f\xb6\x13"),     /* movzx edx, byte [rbx] */
    };
    uint32_t list = LISTS + n * ROUNDS_MAX * 8 - 8;
    put(p, "\x48\x8b\x1c\xcd", 4); /* mov rbx, [list + rcx * 8] */
    put(p, &list, 4);
    unsigned form = below(p, ARRAY_LENGTH(accesses));
    put(p, accesses[form].bytes, accesses[form].length);
    if (flushes && below(p, 2))
        put(p, "\x0f\x01\x3b", 3); /* invlpg [rbx] */
}

/* `wander`: one in so many pointers goes to another page. */
static void make_list(struct program *p, uint64_t *list, unsigned wander, bool aligned)
{
    uint64_t page = PAGES;
    for (unsigned i = 0; i < p->rounds; i++) {
        if (below(p, wander) == 0)
            page = below(p, 30) == 0 ? 0 : PAGES + PAGE_SIZE * below(p, PAGE_MAX - 1);
        uint64_t offset = 0x800 + 8 * below(p, 0x80);
        if (!aligned && below(p, 8) == 0)
            offset = 0x800 + below(p, 0x800);
        if (!aligned && below(p, 8) == 0)
            offset = PAGE_SIZE - 1 - below(p, 8);
        list[i] = page + offset;
    }
}

static void make_program(struct program *p, unsigned rounds, unsigned wander, bool steady)
{
    bool faults = !steady && below(p, 4) == 0, flushes = !steady && below(p, 4) == 0;
    p->rounds = rounds;
    p->accesses = steady ? 1 : 1 + below(p, ACCESSES);
    p->length = 0;
    put(p, "\x90", 1);
    for (unsigned n = 0; n < p->accesses; n++) {
        put_access(p, n, flushes);
        make_list(p, p->lists[n], wander, steady);
    }
    put(p, "\x48\xff\xc9\x75", 4); /* dec rcx; jnz behind the NOP */
    uint8_t back = (uint8_t)-p->length;
    put(p, &back, 1);
    put(p, "\xf4", 1);
    unsigned first = below(p, PAGE_MAX);
    for (unsigned i = 0; i < PAGE_MAX; i++) {
        /* Neighbours are not neighbours. */
        uint64_t page = POOL + PAGE_SIZE * ((first + 3 * i) % PAGE_MAX);
        p->table[i] = faults && below(p, 4) == 0 ? page | below(p, 2) : page | 3;
    }
    for (unsigned i = 0; i < POOL_SIZE; i++)
        p->pool[i] = (uint8_t)random_next(&p->random);
}

static void load(struct testvm *vm, const struct program *p)
{
    uint64_t directory = TABLE | 7;
    testvm_put(vm, CODE, p->code, p->length);
    testvm_put(vm, POOL, p->pool, sizeof(p->pool));
    testvm_put(vm, LISTS, p->lists, sizeof(p->lists));
    testvm_set_mode(vm, MODE_LONG, 8);
    testvm_put(vm, 0x3000 + 8 * (PAGES >> 21), &directory, 8);
    testvm_put(vm, TABLE, p->table, sizeof(p->table));
    vm->vcpu->mmu.cr0 |= CR0_WP;
    mmu_flush(&vm->vcpu->mmu, false);
    memset(vm->vcpu->gpr, 0x5a, sizeof(vm->vcpu->gpr));
    vm->vcpu->gpr[GPR_RCX] = p->rounds;
    vm->vcpu->rflags = FLAG_FIXED;
}

static void check_equal(struct testvm *a, struct testvm *b, const struct program *p,
                        unsigned number)
{
    static uint8_t left[POOL_SIZE], right[POOL_SIZE];
    unsigned at = 0;
    assert_int_equal(pmap_read(a->map, POOL, left, POOL_SIZE), STATUS_OK);
    assert_int_equal(pmap_read(b->map, POOL, right, POOL_SIZE), STATUS_OK);
    while (at < POOL_SIZE && left[at] == right[at])
        at++;
    if (at == POOL_SIZE && a->vcpu->rip == b->vcpu->rip && a->vcpu->rflags == b->vcpu->rflags &&
        a->vcpu->cr2 == b->vcpu->cr2 &&
        memcmp(a->vcpu->gpr, b->vcpu->gpr, sizeof(a->vcpu->gpr)) == 0)
        return;
    for (size_t i = 0; i < p->length; i++)
        print_error("%02x ", p->code[i]);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        print_error("\ngpr %u: %#lx, translated %#lx", i, a->vcpu->gpr[i], b->vcpu->gpr[i]);
    fail_msg("\nprogram %u: rip %#lx, translated %#lx; rflags %#lx, %#lx; pool differs at %#x",
             number, a->vcpu->rip, b->vcpu->rip, a->vcpu->rflags, b->vcpu->rflags, at);
}

static bool has_bad_hints(const struct translate *translate)
{
    for (unsigned i = 0; i < ARRAY_LENGTH(translate->bad_hints); i++) {
        if (translate->bad_hints[i] != 0)
            return true;
    }
    return false;
}

static void test_random(void **state)
{
    static struct program program = {.random = {0x1234567}};
    struct testvm interpreted, translated;
    unsigned halted = 0;
    testvm_create(&interpreted, RAM_SIZE);
    testvm_create(&translated, RAM_SIZE);
    testvm_use_engine(&translated, &translate_engine);
    struct translate *translate = translate_of(translated.vcpu);
    for (unsigned i = 0; i < PROGRAMS; i++) {
        memset(translate->bad_hints, 0, sizeof(translate->bad_hints));
        make_program(&program, ROUNDS, 2u << below(&program, 6), false);
        load(&interpreted, &program);
        load(&translated, &program);
        enum vcpu_exit expected = testvm_run(&interpreted, CODE);
        assert_int_equal(testvm_run(&translated, CODE), expected);
        check_equal(&interpreted, &translated, &program, i);
        halted += expected == VCPU_EXIT_HALTED;
    }
    assert_true(halted > PROGRAMS / 2 && halted < PROGRAMS);
    testvm_destroy(&translated);
    testvm_destroy(&interpreted);
}

/* An instruction that hardly ever guesses right does so no more, and one that always does goes on.
 */
static void test_weighing(void **state)
{
    static struct program program = {.random = {99}};
    struct testvm interpreted, translated;
    testvm_create(&interpreted, RAM_SIZE);
    testvm_create(&translated, RAM_SIZE);
    testvm_use_engine(&translated, &translate_engine);
    struct translate *translate = translate_of(translated.vcpu);
    for (unsigned steady = 2; steady-- > 0;) {
        make_program(&program, ROUNDS_MAX, steady ? UINT32_MAX : 1, true);
        for (unsigned n = 0; n < 20 && !has_bad_hints(translate); n++) {
            load(&interpreted, &program);
            load(&translated, &program);
            assert_int_equal(testvm_run(&interpreted, CODE), VCPU_EXIT_HALTED);
            assert_int_equal(testvm_run(&translated, CODE), VCPU_EXIT_HALTED);
            check_equal(&interpreted, &translated, &program, steady);
        }
        assert_int_equal(has_bad_hints(translate), !steady);
    }
    testvm_destroy(&translated);
    testvm_destroy(&interpreted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_weighing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
