/*
 * Relative translations: code that is mapped at several linear addresses.
 *
 * An image is CODE_PAGES pages of code, and data behind them that its RIP-relative operands reach.
 * It is mapped at several places at once: the same code, but each place has data of its own, so
 * whoever takes the wrong place shows it. Two machines do the same things, one interprets and one
 * translates, and all state must be equal after each of them. There is no IDT: an exception ends in
 * a shutdown, with everything as it was then.
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

#define RAM_SIZE   0x400000u
#define CODE       0x200000u /* guest-physical */
#define CODE_PAGES 3u
#define DATA       0x210000u /* of the first place; DATA_PAGES each */
#define DATA_PAGES 2u
#define IMAGE      (CODE_PAGES + DATA_PAGES)
#define PLACES     4u
#define STACK      0x240000u /* identity-mapped, as all below RAM_SIZE */
#define TABLES     0x10000u  /* for the second address space, and what is above the first GiB */
#define DATA_AT    (CODE_PAGES * 0x1000u) /* from the start of the image */

/* In the lower half, by small pages; one that is high, as libraries are; and one that ends at the
 * hole in the address space. All but the last may be relative. */
static const uint64_t places[PLACES] = {0x40001000, 0x40087000, 0x7f1234565000,
                                        0x800000000000 - IMAGE * 0x1000};

struct pair {
    struct testvm interpreted, translated;
    struct code_pool *pool;
    uint64_t next_table;
};

static struct testvm *vm_of(struct pair *pair, unsigned i)
{
    return i == 0 ? &pair->interpreted : &pair->translated;
}

static void put(struct pair *pair, uint64_t gpa, const void *bytes, size_t length)
{
    for (unsigned i = 0; i < 2; i++)
        testvm_put(vm_of(pair, i), gpa, bytes, length);
}
#define PUT(pair, gpa, code) put(pair, gpa, code, sizeof(code) - 1)

static uint64_t get_u64(struct pair *pair, uint64_t gpa)
{
    uint64_t value = 0;
    assert_int_equal(pmap_read(pair->interpreted.map, gpa, &value, 8), STATUS_OK);
    return value;
}

static void map(struct pair *pair, uint64_t root, uint64_t linear, uint64_t gpa)
{
    uint64_t table = root;
    for (unsigned level = 3; level > 0; level--) {
        uint64_t at = table + 8 * (linear >> (12 + 9 * level) & 511), entry = get_u64(pair, at);
        if (entry == 0) {
            entry = pair->next_table | 7;
            pair->next_table += 0x1000;
            put(pair, at, &entry, 8);
        }
        table = entry & ~(uint64_t)PAGE_MASK;
    }
    gpa |= 7;
    put(pair, table + 8 * (linear >> 12 & 511), &gpa, 8);
}

static void map_image(struct pair *pair, uint64_t root, uint64_t linear, unsigned data)
{
    for (unsigned i = 0; i < IMAGE; i++)
        map(pair, root, linear + i * 0x1000,
            i < CODE_PAGES ? CODE + i * 0x1000
                           : DATA + (data * DATA_PAGES + i - CODE_PAGES) * 0x1000);
}

/* pool_size 0: the engine's own. */
static void create(struct pair *pair, size_t pool_size)
{
    struct error err = {0};
    *pair = (struct pair){.next_table = TABLES};
    testvm_create(&pair->interpreted, RAM_SIZE);
    testvm_use_engine(&pair->interpreted, &interp_engine);
    testvm_create(&pair->translated, RAM_SIZE);
    if (pool_size != 0)
        assert_int_equal(code_pool_create(&pair->pool, pool_size, 1, &err), STATUS_OK);
    pair->translated.vcpu->code_pool = pair->pool;
    testvm_use_engine(&pair->translated, &translate_engine);
    for (unsigned i = 0; i < 2; i++)
        testvm_set_mode(vm_of(pair, i), MODE_LONG, 8);
    for (unsigned i = 0; i < PLACES; i++)
        map_image(pair, 0x1000, places[i], i);
    uint8_t code[CODE_PAGES * 0x1000];
    memset(code, 0xf4, sizeof(code));
    put(pair, CODE, code, sizeof(code));
}

