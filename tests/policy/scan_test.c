/* How fast VMs are scanned: by the host's need, by what it yields, within the budget. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fixture.h"

/* Pages: such a VM has long looked at what was loaded at its start. */
#define BOOTED 1000000u

static struct fixture eight_vms(double free_percent)
{
    struct fixture f;
    fixture_init(&f, 16 * GIB);
    for (unsigned i = 0; i < 8; i++)
        fixture_add(&f, 0, 4 * GIB)->pages_scanned = BOOTED;
    fixture_fill(&f, free_percent);
    return f;
}

/* The list points into a fixture that has been copied. */
static void step(struct fixture *f)
{
    for (size_t i = 0; i < f->count; i++)
        f->list[i] = &f->vm[i];
    fixture_step(f, 1);
}

static uint64_t ppm_of_all(const struct fixture *f)
{
    uint64_t ppm = 0;
    for (size_t i = 0; i < f->count; i++)
        ppm += f->vm[i].ask.scan_ppm;
    return ppm;
}

/* VM i looks at 500,000 pages in a second of CPU time, and shares `percent` of them. */
static void scan(struct fixture *f, size_t i, double percent)
{
    struct policy_vm *vm = &f->vm[i];
    uint64_t pages = vm->ask.scan_ppm / 2;
    pages = pages < vm->ask.scan_pages ? pages : vm->ask.scan_pages;
    vm->pages_scanned += pages;
    vm->pages_shared += (uint64_t)((double)pages * percent / 100);
}

static void test_budget_follows_pressure(void **state)
{
    (void)state;
    uint64_t before = 0;
    for (unsigned free = 90; free > 0; free--) {
        struct fixture f = eight_vms(free);
        step(&f);
        uint64_t ppm = ppm_of_all(&f);
        assert_true(ppm >= before || ppm + 8 >= before); /* rounding of each */
        assert_true(ppm <= POLICY_SCAN_DEFAULT + 8);
        if (free >= 50)
            assert_true(ppm <= POLICY_SCAN_DEFAULT / 50 + 8); /* next to nothing */
        if (free <= 6)
            assert_true(ppm + 8 >= POLICY_SCAN_DEFAULT);
        before = ppm;
    }
    struct fixture f = eight_vms(90);
    f.host.scan_always = true;
    step(&f);
    assert_true(ppm_of_all(&f) + 8 >= POLICY_SCAN_DEFAULT);
    f.host.scan_ppm = 0;
    step(&f);
    assert_int_equal(ppm_of_all(&f), 0);
}

static void test_time_goes_where_it_yields(void **state)
{
    (void)state;
    struct fixture f = eight_vms(3);
    step(&f);
    assert_in_range(f.vm[0].ask.scan_ppm, POLICY_SCAN_DEFAULT / 8 - 1, POLICY_SCAN_DEFAULT / 8 + 1);
    for (unsigned second = 0; second < 300; second++) {
        for (unsigned i = 0; i < 8; i++)
            scan(&f, i, i == 0 ? 40 : 0);
        step(&f);
    }
    assert_true(f.vm[0].ask.scan_ppm > 5 * f.vm[1].ask.scan_ppm);
    for (unsigned i = 1; i < 8; i++)
        assert_true(f.vm[i].ask.scan_ppm > 0); /* to notice when that changes */

    for (unsigned second = 0; second < 2000; second++) {
        for (unsigned i = 0; i < 8; i++)
            scan(&f, i, i == 5 ? 40 : 0);
        step(&f);
    }
    assert_true(f.vm[5].ask.scan_ppm > 5 * f.vm[0].ask.scan_ppm);
}

/* Where little is found, little is spent; where something is, all again. */
static void test_little_yield_little_time(void **state)
{
    (void)state;
    struct fixture f = eight_vms(3);
    step(&f);
    assert_true(ppm_of_all(&f) + 8 >= POLICY_SCAN_DEFAULT); /* nothing is known yet */
    for (unsigned second = 0; second < 1000; second++) {
        for (unsigned i = 0; i < 8; i++)
            scan(&f, i, 1);
        step(&f);
    }
    assert_in_range(ppm_of_all(&f), POLICY_SCAN_DEFAULT / 30, POLICY_SCAN_DEFAULT / 20);
    for (unsigned second = 0; second < 1000; second++) {
        for (unsigned i = 0; i < 8; i++)
            scan(&f, i, 6);
        step(&f);
    }
    assert_in_range(ppm_of_all(&f), POLICY_SCAN_DEFAULT * 4 / 10, POLICY_SCAN_DEFAULT * 6 / 10);
    for (unsigned second = 0; second < 1000; second++) {
        for (unsigned i = 0; i < 8; i++)
            scan(&f, i, 12);
        step(&f);
    }
    assert_true(ppm_of_all(&f) + 8 >= POLICY_SCAN_DEFAULT);
}

