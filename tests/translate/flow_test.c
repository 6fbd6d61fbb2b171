/*
 * How translations go on to one another.
 *
 * What the jump cache knows must not outlive the guest's flushes: functions are called often enough
 * to be in it, their pages are then mapped elsewhere, and each kind of flush must bring the new
 * code, or may keep the old one, exactly as a TLB would. Instructions that cross a page are of two
 * pages. And every kind of loop must notice attention, with registers and flags as they should be.
 */

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/translate/translate.h"
#include "testvm.h"

#define RAM_SIZE 0x1000000u
#define TABLE    0x6000u /* maps 2 MiB from REGION on by small pages */
#define REGION   0x800000u
#define VIRTUAL  0x820000u /* in there, linear; no other code here has its place in the ITLB */
#define FIRST    0x200000u /* guest-physical: two pages each */
#define SECOND   0x400000u
#define CODE     0x100000u /* identity-mapped, as all below RAM_SIZE but REGION */
#define FLUSH    0x108000u
#define COUNT    0x10a000u

#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_S 0x80u
#define PTE_G 0x100u

static void put_u64(struct testvm *vm, uint64_t gpa, uint64_t value)
{
    testvm_put(vm, gpa, &value, sizeof(value));
}

static void create(struct testvm *vm, const struct engine_ops *engine)
{
    testvm_create(vm, RAM_SIZE);
    testvm_use_engine(vm, engine);
    testvm_set_mode(vm, MODE_LONG, 8);
    vm->vcpu->mmu.cr4 |= CR4_PGE;
    put_u64(vm, 0x3000 + 8 * (REGION >> 21), TABLE | PTE_P | PTE_W | PTE_U);
}

/* Linear page `page` from VIRTUAL on is this guest-physical page now; no flush. */
static void map(struct testvm *vm, unsigned page, uint64_t gpa, unsigned flags)
{
    put_u64(vm, TABLE + 8 * ((VIRTUAL - REGION) / 0x1000 + page),
            gpa | PTE_P | PTE_W | PTE_U | flags);
}

/* MOV EAX, value; RET */
static void put_function(struct testvm *vm, uint64_t gpa, uint32_t value)
{
    uint8_t bytes[6] = {0xb8, 0, 0, 0, 0, 0xc3};
    memcpy(bytes + 1, &value, 4);
    testvm_put(vm, gpa, bytes, sizeof(bytes));
}

static uint64_t run(struct testvm *vm, const char *code, size_t length)
{
    testvm_put(vm, FLUSH, code, length);
    testvm_put(vm, FLUSH + length, "\xf4", 1);
    assert_int_equal(testvm_run(vm, FLUSH), VCPU_EXIT_HALTED);
    return vm->vcpu->gpr[GPR_RAX];
}
#define RUN(vm, code) run(vm, code, sizeof(code) - 1)

/* Calls the function at RBX by a call, a jump and a return, `rounds` times each, and returns its
 * EAX, which must have been the same each time. */
static uint64_t call(struct testvm *vm, uint64_t function, unsigned rounds)
{
    static const char code[] = "\x45\x31\xc0"           /*    xor r8d, r8d */
                               "\xff\xd3"               /* 1: call rbx */
                               "\x41\x01\xc0"           /*    add r8d, eax */
                               "\x48\x8d\x15\x03\0\0\0" /*    lea rdx, [rip + 3] */
                               "\x52"                   /*    push rdx */
                               "\xff\xe3"               /*    jmp rbx */
                               "\x41\x01\xc0"           /*    add r8d, eax */
                               "\x48\x8d\x15\x03\0\0\0" /*    lea rdx, [rip + 3] */
                               "\x52\x53"               /*    push rdx; push rbx */
                               "\xc3"                   /*    ret */
                               "\x41\x01\xc0"           /*    add r8d, eax */
                               "\xff\xc9\x75\xdb\xf4";  /*    dec ecx; jnz 1b; hlt */
    testvm_put(vm, CODE, code, sizeof(code));
    vm->vcpu->gpr[GPR_RSP] = 0x9000;
    vm->vcpu->gpr[GPR_RBX] = function;
    vm->vcpu->gpr[GPR_RCX] = rounds;
    assert_int_equal(testvm_run(vm, CODE), VCPU_EXIT_HALTED);
    assert_int_equal(vm->vcpu->gpr[GPR_R8], (uint32_t)(3 * rounds * vm->vcpu->gpr[GPR_RAX]));
    return vm->vcpu->gpr[GPR_RAX];
}

