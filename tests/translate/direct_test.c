/*
 * Direct accesses (src/cpu/translate/direct.c): what the window has is what the guest's tables say,
 * at once, and faults are the guest's. That programs do the same with them as without is
 * run_test's.
 *
 * User code runs in a small guest with two address spaces. DATA is a page of each; what differs is
 * which. The guest's kernel is this test: it changes tables and flushes as a kernel would.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cpu/translate/translate.h"
#include "testvm.h"
#include "util/clock.h"

#define RAM_SIZE   0x800000u
#define CODE       0x200000u       /* low, and a page of user code */
#define DATA       0x7f0000000000u /* high */
#define FAR        0x100000000000u /* where the window has no place */
#define POOL       0x300000u       /* pages for DATA */
#define ROOT_A     0x1000u         /* testvm's */
#define ROOT_B     0x10000u        /* and another, with the same low half */
#define TABLES     0x11000u        /* of DATA: three for each space */
#define FAR_TABLES 0x20000u
#define USABLE     0x67u /* present, writable, of the user, accessed and dirty */
#define LOOPS      100u

struct user {
    struct testvm vm;
    struct translate *translate;
};

static void put_u64(struct user *user, uint64_t gpa, uint64_t value)
{
    testvm_put(&user->vm, gpa, &value, sizeof(value));
}

static uint64_t pool_page(unsigned number)
{
    return POOL + number * PAGE_SIZE;
}

static uint64_t leaf_of(uint64_t root)
{
    return root == ROOT_A ? TABLES + 2 * PAGE_SIZE : TABLES + 5 * PAGE_SIZE;
}

static void map_data(struct user *user, uint64_t root, uint64_t entry)
{
    uint64_t leaf = leaf_of(root), directory = leaf - PAGE_SIZE, pointers = leaf - 2 * PAGE_SIZE;
    put_u64(user, root + 8 * (DATA >> 39), pointers | USABLE);
    put_u64(user, pointers, directory | USABLE);
    put_u64(user, directory, leaf | USABLE);
    put_u64(user, leaf, entry);
}

static void map_far(struct user *user, uint64_t entry)
{
    put_u64(user, ROOT_A + 8 * (FAR >> 39), FAR_TABLES | USABLE);
    put_u64(user, FAR_TABLES, (FAR_TABLES + PAGE_SIZE) | USABLE);
    put_u64(user, FAR_TABLES + PAGE_SIZE, (FAR_TABLES + 2 * PAGE_SIZE) | USABLE);
    put_u64(user, FAR_TABLES + 2 * PAGE_SIZE, entry);
}

/* add rcx, [rsi]; mov [rsi + 8], rcx; dec edx; jnz; hlt, which user code may not. */
static const uint8_t loop[] = {0x48, 0x03, 0x0e, 0x48, 0x89, 0x4e,
                               0x08, 0xff, 0xca, 0x75, 0xf5, 0xf4};
#define LOOP_END (CODE + sizeof(loop) - 1)

/* Sanitizers, mostly, have something where the window would be. */
static void need_window(void)
{
    struct window *window;
    struct error err;
    if (window_create(&window, &err) != STATUS_OK)
        skip();
    window_destroy(window);
}

static void user_create(struct user *user, bool has_pcids)
{
    need_window();
    testvm_create(&user->vm, RAM_SIZE);
    testvm_use_engine(&user->vm, &translate_engine);
    testvm_set_mode(&user->vm, MODE_LONG, 8);
    user->translate = translate_of(user->vm.vcpu);
    uint64_t low = 0x2000 | 7;
    put_u64(user, ROOT_B, low);
    for (unsigned n = 0; n < 4; n++)
        put_u64(user, pool_page(n), 1000 + n);
    map_data(user, ROOT_A, pool_page(0) | USABLE);
    map_data(user, ROOT_B, pool_page(1) | USABLE);
    testvm_put(&user->vm, CODE, loop, sizeof(loop));
    user->vm.vcpu->mmu.cr4 |= has_pcids ? CR4_PCIDE : 0;
    mmu_flush(&user->vm.vcpu->mmu, false);
}

static void user_destroy(struct user *user)
{
    testvm_destroy(&user->vm);
}

