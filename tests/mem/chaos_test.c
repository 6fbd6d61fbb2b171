/*
 * The chaos thread over a page map with a real cache and a real swap file: threads that write and
 * verify pages see nothing of it, the map's books are right whenever all stand still, and each kind
 * of disturbance does happen. With a store that returns wrong bytes it is noticed: this test can
 * fail.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <pthread.h>
#include <semaphore.h>

#include "faulty_swap.h"
#include "mem/chaos.h"
#include "util/bits.h"

#define PAGES    4096u
#define WRITTEN  2048u /* the rest is for the balloon */
#define THREADS  2u
#define LEAST    20000u /* pages to be taken */
#define PATIENCE 5000u  /* rounds of all writers at most; it takes a tenth */

struct world {
    struct pmap *map;
    struct zcache *cache;
    struct faulty faulty;
    struct swap *swap;
    struct pager *pager;
    struct chaos *chaos;
    pthread_rwlock_t still; /* held for writing while all stand still */
    _Atomic unsigned wrong_books, wrong_pages, lost, rounds;
    _Atomic bool enough;
};

struct writer {
    struct world *world;
    unsigned number;
};

static void fill(uint64_t words[512], uint64_t page, uint64_t round)
{
    uint64_t noise = (page + round) % 4 == 0 ? 0 : (page * 131 + round) | 1;
    unsigned random = page % 3 == 0 ? 512 : page % 3 == 1 ? 64 : 0;
    for (unsigned i = 0; i < 512; i++)
        words[i] = i < random ? noise * (i * 0x9e3779b97f4a7c15ull + 1) : noise;
}

/* Writes its pages and reads those of the round before; every thread has every THREADS-th page. */
static void *write_and_verify(void *context)
{
    struct writer *writer = context;
    struct world *world = writer->world;
    uint64_t expected[512], found[512];
    for (uint64_t round = 1; !world->enough; round++) {
        for (uint64_t n = writer->number; n < WRITTEN; n += THREADS) {
            uint64_t gpa = pmap_nth_page(world->map, n) << PAGE_SHIFT;
            pthread_rwlock_rdlock(&world->still);
            if (round > 1) {
                fill(expected, n, round - 1);
                if (pmap_read(world->map, gpa, found, PAGE_SIZE) != STATUS_OK)
                    world->lost++;
                else if (memcmp(expected, found, PAGE_SIZE) != 0)
                    world->wrong_pages++;
            }
            fill(expected, n, round);
            /* In two pieces now and then: so a page that is away must be read first. */
            uint64_t cut = n % 5 == 0 ? 1000 : PAGE_SIZE;
            if (pmap_write(world->map, gpa, expected, cut) != STATUS_OK ||
                pmap_write(world->map, gpa + cut, (uint8_t *)expected + cut, PAGE_SIZE - cut) !=
                    STATUS_OK)
                world->lost++;
            pthread_rwlock_unlock(&world->still);
        }
        world->rounds++;
    }
    return NULL;
}

static void on_balloon(void *context, uint64_t pages)
{
    struct world *world = context;
    pmap_balloon_reset(world->map);
    pmap_balloon_take(world->map, pmap_nth_page(world->map, WRITTEN), pages);
}

static bool on_stand_still(void *context)
{
    struct world *world = context;
    pthread_rwlock_wrlock(&world->still);
    return true;
}

static void on_go_on(void *context)
{
    struct world *world = context;
    pthread_rwlock_unlock(&world->still);
}

static void on_wrong(void *context, const struct error *err)
{
    struct world *world = context;
    print_message("%s\n", err->text);
    world->wrong_books++;
}

static void on_trouble(void *context, const struct error *err)
{
    (void)context;
    (void)err;
}

