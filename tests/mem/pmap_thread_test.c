/*
 * The page map under threads. Each round starts from a fresh map, all threads leave a barrier
 * together and make the same zero pages private, so that they meet in the transition itself.
 */

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "mem/pmap.h"

#define THREADS 4u
#define PAGES   32u
#define ROUNDS  200u

struct race {
    struct pmap *map;
    pthread_barrier_t start;
    _Atomic bool revoked[PAGES];   /* the hook has returned for it */
    _Atomic unsigned hooks[PAGES]; /* how often it was called */
    _Atomic unsigned failures;     /* what threads found wrong: cmocka asserts on the main one */
};

struct worker {
    struct race *race;
    unsigned index;
};

/* Slow, so that losers of the race really wait. */
static void slow_hook(void *context, const struct pmap_revocation *what)
{
    struct race *race = context;
    uint64_t ppn = what->ppns[0];
    if (what->count != 1)
        atomic_fetch_add(&race->failures, 1);
    atomic_fetch_add(&race->hooks[ppn], 1);
    for (unsigned i = 0; i < 50; i++) {
        bool writable = true;
        const uint8_t *page = pmap_page_read(race->map, ppn, &writable);
        /* Nobody may write, and nobody has written, while the zero page is being revoked. */
        for (unsigned j = 0; j < THREADS * 8; j++) {
            if (writable || page[j] != 0)
                atomic_fetch_add(&race->failures, 1);
        }
    }
    atomic_store(&race->revoked[ppn], true);
}

static void *write_pages(void *argument)
{
    struct worker *worker = argument;
    struct race *race = worker->race;
    pthread_barrier_wait(&race->start);
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t ppn = i, value = 0x1111111111111111u * (worker->index + 1);
        uint64_t offset = worker->index * 8;
        if (worker->index % 2 == 0) {
            uint8_t *page = pmap_page_write(race->map, ppn);
            if (!atomic_load(&race->revoked[ppn]))
                atomic_fetch_add(&race->failures, 1);
            memcpy(page + offset, &value, 8);
        } else if (pmap_write(race->map, (ppn << PAGE_SHIFT) + offset, &value, 8) != STATUS_OK) {
            atomic_fetch_add(&race->failures, 1);
        }
        uint64_t back = 0;
        pmap_read(race->map, (ppn << PAGE_SHIFT) + offset, &back, 8);
        if (back != value)
            atomic_fetch_add(&race->failures, 1);
    }
    return NULL;
}

static void run_threads(struct race *race, void *(*function)(void *))
{
    pthread_t threads[THREADS];
    struct worker workers[THREADS];
    assert_int_equal(pthread_barrier_init(&race->start, NULL, THREADS), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.race = race, .index = i};
        assert_int_equal(pthread_create(&threads[i], NULL, function, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    pthread_barrier_destroy(&race->start);
    assert_int_equal(race->failures, 0);
}

static void test_same_pages(void **state)
{
    static const struct ram_range ram = {0, PAGES << PAGE_SHIFT};
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct race race = {0};
        struct error err = {0};
        assert_int_equal(pmap_create(&race.map, &ram, 1, &err), STATUS_OK);
        pmap_set_revoke_hook(race.map, slow_hook, &race);
        for (uint64_t ppn = 0; ppn < PAGES; ppn++) {
            bool writable;
            pmap_page_read(race.map, ppn, &writable); /* lent: the transition must revoke */
        }
        run_threads(&race, write_pages);
        for (uint64_t ppn = 0; ppn < PAGES; ppn++) {
            assert_int_equal(race.hooks[ppn], 1);
            uint64_t values[THREADS];
            assert_int_equal(pmap_read(race.map, ppn << PAGE_SHIFT, values, sizeof(values)),
                             STATUS_OK);
            for (unsigned i = 0; i < THREADS; i++)
                assert_int_equal(values[i], 0x1111111111111111u * (i + 1));
        }
        struct pmap_stats stats;
        pmap_get_stats(race.map, &stats);
        assert_int_equal(stats.private_pages, PAGES);
        assert_int_equal(stats.faults_zero, PAGES);
        assert_int_equal(pmap_check(race.map, &err), STATUS_OK);
        pmap_destroy(race.map);
    }
}

/* Pins, marks and copies of the same pages at once: the counts come out even. */
static void *churn(void *argument)
{
    struct worker *worker = argument;
    struct race *race = worker->race;
    uint64_t seed = 0x9e3779b97f4a7c15u * (worker->index + 1);
    pthread_barrier_wait(&race->start);
    for (unsigned i = 0; i < 5000; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint64_t ppn = (seed >> 33) % (PAGES - 1), gpa = ppn << PAGE_SHIFT;
        struct iovec iov;
        unsigned count = 0;
        if (pmap_pin(race->map, gpa + 100, PAGE_SIZE, seed >> 60 & 1 ? PIN_WRITE : PIN_READ, &iov,
                     &count, 1) != STATUS_OK)
            atomic_fetch_add(&race->failures, 1);
        pmap_code_mark(race->map, ppn);
        pmap_code_guard(race->map, ppn);
        if (pmap_write(race->map, gpa + worker->index * 8, &seed, 8) != STATUS_OK)
            atomic_fetch_add(&race->failures, 1);
        pmap_unpin(race->map, gpa + 100, PAGE_SIZE, seed >> 61 & 1);
    }
    return NULL;
}

static void count_hook(void *context, const struct pmap_revocation *what)
{
    struct race *race = context;
    atomic_fetch_add(&race->hooks[what->ppns[0]], what->count);
}

static void test_churn(void **state)
{
    static const struct ram_range ram = {0, PAGES << PAGE_SHIFT};
    struct race race = {0};
    struct error err = {0};
    assert_int_equal(pmap_create(&race.map, &ram, 1, &err), STATUS_OK);
    pmap_set_revoke_hook(race.map, count_hook, &race);
    run_threads(&race, churn);
    struct pmap_stats stats;
    pmap_get_stats(race.map, &stats);
    assert_int_equal(stats.pinned_pages, 0);
    uint64_t hooks = 0;
    for (unsigned i = 0; i < PAGES; i++)
        hooks += race.hooks[i];
    assert_int_equal(stats.revocations, hooks);
    assert_true(hooks > 0);
    assert_int_equal(pmap_check(race.map, &err), STATUS_OK);
    pmap_destroy(race.map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_pages),
        cmocka_unit_test(test_churn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