#define LOAD_CR3   "\x0f\x20\xd8\x0f\x22\xd8" /* mov rax, cr3 and back */
#define TOGGLE_PGE "\x0f\x20\xe0\x34\x80\x0f\x22\xe0\x34\x80\x0f\x22\xe0" /* xor al, 0x80 */
#define TOGGLE_NXE                                                                                 \
    "\xb9\x80\0\0\xc0\x0f\x32\x0f\xba\xf8\x0b\x0f\x30\x0f\xba\xf8\x0b\x0f\x30" /* btc eax, 11 */
#define INVLPG "\x0f\x01\x3f"                                                  /* invlpg [rdi] */

static uint64_t invlpg(struct testvm *vm, uint64_t linear)
{
    vm->vcpu->gpr[GPR_RDI] = linear;
    return RUN(vm, INVLPG);
}

static void test_flushes(void **state)
{
    const struct engine_ops *const engines[] = {&interp_engine, &translate_engine};
    for (unsigned e = 0; e < ARRAY_LENGTH(engines); e++) {
        for (unsigned global = 0; global <= PTE_G; global += PTE_G) {
            struct testvm vm;
            const uint64_t function = VIRTUAL + 0x123;
            create(&vm, engines[e]);
            put_function(&vm, FIRST + 0x123, 1);
            put_function(&vm, SECOND + 0x123, 2);
            map(&vm, 0, FIRST, global);
            map(&vm, 1, FIRST + 0x1000, global);
            assert_int_equal(call(&vm, function, 5), 1);

            map(&vm, 0, SECOND, global);
            assert_int_equal(call(&vm, function, 5), 1); /* as a TLB may, and ours does */
            invlpg(&vm, VIRTUAL + 0x1000);
            assert_int_equal(call(&vm, function, 5), 1);
            invlpg(&vm, VIRTUAL + 0xfff);
            assert_int_equal(call(&vm, function, 5), 2);

            map(&vm, 0, FIRST, global);
            RUN(&vm, LOAD_CR3);
            assert_int_equal(call(&vm, function, 5), global ? 2 : 1);
            RUN(&vm, TOGGLE_PGE);
            assert_int_equal(call(&vm, function, 5), 1);

            map(&vm, 0, SECOND, global);
            RUN(&vm, TOGGLE_NXE);
            assert_int_equal(call(&vm, function, 5), 2);

            /* Other code at the same physical place. */
            put_function(&vm, SECOND + 0x123, 3);
            assert_int_equal(call(&vm, function, 5), 3);
            testvm_destroy(&vm);
        }
    }
}

/* A flush of one 4 KiB piece is a flush of the whole large page. */
static void test_large_page(void **state)
{
    struct testvm vm;
    create(&vm, &translate_engine);
    put_function(&vm, FIRST + 0x25123, 1);
    put_function(&vm, SECOND + 0x25123, 2);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t gpa = i & 1 ? SECOND : FIRST;
        put_u64(&vm, 0x3000 + 8 * (REGION >> 21), gpa | PTE_P | PTE_W | PTE_U | PTE_S | PTE_G);
        if (i > 0)
            invlpg(&vm, VIRTUAL + 0x1000 * i);
        assert_int_equal(call(&vm, VIRTUAL + 0x5123, 5), i & 1 ? 2 : 1);
    }
    testvm_destroy(&vm);
}

/* What a flush has taken comes back for who is in the same page again, as long as its translation
 * is there. */