static void destroy(struct pair *pair)
{
    testvm_destroy(&pair->translated);
    testvm_destroy(&pair->interpreted);
    code_pool_destroy(pair->pool);
}

static void assert_equal(struct pair *pair)
{
    static uint8_t a[RAM_SIZE - CODE], b[RAM_SIZE - CODE];
    const struct vcpu *x = pair->interpreted.vcpu, *y = pair->translated.vcpu;
    assert_int_equal(x->rip, y->rip);
    for (unsigned i = 0; i < GPR_COUNT; i++)
        assert_int_equal(x->gpr[i], y->gpr[i]);
    assert_int_equal(x->rflags, y->rflags);
    assert_int_equal(x->cr2, y->cr2);
    const size_t size = STACK + 0x1000 - CODE;
    assert_int_equal(pmap_read(pair->interpreted.map, CODE, a, size), STATUS_OK);
    assert_int_equal(pmap_read(pair->translated.map, CODE, b, size), STATUS_OK);
    assert_memory_equal(a, b, size);
}

static void set(struct pair *pair, unsigned gpr, uint64_t value)
{
    for (unsigned i = 0; i < 2; i++)
        vm_of(pair, i)->vcpu->gpr[gpr] = value;
}

/* Both, from rip on, and what has come of them. */
static struct vcpu *run(struct pair *pair, uint64_t rip, enum vcpu_exit expected)
{
    set(pair, GPR_RSP, STACK + 0x800);
    for (unsigned i = 0; i < 2; i++) {
        vm_of(pair, i)->vcpu->cr2 = 0;
        vm_of(pair, i)->vcpu->rflags = FLAG_FIXED;
        assert_int_equal(testvm_run(vm_of(pair, i), rip), expected);
    }
    assert_equal(pair);
    return pair->translated.vcpu;
}

static uint64_t translations(const struct pair *pair)
{
    return translate_of(pair->translated.vcpu)->stats.translations;
}

/* ------------------------------------------------------------------------- one for all */

static const char program[] =
    "\xe8\x3b\0\0\0"               /* 00: call 40 */
    "\x48\x8b\x05\xf4\x2f\0\0"     /* 05: mov rax, [rip -> DATA_AT] */
    "\x48\x01\x05\xf5\x2f\0\0"     /* 0c: add [rip -> DATA_AT + 8], rax */
    "\x48\x8d\x1d\xe6\x0f\0\0"     /* 13: lea rbx, [rip -> 1000] */
    "\xff\xd3"                     /* 1a: call rbx */
    "\xff\x15\xee\x2f\0\0"         /* 1c: call [rip -> DATA_AT + 16] */
    "\xf2\x0f\x10\x05\xee\x2f\0\0" /* 22: movsd xmm0, [rip -> DATA_AT + 24] */
    "\x66\x48\x0f\x7e\xc2"         /* 2a: movq rdx, xmm0 */
    "\x85\xe4\x74\xcd"             /* 2f: test esp, esp; jz 00: never */
    "\xff\xc9\x75\xc9"             /* 33: dec ecx; jnz 00 */
    "\xf4\0\0\0\0\0\0\0\0"         /* 37: hlt */
    "\x48\x03\x05\xb9\x2f\0\0\xc3" /* 40: add rax, [rip -> DATA_AT]; ret */
    ;

static void put_program(struct pair *pair)
{
    PUT(pair, CODE, program);
    PUT(pair, CODE + 0x1000,
        "\x48\x03\x34\x24\xe8\xf7\x0f\0\0\xc3");                  /* add rsi, [rsp]; call 2000 */
    PUT(pair, CODE + 0x2000, "\x48\x8d\x3d\xf9\xff\xff\xff\xc3"); /* lea rdi, [rip -> 2000]; ret */
    for (unsigned i = 0; i < PLACES; i++) {
        uint64_t data[4] = {0x1111 * (i + 1), 0, places[i] + 0x2000, 0x2222 * (i + 1)};
        put(pair, DATA + i * DATA_PAGES * 0x1000, data, sizeof(data));
    }
}

static void run_program(struct pair *pair, uint64_t at)
{
    set(pair, GPR_RCX, 20);
    set(pair, GPR_RSI, 0);
    const struct vcpu *vcpu = run(pair, at, VCPU_EXIT_HALTED);
    assert_int_equal(vcpu->gpr[GPR_RSI], 20 * (at + 0x1c));
    assert_int_equal(vcpu->gpr[GPR_RDI], at + 0x2000);
}