/* Runs code at CPL 3, a loop over what is at `data`; it ends in a shutdown, for there is no IDT. */
static void run_at(struct user *user, uint64_t rip, uint64_t data, uint64_t flags)
{
    struct vcpu *vcpu = user->vm.vcpu;
    vcpu->seg[SEG_CS] = (struct segment){0, UINT32_MAX, 0xfb | SEG_G | SEG_L, 0x3b};
    vcpu->seg[SEG_SS] = (struct segment){0, UINT32_MAX, 0xf3 | SEG_G | SEG_DB, 0x33};
    vcpu->rflags = FLAG_FIXED | flags;
    vcpu->gpr[GPR_RCX] = 0;
    vcpu->gpr[GPR_RDX] = LOOPS;
    vcpu->gpr[GPR_RSI] = data;
    vcpu_update_mode(vcpu);
    assert_int_equal(testvm_run(&user->vm, rip), VCPU_EXIT_SHUTDOWN);
}

static void run_loop(struct user *user, uint64_t data)
{
    run_at(user, CODE, data, 0);
}

/* It has come to its end, and has added up `value`. */
static void check_loop(struct user *user, uint64_t data, uint64_t value)
{
    run_loop(user, data);
    assert_int_equal(user->vm.vcpu->rip, LOOP_END);
    assert_int_equal(user->vm.vcpu->gpr[GPR_RCX], LOOPS * value);
}

static uint64_t get_u64(struct user *user, uint64_t gpa)
{
    uint64_t value = 0;
    assert_int_equal(pmap_read(user->vm.map, gpa, &value, sizeof(value)), STATUS_OK);
    return value;
}

/* MOV to CR3, as the instruction does it. */
static void load_cr3(struct user *user, uint64_t cr3, bool keep)
{
    mmu_unpark(&user->vm.vcpu->mmu);
    mmu_load_cr3(&user->vm.vcpu->mmu, cr3, keep);
    mmu_park(&user->vm.vcpu->mmu);
}

static void flush_page(struct user *user, uint64_t linear)
{
    mmu_unpark(&user->vm.vcpu->mmu);
    mmu_flush_page(&user->vm.vcpu->mmu, linear);
    mmu_park(&user->vm.vcpu->mmu);
}

/* The window is open, the loop is direct, and does not fault any more. */
static void warm_up(struct user *user, uint64_t value)
{
    direct_open(user->translate);
    assert_true(user->translate->direct.is_open);
    for (unsigned i = 0; i < 6; i++)
        check_loop(user, DATA, value);
    uint64_t faults = user->translate->stats.window_faults;
    assert_true(faults >= 1);
    check_loop(user, DATA, value);
    assert_int_equal(user->translate->stats.window_faults, faults);
    assert_true(window_count(user->vm.vcpu->mmu.window) >= 1);
}

static void test_a_page_is_mapped_once(void **state)
{
    struct user user;
    user_create(&user, false);
    warm_up(&user, 1000);
    /* What devices and the kernel write is seen, and what it writes is written. */
    put_u64(&user, pool_page(0), 5);
    check_loop(&user, DATA, 5);
    assert_int_equal(get_u64(&user, pool_page(0) + 8), 5 * LOOPS);
    user_destroy(&user);
}

static void test_another_page(void **state)
{
    struct user user;
    user_create(&user, false);
    warm_up(&user, 1000);
    map_data(&user, ROOT_A, pool_page(2) | USABLE);
    flush_page(&user, DATA);
    check_loop(&user, DATA, 1002);
    map_data(&user, ROOT_A, pool_page(3) | USABLE);
    load_cr3(&user, ROOT_A, false);
    check_loop(&user, DATA, 1003);
    user_destroy(&user);
}

static void test_address_spaces(void **state)
{
    for (unsigned pcids = 0; pcids < 2; pcids++) {
        struct user user;
        user_create(&user, pcids);
        warm_up(&user, 1000);
        for (unsigned round = 0; round < 4; round++) {
            load_cr3(&user, ROOT_B | pcids, round > 0);
            check_loop(&user, DATA, 1001);
            assert_false(user.translate->direct.is_open);
            load_cr3(&user, ROOT_A, true);
            check_loop(&user, DATA, 1000);
            assert_true(user.translate->direct.is_open);
        }
        /* With PCIDs what it has is kept: nothing has faulted again. */
        uint64_t faults = user.translate->stats.window_faults;
        load_cr3(&user, ROOT_B | pcids, true);
        check_loop(&user, DATA, 1001);
        load_cr3(&user, ROOT_A, true);
        check_loop(&user, DATA, 1000);
        if (pcids)
            assert_int_equal(user.translate->stats.window_faults, faults);
        else
            assert_true(user.translate->stats.window_faults > faults);
        /* The other one takes it over. */
        load_cr3(&user, ROOT_B | pcids, true);
        direct_open(user.translate);
        check_loop(&user, DATA, 1001);
        assert_true(user.translate->direct.is_open);
        load_cr3(&user, ROOT_A, true);
        check_loop(&user, DATA, 1000);
        assert_false(user.translate->direct.is_open);
        user_destroy(&user);
    }
}