static void run(struct world *world, bool wrong_bytes)
{
    static const struct chaos_ops ops = {
        .balloon = on_balloon, .stand_still = on_stand_still, .go_on = on_go_on, .wrong = on_wrong};
    struct error err = {0};
    struct ram_range ranges[] = {{0, (PAGES / 2) << PAGE_SHIFT},
                                 {4 * GIB, (PAGES / 2) << PAGE_SHIFT}};
    struct chaos_stats stats = {0};
    struct writer writers[THREADS];
    pthread_t threads[THREADS];

    *world = (struct world){0};
    pthread_rwlock_init(&world->still, NULL);
    assert_int_equal(pmap_create(&world->map, ranges, 2, &err), STATUS_OK);
    pmap_set_trouble_hook(world->map, on_trouble, world);
    assert_int_equal(zcache_create(&world->cache, 256 * KIB, &err), STATUS_OK);
    world->swap = faulty_swap_create(&world->faulty, PAGES, SWAP_QUEUE_NONE);
    assert_int_equal(pager_create(&world->pager, world->map, world->cache, world->swap, NULL, &err),
                     STATUS_OK);
    assert_int_equal(chaos_create(&world->chaos, world->map, world->pager, &ops, world, 7, &err),
                     STATUS_OK);
    for (unsigned i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){world, i};
        assert_int_equal(pthread_create(&threads[i], NULL, write_and_verify, &writers[i]), 0);
    }
    if (wrong_bytes)
        world->faulty.read_flips = true;
    for (unsigned seen = 0; seen < PATIENCE && !world->enough; seen = world->rounds) {
        chaos_get_stats(world->chaos, &stats);
        world->enough = wrong_bytes ? world->lost != 0 || world->wrong_pages != 0
                                    : stats.taken >= LEAST && stats.brought && stats.sampled &&
                                          stats.balloons >= 2 && stats.checks >= 2;
        sched_yield();
    }
    world->enough = true;
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    chaos_stop(world->chaos);
    chaos_get_stats(world->chaos, &stats);
    print_message("%u rounds, %llu taken, %llu brought, %llu sampled, %llu balloons, %llu checks\n",
                  world->rounds, (unsigned long long)stats.taken, (unsigned long long)stats.brought,
                  (unsigned long long)stats.sampled, (unsigned long long)stats.balloons,
                  (unsigned long long)stats.checks);
    if (!wrong_bytes) {
        assert_true(stats.taken >= LEAST && stats.brought && stats.sampled);
        assert_true(stats.balloons >= 2 && stats.checks >= 2);
    }
    assert_int_equal(world->wrong_books, 0);
    chaos_destroy(world->chaos);
    if (pmap_check(world->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    pmap_destroy(world->map);
    pager_destroy(world->pager);
    swap_destroy(world->swap);
    zcache_destroy(world->cache);
    pthread_rwlock_destroy(&world->still);
}

static void test_nothing_is_lost(void **state)
{
    struct world world;
    (void)state;
    run(&world, false);
    assert_int_equal(world.wrong_pages, 0);
    assert_int_equal(world.lost, 0);
}

/* Pages that come back wrong are said to be lost, and are never given as if they were right. */
static void test_wrong_bytes_are_noticed(void **state)
{
    struct world world;
    (void)state;
    run(&world, true);
    assert_int_equal(world.wrong_pages, 0);
    assert_int_not_equal(world.lost, 0);
}

/* Fewer pages than a batch. */
static void test_tiny(void **state)
{
    struct error err = {0};
    struct ram_range range = {0, 3 * PAGE_SIZE};
    struct pmap *map = NULL;
    struct pager *pager = NULL;
    struct chaos *chaos = NULL;
    struct chaos_stats stats = {0};
    (void)state;
    assert_int_equal(pmap_create(&map, &range, 1, &err), STATUS_OK);
    assert_int_equal(pager_create(&pager, map, NULL, NULL, NULL, &err), STATUS_OK);
    assert_int_equal(chaos_create(&chaos, map, pager, &(struct chaos_ops){0}, NULL, 0, &err),
                     STATUS_OK);
    while (stats.taken == 0) { /* zero pages need no store */
        uint8_t zero = 0;
        assert_int_equal(pmap_write(map, PAGE_SIZE, &zero, 1), STATUS_OK);
        chaos_get_stats(chaos, &stats);
    }
    chaos_destroy(chaos);
    assert_int_equal(pmap_check(map, &err), STATUS_OK);
    pmap_destroy(map);
    pager_destroy(pager);
}

/* ------------------------------------------------------------------------- a slow thread */

struct slow {
    struct world world; /* for its counts; the first, for on_wrong */
    pthread_t thread;
    sem_t checks;
};

/* Begins before a check and ends long after; or at last, should chaos itself wait for the page. */
static void revoke_slowly(void *context, const struct pmap_revocation *what)
{
    struct slow *slow = context;
    struct timespec until;
    (void)what;
    if (!pthread_equal(slow->thread, pthread_self()))
        return;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    sem_timedwait(&slow->checks, &until);
    nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
}

static bool on_stand_still_slowly(void *context)
{
    struct slow *slow = context;
    sem_post(&slow->checks);
    return true;
}

static void on_go_on_slowly(void *context)
{
    (void)context;
}

/* What a thread has not finished, because the host lets it wait, is no fault of the map's. */
static void test_slow_thread(void **state)
{
    static const struct chaos_ops ops = {
        .stand_still = on_stand_still_slowly, .go_on = on_go_on_slowly, .wrong = on_wrong};
    struct error err = {0};
    struct ram_range range = {0, 4 * PAGES * PAGE_SIZE}; /* so that chaos does not wait for it */
    struct slow slow = {.thread = pthread_self()};
    struct pmap *map = NULL;
    struct pager *pager = NULL;
    struct chaos *chaos = NULL;
    struct chaos_stats stats = {0};
    bool writable;
    (void)state;
    assert_int_equal(pmap_create(&map, &range, 1, &err), STATUS_OK);
    assert_int_equal(pager_create(&pager, map, NULL, NULL, NULL, &err), STATUS_OK);
    sem_init(&slow.checks, 0, 0);
    pmap_set_revoke_hook(map, revoke_slowly, &slow);
    assert_non_null(pmap_page_read(map, 0, &writable)); /* lent */
    assert_int_equal(chaos_create(&chaos, map, pager, &ops, &slow, 3, &err), STATUS_OK);
    assert_non_null(pmap_page_write(map, 0)); /* settling meanwhile */
    while (stats.checks < 2)
        chaos_get_stats(chaos, &stats);
    chaos_destroy(chaos);
    assert_int_equal(slow.world.wrong_books, 0);
    sem_destroy(&slow.checks);
    pmap_destroy(map);
    pager_destroy(pager);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_lost),
        cmocka_unit_test(test_wrong_bytes_are_noticed),
        cmocka_unit_test(test_tiny),
        cmocka_unit_test(test_slow_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