/* No link leads from one kind of code to the other, whatever the dispatcher takes for the way that
 * the guest has come. */
static void check_links(struct translate *translate)
{
    unsigned refused = 0;
    for (struct translation *from = ref_get(translate, translate->oldest); from != NULL;
         from = ref_get(translate, from->younger)) {
        for (unsigned i = 0; i < from->link_count; i++) {
            struct link *link = &translation_links(translate, from)[i];
            for (struct translation *to = ref_get(translate, translate->oldest); to != NULL;
                 to = ref_get(translate, to->younger)) {
                if (link->to != 0 || from->is_dead || to->is_dead || from->ppn != to->ppn ||
                    from->is_relative == to->is_relative || link->target != (to->rip & PAGE_MASK))
                    continue;
                translate->left_by = link;
                assert_false(translate_chain(translate, to));
                refused++;
            }
        }
    }
    assert_true(refused > 0);
}

/* The second place has the code made again, all others share that. */
static void test_shared(void **state)
{
    struct pair pair;
    create(&pair, 0);
    put_program(&pair);
    run_program(&pair, places[0]);
    const uint64_t first = translations(&pair);
    run_program(&pair, places[0]);
    assert_int_equal(translations(&pair), first);
    run_program(&pair, places[1]);
    const uint64_t second = translations(&pair);
    assert_true(second > first);
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < 3; i++)
            run_program(&pair, places[i]);
    }
    assert_int_equal(translations(&pair), second);

    /* Near the hole code is absolute, and both kinds live side by side. */
    run_program(&pair, places[3]);
    const uint64_t third = translations(&pair);
    assert_true(third > second);
    for (unsigned i = 0; i < 2 * PLACES; i++)
        run_program(&pair, places[i % PLACES]);
    assert_int_equal(translations(&pair), third);
    check_links(translate_of(pair.translated.vcpu));
    destroy(&pair);
}

/* The same in another address space, at an address that is of other code in the first. */
static void test_address_spaces(void **state)
{
    struct pair pair;
    create(&pair, 0);
    put_program(&pair);
    const uint64_t root = 0x8000, shared = get_u64(&pair, 0x3000 + 8), at = places[0] + 0x5000;
    assert_true(shared != 0);
    /* What is below the first GiB is common. */
    uint64_t pdpt = pair.next_table | 7, directory = 0x3000 | 7;
    put(&pair, root, &pdpt, 8);
    put(&pair, pair.next_table, &directory, 8);
    pair.next_table += 0x1000;
    map_image(&pair, root, at, 1);
    map_image(&pair, root, places[2], 2);
    run_program(&pair, places[0]);
    uint64_t made = 0;
    for (unsigned round = 0; round < 6; round++) {
        bool in_second = round % 2 == 0;
        for (unsigned i = 0; i < 2; i++) {
            vm_of(&pair, i)->vcpu->mmu.cr3 = in_second ? root : 0x1000;
            mmu_flush(&vm_of(&pair, i)->vcpu->mmu, false);
        }
        uint64_t data[4] = {7, 8, (in_second ? at : places[1]) + 0x2000, round};
        put(&pair, DATA + DATA_PAGES * 0x1000, data, sizeof(data));
        run_program(&pair, in_second ? at : places[1]);
        run_program(&pair, places[2]);
        if (round == 1)
            made = translations(&pair);
    }
    assert_int_equal(translations(&pair), made);
    destroy(&pair);
}

/* ------------------------------------------------------------------------- exactness */

