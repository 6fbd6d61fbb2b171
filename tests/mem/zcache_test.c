/* The compression cache: what comes back is what went in, its bounds, and that memory is returned;
 * then random operations against a model, and from several threads at once. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "mem/zcache.h"
#include "util/bits.h"
#include "util/xorshift.h"

/* The first `noise` bytes are random, the rest is a pattern: so it packs to about noise bytes. */
static void fill(uint8_t *page, uint64_t seed, unsigned noise)
{
    seed = seed * 2 + 1;
    for (unsigned i = 0; i < PAGE_SIZE; i++)
        page[i] = i < noise ? (uint8_t)(xorshift_next(&seed) >> 32) : (uint8_t)(seed >> 3);
}

static struct zcache *make(uint64_t max_bytes)
{
    struct error err = {0};
    struct zcache *cache;
    assert_int_equal(zcache_create(&cache, max_bytes, &err), STATUS_OK);
    return cache;
}

static struct zcache_stats stats_of(struct zcache *cache)
{
    struct zcache_stats stats;
    zcache_get_stats(cache, &stats);
    return stats;
}

static void assert_page(struct zcache *cache, uint64_t handle, const uint8_t *expected)
{
    uint8_t page[1 << PAGE_SHIFT];
    assert_int_equal(zcache_get(cache, handle, page), STATUS_OK);
    assert_memory_equal(page, expected, PAGE_SIZE);
}

static void test_round_trip(void **state)
{
    (void)state;
    struct zcache *cache = make(MIB);
    uint8_t page[1 << PAGE_SHIFT];
    for (unsigned noise = 0; noise < 2000; noise += 7) {
        uint64_t handle;
        fill(page, noise, noise);
        assert_int_equal(zcache_put(cache, noise, page, &handle), STATUS_OK);
        assert_true(handle >> ZCACHE_HANDLE_BITS == 0);
        assert_page(cache, handle, page);
        assert_page(cache, handle, page); /* it stays */
        zcache_drop(cache, handle);
        assert_int_equal(zcache_get(cache, handle, page), STATUS_NOT_FOUND);
    }
    zcache_destroy(cache);
    zcache_destroy(NULL);
}

static void test_incompressible_is_refused(void **state)
{
    (void)state;
    struct zcache *cache = make(MIB);
    uint8_t page[1 << PAGE_SHIFT];
    uint64_t handle;
    fill(page, 1, PAGE_SIZE);
    assert_int_equal(zcache_put(cache, 1, page, &handle), STATUS_UNSUPPORTED);
    fill(page, 1, PAGE_SIZE / 2 + 64); /* a little too much for half a page */
    assert_int_equal(zcache_put(cache, 1, page, &handle), STATUS_UNSUPPORTED);
    assert_int_equal(stats_of(cache).pages, 0);
    assert_int_equal(stats_of(cache).held_bytes, 0);
    zcache_destroy(cache);
}

static void test_bad_sizes(void **state)
{
    (void)state;
    struct zcache *cache;
    struct error err = {0};
    assert_int_equal(zcache_create(&cache, 0, &err), STATUS_INVALID);
    assert_int_equal(zcache_create(&cache, UINT64_MAX, &err), STATUS_INVALID);
    assert_int_equal(zcache_create(&cache, UINT64_MAX / 16, &err), STATUS_INVALID);
    cache = make(1); /* less than a page: always full */
    uint8_t page[1 << PAGE_SHIFT] = {0};
    uint64_t handle;
    assert_int_equal(zcache_put(cache, 1, page, &handle), STATUS_NO_SPACE);
    zcache_destroy(cache);
}

/* Also the bound: what is held is never more, and little of it is not packed bytes. */
static void test_full_then_empty(void **state)
{
    (void)state;
    enum { PAGES = 4096 };
    static uint64_t handles[PAGES];
    struct zcache *cache = make(2 * MIB);
    uint8_t page[1 << PAGE_SHIFT];
    unsigned count = 0;
    for (;; count++) {
        assert_true(count < PAGES);
        fill(page, count, 200 + count % 1700);
        enum status status = zcache_put(cache, count, page, &handles[count]);
        assert_true(stats_of(cache).held_bytes <= 2 * MIB);
        if (status == STATUS_NO_SPACE)
            break;
        assert_int_equal(status, STATUS_OK);
    }
    struct zcache_stats full = stats_of(cache);
    assert_int_equal(full.pages, count);
    assert_true(full.held_bytes - full.packed_bytes < full.held_bytes / 8);

    /* Room that other sizes gave up is used, and nothing that stayed has changed. */
    for (unsigned i = 0; i < count; i += 2)
        zcache_drop(cache, handles[i]);
    unsigned more = 0;
    uint64_t handle;
    fill(page, 1, 0);
    while (zcache_put(cache, 1, page, &handle) == STATUS_OK)
        more++;
    assert_true(more > 4 * count);
    for (unsigned i = 1; i < count; i += 2) {
        fill(page, i, 200 + i % 1700);
        assert_page(cache, handles[i], page);
    }
    struct zcache_item item;
    while (zcache_oldest(cache, &item, 1) == 1)
        zcache_drop(cache, item.handle);
    assert_int_equal(stats_of(cache).pages, 0);
    assert_int_equal(stats_of(cache).packed_bytes, 0);
    assert_int_equal(stats_of(cache).held_bytes, 0);
    zcache_destroy(cache);
}

