/* Which pages the scanner names, and when. */

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem/page_hash.h"
#include "mem/scan.h"

#define PAGES 200u /* no power of two, nor whole groups, in two pieces */
#define KEY   1234u

static const struct ram_range ram[] = {{0, 100 * PAGE_SIZE}, {128 * PAGE_SIZE, 100 * PAGE_SIZE}};

struct scene {
    struct pmap *map;
    struct scan *scan;
    unsigned named[512]; /* times, by PPN, since the last look */
    unsigned fresh, looked;
};

static uint64_t ppn_of(unsigned n)
{
    return n < 100 ? n : n + 28;
}

static void put(struct scene *scene, unsigned n, uint64_t value)
{
    assert_int_equal(pmap_write(scene->map, ppn_of(n) * PAGE_SIZE + 64, &value, 8), STATUS_OK);
}

static int setup(void **state)
{
    static struct scene scene;
    scene = (struct scene){0};
    assert_int_equal(pmap_create(&scene.map, ram, 2, NULL), STATUS_OK);
    assert_int_equal(scan_create(&scene.scan, scene.map, 5, NULL), STATUS_OK);
    for (unsigned n = 0; n < PAGES; n += 2) /* the others are zero, and have no memory */
        put(&scene, n, n + 1);
    *state = &scene;
    return 0;
}