/* Faults in the middle of a block, and by calls, find RIP where the guest is. */
static void test_faults(void **state)
{
    struct pair pair;
    create(&pair, 0);
    /* inc rax; mov rbx, [rsi]; push rax; mov rdx, [rip -> DATA_AT]; call [rdi] */
    PUT(&pair, CODE, "\x48\xff\xc0\x48\x8b\x1e\x50\x48\x8b\x15\xf2\x2f\0\0\xff\x17\xf4");
    PUT(&pair, CODE + 0x40, "\xf4");
    for (unsigned round = 0; round < 12; round++) {
        uint64_t at = places[round * 5 % PLACES], target = at + 0x40;
        put(&pair, STACK, &target, 8);
        set(&pair, GPR_RSI, STACK);
        set(&pair, GPR_RDI, STACK);
        assert_int_equal(run(&pair, at, VCPU_EXIT_HALTED)->rip, target + 1);
        set(&pair, GPR_RSI, 0x7fff12345678);
        struct vcpu *vcpu = run(&pair, at, VCPU_EXIT_SHUTDOWN);
        assert_int_equal(vcpu->rip, at + 3);
        assert_int_equal(vcpu->cr2, 0x7fff12345678);
        set(&pair, GPR_RSI, STACK);
        target = 0x8000000000000000;
        put(&pair, STACK, &target, 8);
        assert_int_equal(run(&pair, at, VCPU_EXIT_SHUTDOWN)->rip, at + 14);
        set(&pair, GPR_RDI, 0x7fff12345000);
        assert_int_equal(run(&pair, at, VCPU_EXIT_SHUTDOWN)->rip, at + 14);
    }
    destroy(&pair);
}

/* What has RIP in a register, or goes to a handler. */
static void test_system(void **state)
{
    struct pair pair;
    create(&pair, 0);
    PUT(&pair, CODE, "\x48\xff\xc0\x0f\x05");                /* inc rax; syscall */
    PUT(&pair, CODE + 0x20, "\x0f\xa2\x48\xff\xc0\x0f\x32"); /* cpuid; inc rax; rdmsr */
    PUT(&pair, STACK - 0x1000, "\xf4");
    for (unsigned i = 0; i < 2; i++) {
        vm_of(&pair, i)->vcpu->msr.lstar = STACK - 0x1000;
        vm_of(&pair, i)->vcpu->msr.star = 0x08ull << 32;
    }
    for (unsigned round = 0; round < 12; round++) {
        uint64_t at = places[round * 5 % PLACES];
        assert_int_equal(run(&pair, at, VCPU_EXIT_HALTED)->gpr[GPR_RCX], at + 5);
        set(&pair, GPR_RAX, 7);
        set(&pair, GPR_RCX, 0);
        /* There is no such leaf: it gives 0, or so. */
        run(&pair, at + 0x20, VCPU_EXIT_SHUTDOWN);
    }
    destroy(&pair);
}

/* Vector registers that may not be used, at another place than where the code was made. */
static void test_vectors(void **state)
{
    struct pair pair;
    create(&pair, 0);
    /* inc rax; movups xmm0, [rip -> DATA_AT]; 1: addps xmm0, xmm0; dec ecx; jnz 1b; hlt */
    PUT(&pair, CODE, "\x48\xff\xc0\x0f\x10\x05\xf6\x2f\0\0\x0f\x58\xc0\xff\xc9\x75\xf9\xf4");
    for (unsigned round = 0; round < 12; round++) {
        const uint64_t at = places[round % PLACES] + (round % 3 == 2 ? 10 : 0);
        for (unsigned usable = 2; usable-- > 0;) {
            for (unsigned i = 0; i < 2; i++) {
                struct vcpu *vcpu = vm_of(&pair, i)->vcpu;
                vcpu->mmu.cr0 = (vcpu->mmu.cr0 & ~(uint64_t)CR0_TS) | (usable ? 0 : CR0_TS);
            }
            set(&pair, GPR_RCX, 5);
            set(&pair, GPR_RAX, 1);
            run(&pair, at, usable ? VCPU_EXIT_HALTED : VCPU_EXIT_SHUTDOWN);
        }
        assert_int_equal(pair.translated.vcpu->rip,
                         places[round % PLACES] + (round % 3 == 2 ? 10 : 3));
    }
    destroy(&pair);
}

