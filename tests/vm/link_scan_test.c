/* How the link's thread scans. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "util/bits.h"
#include "util/clock.h"
#include "vm/link_scan.h"

#define PAGES 64u
#define KEY   77u

static const struct ram_range ram = {0, PAGES *PAGE_SIZE};

/* A second later; gives how many pages are offered. */
static unsigned tick(struct link_scan *link, struct scan *pages)
{
    link->offer_count = 0;
    link_scan_begin(link, link->last_ns + NS_PER_SECOND);
    assert_false(link_scan_run(link, pages, KEY));
    return link_scan_offers(link);
}

/* A guest's reset makes another machine, and so another scan, without a word from the manager. */
static void test_a_new_machine(void **state)
{
    (void)state;
    struct link_scan link = {0};
    link_scan_set(&link, PAGES, 1000000);
    for (unsigned machine = 0; machine < 2; machine++) {
        struct pmap *map;
        struct scan *pages;
        assert_int_equal(pmap_create(&map, &ram, 1, NULL), STATUS_OK);
        assert_int_equal(scan_create(&pages, map, 5, NULL), STATUS_OK);
        for (uint64_t ppn = 0; ppn < PAGES; ppn++)
            assert_int_equal(pmap_write(map, ppn * PAGE_SIZE, &(uint64_t){ppn + 1}, 8), STATUS_OK);
        assert_int_equal(tick(&link, pages), PAGES);
        assert_int_equal(tick(&link, pages), 0);
        scan_note(pages, 5, 1, true);
        assert_int_equal(tick(&link, pages), 1);
        assert_int_equal(link.offers[0].ppn, 5);
        scan_destroy(pages);
        pmap_destroy(map);
    }
}

/* What the VM's CPU time allows: pages that are named as soon as they have changed. */
static void test_young_pages(void **state)
{
    (void)state;
    struct link_scan link = {0};
    struct pmap *map;
    struct scan *pages;
    assert_int_equal(pmap_create(&map, &ram, 1, NULL), STATUS_OK);
    assert_int_equal(scan_create(&pages, map, 5, NULL), STATUS_OK);
    link_scan_set(&link, PAGES, 1000000);
    for (uint64_t value = 1; value < 4; value++) {
        for (uint64_t ppn = 0; ppn < PAGES; ppn++)
            assert_int_equal(pmap_write(map, ppn * PAGE_SIZE, &(uint64_t){PAGES * value + ppn}, 8),
                             STATUS_OK);
        link.process_before = clock_process_cpu_ns();
        link.young = 0.5;
        if (value == 3) /* 40 ms ago: ten pages, and more for what the test itself has taken */
            link.process_before -= NS_PER_SECOND / 25;
        unsigned named = tick(&link, pages);
        if (value == 1)
            assert_int_equal(named, PAGES);
        else if (value == 2)
            assert_true(named <= 2);
        else
            assert_true(named >= 10);
        assert_true(link.young >= 0 && link.young < 1);
    }
    scan_destroy(pages);
    pmap_destroy(map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_new_machine),
                                       cmocka_unit_test(test_young_pages)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