/*
 * Direct code is not found in another address space by any way: not by a link from code that is not
 * direct, nor in the jump cache, where code of a global page stays. With PCIDs the window keeps
 * what it has, so who got there would read the other's page.
 */
static void test_ways_in(void **state)
{
    static const uint8_t jump[] = {0x90, 0xeb, 0x0d}; /* to CODE, 16 bytes on */
    static const uint8_t around[] = {                 /* the same loop, by way of R8 */
                                     0x48, 0x03, 0x0e, 0xff, 0xca, 0x74,
                                     0x03, 0x41, 0xff, 0xe0, 0xf4};
    struct user user;
    user_create(&user, true);
    struct vcpu *vcpu = user.vm.vcpu;
    vcpu->mmu.cr4 |= CR4_PGE;
    put_u64(&user, 0x3000 + 8 * (CODE >> 21), CODE | 0x187); /* 2 MiB, global */
    testvm_put(&user.vm, CODE + 0x2000, jump, sizeof(jump));
    testvm_put(&user.vm, CODE + 0x2010, loop, sizeof(loop));
    testvm_put(&user.vm, CODE + 0x3000, around, sizeof(around));
    mmu_flush(&vcpu->mmu, false);
    warm_up(&user, 1000);
    for (unsigned way = 0; way < 2; way++) {
        uint64_t body = CODE + (way == 0 ? 0x2010 : 0x3000);
        uint64_t start = way == 0 ? CODE + 0x2000 : body;
        vcpu->gpr[GPR_R8] = body;
        for (unsigned i = 0; i < 6; i++)
            run_at(&user, i < 5 ? body : start, DATA, 0);
        assert_int_equal(vcpu->gpr[GPR_RCX], LOOPS * 1000);
        for (unsigned i = 0; i < 3; i++) {
            load_cr3(&user, ROOT_B | 1, true);
            run_at(&user, start, DATA, 0);
            assert_int_equal(vcpu->gpr[GPR_RCX], LOOPS * 1001);
            load_cr3(&user, ROOT_A, true);
            run_at(&user, start, DATA, 0);
            assert_int_equal(vcpu->gpr[GPR_RCX], LOOPS * 1000);
        }
    }
    user_destroy(&user);
}

/* Code from before the window was opened that leads to direct code by a link, and is reached by a
 * link from what the jump cache leads to: all of it becomes direct, or it would come to the
 * dispatcher each time. */