/* Every look at attention finds it: an NMI that is not to be taken yet. */
static void test_attention(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
    } loops[] = {
        {"\x48\x8d\x1c\x08\x48\x01\xd8\x48\xff\xc9\x75\xf4\xf4", 13},
        {"\x48\x11\xc8\x48\x8d\x49\xff\xe3\x02\xeb\xf5\xf4", 12},
        {"\x48\x11\x05\xf9\x2f\0\0\x48\xff\xc9\x75\xf4\xf4", 13},
        {"\x48\x01\xc8\x48\x8b\x15\xf6\x2f\0\0\x48\x8d\x49\xff\xe3\x02\xeb\xee\xf4", 19},
        {"\x0f\x58\xc1\x48\xff\xc9\x75\xf8\xf4", 9},
        {"\xe9\xfb\x0f\0\0", 5}, /* to the next page, and back */
    };
    struct pair pair;
    create(&pair, 0);
    PUT(&pair, CODE + 0x1000, "\x48\xff\xc9\x0f\x85\xf7\xef\xff\xff\xf4"); /* dec rcx; jnz */
    for (unsigned n = 0; n < 2 * ARRAY_LENGTH(loops); n++) {
        const unsigned shift = n % 2; /* behind a NOP it is translated when it comes round */
        PUT(&pair, CODE, "\x90");
        put(&pair, CODE + shift, loops[n / 2].bytes, loops[n / 2].length);
        for (unsigned round = 0; round < 2 * PLACES; round++) {
            struct vcpu *vcpu = pair.translated.vcpu;
            vcpu->nmi_blocked = true;
            vcpu_kick(vcpu, ATTENTION_NMI);
            set(&pair, GPR_RCX, 50);
            run(&pair, places[round % PLACES], VCPU_EXIT_HALTED);
        }
    }
    destroy(&pair);
}

/* Displacements as far as they go. At the hole they lead into it: that faults at the branch. */
static void test_far(void **state)
{
    static const struct {
        const char *bytes;
        size_t length;
    } cases[] = {
        {"\xe9\xff\xff\xff\x7f", 5},                 /* jmp */
        {"\xe9\0\0\0\x80", 5},                       /* the other way */
        {"\xe8\xff\xff\xff\x7f", 5},                 /* call */
        {"\x85\xc0\x0f\x84\xf0\xff\xff\x7f", 8},     /* test eax, eax; jz */
        {"\x48\x8d\x05\xff\xff\xff\x7f\xf4", 8},     /* lea rax */
        {"\x67\x48\x8d\x05\xff\xff\xff\x7f\xf4", 9}, /* lea rax, [eip] */
        {"\x8d\x05\0\0\0\x80\xf4", 7},               /* lea eax */
        {"\x48\x8b\x05\xf0\xff\xff\x7f\xf4", 8},     /* mov rax */
        {"\x67\x48\x8b\x05\xf0\xff\xff\x7f\xf4", 9}, /* mov rax, [eip] */
        {"\x48\x8b\x05\0\0\0\x80\xf4", 8},           /* mov rax, the other way */
        {"\x64\x48\x8b\x05\x00\x10\0\0\xf4", 9},     /* mov rax, fs: */
        {"\x48\x8b\x05\xf9\x0f\0\0\xf4", 8},         /* over a page border */
        /* mov rbx, [rip + x]; mov rax, [eip + x]: the first has its page in the TLB */
        {"\x48\x8b\x1d\x70\0\0\0\x67\x48\x8b\x05\x70\0\0\0\xf4", 16},
        {"\x48\x8b\x1d\x70\0\0\0\x67\x48\x03\x1d\x70\0\0\0\xf4", 16},
        {"\x48\x8b\x1d\x02\0\0\0\x67\x48\x8b\x05\xfa\0\0\0\xf4", 16}, /* over a border */
    };
    struct pair pair;
    create(&pair, 0);
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        const uint64_t offset = i % 2 && i < 14 ? 0xfe0 : 0xef0;
        put(&pair, CODE + offset, cases[i].bytes, cases[i].length);
        for (unsigned round = 0; round < 2 * PLACES; round++) {
            set(&pair, GPR_RAX, 0);
            set(&pair, GPR_RSP, STACK + 0x800);
            for (unsigned m = 0; m < 2; m++) {
                struct testvm *vm = vm_of(&pair, m);
                vm->vcpu->cr2 = 0;
                vm->vcpu->rflags = FLAG_FIXED;
                vm->vcpu->gpr[GPR_RBX] = testvm_run(vm, places[round % PLACES] + offset);
            }
            assert_equal(&pair);
        }
    }
    destroy(&pair);
}