/* What was loaded at a VM's start is looked at at once, whatever memory there is; within the budget
 * of all. */
static void test_a_new_vm(void **state)
{
    (void)state;
    struct fixture f = eight_vms(90), full = eight_vms(3);
    f.vm[3].pages_scanned = f.vm[4].pages_scanned = 0;
    step(&f);
    step(&full);
    for (unsigned i = 0; i < 8; i++) {
        bool is_new = i == 3 || i == 4;
        uint64_t pages = f.vm[i].resident / 4096;
        assert_in_range(f.vm[i].ask.scan_ppm, is_new ? full.vm[i].ask.scan_ppm : 1,
                        is_new ? full.vm[i].ask.scan_ppm : full.vm[i].ask.scan_ppm / 40);
        assert_in_range(f.vm[i].ask.scan_pages, is_new ? pages / 2 : 1,
                        is_new ? pages / 2 + 1 : pages / 80);
    }
    while (f.vm[3].pages_scanned < 100000) { /* as it goes on */
        scan(&f, 3, 100);
        step(&f);
    }
    assert_true(f.vm[3].ask.scan_ppm < full.vm[3].ask.scan_ppm / 20);
    assert_int_equal(f.vm[4].ask.scan_ppm, full.vm[4].ask.scan_ppm);
    f.host.scan_ppm = 0;
    step(&f);
    assert_int_equal(ppm_of_all(&f), 0);
}

/* All of the budget is used though memory is plenty and nothing is found, and no limit of pages is
 * in the way of that at 1 us a page. */
static void test_always(void **state)
{
    (void)state;
    struct fixture f = eight_vms(90);
    f.host.scan_always = true;
    for (unsigned second = 0; second < 300; second++) {
        step(&f);
        for (unsigned i = 0; i < 8; i++)
            scan(&f, i, 0);
    }
    assert_true(ppm_of_all(&f) + 8 >= POLICY_SCAN_DEFAULT);
    for (unsigned i = 0; i < 8; i++)
        assert_true(f.vm[i].ask.scan_pages > f.vm[i].ask.scan_ppm);
}

/* A small VM is not scanned over and over: ten seconds for all of it where nothing is found, two
 * where much is. */
static void test_passes(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, 64 * MIB);
    fixture_add(&f, 0, 64 * MIB);
    fixture_fill(&f, 3);
    for (unsigned percent = 0; percent <= 60; percent += 20) {
        for (unsigned second = 0; second < 100; second++) {
            fixture_step(&f, 1);
            scan(&f, 0, percent);
        }
        uint64_t pages = f.vm[0].resident / 4096, part = percent == 0 ? 10 : 2;
        assert_in_range(f.vm[0].ask.scan_pages, pages / part, pages / part + 1);
    }
}

/* A guest at work: of its 24,000 pages that are not shared, 300 a second become such as another VM
 * has, and would be written after a while. They are found before long. */
static void test_a_guest_at_work(void **state)
{
    (void)state;
    const double all = 24000, made = 300;
    double like_others = 0, shared = 0;
    struct fixture f;
    fixture_init(&f, 100 * MIB);
    fixture_add(&f, 0, 128 * MIB)->pages_scanned = BOOTED;
    f.vm[0].resident = (uint64_t)all * 4096;
    for (unsigned second = 0; second < 200; second++) {
        fixture_step(&f, 1);
        double pages = (double)f.vm[0].ask.scan_ppm / 3; /* at 3 us each */
        if (pages > (double)f.vm[0].ask.scan_pages)
            pages = (double)f.vm[0].ask.scan_pages;
        double found = pages < all ? like_others * pages / all : like_others;
        like_others += made - found;
        shared += found;
        f.vm[0].pages_scanned += (uint64_t)pages;
        f.vm[0].pages_shared = (uint64_t)shared;
    }
    assert_true(like_others < made * 5);
}

/* Counters that fall are a new VM process or a lie. */
static void test_falling_counters(void **state)
{
    (void)state;
    struct fixture f = eight_vms(3);
    f.vm[0].pages_scanned = f.vm[0].pages_shared = UINT64_MAX;
    step(&f);
    f.vm[0].pages_scanned = f.vm[0].pages_shared = 0;
    step(&f);
    f.vm[0].pages_scanned = 1;
    f.vm[0].pages_shared = UINT64_MAX;
    step(&f);
    assert_in_range(ppm_of_all(&f), POLICY_SCAN_DEFAULT - 8, POLICY_SCAN_DEFAULT + 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget_follows_pressure),
        cmocka_unit_test(test_time_goes_where_it_yields),
        cmocka_unit_test(test_little_yield_little_time),
        cmocka_unit_test(test_a_new_vm),
        cmocka_unit_test(test_always),
        cmocka_unit_test(test_passes),
        cmocka_unit_test(test_a_guest_at_work),
        cmocka_unit_test(test_falling_counters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