static void test_oldest_first(void **state)
{
    (void)state;
    struct zcache *cache = make(MIB);
    struct zcache_item items[8];
    assert_int_equal(zcache_oldest(cache, items, 8), 0);
    uint8_t page[1 << PAGE_SHIFT];
    uint64_t handles[6];
    for (unsigned i = 0; i < 6; i++) {
        fill(page, i, 100 * i);
        assert_int_equal(zcache_put(cache, 40 + i, page, &handles[i]), STATUS_OK);
    }
    assert_int_equal(zcache_oldest(cache, items, 2), 2);
    assert_int_equal(items[1].ppn, 41);
    zcache_drop(cache, handles[0]);
    zcache_drop(cache, handles[3]);
    zcache_drop(cache, handles[5]);
    assert_int_equal(zcache_oldest(cache, items, 8), 3);
    static const uint64_t left[] = {1, 2, 4};
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(items[i].ppn, 40 + left[i]);
        assert_int_equal(items[i].handle, handles[left[i]]);
    }
    zcache_destroy(cache);
}

/* A handle that was dropped is not the next page's, not even when the cache was empty meanwhile. */
static void test_handles_do_not_come_again(void **state)
{
    (void)state;
    struct zcache *cache = make(MIB);
    uint8_t page[1 << PAGE_SHIFT] = {0}, other[1 << PAGE_SHIFT];
    fill(other, 5, 900);
    uint64_t first, second;
    assert_int_equal(zcache_put(cache, 1, page, &first), STATUS_OK);
    zcache_drop(cache, first);
    assert_int_equal(zcache_put(cache, 2, other, &second), STATUS_OK);
    assert_true(first != second);
    assert_int_equal(zcache_get(cache, first, page), STATUS_NOT_FOUND);
    zcache_drop(cache, first);
    zcache_drop(cache, UINT64_MAX);
    assert_page(cache, second, other);
    zcache_destroy(cache);
}

static void test_model(void **state)
{
    (void)state;
    enum { PAGES = 600, STEPS = 60000 };
    struct {
        bool used;
        uint64_t handle, seed;
        unsigned noise;
    } model[PAGES] = {0};
    struct zcache *cache = make(512 * KIB);
    uint64_t seed = 88172645463325252u, pages = 0, refused = 0;
    uint8_t page[1 << PAGE_SHIFT];
    for (unsigned step = 0; step < STEPS; step++) {
        uint64_t ppn = xorshift_next(&seed) % PAGES;
        if (!model[ppn].used) {
            model[ppn].seed = xorshift_next(&seed);
            model[ppn].noise = (unsigned)(xorshift_next(&seed) % 2400);
            fill(page, model[ppn].seed, model[ppn].noise);
            enum status status = zcache_put(cache, ppn, page, &model[ppn].handle);
            model[ppn].used = status == STATUS_OK;
            pages += status == STATUS_OK;
            refused += status == STATUS_NO_SPACE;
            if (model[ppn].noise < 1900)
                assert_true(status != STATUS_UNSUPPORTED);
        } else {
            fill(page, model[ppn].seed, model[ppn].noise);
            assert_page(cache, model[ppn].handle, page);
            if (xorshift_next(&seed) % 3 == 0) {
                zcache_drop(cache, model[ppn].handle);
                model[ppn].used = false;
                pages--;
            }
        }
        struct zcache_stats stats = stats_of(cache);
        assert_int_equal(stats.pages, pages);
        assert_true(stats.held_bytes >= stats.packed_bytes && stats.held_bytes <= 512 * KIB);
    }
    assert_true(refused > 100);
    zcache_destroy(cache);
}

struct worker {
    struct zcache *cache;
    uint64_t seed;
    unsigned wrong;
};

static void *work(void *context)
{
    enum { PAGES = 64, STEPS = 6000 };
    struct worker *worker = context;
    uint64_t handles[PAGES];
    unsigned noise[PAGES];
    bool used[PAGES] = {0};
    uint8_t page[1 << PAGE_SHIFT], got[1 << PAGE_SHIFT];
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned i = (unsigned)(xorshift_next(&worker->seed) % PAGES);
        if (!used[i]) {
            noise[i] = (unsigned)(xorshift_next(&worker->seed) % 1900);
            fill(page, noise[i], noise[i]);
            used[i] = zcache_put(worker->cache, i, page, &handles[i]) == STATUS_OK;
            continue;
        }
        fill(page, noise[i], noise[i]);
        worker->wrong += zcache_get(worker->cache, handles[i], got) != STATUS_OK ||
                         memcmp(page, got, PAGE_SIZE) != 0;
        zcache_drop(worker->cache, handles[i]);
        used[i] = false;
    }
    for (unsigned i = 0; i < PAGES; i++) {
        if (used[i])
            zcache_drop(worker->cache, handles[i]);
    }
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    struct zcache *cache = make(128 * KIB);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.cache = cache, .seed = 1000 + i};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
    }
    assert_int_equal(stats_of(cache).pages, 0);
    assert_int_equal(stats_of(cache).held_bytes, 0);
    zcache_destroy(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_incompressible_is_refused),
        cmocka_unit_test(test_bad_sizes),    cmocka_unit_test(test_full_then_empty),
        cmocka_unit_test(test_oldest_first), cmocka_unit_test(test_handles_do_not_come_again),
        cmocka_unit_test(test_model),        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