/* An instruction over the border of two pages whose second page is not the same everywhere. */
static void test_crossing(void **state)
{
    struct pair pair;
    create(&pair, 0);
    PUT(&pair, CODE + 0xffe, "\xb8\x11");                              /* mov eax, 0x..11 */
    PUT(&pair, CODE + 0x1000, "\x22\x33\x44\x03\x05\xf7\x1f\0\0\xf4"); /* add eax, [rip -> 3000] */
    PUT(&pair, CODE + 0x2000, "\x55\x66\x77\x2b\x05\xf7\x1f\0\0\xf4"); /* sub */
    const uint64_t value = 5;
    for (unsigned i = 0; i < PLACES; i++)
        put(&pair, DATA + i * DATA_PAGES * 0x1000, &value, 8);
    map(&pair, 0x1000, places[1] + 0x1000, CODE + 0x2000);
    uint64_t made = 0;
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < PLACES; i++) {
            const struct vcpu *vcpu = run(&pair, places[i] + 0xffe, VCPU_EXIT_HALTED);
            assert_int_equal(vcpu->gpr[GPR_RAX], i == 1 ? 0x7766550cu : 0x44332216u);
        }
        if (round == 0)
            made = translations(&pair);
    }
    assert_int_equal(translations(&pair), made);
    /* Its second page is written, by another address. */
    PUT(&pair, CODE + 0x1000, "\x23");
    for (unsigned i = 0; i < PLACES; i++)
        run(&pair, places[i] + 0xffe, VCPU_EXIT_HALTED);
    assert_int_equal(pair.translated.vcpu->gpr[GPR_RAX], 0x44332316);
    destroy(&pair);
}

/* Code that changes itself where it is mapped a second time, and goes on behind that. */
static void test_changed_by_alias(void **state)
{
    static const char code[] = "\x89\x0e"      /* 00: mov [rsi], ecx */
                               "\xb8\0\0\0\0"  /* 02: mov eax, 0 */
                               "\xeb\0"        /* 07: jmp 09 */
                               "\x01\xc2\xf4"; /* 09: add edx, eax; hlt */
    struct pair pair;
    create(&pair, 0);
    PUT(&pair, CODE + 0x100, code);
    for (uint32_t round = 1; round < 40; round++) {
        set(&pair, GPR_RSI, places[round % 3] + 0x103);
        set(&pair, GPR_RCX, round);
        const struct vcpu *vcpu =
            run(&pair, places[round * 7 / 2 % PLACES] + 0x100, VCPU_EXIT_HALTED);
        assert_int_equal(vcpu->gpr[GPR_RAX], round);
    }
    destroy(&pair);
}

/* Runs over a page border, where the stack of one place is, are given up; not for the next. */
static void test_runs_elsewhere(void **state)
{
    struct pair pair;
    create(&pair, 0);
    /* 1: mov rax, [rsi]; add rax, [rsi+8]; add rax, [rsi+16]; dec ecx; jnz 1b; hlt */
    PUT(&pair, CODE, "\x48\x8b\x06\x48\x03\x46\x08\x48\x03\x46\x10\xff\xc9\x75\xf1\xf4");
    struct translate *translate = translate_of(pair.translated.vcpu);
    for (unsigned i = 0; i < 3; i++) {
        for (unsigned round = 0; round < 2; round++) {
            set(&pair, GPR_RCX, 40);
            set(&pair, GPR_RSI, i == 1 ? DATA + 0xff8 : DATA);
            run(&pair, places[i], VCPU_EXIT_HALTED);
        }
        assert_int_equal(slow_has_bad_runs(translate, CODE), i == 1);
    }
    destroy(&pair);
}

/* ------------------------------------------------------------------------- random programs */

struct writer {
    struct random random;
    uint8_t bytes[CODE_PAGES * 0x1000];
    uint32_t at, functions[8], function_count;
    uint32_t constants[32], constant_count; /* where MOV EAX, n has its n */
    bool in_function;
};

static uint32_t below(struct writer *w, uint32_t limit)
{
    return (uint32_t)random_below(&w->random, limit);
}

static void put_bytes(struct writer *w, const char *bytes, unsigned length)
{
    memcpy(w->bytes + w->at, bytes, length);
    w->at += length;
}