static void test_what_leads_to_it(void **state)
{
    static const uint8_t head[] = {0x45, 0x85, 0xc9,
                                   0x75, 0x0b, 0xf4}; /* test r9d, r9d; jnz middle */
    static const uint8_t middle[] = {0x45, 0x85, 0xd2,
                                     0x75, 0x0b, 0xf4}; /* test r10d, r10d; jnz body */
    static const uint8_t body[] = {0x48, 0x03, 0x0e, 0xff, 0xca, 0x74,
                                   0x03, 0x41, 0xff, 0xe0, 0xf4}; /* jmp r8 for the loop */
    struct user user;
    user_create(&user, false);
    struct vcpu *vcpu = user.vm.vcpu;
    testvm_put(&user.vm, CODE + 0x1000, head, sizeof(head));
    testvm_put(&user.vm, CODE + 0x1010, middle, sizeof(middle));
    testvm_put(&user.vm, CODE + 0x1020, body, sizeof(body));
    vcpu->gpr[GPR_R8] = CODE + 0x1000;
    vcpu->gpr[GPR_R9] = 1;
    vcpu->gpr[GPR_R10] = 0;
    run_at(&user, CODE + 0x1000, DATA, 0);
    const struct translation *plain =
        translate_look_up(user.translate, CODE + 0x1000, CODE + 0x1000, MMU_USER);
    assert_false(plain->is_direct);
    warm_up(&user, 1000);
    vcpu->gpr[GPR_R8] = CODE + 0x1020;
    for (unsigned i = 0; i < 6; i++)
        run_at(&user, CODE + 0x1020, DATA, 0);
    assert_true(
        translate_look_up(user.translate, CODE + 0x1020, CODE + 0x1020, MMU_USER)->is_direct);
    vcpu->gpr[GPR_R8] = CODE + 0x1000;
    vcpu->gpr[GPR_R10] = 1;
    uint64_t before = user.translate->stats.dispatches;
    run_at(&user, CODE + 0x1000, DATA, 0);
    assert_int_equal(vcpu->gpr[GPR_RCX], LOOPS * 1000);
    assert_in_range(user.translate->stats.dispatches - before, 1, LOOPS / 4);
    assert_true(
        translate_look_up(user.translate, CODE + 0x1000, CODE + 0x1000, MMU_USER)->is_direct);
    /* For the next process it is there still. */
    load_cr3(&user, ROOT_B, false);
    assert_ptr_equal(translate_look_up(user.translate, CODE + 0x1000, CODE + 0x1000, MMU_USER),
                     plain);
    assert_false(plain->is_dead);
    run_at(&user, CODE + 0x1000, DATA, 0);
    assert_int_equal(vcpu->gpr[GPR_RCX], LOOPS * 1001);
    user_destroy(&user);
}

/* At the first access, and at the second one, which stores: with the state as it is then. */
static void test_faults(void **state)
{
    struct user user;
    user_create(&user, false);
    struct vcpu *vcpu = user.vm.vcpu;
    warm_up(&user, 1000);
    map_data(&user, ROOT_A, 0);
    flush_page(&user, DATA);
    run_loop(&user, DATA);
    assert_int_equal(vcpu->rip, CODE);
    assert_int_equal(vcpu->cr2, DATA);
    assert_int_equal(vcpu->gpr[GPR_RCX], 0);
    map_data(&user, ROOT_A, pool_page(0) | (USABLE & ~2u));
    run_loop(&user, DATA);
    assert_int_equal(vcpu->rip, CODE + 3);
    assert_int_equal(vcpu->cr2, DATA + 8);
    assert_int_equal(vcpu->gpr[GPR_RCX], 1000);
    /* Not canonical: #GP. */
    run_loop(&user, 1ull << 47 | DATA);
    assert_int_equal(vcpu->rip, CODE);
    /* This process's own memory, at its address and with the bit the other way round. */
    run_loop(&user, window_flip((uint64_t)(uintptr_t)vcpu));
    assert_int_equal(vcpu->rip, CODE);
    run_loop(&user, (uint64_t)(uintptr_t)vcpu);
    assert_int_equal(vcpu->rip, CODE);
    run_loop(&user, 1ull << 47 | window_flip((uint64_t)(uintptr_t)vcpu));
    assert_int_equal(vcpu->rip, CODE);
    map_data(&user, ROOT_A, pool_page(0) | USABLE);
    flush_page(&user, DATA);
    check_loop(&user, DATA, 1000);
    user_destroy(&user);
}

/* With the window open, and code at CODE + 0x1000. */
static struct vcpu *create_with(struct user *user, const uint8_t *code, size_t size)
{
    user_create(user, false);
    warm_up(user, 1000);
    testvm_put(&user->vm, CODE + 0x1000, code, size);
    return user->vm.vcpu;
}

/* A later access of a run, which is an instruction without a branch: registers that live in the
 * frame are as they were before it. */
static void test_fault_in_a_run(void **state)
{
    static const uint8_t code[] = {
        0x48, 0x03, 0x0e,                   /* add rcx, [rsi] */
        0x41, 0xba, 0x01, 0x00, 0x00, 0x00, /* mov r10d, 1 */
        0x4c, 0x8b, 0x56, 0x10,             /* mov r10, [rsi + 16] */
        0x41, 0xba, 0x02, 0x00, 0x00, 0x00, /* mov r10d, 2 */
        0xf4,
    };
    struct user user;
    struct vcpu *vcpu = create_with(&user, code, sizeof(code));
    for (unsigned i = 0; i < 6; i++) {
        run_at(&user, CODE + 0x1000, DATA, 0);
        assert_int_equal(vcpu->gpr[GPR_R10], 2);
    }
    run_at(&user, CODE + 0x1000, DATA + 0xff8, 0);
    assert_int_equal(vcpu->rip, CODE + 0x1009);
    assert_int_equal(vcpu->cr2, DATA + 0x1008);
    assert_int_equal(vcpu->gpr[GPR_R10], 1);
    user_destroy(&user);
}

