/*
 * A host that has no memory for a page: whoever wanted it is told so, nothing has changed, and with
 * memory it goes on. Where pages can be taken away instead nobody notices.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "faulty_swap.h"
#include "mem/page_leave.h"
#include "mem/reclaim.h"
#include "memory_store.h"
#include "refusing_host.h"
#include "util/bits.h"
#include "util/log.h"

#define PAGES 64u

struct suite {
    struct pmap *map;
    struct memory_store *store;
    unsigned refused, lost;
};

static void on_trouble(void *context, const struct error *err)
{
    struct suite *suite = context;
    assert_true(err->text[0] != '\0');
    ++*(err->status == STATUS_NO_MEMORY ? &suite->refused : &suite->lost);
}

static int setup(void **state)
{
    static const struct ram_range ram = {0, PAGES << PAGE_SHIFT};
    static struct suite suite;
    suite = (struct suite){.store = memory_store_create()};
    assert_int_equal(pmap_create(&suite.map, &ram, 1, NULL), STATUS_OK);
    pmap_set_store(suite.map, &memory_store_ops, suite.store);
    pmap_set_trouble_hook(suite.map, on_trouble, &suite);
    *state = &suite;
    return 0;
}

static int teardown(void **state)
{
    struct suite *suite = *state;
    struct error err = {0};
    host_refuses = NULL;
    assert_int_equal(suite->store->misused, 0);
    assert_int_equal(suite->lost, 0);
    if (pmap_check(suite->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    pmap_destroy(suite->map);
    memory_store_destroy(suite->store);
    return 0;
}

/* Page `ppn`, full of `value`, goes to the store. */
static void evict(struct suite *suite, uint64_t ppn, uint8_t value)
{
    struct page_batch batch = {.count = 1, .ppn = {ppn}};
    uint8_t bytes[1 << PAGE_SHIFT];
    memset(bytes, value, sizeof(bytes));
    assert_int_equal(pmap_write(suite->map, ppn << PAGE_SHIFT, bytes, sizeof(bytes)), STATUS_OK);
    page_leave_begin(suite->map, &batch, PAGE_LEAVE_ACTIVE);
    assert_int_equal(batch.count, 1);
    uint64_t payload = memory_store_put(suite->store, PAGE_SWAPPED, bytes);
    assert_true(page_leave_end(suite->map, &batch, 0, PAGE_SWAPPED, payload));
    page_punch(suite->map, batch.ppn, 1);
}

static void test_zero_page(void **state)
{
    struct suite *suite = *state;
    bool writable = true;
    host_refuses = host_refuses_all;
    /* A running vCPU sees zeros that it cannot write; then it parks, and wants to write. */
    const uint8_t *page = pmap_page_claim(suite->map, 1, &writable);
    assert_non_null(page);
    assert_false(writable);
    assert_int_equal(suite->refused, 0);
    assert_null(pmap_page_write(suite->map, 1));
    assert_int_equal(suite->refused, 1);
    assert_int_equal(pmap_write(suite->map, 2 << PAGE_SHIFT, "x", 1), STATUS_NO_MEMORY);
    assert_int_equal(suite->refused, 2);
    assert_int_equal(pmap_state(suite->map, 1), PAGE_ZERO);
    assert_int_equal(pmap_private_pages(suite->map), 0);

    host_refuses = NULL;
    assert_non_null(pmap_page_write(suite->map, 1));
    assert_int_equal(pmap_write(suite->map, 2 << PAGE_SHIFT, "x", 1), STATUS_OK);
    assert_int_equal(pmap_private_pages(suite->map), 2);
}

static void test_away_page(void **state)
{
    struct suite *suite = *state;
    uint8_t byte = 0;
    evict(suite, 3, 0x33);
    host_refuses = host_refuses_all;
    for (unsigned i = 1; i <= 2; i++) {
        assert_int_equal(pmap_page_bring(suite->map, 3), STATUS_NO_MEMORY);
        assert_int_equal(pmap_read(suite->map, 3 << PAGE_SHIFT, &byte, 1), STATUS_NO_MEMORY);
        assert_int_equal(suite->refused, 2 * i);
        assert_int_equal(pmap_state(suite->map, 3), PAGE_SWAPPED);
    }
    host_refuses = NULL;
    assert_int_equal(pmap_page_bring(suite->map, 3), STATUS_OK);
    assert_int_equal(pmap_read(suite->map, 3 << PAGE_SHIFT, &byte, 1), STATUS_OK);
    assert_int_equal(byte, 0x33);
}

static unsigned pages_left;

