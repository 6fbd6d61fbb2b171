/*
 * Paging as a whole: page map, pager, stores and the thread that keeps the target. Whatever the
 * host's disk does, pages are right or an error says that they are lost.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>

#include "faulty_swap.h"
#include "mem/pmap.h"
#include "mem/reclaim.h"
#include "util/bits.h"
#include "util/log.h"
#include "util/xorshift.h"

struct world {
    struct pmap *map;
    struct zcache *cache;
    struct faulty faulty;
    struct swap *swap;
    struct pager *pager;
    struct reclaim *reclaim;
    _Atomic unsigned troubles;
};

/* Of three kinds: zero, packs well, does not pack. */
static void fill(uint8_t *page, uint64_t seed)
{
    unsigned noise = seed % 3 == 0 ? 0 : seed % 3 == 1 ? 600 : (unsigned)PAGE_SIZE;
    memset(page, seed % 3 == 0 ? 0 : (int)(seed >> 2), PAGE_SIZE);
    seed = seed * 2 + 1;
    for (unsigned i = 0; i < noise; i += 8) {
        uint64_t value = xorshift_next(&seed);
        memcpy(page + i, &value, 8);
    }
}

static void on_trouble(void *context, const struct error *err)
{
    struct world *world = context;
    world->troubles++;
    assert_true(err->text[0] != '\0');
}

/* swap_pages or cache_bytes of 0: none. */
static void world_create(struct world *world, uint64_t pages, uint64_t cache_bytes,
                         uint64_t swap_pages, enum swap_queue queue)
{
    struct error err = {0};
    struct ram_range ranges[] = {{0, (pages / 2) << PAGE_SHIFT},
                                 {4 * GIB, (pages - pages / 2) << PAGE_SHIFT}};
    *world = (struct world){0};
    assert_int_equal(pmap_create(&world->map, ranges, 2, &err), STATUS_OK);
    pmap_set_trouble_hook(world->map, on_trouble, world);
    if (cache_bytes != 0)
        assert_int_equal(zcache_create(&world->cache, cache_bytes, &err), STATUS_OK);
    if (swap_pages != 0)
        world->swap = faulty_swap_create(&world->faulty, swap_pages, queue);
    assert_int_equal(pager_create(&world->pager, world->map, world->cache, world->swap, NULL, &err),
                     STATUS_OK);
    assert_int_equal(reclaim_create(&world->reclaim, world->map, world->pager, world->cache, &err),
                     STATUS_OK);
}