/* Flags that an access has left in parts, at an instruction behind it that may not be: #NM. */
static void test_flags_in_parts(void **state)
{
    static const uint8_t code[] = {
        0x9f,             /* lahf: done by its handler, so vector registers are not at hand */
        0x01, 0xd3,       /* add ebx, edx */
        0x89, 0xd3,       /* mov ebx, edx */
        0x48, 0x8b, 0x0e, /* mov rcx, [rsi] */
        0x0f, 0x28, 0xc1, /* movaps xmm0, xmm1 */
        0xf4,
    };
    struct user user;
    struct vcpu *vcpu = create_with(&user, code, sizeof(code));
    vcpu->mmu.cr4 |= CR4_OSFXSR;
    for (unsigned i = 0; i < 12; i++) {
        if (i == 6)
            vcpu->mmu.cr0 |= CR0_TS;
        vcpu->gpr[GPR_RBX] = i % 2 == 0 ? 1 : UINT32_MAX; /* with RDX: no carry, or one */
        run_at(&user, CODE + 0x1000, DATA, 0);
        assert_int_equal(vcpu->rip, CODE + 0x1000 + (i < 6 ? 11 : 8));
        assert_int_equal(vcpu->rflags & FLAG_CF, i % 2);
        assert_int_equal(vcpu->gpr[GPR_RCX], 1000);
    }
    assert_true(
        translate_look_up(user.translate, CODE + 0x1000, CODE + 0x1000, MMU_USER)->is_direct);
    user_destroy(&user);
}

/* With alignment checks on, user code goes by other rules, and to the slow path each time. */
static void test_alignment(void **state)
{
    struct user user;
    user_create(&user, false);
    struct vcpu *vcpu = user.vm.vcpu;
    warm_up(&user, 1000);
    put_u64(&user, pool_page(0) + 0x100, 0);
    check_loop(&user, DATA + 0x101, 0);
    vcpu->mmu.cr0 |= CR0_AM;
    for (unsigned i = 0; i < 6; i++) {
        run_at(&user, CODE, DATA + 0x100, FLAG_AC);
        assert_int_equal(vcpu->rip, LOOP_END);
    }
    run_at(&user, CODE, DATA + 0x101, FLAG_AC);
    assert_int_equal(vcpu->rip, CODE);
    check_loop(&user, DATA, 1000);
    user_destroy(&user);
}

/* What faults each time gets a probe, and then does not any more. */
static void test_where_it_has_no_place(void **state)
{
    struct user user;
    user_create(&user, false);
    warm_up(&user, 1000);
    map_far(&user, pool_page(2) | USABLE);
    for (unsigned i = 0; i < 3; i++)
        check_loop(&user, FAR, 1002);
    uint64_t slow = user.translate->stats.slow_paths;
    check_loop(&user, FAR, 1002);
    assert_in_range(user.translate->stats.slow_paths - slow, 0, 2);
    check_loop(&user, DATA, 1000);
    user_destroy(&user);
}

/* Pages that leave RAM, or that have code, go from the window as from the TLB. */
static void test_the_page_map(void **state)
{
    struct user user;
    user_create(&user, false);
    warm_up(&user, 1000);
    assert_int_equal(pmap_release(user.vm.map, pool_page(0) >> PAGE_SHIFT, 1), 1);
    check_loop(&user, DATA, 0);
    put_u64(&user, pool_page(0), 7);
    check_loop(&user, DATA, 7);
    /* It stores into its own code: what was translated must go. */
    map_data(&user, ROOT_A, CODE | USABLE);
    flush_page(&user, DATA);
    run_loop(&user, DATA + 0x100);
    assert_int_equal(user.vm.vcpu->rip, LOOP_END);
    static const uint8_t sub[] = {0x48, 0x2b, 0x0e};
    testvm_put(&user.vm, CODE, sub, sizeof(sub));
    put_u64(&user, CODE + 0x100, 3);
    run_loop(&user, DATA + 0x100);
    assert_int_equal(user.vm.vcpu->gpr[GPR_RCX], -3ull * LOOPS);
    user_destroy(&user);
}