static void test_recall(void **state)
{
    struct testvm vm;
    create(&vm, &translate_engine);
    struct translate *translate = translate_of(vm.vcpu);
    const uint64_t ppn = FIRST >> PAGE_SHIFT;
    const struct jump *jump = jump_entry(translate, MMU_SUPERVISOR, VIRTUAL);
    put_function(&vm, FIRST, 1);
    map(&vm, 0, FIRST, 0);
    map(&vm, 1, FIRST + 0x1000, 0);
    call(&vm, VIRTUAL, 5);
    assert_int_equal(jump->rip, VIRTUAL);
    const void *code = jump->code;
    assert_null(jump_recall(translate, MMU_SUPERVISOR, VIRTUAL, ppn)); /* it is there */

    RUN(&vm, LOAD_CR3);
    assert_int_equal(jump->rip, VIRTUAL ^ JUMP_PUT_AWAY);
    assert_null(jump_recall(translate, MMU_USER, VIRTUAL, ppn));
    assert_null(jump_recall(translate, MMU_SUPERVISOR, VIRTUAL, ppn + 1));
    assert_null(jump_recall(translate, MMU_SUPERVISOR, VIRTUAL + 1, ppn));
    assert_ptr_equal(jump_recall(translate, MMU_SUPERVISOR, VIRTUAL, ppn), code);
    assert_int_equal(jump->rip, VIRTUAL);

    /* A page that is only looked at keeps its translations, and they are found again. */
    translate_keep(translate, ppn);
    assert_int_equal(jump->rip, VIRTUAL ^ JUMP_PUT_AWAY);
    assert_int_equal(call(&vm, VIRTUAL, 5), 1);
    assert_int_equal(jump->rip, VIRTUAL);
    assert_ptr_equal(jump->code, code);

    /* Not what has been dropped. */
    RUN(&vm, LOAD_CR3);
    put_function(&vm, FIRST, 2);
    assert_null(jump_recall(translate, MMU_SUPERVISOR, VIRTUAL, ppn));
    assert_int_equal(call(&vm, VIRTUAL, 5), 2);
    RUN(&vm, LOAD_CR3);
    ring_empty(translate);
    assert_null(jump_recall(translate, MMU_SUPERVISOR, VIRTUAL, ppn));
    assert_int_equal(call(&vm, VIRTUAL, 5), 2);
    testvm_destroy(&vm);
}

/* A branch to where the jump cache has nothing needs no handler, unless it is to fault. */
static void test_missed(void **state)
{
    static const char branches[][4] = {"\xff\xd3", "\xff\xe3", "\x53\xc3"}; /* call, jmp, ret */
    for (unsigned i = 0; i < ARRAY_LENGTH(branches); i++) {
        struct testvm vm;
        create(&vm, &translate_engine);
        struct translate *translate = translate_of(vm.vcpu);
        map(&vm, 0, FIRST, 0);
        testvm_put(&vm, FIRST, "\xf4", 1);
        testvm_put(&vm, FIRST + 0x800, "\xf4", 1);
        testvm_put(&vm, CODE, branches[i], 2);
        for (unsigned again = 0; again < 2; again++) {
            uint64_t target = VIRTUAL + 0x800 * again, slow_paths = translate->stats.slow_paths;
            vm.vcpu->gpr[GPR_RSP] = 0x9000;
            vm.vcpu->gpr[GPR_RBX] = target;
            assert_int_equal(testvm_run(&vm, CODE), VCPU_EXIT_HALTED);
            assert_int_equal(vm.vcpu->rip, target + 1);
            assert_int_equal(vm.vcpu->gpr[GPR_RSP], i == 0 ? 0x8ff8 : 0x9000);
            assert_int_equal(translate->stats.slow_paths, slow_paths);
        }

        /* A fault of the branch, not of its target; without an IDT, that is the end. */
        mmu_flush(&vm.vcpu->mmu, true);
        const struct jump *jump = jump_entry(translate, MMU_SUPERVISOR, VIRTUAL);
        assert_int_equal(jump->rip, VIRTUAL ^ JUMP_PUT_AWAY);
        const uint64_t targets[] = {0x0000800000000000, 0xffff7fffffffffff, VIRTUAL | bit(62),
                                    jump->rip};
        for (unsigned t = 0; t < ARRAY_LENGTH(targets); t++) {
            testvm_set_mode(&vm, MODE_LONG, 8);
            vm.vcpu->gpr[GPR_RSP] = 0x9000;
            vm.vcpu->gpr[GPR_RBX] = targets[t];
            assert_int_equal(testvm_run(&vm, CODE), VCPU_EXIT_SHUTDOWN);
            assert_int_equal(vm.vcpu->rip, CODE + (i == 2));
            assert_int_equal(vm.vcpu->gpr[GPR_RSP], i == 2 ? 0x8ff8 : 0x9000);
        }
        testvm_destroy(&vm);
    }
}