static int teardown(void **state)
{
    struct scene *scene = *state;
    struct error err = {0};
    if (pmap_check(scene->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    scan_destroy(scene->scan);
    pmap_destroy(scene->map);
    return 0;
}

static unsigned step(struct scene *scene)
{
    struct scan_offer offers[SCAN_STEP];
    unsigned looked, count = scan_step(scene->scan, KEY, offers, &looked);
    for (unsigned i = 0; i < count; i++) {
        uint8_t bytes[1 << PAGE_SHIFT];
        assert_int_equal(pmap_read(scene->map, offers[i].ppn * PAGE_SIZE, bytes, PAGE_SIZE),
                         STATUS_OK);
        assert_int_equal(offers[i].hash, page_hash(bytes, KEY));
        scene->named[offers[i].ppn]++;
        scene->fresh += offers[i].fresh;
    }
    scene->looked += looked;
    return count;
}

/* To the end of a round. Returns how many pages were named. */
static unsigned a_round(struct scene *scene)
{
    struct scan_stats before, now;
    unsigned count = 0;
    memset(scene->named, 0, sizeof scene->named);
    scene->fresh = scene->looked = 0;
    scan_get_stats(scene->scan, &before);
    do {
        count += step(scene);
        scan_get_stats(scene->scan, &now);
    } while (now.rounds == before.rounds);
    return count;
}

static void test_rounds(void **state)
{
    struct scene *scene = *state;
    struct scan_offer offers[SCAN_STEP];
    unsigned looked;
    /* The first one in order. */
    unsigned count = scan_step(scene->scan, KEY, offers, &looked);
    assert_int_equal(count, SCAN_STEP);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(offers[i].ppn, ppn_of(2 * i));
        assert_true(offers[i].fresh);
    }
    assert_int_equal(a_round(scene), PAGES / 2 - SCAN_STEP);
    assert_int_equal(scene->fresh, PAGES / 2 - SCAN_STEP);
    /* Nothing has changed: each private page is looked at once, none is named. */
    for (unsigned i = 1; i < 16; i++) {
        assert_int_equal(a_round(scene), 0);
        assert_int_equal(scene->looked, PAGES / 2);
    }
    /* Now and then all are. */
    assert_int_equal(a_round(scene), PAGES / 2);
    for (unsigned n = 0; n < PAGES; n++)
        assert_int_equal(scene->named[ppn_of(n)], n % 2 == 0);
    assert_int_equal(scene->fresh, 0);
}

static void test_changes(void **state)
{
    struct scene *scene = *state;
    a_round(scene);
    /* What has changed is named when it is the same in two rounds. */
    put(scene, 40, 999);
    scan_forget(scene->scan, ppn_of(102));
    for (unsigned i = 0; i < 3; i++) {
        put(scene, 42, 1000 + i);
        assert_int_equal(a_round(scene), i == 1 ? 2 : 0);
    }
    assert_int_equal(a_round(scene), 1);
    assert_int_equal(scene->named[ppn_of(42)], 1);
    assert_int_equal(a_round(scene), 0);
    /* What comes from a disk waits as well, but what is about to be taken away does not. */
    put(scene, 40, 5);
    put(scene, 42, 5);
    scan_enable(scene->scan, true);
    scan_note(scene->scan, ppn_of(40), 1, false);
    scan_note(scene->scan, ppn_of(42), 1, true);
    scan_tick(scene->scan, 0);
    assert_int_equal(step(scene), 1);
    assert_int_equal(scene->named[ppn_of(40)], 1);
    assert_int_equal(a_round(scene), 1);
    assert_int_equal(scene->named[ppn_of(42)], 1);
    scan_forget_all(scene->scan);
    assert_int_equal(a_round(scene), PAGES / 2);
    /* A page that was away in between is news again. */
    uint8_t bytes[1 << PAGE_SHIFT];
    assert_int_equal(pmap_read(scene->map, ppn_of(8) * PAGE_SIZE, bytes, PAGE_SIZE), STATUS_OK);
    assert_int_equal(pmap_release(scene->map, ppn_of(8), 1), 1);
    assert_int_equal(a_round(scene), 0);
    assert_int_equal(pmap_write(scene->map, ppn_of(8) * PAGE_SIZE, bytes, PAGE_SIZE), STATUS_OK);
    assert_int_equal(a_round(scene), 1);
}

/* So many pages need not wait; what is not used is left for later, up to a limit. */
static void test_young(void **state)
{
    struct scene *scene = *state;
    a_round(scene);
    for (unsigned n = 60; n < 68; n += 2)
        put(scene, n, 2000);
    scan_tick(scene->scan, 2);
    scan_tick(scene->scan, 1);
    assert_int_equal(a_round(scene), 3);
    assert_int_equal(a_round(scene), 1);
    scan_tick(scene->scan, UINT_MAX);
    scan_tick(scene->scan, UINT_MAX);
    for (unsigned left = 1024, i = 0; i < 12; i++) {
        for (unsigned n = 0; n < PAGES; n += 2)
            put(scene, n, 3000 + i);
        unsigned expected = left < PAGES / 2 ? left : PAGES / 2;
        assert_int_equal(a_round(scene), expected);
        left -= expected;
    }
}

static void test_zeros(void **state)
{
    struct scene *scene = *state;
    put(scene, 20, 0);
    put(scene, 150, 0);
    assert_int_equal(a_round(scene), PAGES / 2 - 2);
    assert_int_equal(pmap_state(scene->map, ppn_of(20)), PAGE_ZERO);
    assert_int_equal(pmap_state(scene->map, ppn_of(150)), PAGE_ZERO);
    struct scan_stats stats;
    scan_get_stats(scene->scan, &stats);
    assert_int_equal(stats.zeroed, 2);
}

static void test_notes(void **state)
{
    struct scene *scene = *state;
    scan_note(scene->scan, ppn_of(4), 1, true); /* off: forgotten */
    scan_enable(scene->scan, true);
    a_round(scene);
    memset(scene->named, 0, sizeof scene->named);
    scene->fresh = 0;
    scan_note(scene->scan, ppn_of(10), 1, true);
    scan_note(scene->scan, ppn_of(11), 4, true);
    scan_note(scene->scan, ppn_of(60), 1, false);
    scan_note(scene->scan, UINT64_MAX, 5, true);
    scan_note(scene->scan, 227, UINT64_MAX, true);
    assert_int_equal(step(scene), 0); /* not before the next tick */
    scan_tick(scene->scan, 0);
    assert_int_equal(step(scene), 4); /* though nothing has changed */
    assert_int_equal(scene->fresh, 3);
    assert_int_equal(scene->named[10] + scene->named[12] + scene->named[14] + scene->named[60], 4);

    /* A device still has it: a tick later. */
    struct iovec iov;
    unsigned count = 0;
    assert_int_equal(
        pmap_pin(scene->map, ppn_of(30) * PAGE_SIZE, PAGE_SIZE, PIN_OVERWRITE, &iov, &count, 1),
        STATUS_OK);
    scan_note(scene->scan, ppn_of(30), 1, true);
    for (unsigned i = 0; i < 3; i++) {
        scan_tick(scene->scan, 0);
        step(scene);
        assert_int_equal(scene->named[ppn_of(30)], 0);
    }
    memset(iov.iov_base, 0x77, iov.iov_len);
    pmap_unpin(scene->map, ppn_of(30) * PAGE_SIZE, PAGE_SIZE, true);
    scan_tick(scene->scan, 1);
    assert_int_equal(step(scene), 1);
    assert_int_equal(scene->named[ppn_of(30)], 1);

    /* More than there is room for: some are forgotten, and found in a round. */
    for (unsigned i = 0; i < 10000; i++)
        scan_note(scene->scan, ppn_of(i * 37 % PAGES), 1, i % 2);
    scan_tick(scene->scan, 0);
    for (unsigned i = 0; i < 20; i++)
        assert_true(step(scene) <= SCAN_STEP);
}

/* What was loaded is named first, then what of it has changed, and only then anything else. */
static void test_image(void **state)
{
    struct scene *scene = *state;
    scan_image(scene->scan, ppn_of(80), 50); /* to PPN 129, over the hole */
    scan_image(scene->scan, ppn_of(10), 6);
    scan_image(scene->scan, ppn_of(2), 1); /* there is no third piece */
    scan_enable(scene->scan, true);
    scan_note(scene->scan, ppn_of(40), 1, true);
    scan_tick(scene->scan, 0);

    assert_int_equal(step(scene), 10 + 1 + 3);
    for (unsigned n = 80; n <= 100; n += 2)
        assert_int_equal(scene->named[ppn_of(n)], 1);
    for (unsigned n = 10; n < 16; n += 2)
        assert_int_equal(scene->named[ppn_of(n)], 1);
    assert_int_equal(scene->fresh, 14);

    put(scene, 84, 999);
    assert_int_equal(step(scene), 1);
    assert_int_equal(scene->named[ppn_of(84)], 2);
    assert_int_equal(step(scene), 1);
    assert_int_equal(scene->named[ppn_of(40)], 1);
    assert_int_equal(a_round(scene), PAGES / 2 - 14 - 1);
    assert_int_equal(a_round(scene), 0);
}

/* A piece beyond the end, and one without a page in it, take no time and end. */
static void test_image_of_nothing(void **state)
{
    struct scene *scene = *state;
    scan_image(scene->scan, 1u << 20, 5);
    scan_image(scene->scan, ppn_of(1), 0);
    scan_image(scene->scan, 227, UINT64_MAX); /* the last, which is zero */
    assert_int_equal(a_round(scene), PAGES / 2);
}

/* None is left out, and none comes twice, whatever the size. */
static void test_sizes(void **state)
{
    for (uint64_t pages = 1; pages < 300; pages = pages * 3 / 2 + 1) {
        struct scene scene = {0};
        const struct ram_range one = {0, pages * PAGE_SIZE};
        assert_int_equal(pmap_create(&scene.map, &one, 1, NULL), STATUS_OK);
        assert_int_equal(scan_create(&scene.scan, scene.map, pages, NULL), STATUS_OK);
        for (uint64_t ppn = 0; ppn < pages; ppn++)
            assert_int_equal(pmap_write(scene.map, ppn * PAGE_SIZE, &(uint64_t){ppn + 1}, 8),
                             STATUS_OK);
        for (unsigned i = 0; i < 4; i++) {
            scan_forget_all(scene.scan);
            assert_int_equal(a_round(&scene), pages);
            for (uint64_t ppn = 0; ppn < pages; ppn++)
                assert_int_equal(scene.named[ppn], 1);
        }
        scan_destroy(scene.scan);
        pmap_destroy(scene.map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_rounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_changes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_young, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zeros, setup, teardown),
        cmocka_unit_test_setup_teardown(test_notes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_image, setup, teardown),
        cmocka_unit_test_setup_teardown(test_image_of_nothing, setup, teardown),
        cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