/* One that runs for long has it, and one that has its pages taken away all the time has not. */
static void test_when_it_opens(void **state)
{
    struct user user;
    user_create(&user, false);
    warm_up(&user, 1000);
    struct direct *direct = &user.translate->direct;
    struct mmu *mmu = &user.vm.vcpu->mmu;
    direct_tick(user.translate);
    assert_true(direct->is_open);
    for (unsigned i = 0; i < 5000 && direct->has_space; i++) {
        for (unsigned n = 0; n < 64; n++) {
            flush_page(&user, DATA);
            check_loop(&user, DATA, 1000);
        }
        mmu_unpark(mmu);
        direct_tick(user.translate);
        mmu_park(mmu);
    }
    assert_false(direct->has_space);
    assert_int_equal(window_count(mmu->window), 0);
    check_loop(&user, DATA, 1000);
    /* Not at once again, whatever has been used of the CPU. */
    direct->since = 0;
    direct_tick(user.translate);
    assert_false(direct->is_open);
    for (unsigned i = 0; i < 100; i++)
        direct_tick(user.translate);
    assert_true(direct->is_open);
    check_loop(&user, DATA, 1000);
    user_destroy(&user);
}

/* In an address space that has had 1000 pages, no new ones lately, and has used so much of the CPU
 * for each. */
static void tick(struct user *user, uint64_t page_ns)
{
    struct direct *direct = &user->translate->direct;
    direct->last = user->vm.vcpu->mmu.cr3;
    direct->pages = 1000;
    direct->settled = 1;
    direct->since = clock_thread_cpu_ns(CLOCK_THREAD_CPUTIME_ID) - 1000 * page_ns;
    direct_tick(user->translate);
}

static void test_how_soon_it_opens(void **state)
{
    struct user user;
    user_create(&user, false);
    struct direct *direct = &user.translate->direct;
    check_loop(&user, DATA, 1000);
    tick(&user, 200000);
    assert_false(direct->is_open);
    tick(&user, 300000);
    assert_true(direct->is_open);
    check_loop(&user, DATA, 1000);
    /* Another one, that has just begun, and has used enough. */
    load_cr3(&user, ROOT_B, false);
    check_loop(&user, DATA, 1001);
    direct_tick(user.translate);
    assert_false(direct->is_open);
    tick(&user, 300000);
    assert_true(direct->is_open);
    check_loop(&user, DATA, 1001);
    /* So much has been lost that more would make no difference: it is not for ever. */
    direct->losses -= 1000000;
    tick(&user, 300000);
    assert_false(direct->has_space);
    for (unsigned i = 0; i < 200 && !direct->is_open; i++)
        tick(&user, 300000);
    assert_true(direct->is_open);
    user_destroy(&user);
}

/* A process that has got the root of one that has ended begins anew; not one that comes back, nor
 * one that flushes what it has. */
static void test_a_new_process(void **state)
{
    struct user user;
    user_create(&user, true);
    struct direct *direct = &user.translate->direct;
    warm_up(&user, 1000);
    tick(&user, 200000);
    load_cr3(&user, ROOT_A, false);
    check_loop(&user, DATA, 1000);
    assert_true(direct->is_open);
    load_cr3(&user, ROOT_B | 1, true);
    load_cr3(&user, ROOT_A, true);
    check_loop(&user, DATA, 1000);
    assert_true(direct->is_open);

    load_cr3(&user, ROOT_B | 1, true);
    map_data(&user, ROOT_A, pool_page(2) | USABLE);
    load_cr3(&user, ROOT_A, false);
    check_loop(&user, DATA, 1002);
    direct_tick(user.translate);
    assert_false(direct->is_open);
    tick(&user, 300000);
    assert_true(direct->is_open);
    check_loop(&user, DATA, 1002);
    user_destroy(&user);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_page_is_mapped_once),
        cmocka_unit_test(test_another_page),
        cmocka_unit_test(test_address_spaces),
        cmocka_unit_test(test_ways_in),
        cmocka_unit_test(test_what_leads_to_it),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_fault_in_a_run),
        cmocka_unit_test(test_flags_in_parts),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_where_it_has_no_place),
        cmocka_unit_test(test_the_page_map),
        cmocka_unit_test(test_when_it_opens),
        cmocka_unit_test(test_how_soon_it_opens),
        cmocka_unit_test(test_a_new_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