/* Flushes of other pages, and of all but global ones, cost nothing: what was known stays known. */
static void test_kept(void **state)
{
    struct testvm vm;
    create(&vm, &translate_engine);
    put_function(&vm, FIRST, 1);
    map(&vm, 0, FIRST, PTE_G);
    map(&vm, 1, FIRST + 0x1000, PTE_G);
    call(&vm, VIRTUAL, 5);
    const struct translate *translate = translate_of(vm.vcpu);
    const struct jump *jump = jump_entry(vm.vcpu->mmu.code_context, MMU_SUPERVISOR, VIRTUAL);
    assert_int_equal(jump->rip, VIRTUAL);
    RUN(&vm, LOAD_CR3);
    assert_int_equal(jump->rip, VIRTUAL);
    for (unsigned i = 0; i < 16; i++)
        invlpg(&vm, 0x7fff00000000 + 0x1000 * i);
    assert_int_equal(jump->rip, VIRTUAL);
    invlpg(&vm, VIRTUAL);
    assert_int_equal(jump->rip, VIRTUAL ^ JUMP_PUT_AWAY);
    assert_true(translate->stats.jump_flushes >= 18);

    /* Two RIPs with one home share its two slots, and both are found. */
    const uint64_t other = VIRTUAL + 0x1000 + 2; /* bit 12 of RIP is bit 0 of RIP >> 12 */
    uint64_t rival = 0;
    for (uint64_t rip = other; rip < VIRTUAL + 0x1f00 && rival == 0; rip++) {
        if (jump_entry(vm.vcpu->mmu.code_context, MMU_SUPERVISOR, rip) ==
            jump_entry(vm.vcpu->mmu.code_context, MMU_SUPERVISOR, VIRTUAL + 0x10))
            rival = rip;
    }
    put_function(&vm, FIRST + 0x10, 7);
    call(&vm, VIRTUAL + 0x10, 5);
    if (rival != 0) {
        put_function(&vm, FIRST + (rival - VIRTUAL), 8);
        call(&vm, rival, 5);
        uint64_t dispatches = translate->stats.dispatches;
        assert_int_equal(call(&vm, VIRTUAL + 0x10, 100), 7);
        assert_int_equal(call(&vm, rival, 100), 8);
        assert_true(translate->stats.dispatches - dispatches < 100);
    }

    /* RIP 0 is code like any other, though the cache never has it. */
    put_function(&vm, 0, 9);
    assert_int_equal(call(&vm, 0, 5), 9);
    testvm_destroy(&vm);
}

/* MOV EAX, value, of which the value's upper bytes are in the next page; RET. */
#define CROSSING (VIRTUAL + 0xffd)
static void put_crossing(struct testvm *vm, uint64_t first, uint64_t second, uint32_t value)
{
    uint8_t bytes[6] = {0xb8, 0, 0, 0, 0, 0xc3};
    memcpy(bytes + 1, &value, 4);
    testvm_put(vm, first + 0xffd, bytes, 3);
    testvm_put(vm, second, bytes + 3, 3);
}