static void world_destroy(struct world *world)
{
    struct error err = {0};
    reclaim_stop(world->reclaim);
    if (pmap_check(world->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    reclaim_destroy(world->reclaim);
    pmap_destroy(world->map);
    pager_destroy(world->pager);
    swap_destroy(world->swap);
    zcache_destroy(world->cache);
}

static uint64_t gpa_of(const struct world *world, uint64_t n)
{
    return pmap_nth_page(world->map, n) << PAGE_SHIFT;
}

static void write_pages(struct world *world, uint64_t pages, uint64_t salt)
{
    uint8_t page[1 << PAGE_SHIFT];
    for (uint64_t n = 0; n < pages; n++) {
        fill(page, n + salt);
        assert_int_equal(pmap_write(world->map, gpa_of(world, n), page, PAGE_SIZE), STATUS_OK);
    }
}

static void verify_pages(struct world *world, uint64_t pages, uint64_t salt)
{
    uint8_t page[1 << PAGE_SHIFT], expected[1 << PAGE_SHIFT];
    for (uint64_t n = 0; n < pages; n++) {
        fill(expected, n + salt);
        assert_int_equal(pmap_read(world->map, gpa_of(world, n), page, PAGE_SIZE), STATUS_OK);
        assert_memory_equal(page, expected, PAGE_SIZE);
    }
}

/* What the target is about. */
static uint64_t resident(struct world *world)
{
    struct zcache_stats cache = {0};
    if (world->cache != NULL)
        zcache_get_stats(world->cache, &cache);
    return pmap_private_pages(world->map) + (cache.held_bytes >> PAGE_SHIFT);
}

static struct reclaim_stats reclaim_stats(struct world *world)
{
    struct reclaim_stats stats;
    reclaim_get_stats(world->reclaim, &stats);
    return stats;
}

static struct pager_stats pager_stats(struct world *world)
{
    struct pager_stats stats;
    pager_get_stats(world->pager, &stats);
    return stats;
}

static enum swap_queue queue_of(void **state)
{
    return (enum swap_queue)(uintptr_t)*state;
}

static void test_target_is_reached(void **state)
{
    enum { PAGES = 4000 };
    struct world world;
    world_create(&world, PAGES, 256 * KIB, PAGES, queue_of(state));
    write_pages(&world, PAGES, 0);
    assert_int_equal(resident(&world), PAGES);
    reclaim_set_target(world.reclaim, 1000);
    reclaim_wait(world.reclaim);
    assert_true(resident(&world) <= 1000);
    struct pmap_stats stats;
    pmap_get_stats(world.map, &stats);
    assert_true(stats.compressed > 0 && stats.swapped > 0 && stats.zero_pages > 0);
    struct pager_stats pager = pager_stats(&world);
    assert_true(pager.zeroed > 0 && pager.compressed > 0 && pager.swapped > 0);
    assert_int_equal(pager.refused + pager.failed, 0);

    /* All come back, and others leave for it; nobody who waits for room waits for ever. */
    for (unsigned i = 0; i < 3; i++) {
        verify_pages(&world, PAGES, i);
        write_pages(&world, PAGES, i + 1);
    }
    reclaim_wait(world.reclaim);
    assert_true(resident(&world) <= 1000);
    assert_true(pager_stats(&world).demoted > 0);
    assert_int_equal(reclaim_stats(&world).given_up, 0);

    /* No target: everything may come back, and the stores are empty then. */
    reclaim_set_target(world.reclaim, UINT64_MAX);
    reclaim_wait(world.reclaim);
    verify_pages(&world, PAGES, 3);
    pmap_get_stats(world.map, &stats);
    assert_int_equal(stats.compressed + stats.swapped, 0);
    struct swap_stats swap;
    swap_get_stats(world.swap, &swap);
    assert_int_equal(swap.used, 0);
    struct zcache_stats cache;
    zcache_get_stats(world.cache, &cache);
    assert_int_equal(cache.held_bytes, 0);
    world_destroy(&world);
}

static void test_no_room(void **state)
{
    static const struct {
        uint64_t cache_bytes, swap_pages;
    } cases[] = {{0, 0}, {64 * KIB, 0}, {0, 64}, {64 * KIB, 64}};
    enum { PAGES = 2000 };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct world world;
        world_create(&world, PAGES, cases[i].cache_bytes, cases[i].swap_pages, queue_of(state));
        write_pages(&world, PAGES, 0);
        reclaim_set_target(world.reclaim, 300);
        reclaim_wait(world.reclaim);
        assert_true(resident(&world) > 300);
        assert_true(reclaim_stats(&world).given_up > 0);
        assert_true(pager_stats(&world).refused > 0);
        verify_pages(&world, PAGES, 0);
        write_pages(&world, PAGES, 5); /* waits for nobody */
        verify_pages(&world, PAGES, 5);
        world_destroy(&world);
    }
}

static void test_writes_fail(void **state)
{
    static const int errors[] = {EIO, ENOSPC};
    enum { PAGES = 2000 };
    for (unsigned i = 0; i < ARRAY_LENGTH(errors); i++) {
        struct world world;
        world_create(&world, PAGES, i * 64 * KIB, PAGES, queue_of(state));
        write_pages(&world, PAGES, 0);
        world.faulty.write_error = errors[i];
        reclaim_set_target(world.reclaim, 300);
        reclaim_wait(world.reclaim);
        assert_true(resident(&world) > 300);
        assert_true(pager_stats(&world).failed > 0);
        verify_pages(&world, PAGES, 0);
        world.faulty.write_error = 0;
        reclaim_set_target(world.reclaim, 301); /* try again */
        reclaim_wait(world.reclaim);
        assert_true(resident(&world) <= 301);
        verify_pages(&world, PAGES, 0);
        struct swap_stats swap;
        swap_get_stats(world.swap, &swap);
        assert_true(swap.used <= PAGES); /* none was leaked: see test_target_is_reached */
        assert_int_equal(world.troubles, 0);
        world_destroy(&world);
    }
}

static void test_reads_fail(void **state)
{
    enum { PAGES = 1000 };
    struct world world;
    world_create(&world, PAGES, 0, PAGES, queue_of(state));
    write_pages(&world, PAGES, 0);
    reclaim_set_target(world.reclaim, 300);
    reclaim_wait(world.reclaim);
    uint64_t n = 2;
    while (pmap_state(world.map, pmap_nth_page(world.map, n)) != PAGE_SWAPPED)
        n += 3;
    uint8_t page[1 << PAGE_SHIFT], expected[1 << PAGE_SHIFT];
    fill(expected, n);
    world.faulty.read_error = EIO;
    assert_int_equal(pmap_read(world.map, gpa_of(&world, n), page, PAGE_SIZE), STATUS_IO);
    world.faulty.read_error = 0;
    world.faulty.read_flips = true;
    assert_int_equal(pmap_read(world.map, gpa_of(&world, n), page, PAGE_SIZE), STATUS_IO);
    assert_int_equal(world.troubles, 1);
    world.faulty.read_flips = false;
    assert_int_equal(pmap_read(world.map, gpa_of(&world, n), page, PAGE_SIZE), STATUS_OK);
    assert_memory_equal(page, expected, PAGE_SIZE);
    verify_pages(&world, PAGES, 0);
    world_destroy(&world);
}

/* Each thread has pages of its own, scattered among the others', and knows what is in them. */
struct user {
    struct world *world;
    unsigned index, wrong;
    uint64_t seed;
};

enum { USERS = 3, PAGES_OF_ALL = 3000, USER_STEPS = 20000 };

static void user_touch(struct user *user, uint64_t n, uint64_t *content)
{
    struct pmap *map = user->world->map;
    uint8_t page[1 << PAGE_SHIFT], expected[1 << PAGE_SHIFT];
    uint64_t gpa = gpa_of(user->world, n), random = xorshift_next(&user->seed);
    struct iovec iov[1];
    unsigned count = 0;
    bool writable;
    fill(expected, *content);
    switch (random % 8) {
    case 0:
    case 1: /* a new page */
        *content = random >> 8;
        fill(expected, *content);
        user->wrong += pmap_write(map, gpa, expected, PAGE_SIZE) != STATUS_OK;
        break;
    case 2: /* by a device */
        user->wrong += pmap_pin(map, gpa, PAGE_SIZE, PIN_OVERWRITE, iov, &count, 1) != STATUS_OK;
        *content = random >> 8;
        fill(iov[0].iov_base, *content);
        pmap_unpin(map, gpa, PAGE_SIZE, true);
        break;
    case 3:
        user->wrong += pmap_pin(map, gpa, PAGE_SIZE, PIN_READ, iov, &count, 1) != STATUS_OK;
        user->wrong += memcmp(iov[0].iov_base, expected, PAGE_SIZE) != 0;
        pmap_unpin(map, gpa, PAGE_SIZE, false);
        break;
    case 4: /* a look-up that cancels a page's leaving */
        pmap_page_read(map, gpa >> PAGE_SHIFT, &writable);
        break;
    case 5: /* a page that its owner has no more use for */
        if (random >> 8 & 1 && pmap_release(map, gpa >> PAGE_SHIFT, 1) == 1)
            *content = 0;
        break;
    default:
        user->wrong += pmap_read(map, gpa, page, PAGE_SIZE) != STATUS_OK;
        user->wrong += memcmp(page, expected, PAGE_SIZE) != 0;
    }
}

static void *use(void *context)
{
    struct user *user = context;
    static uint64_t contents[USERS][PAGES_OF_ALL / USERS];
    uint64_t *content = contents[user->index];
    memset(content, 0, sizeof contents[0]);
    for (unsigned step = 0; step < USER_STEPS; step++) {
        /* Some more often than others. */
        uint64_t i = xorshift_next(&user->seed) % (step % 4 == 0 ? PAGES_OF_ALL / USERS : 150);
        user_touch(user, i * USERS + user->index, &content[i]);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct world world;
    world_create(&world, PAGES_OF_ALL, 200 * KIB, PAGES_OF_ALL / 2, queue_of(state));
    reclaim_set_target(world.reclaim, 500);
    struct user users[USERS];
    pthread_t threads[USERS];
    for (unsigned i = 0; i < USERS; i++) {
        users[i] = (struct user){.world = &world, .index = i, .seed = 77 + i};
        assert_int_equal(pthread_create(&threads[i], NULL, use, &users[i]), 0);
    }
    /* Meanwhile targets change, and somebody else takes pages as well. */
    uint64_t seed = 99;
    for (unsigned i = 0; i < 300; i++) {
        struct page_batch batch = {.count = 8};
        uint64_t n = xorshift_next(&seed) % (PAGES_OF_ALL - 8);
        for (unsigned j = 0; j < 8; j++)
            batch.ppn[j] = pmap_nth_page(world.map, n + j);
        page_leave_begin(world.map, &batch, PAGE_LEAVE_ACTIVE);
        pager_take(world.pager, &batch, i % 2 != 0 ? PAGER_COLD : 0);
        if (i % 50 == 0)
            reclaim_set_target(world.reclaim, 300 + xorshift_next(&seed) % 1000);
    }
    for (unsigned i = 0; i < USERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(users[i].wrong, 0);
    }
    assert_int_equal(world.troubles, 0);
    world_destroy(&world);
}

#define BOTH_WAYS(test)                                                                            \
    {"ring: " #test, test, NULL, NULL, (void *)SWAP_QUEUE_IF_ANY},                                 \
    {                                                                                              \
        "plain: " #test, test, NULL, NULL, (void *)SWAP_QUEUE_NONE                                 \
    }

/* As a machine ends: stopped, the map freed, and only then freed itself. ASan sees what it touches.
 */
static void test_outlives_the_map_once_stopped(void **state)
{
    struct world world;
    (void)state;
    world_create(&world, 1024, 0, 1024, SWAP_QUEUE_NONE);
    reclaim_stop(world.reclaim);
    pmap_destroy(world.map);
    reclaim_stop(world.reclaim);
    reclaim_destroy(world.reclaim);
    pager_destroy(world.pager);
    swap_destroy(world.swap);
}

int main(void)
{
    log_set_level(LOG_ERROR); /* a full swap file is no news here */
    const struct CMUnitTest tests[] = {
        BOTH_WAYS(test_target_is_reached), BOTH_WAYS(test_no_room),
        BOTH_WAYS(test_writes_fail),       BOTH_WAYS(test_reads_fail),
        BOTH_WAYS(test_threads),           cmocka_unit_test(test_outlives_the_map_once_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