/* The last operand: a displacement from behind it, and `after` bytes of an immediate. */
static void put_target(struct writer *w, uint32_t target, unsigned after)
{
    uint32_t displacement = target - (w->at + 4 + after);
    memcpy(w->bytes + w->at, &displacement, 4);
    w->at += 4;
}

/* One of RAX to RBX, or R8 to R11, and [rip + x]. */
static void put_relative(struct writer *w, const char *opcode, unsigned length, uint32_t target)
{
    w->bytes[w->at++] = below(w, 2) ? 0x4c : 0x48;
    put_bytes(w, opcode, length);
    w->bytes[w->at++] = (uint8_t)(below(w, 4) << 3 | 5);
    put_target(w, target, 0);
}

static uint32_t random_data(struct writer *w)
{
    if (below(w, 40) == 0)
        return DATA_AT + DATA_PAGES * 0x1000 - below(w, 8); /* the end of it, and beyond */
    if (below(w, 8) == 0)
        return DATA_AT + 0x1000 - below(w, 8);
    return DATA_AT + 0x40 + 8 * below(w, 0x100);
}

static void put_items(struct writer *w, unsigned count, unsigned depth);

static void put_item(struct writer *w, unsigned depth)
{
    uint32_t at, which;
    switch (below(w, depth < 3 ? 15 : 11)) {
    case 0:
        put_relative(w, "\x8b", 1, random_data(w)); /* mov r, [rip] */
        break;
    case 1:
        put_relative(w, "\x89", 1, random_data(w)); /* mov [rip], r */
        break;
    case 2:
        put_relative(w, "\x01", 1, random_data(w)); /* add [rip], r */
        break;
    case 3:
        put_relative(w, "\x13", 1, random_data(w)); /* adc r, [rip] */
        break;
    case 4:
        put_relative(w, "\x8d", 1, random_data(w)); /* lea */
        break;
    case 5:
        put_relative(w, "\x0f\xb1", 2, random_data(w)); /* cmpxchg [rip], r */
        break;
    case 6: /* push [rip]; pop rdi */
        put_bytes(w, "\xff\x35", 2);
        put_target(w, random_data(w), 0);
        put_bytes(w, "\x5f", 1);
        break;
    case 7: /* add dword [rip], imm32 */
        put_bytes(w, "\x81\x05", 2);
        put_target(w, random_data(w), 4);
        put_bytes(w, "\x45\x23\x01\x80", 4);
        break;
    case 8: /* movups xmm1, [rip]; movups [rip], xmm1 */
        put_bytes(w, "\x0f\x10\x0d", 3);
        put_target(w, random_data(w), 0);
        put_bytes(w, "\x0f\x11\x0d", 3);
        put_target(w, random_data(w), 0);
        break;
    case 9: /* mov eax, n, which may change */
        if (w->constant_count < ARRAY_LENGTH(w->constants))
            w->constants[w->constant_count++] = w->at + 1;
        put_bytes(w, "\xb8\x07\0\0\0", 5);
        break;
    case 10: /* to other code, at times: mov dword [rip], imm32 */
        which = below(w, 4 * ARRAY_LENGTH(w->constants));
        if (which < w->constant_count) {
            put_bytes(w, "\xc7\x05", 2);
            put_target(w, w->constants[which], 4);
            put_bytes(w, "\x31\x05\0\0", 4);
            w->bytes[w->at - 3] = (uint8_t)below(w, 256);
        }
        break;
    case 11: /* over some items */
        w->bytes[w->at++] = 0x0f;
        w->bytes[w->at++] = (uint8_t)(0x80 | below(w, 16));
        at = w->at;
        w->at += 4;
        put_items(w, 1 + below(w, 4), depth + 1);
        which = w->at - (at + 4);
        memcpy(w->bytes + at, &which, 4);
        break;
    default: /* calls: direct, by a register, by memory */
        if (w->function_count == 0 || w->in_function)
            break;
        which = w->functions[below(w, w->function_count)];
        switch (below(w, 3)) {
        case 0:
            put_bytes(w, "\xe8", 1);
            put_target(w, which, 0);
            break;
        case 1:
            put_bytes(w, "\x48\x8d\x1d", 3); /* lea rbx, [rip]; call rbx */
            put_target(w, which, 0);
            put_bytes(w, "\xff\xd3", 2);
            break;
        default:
            put_bytes(w, "\x48\x8d\x1d", 3); /* lea rbx, [rip]; mov [rip], rbx; call [rip] */
            put_target(w, which, 0);
            put_bytes(w, "\x48\x89\x1d", 3);
            put_target(w, DATA_AT + 8, 0);
            put_bytes(w, "\xff\x15", 2);
            put_target(w, DATA_AT + 8, 0);
            break;
        }
        break;
    }
}