static void test_crossing(void **state)
{
    const struct engine_ops *const engines[] = {&interp_engine, &translate_engine};
    for (unsigned e = 0; e < ARRAY_LENGTH(engines); e++) {
        struct testvm vm, other;
        struct error err = {0};
        create(&vm, engines[e]);
        put_crossing(&vm, FIRST, FIRST + 0x1000, 0x11111111);
        put_crossing(&vm, SECOND, SECOND + 0x1000, 0x22222222);
        map(&vm, 0, FIRST, 0);
        map(&vm, 1, FIRST + 0x1000, 0);
        assert_int_equal(call(&vm, CROSSING, 20), 0x11111111);
        if (e == 1)
            assert_true(translate_of(vm.vcpu)->stats.interpreted <= 1); /* HLT's wake-up */

        /* The second page elsewhere, and back; then the first. */
        map(&vm, 1, SECOND + 0x1000, 0);
        invlpg(&vm, VIRTUAL + 0x1000);
        assert_int_equal(call(&vm, CROSSING, 5), 0x22221111);
        map(&vm, 1, FIRST + 0x1000, 0);
        invlpg(&vm, VIRTUAL + 0x1000);
        assert_int_equal(call(&vm, CROSSING, 5), 0x11111111);
        map(&vm, 0, SECOND, 0);
        RUN(&vm, LOAD_CR3);
        assert_int_equal(call(&vm, CROSSING, 5), 0x11112222);

        /* Written by the guest itself, in the middle of the loop: each call finds the next value.
         */
        static const char write[] =
            "\x31\xd2"                  /*    xor edx, edx */
            "\xff\xd3"                  /* 1: call rbx */
            "\x01\xc2"                  /*    add edx, eax */
            "\x66\xff\x07"              /*    inc word [rdi] */
            "\xff\xc9\x75\xf5\x89\xd0"; /*    dec ecx; jnz 1b; mov eax, edx */
        vm.vcpu->gpr[GPR_RBX] = CROSSING;
        vm.vcpu->gpr[GPR_RDI] = FIRST + 0x1000; /* the second page's alias */
        vm.vcpu->gpr[GPR_RCX] = 10;
        assert_int_equal(RUN(&vm, write), (uint32_t)(10 * 0x11112222u + 0x10000u * 45));
        assert_int_equal(call(&vm, CROSSING, 5), 0x111b2222);

        /* By another CPU. */
        struct vcpu_config config = {.index = 1,
                                     .cpu_count = 2,
                                     .features = &vm.features,
                                     .domain = vm.domain,
                                     .mmio = vm.mmio,
                                     .ports = vm.ports,
                                     .thunks = vm.thunks,
                                     .apic = vm.vcpu->apic};
        other = vm;
        other.engine = &interp_engine;
        assert_int_equal(vcpu_create(&other.vcpu, &config, &err), STATUS_OK);
        assert_int_equal(other.engine->attach(other.vcpu, &err), STATUS_OK);
        testvm_set_mode(&other, MODE_LONG, 8);
        other.vcpu->wait_for_sipi = false;
        put_u64(&vm, 0x3000 + 8 * (REGION >> 21), TABLE | PTE_P | PTE_W | PTE_U);
        other.vcpu->gpr[GPR_RDI] = FIRST + 0x1000;
        RUN(&other, "\x66\xc7\x07\x34\x12"); /* mov word [rdi], 0x1234 */
        assert_int_equal(call(&vm, CROSSING, 5), 0x12342222);
        other.vcpu->gpr[GPR_RDI] = SECOND + 0xffe;
        RUN(&other, "\x66\xc7\x07\x78\x56");
        assert_int_equal(call(&vm, CROSSING, 5), 0x12345678);
        other.engine->detach(other.vcpu);
        vcpu_destroy(other.vcpu);

        /* Without a second page: a fault, before anything of it was done. */
        put_u64(&vm, TABLE + 8 * ((VIRTUAL - REGION) / 0x1000 + 1), 0);
        invlpg(&vm, VIRTUAL + 0x1000);
        vm.vcpu->gpr[GPR_RAX] = 5;
        assert_int_equal(testvm_run(&vm, CROSSING), VCPU_EXIT_SHUTDOWN);
        assert_int_equal(vm.vcpu->cr2, VIRTUAL + 0x1000);
        assert_int_equal(vm.vcpu->rip, CROSSING);
        assert_int_equal(vm.vcpu->gpr[GPR_RAX], 5);
        testvm_destroy(&vm);
    }
}

/* ------------------------------------------------------------------------- attention */

/* Loops of every kind, that end when RCX is 0 (or RDI). RBX is where it begins, RSI COUNT. */
static const struct {
    const char *name, *code;
    size_t length;
} loops[] = {
#define LOOP(name, code)                                                                           \
    {                                                                                              \
        name, code, sizeof(code) - 1                                                               \
    }
    LOOP("flags overwritten later", "\x48\x8d\x1c\x08\x48\x01\xd8\x48\xff\xc9\x75\xf4\xf4"),
    LOOP("flags needed: adc", "\x48\x11\xc8\x48\x8d\x49\xff\xe3\x02\xeb\xf5\xf4"),
    LOOP("flags needed: jc", "\x72\x03\x48\xff\xc0\x48\x13\xc1\xd1\xc0\x48\xff\xc9\x75\xf1\xf4"),
    LOOP("flags saved", "\x48\x11\x06\x48\x01\x06\x48\xff\xc9\x75\xf5\xf4"),
    LOOP("flags in the slot", "\x48\x01\xc8\x48\x8b\x16\x48\x8d\x49\xff\xe3\x02\xeb\xf2\xf4"),
    LOOP("call and ret", "\xe8\x06\0\0\0\x48\xff\xc9\x75\xf6\xf4\x48\x01\xc8\xc3"),
    LOOP("jmp", "\x48\x01\xc8\x48\xff\xc9\x74\x02\xff\xe3\xf4"),
    LOOP("ret", "\x48\x01\xc8\x53\x48\xff\xc9\x74\x01\xc3\xf4"),
    LOOP("ret by itself",
         "\x48\x01\xc8\x48\xff\xc9\x74\x0a\x48\x8d\x64\x24\xf8\x48\x89\x1c\x24\xc3\xf4"),
    LOOP("handlers", "\x48\x01\xc8\x0f\xa2\x31\xdb\x48\xff\xcf\x75\xf4\xf4"),
    LOOP("a handler ends it",
         "\xf8\xf5\x48\x11\xc8\x0f\x20\xda\x0f\x22\xda\x48\xff\xc9\x75\xf0\xf4"),
};

