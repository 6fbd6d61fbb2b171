/* A mirror of a VM's pages, and what a million pages cost in all. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "hostd/mirror.h"
#include "util/bits.h"

static void test_entries(void **state)
{
    struct mirror mirror;
    assert_int_equal(mirror_init(&mirror, 5000), STATUS_OK);
    assert_int_equal(mirror_next(&mirror, 0), 5000);
    assert_int_equal(mirror_get(&mirror, 4999), SHARE_NONE);
    mirror_set(&mirror, 4999, 7);
    mirror_set(&mirror, 1024, SHARE_HINT | 0); /* the hint of index 0 is not nothing */
    mirror_set(&mirror, 1025, 7);
    assert_int_equal(mirror.frames, 2);
    assert_int_equal(mirror.hints, 1);
    assert_int_equal(mirror_bytes(&mirror), 2 * PAGE_SIZE);
    assert_int_equal(mirror_next(&mirror, 0), 1024);
    assert_int_equal(mirror_next(&mirror, 1025), 1025);
    assert_int_equal(mirror_next(&mirror, 1026), 4999);
    mirror_set(&mirror, 1024, 9); /* from a hint to a frame */
    assert_int_equal(mirror.frames, 3);
    assert_int_equal(mirror.hints, 0);
    mirror_set(&mirror, 1024, SHARE_NONE);
    mirror_set(&mirror, 1024, SHARE_NONE);
    mirror_set(&mirror, 1025, SHARE_NONE);
    mirror_set(&mirror, 4999, SHARE_NONE);
    assert_int_equal(mirror.frames, 0);
    assert_int_equal(mirror_bytes(&mirror), 0);
    assert_int_equal(mirror_next(&mirror, 0), 5000);
    mirror_free(&mirror);
}

/* The greatest there can be costs nothing before it is used. */
static void test_span(void **state)
{
    struct mirror mirror;
    assert_int_equal(mirror_init(&mirror, LINK_PPN_MOST), STATUS_OK);
    mirror_set(&mirror, LINK_PPN_MOST - 1, 3);
    mirror_set(&mirror, 0, 3);
    assert_int_equal(mirror_next(&mirror, 1), LINK_PPN_MOST - 1);
    assert_int_equal(mirror_bytes(&mirror), 2 * PAGE_SIZE);
    mirror_free(&mirror);
    mirror_free(&mirror);
}

/* Resident memory of this process, in bytes. */
static uint64_t resident(void)
{
    unsigned long long size, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%llu %llu", &size, &pages), 2);
    fclose(file);
    return pages * PAGE_SIZE;
}

/* 4 GiB of which no two pages are the same, which is the worst case: all metadata together stay
 * within 0.5 % of it, by our count and by the kernel's. */
static void test_cost(void **state)
{
    enum { PAGES = 1 << 20 };
    struct share_table table;
    struct mirror mirror;
    uint64_t before = resident(), scanned = (uint64_t)PAGES * PAGE_SIZE;
    assert_int_equal(share_table_init(&table), STATUS_OK);
    assert_int_equal(mirror_init(&mirror, PAGES), STATUS_OK);
    for (uint32_t ppn = 0; ppn < PAGES; ppn++) {
        share_ref ref;
        uint64_t hash = (ppn + 1) * 0x9e3779b97f4a7c15u;
        assert_int_equal(share_add_hint(&table, hash, (struct share_page){.ppn = ppn}, &ref),
                         STATUS_OK);
        mirror_set(&mirror, ppn, ref);
    }
    uint64_t counted = share_table_bytes(&table) + mirror_bytes(&mirror);
    uint64_t grown = resident() - before;
    print_message("metadata: %.3f %% counted, %.3f %% resident\n",
                  100.0 * (double)counted / (double)scanned,
                  100.0 * (double)grown / (double)scanned);
    assert_true(counted * 1000 <= scanned * 5);
#if !defined(__SANITIZE_ADDRESS__)
    assert_true((grown - 256 * KIB) * 1000 <= scanned * 5); /* the kernel counts in batches */
#endif
    /* and all of it comes back */
    for (uint32_t ppn = 0; ppn < PAGES; ppn++) {
        struct share_page moved;
        share_ref ref = mirror_get(&mirror, ppn);
        mirror_set(&mirror, ppn, SHARE_NONE);
        if (share_remove_hint(&table, ref, &moved))
            mirror_set(&mirror, moved.ppn, ref);
    }
    share_table_check(&table);
    assert_true(share_table_bytes(&table) + mirror_bytes(&mirror) <= 2 * PAGE_SIZE);
    share_table_free(&table);
    mirror_free(&mirror);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_span),
        cmocka_unit_test(test_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