static void put_items(struct writer *w, unsigned count, unsigned depth)
{
    while (count-- > 0 && w->at < sizeof(w->bytes) - 0x100)
        put_item(w, depth);
}

/* Functions, and a loop that calls them. Returns where it begins. */
static uint32_t make_program(struct writer *w, uint64_t seed)
{
    *w = (struct writer){.random = {seed * 0x9e3779b97f4a7c15u | 1}, .in_function = true};
    memset(w->bytes, 0xf4, sizeof(w->bytes));
    w->at = below(w, 2) ? below(w, 0x1000) : 0xf00 + below(w, 0x100);
    for (unsigned i = 1 + below(w, 7); i-- > 0;) {
        w->functions[w->function_count++] = w->at;
        put_items(w, 1 + below(w, 8), 0);
        put_bytes(w, "\xc3", 1);
        if (below(w, 3) == 0 && w->at < 0x1800)
            w->at += below(w, 0x800);
    }
    w->in_function = false;
    uint32_t start = w->at;
    put_items(w, 4 + below(w, 16), 0);
    put_bytes(w, "\xff\x0d", 2); /* dec dword [rip -> DATA_AT] */
    put_target(w, DATA_AT, 0);
    put_bytes(w, "\x0f\x8f", 2); /* jg */
    put_target(w, start, 0);
    put_bytes(w, "\xf4", 1);
    return start;
}

static void run_random(unsigned programs, size_t pool_size)
{
    static struct writer w;
    struct pair pair;
    unsigned halted = 0, runs = 0;
    create(&pair, pool_size);
    struct random random = {0x9051710};
    for (unsigned i = 0; i < programs; i++) {
        uint32_t start = make_program(&w, i + pool_size);
        put(&pair, CODE, w.bytes, sizeof(w.bytes));
        for (unsigned n = 6; n-- > 0; runs++) {
            /* Mostly where relative code is. */
            unsigned place = (unsigned)random_below(&random, n % 3 ? PLACES - 1 : PLACES);
            uint32_t rounds = 1 + (uint32_t)random_below(&random, 3);
            put(&pair, DATA + place * DATA_PAGES * 0x1000, &rounds, 4);
            for (unsigned gpr = 0; gpr < GPR_COUNT; gpr++)
                set(&pair, gpr, random_next(&random));
            set(&pair, GPR_RSP, STACK + 0x800);
            enum vcpu_exit exit[2];
            for (unsigned m = 0; m < 2; m++) {
                vm_of(&pair, m)->vcpu->rflags = FLAG_FIXED;
                exit[m] = testvm_run(vm_of(&pair, m), places[place] + start);
            }
            if (pair.interpreted.vcpu->rip != pair.translated.vcpu->rip)
                print_error("program %u at %#lx\n", i, places[place] + start);
            assert_equal(&pair);
            assert_int_equal(exit[0], exit[1]);
            halted += exit[0] == VCPU_EXIT_HALTED;
        }
    }
    struct translate *translate = translate_of(pair.translated.vcpu);
    print_message("%u runs, %u without an exception, %lu translations, %lu evicted\n", runs, halted,
                  translate->stats.translations, translate->stats.evictions);
    assert_true(halted > runs / 4 && halted < runs);
    assert_true(pool_size == 0 || translate->stats.evictions > programs);
    destroy(&pair);
}

static void test_random(void **state)
{
    run_random(600, 0);
}

static void test_random_evicted(void **state)
{
    run_random(400, CODE_PIECE_LEAST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared),
        cmocka_unit_test(test_address_spaces),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_system),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_far),
        cmocka_unit_test(test_crossing),
        cmocka_unit_test(test_changed_by_alias),
        cmocka_unit_test(test_runs_elsewhere),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_random_evicted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