struct kicker {
    struct vcpu *vcpu;
    atomic_bool is_over;
};

/* Attention again and again, of the kind that only asks for a look and the kind that stops. */
static void *kick(void *context)
{
    struct kicker *kicker = context;
    for (unsigned i = 0; !atomic_load(&kicker->is_over); i++) {
        vcpu_kick(kicker->vcpu, i % 4 == 0 ? ATTENTION_EXIT : ATTENTION_MMU);
        sched_yield();
    }
    return NULL;
}

/* `shift`: behind so many NOPs, so that the loop is translated as one when it comes round. */
static void put_loop(struct testvm *vm, unsigned n, unsigned shift, unsigned rounds)
{
    testvm_set_mode(vm, MODE_LONG, 8);
    testvm_put(vm, CODE, "\x90", 1);
    testvm_put(vm, CODE + shift, loops[n].code, loops[n].length);
    put_u64(vm, COUNT, 12345);
    vm->vcpu->gpr[GPR_RAX] = 0x123456789abcdef;
    vm->vcpu->gpr[GPR_RBX] = CODE + shift;
    vm->vcpu->gpr[GPR_RSI] = COUNT;
    vm->vcpu->gpr[GPR_RDI] = 3000;
    vm->vcpu->gpr[GPR_RCX] = rounds;
    vm->vcpu->gpr[GPR_RSP] = 0x9000;
}

/* The first loop may leave behind its ADD only, or behind the branch: with flags to match. */
static void check_flags(const struct vcpu *vcpu, unsigned shift)
{
    if (vcpu->rip != CODE + shift + 7)
        return;
    uint64_t sum = vcpu->gpr[GPR_RAX], left = sum - vcpu->gpr[GPR_RBX], flags;
    __asm__("addq %2, %1; pushfq; popq %0"
            : "=r"(flags), "+r"(left)
            : "r"(vcpu->gpr[GPR_RBX])
            : "cc");
    assert_int_equal(vcpu->rflags & FLAGS_STATUS, flags & FLAGS_STATUS);
}

static void check_equal(struct testvm *interpreted, struct testvm *translated, unsigned n)
{
    uint64_t memory[2];
    assert_int_equal(pmap_read(interpreted->map, COUNT, &memory[0], 8), STATUS_OK);
    assert_int_equal(pmap_read(translated->map, COUNT, &memory[1], 8), STATUS_OK);
    const struct vcpu *a = interpreted->vcpu, *b = translated->vcpu;
    if (memory[0] != memory[1] || a->rflags != b->rflags || a->rip != b->rip ||
        memcmp(a->gpr, b->gpr, sizeof(a->gpr)) != 0)
        fail_msg("%s: rax %#lx, translated %#lx", loops[n].name, a->gpr[GPR_RAX], b->gpr[GPR_RAX]);
}

static void run_interpreted(struct testvm *vm, unsigned n, unsigned shift, unsigned rounds)
{
    put_loop(vm, n, shift, rounds);
    if (testvm_run(vm, CODE) != VCPU_EXIT_HALTED)
        fail_msg("%s: stops at %#lx", loops[n].name, vm->vcpu->rip);
}

