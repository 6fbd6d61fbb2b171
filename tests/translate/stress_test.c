/*
 * Random programs while other threads disturb the vCPU: attention for nothing, pages revoked from
 * its TLBs and their code dropped, pages taken out of memory, all at random moments. Programs must
 * end as on the host all the same. (What happens when is not repeatable here; what must come out
 * is.)
 *
 *    stress_test [--seed N] [--count N]
 */

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../mem/memory_store.h"
#include "compare.h"

#define SEED     0x57e5500000u
#define PROGRAMS 1500u

/* The first pages of the guest, in which its tables and stubs are. */
#define TABLE_PAGES 64u

static uint64_t seed = SEED, count = PROGRAMS;

struct trouble {
    struct guest *guest;
    struct memory_store *store;
    atomic_bool stop;
    uint64_t revocations, kicks, evictions;
};

static uint64_t random_ppn(struct random *random)
{
    static const struct {
        uint32_t at, size;
    } areas[] = {
        {ARENA_CODE, ARENA_CODE_SIZE},
        {ARENA_DATA, ARENA_DATA_SIZE},
        {ARENA_STACK, ARENA_STACK_SIZE},
        {ARENA_CONTROL, ARENA_CONTROL_SIZE},
    };
    unsigned n = (unsigned)random_below(random, 4);
    return guest_gpa(areas[n].at + random_below(random, areas[n].size)) >> 12;
}

/* Random pages of the program, and its page tables, to the store. */
static void evict(struct trouble *trouble, struct random *random)
{
    struct pmap *map = trouble->guest->vm.map;
    struct page_batch batch = {.count = 4};
    for (unsigned i = 0; i < batch.count; i++)
        batch.ppn[i] =
            random_below(random, 4) == 0 ? random_below(random, TABLE_PAGES) : random_ppn(random);
    bool keeps_code = random_below(random, 2);
    page_leave_begin(map, &batch, PAGE_LEAVE_ACTIVE | (keeps_code ? PAGE_LEAVE_KEEP_CODE : 0));
    for (unsigned i = (unsigned)random_below(random, 2000); keeps_code && i != 0; i--)
        __builtin_ia32_pause(); /* so that some are wanted */
    if (keeps_code)
        page_leave_code(map, &batch);
    for (unsigned i = 0; i < batch.count; i++) {
        uint8_t bytes[1 << PAGE_SHIFT];
        uint64_t payload = UINT64_MAX;
        if (page_leave_copy(map, batch.ppn[i], bytes))
            payload = memory_store_put(trouble->store, PAGE_COMPRESSED, bytes);
        if (payload == UINT64_MAX)
            page_leave_cancel(map, &batch, i);
        else if (page_leave_end(map, &batch, i, PAGE_COMPRESSED, payload))
            trouble->evictions++;
        else
            memory_store_drop(trouble->store, PAGE_COMPRESSED, payload);
    }
    page_punch(map, batch.ppn, batch.count);
}

static void *make_trouble(void *argument)
{
    struct trouble *trouble = argument;
    struct vcpu *vcpu = trouble->guest->vm.vcpu;
    struct random random = {seed | 1};
    while (!atomic_load(&trouble->stop)) {
        switch (random_below(&random, 3)) {
        case 0: {
            uint64_t ppns[] = {random_ppn(&random), random_ppn(&random)};
            unsigned n = 1 + (unsigned)random_below(&random, 2);
            struct pmap_revocation what = {
                .ppns = ppns, .code_ppns = ppns, .count = n, .code_count = n};
            mmu_domain_revoke(trouble->guest->vm.domain, &what);
            trouble->revocations++;
            break;
        }
        case 1:
            evict(trouble, &random);
            break;
        default:
            vcpu_kick(vcpu, ATTENTION_IRQ); /* nothing is pending */
            trouble->kicks++;
            break;
        }
        for (uint64_t i = random_below(&random, 2000); i > 0; i--)
            __builtin_ia32_pause();
    }
    return NULL;
}

/* The oracle's signals are its own thread's. */
static void start(pthread_t *thread, struct trouble *trouble)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    assert_int_equal(pthread_create(thread, NULL, make_trouble, trouble), 0);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void disturb(const struct engine_ops *engine)
{
    struct guest guest = {0};
    struct comparison c = {.guests = {&guest}, .guest_count = 1};
    struct trouble trouble = {.guest = &guest};
    pthread_t thread;
    bool good = true;
    guest_create(&guest, engine->name, engine);
    if (!native_open())
        skip();
    trouble.store = memory_store_create();
    pmap_set_store(guest.vm.map, &memory_store_ops, trouble.store);
    start(&thread, &trouble);
    for (uint64_t i = 0; i < count && good; i++)
        good = compare_seed(&c, seed + i);
    atomic_store(&trouble.stop, true);
    pthread_join(thread, NULL);
    print_message("%s: %lu programs, %lu revocations, %lu pages taken away, %lu kicks\n",
                  engine->name, c.programs, trouble.revocations, trouble.evictions, trouble.kicks);
    native_close();
    guest_destroy(&guest);
    assert_int_equal(trouble.store->misused, 0);
    memory_store_destroy(trouble.store);
    assert_true(good);
}

static void test_interpreter(void **state)
{
    disturb(&interp_engine);
}

static void test_translator(void **state)
{
    disturb(&translate_engine);
}

int main(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t *option = strcmp(argv[i], "--seed") == 0 ? &seed : &count;
        *option = strtoull(argv[i + 1], NULL, 0);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_interpreter),
        cmocka_unit_test(test_translator),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