static bool refuses_after_some(void)
{
    if (pages_left == 0)
        return true;
    pages_left--;
    return false;
}

/* A range is pinned whole or not at all; and what was to be overwritten is still there. */
static void test_pin(void **state)
{
    struct suite *suite = *state;
    struct iovec iov[1];
    unsigned count = 0;
    uint8_t byte = 0;
    const uint64_t from = 4 << PAGE_SHIFT, length = 3 << PAGE_SHIFT;
    evict(suite, 6, 0x66);
    pages_left = 2;
    host_refuses = refuses_after_some;
    assert_int_equal(pmap_pin(suite->map, from, length, PIN_OVERWRITE, iov, &count, 1),
                     STATUS_NO_MEMORY);
    assert_int_equal(count, 0);
    assert_int_equal(suite->refused, 1);
    struct pmap_stats stats;
    pmap_get_stats(suite->map, &stats);
    assert_int_equal(stats.pinned_pages, 0);

    host_refuses = NULL;
    assert_int_equal(pmap_read(suite->map, 6 << PAGE_SHIFT, &byte, 1), STATUS_OK);
    assert_int_equal(byte, 0x66);
    assert_int_equal(pmap_pin(suite->map, from, length, PIN_OVERWRITE, iov, &count, 1), STATUS_OK);
    pmap_unpin(suite->map, from, length, true);
}

/* A host that has memory for so many pages. */
#define HOST_PAGES 1000u
static struct pmap *hosted;

static bool refuses_more(void)
{
    return pmap_private_pages(hosted) >= HOST_PAGES;
}

static void put(struct pmap *map, uint64_t ppn)
{
    uint64_t words[PAGE_SIZE / sizeof(uint64_t)];
    for (unsigned i = 0; i < ARRAY_LENGTH(words); i++)
        words[i] = (ppn + 1) * 0x9e3779b97f4a7c15 * (i + 1);
    assert_int_equal(pmap_write(map, ppn << PAGE_SHIFT, words, sizeof(words)), STATUS_OK);
}

static void check(struct pmap *map, uint64_t ppn)
{
    uint64_t word;
    assert_int_equal(pmap_read(map, (ppn << PAGE_SHIFT) + 8, &word, sizeof(word)), STATUS_OK);
    assert_int_equal(word, (ppn + 1) * 0x9e3779b97f4a7c15 * 2);
}

/* With somewhere to put pages the VM lives within what the host has, and nobody is refused. */
static void test_pages_leave_instead(void **state)
{
    enum { ALL = 3000 };
    static const struct ram_range ram = {0, ALL << PAGE_SHIFT};
    struct suite suite = {0};
    struct error err = {0};
    struct faulty faulty;
    struct pager *pager;
    struct reclaim *reclaim;
    assert_int_equal(pmap_create(&suite.map, &ram, 1, &err), STATUS_OK);
    pmap_set_trouble_hook(suite.map, on_trouble, &suite);
    struct swap *swap = faulty_swap_create(&faulty, ALL, SWAP_QUEUE_IF_ANY);
    assert_int_equal(pager_create(&pager, suite.map, NULL, swap, NULL, &err), STATUS_OK);
    assert_int_equal(reclaim_create(&reclaim, suite.map, pager, NULL, &err), STATUS_OK);
    hosted = suite.map;
    host_refuses = refuses_more;
    for (uint64_t ppn = 0; ppn < ALL; ppn++)
        put(suite.map, ppn);
    for (uint64_t ppn = 0; ppn < ALL; ppn++)
        check(suite.map, ppn);
    assert_int_equal(suite.refused + suite.lost, 0);
    assert_true(pmap_private_pages(suite.map) <= HOST_PAGES);
    struct reclaim_stats stats;
    reclaim_get_stats(reclaim, &stats);
    assert_true(stats.target < HOST_PAGES);

    host_refuses = NULL;
    reclaim_restore_target(reclaim);
    reclaim_get_stats(reclaim, &stats);
    assert_true(stats.target == UINT64_MAX);
    reclaim_wait(reclaim);
    for (uint64_t ppn = 0; ppn < ALL; ppn++)
        check(suite.map, ppn);
    assert_int_equal(pmap_private_pages(suite.map), ALL);
    reclaim_stop(reclaim);
    if (pmap_check(suite.map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    reclaim_destroy(reclaim);
    pmap_destroy(suite.map);
    pager_destroy(pager);
    swap_destroy(swap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_zero_page, setup, teardown),
        cmocka_unit_test_setup_teardown(test_away_page, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pin, setup, teardown),
        cmocka_unit_test(test_pages_leave_instead),
    };
    log_set_level(LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