/* From another thread, at any time. */
static void test_attention(void **state)
{
    struct testvm interpreted, translated;
    const unsigned rounds = 300000;
    unsigned stops = 0;
    create(&interpreted, &interp_engine);
    create(&translated, &translate_engine);
    for (unsigned n = 0; n < ARRAY_LENGTH(loops); n++) {
        run_interpreted(&interpreted, n, n % 2, rounds);
        put_loop(&translated, n, n % 2, rounds);
        struct kicker kicker = {.vcpu = translated.vcpu};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, kick, &kicker), 0);
        enum vcpu_exit exit = testvm_run(&translated, CODE);
        while (exit == VCPU_EXIT_REQUESTED) {
            stops++;
            if (n == 0)
                check_flags(translated.vcpu, n % 2);
            exit = translated.engine->run(translated.vcpu);
        }
        atomic_store(&kicker.is_over, true);
        pthread_join(thread, NULL);
        assert_int_equal(exit, VCPU_EXIT_HALTED);
        check_equal(&interpreted, &translated, n);
    }
    print_message("stopped %u times\n", stops);
    testvm_destroy(&translated);
    testvm_destroy(&interpreted);
}

/* All the time: an NMI that is not to be taken yet, so that every look at attention finds it. */
static void test_every_look(void **state)
{
    struct testvm interpreted, translated;
    const unsigned rounds = 3000;
    create(&interpreted, &interp_engine);
    create(&translated, &translate_engine);
    for (unsigned n = 0; n < 2 * ARRAY_LENGTH(loops); n++) {
        run_interpreted(&interpreted, n / 2, n % 2, rounds);
        put_loop(&translated, n / 2, n % 2, rounds);
        translated.vcpu->nmi_blocked = true;
        vcpu_kick(translated.vcpu, ATTENTION_NMI);
        uint64_t before = translate_of(translated.vcpu)->stats.dispatches;
        assert_int_equal(testvm_run(&translated, CODE), VCPU_EXIT_HALTED);
        assert_true(translate_of(translated.vcpu)->stats.dispatches - before >= rounds - 2);
        check_equal(&interpreted, &translated, n / 2);
    }
    testvm_destroy(&translated);
    testvm_destroy(&interpreted);
}

/* Endless loops stop. */
static void test_endless(void **state)
{
    static const struct {
        const char *code;
        size_t length;
    } endless[] = {
        {"\xeb\xfe", 2},                                /* jmp . */
        {"\x72\xfe\x73\xfc", 4},                        /* jc .; jnc . - 2 */
        {"\x48\xff\xc0\xeb\xfb", 5},                    /* inc rax */
        {"\x48\x01\xd8\xeb\xfb", 5},                    /* add rax, rbx */
        {"\x48\x01\x06\xeb\xfb", 5},                    /* add [rsi], rax */
        {"\xff\xe3", 2},                                /* jmp rbx */
        {"\x48\x89\x1c\x24\xff\x34\x24\xc3", 8},        /* mov [rsp], rbx; push [rsp]; ret */
        {"\xe9\xfb\x0f\0\0", 5},                        /* jmp to the next page, and back */
        {"\x0f\xa2\x48\xc7\xc3\0\0\x10\0\xff\xe3", 11}, /* cpuid; mov rbx, CODE; jmp rbx */
        {"\x53\x0f\x08\xc3", 4},                        /* push rbx; invd; ret */
    };
    struct testvm vm;
    create(&vm, &translate_engine);
    for (unsigned n = 0; n < ARRAY_LENGTH(endless); n++) {
        put_loop(&vm, 0, 0, 0);
        testvm_put(&vm, CODE, endless[n].code, endless[n].length);
        testvm_put(&vm, CODE + 0x1000, "\xe9\xfb\xef\xff\xff", 5);
        struct kicker kicker = {.vcpu = vm.vcpu};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, kick, &kicker), 0);
        assert_int_equal(testvm_run(&vm, CODE), VCPU_EXIT_REQUESTED);
        for (unsigned i = 0; i < 50; i++)
            assert_int_equal(vm.engine->run(vm.vcpu), VCPU_EXIT_REQUESTED);
        atomic_store(&kicker.is_over, true);
        pthread_join(thread, NULL);
        if (n == 8 || n == 0)
            assert_in_range(vm.vcpu->rip, CODE, CODE + 11);
    }
    testvm_destroy(&vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flushes),   cmocka_unit_test(test_large_page),
        cmocka_unit_test(test_recall),    cmocka_unit_test(test_missed),
        cmocka_unit_test(test_kept),      cmocka_unit_test(test_crossing),
        cmocka_unit_test(test_attention), cmocka_unit_test(test_every_look),
        cmocka_unit_test(test_endless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
