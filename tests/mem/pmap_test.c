/* The page map, one rule a test: ranges, states, copies, pins, code marks and the revoke hook. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "marks.h"
#include "mem/pmap.h"

/* RAM: [0, 64 KiB), a hole, [1 MiB, 1 MiB + 32 KiB) and right behind it 16 KiB more. */
static const struct ram_range layout[] = {
    {0, 64 * KIB}, {MIB, 32 * KIB}, {MIB + 32 * KIB, 16 * KIB}};
#define LOW_END   (64 * KIB)
#define HIGH_END  (MIB + 48 * KIB)
#define ALL_PAGES 28u

/* What the revoke hook saw. */
struct revocations {
    struct pmap *map;
    unsigned count;
    uint64_t ppn;
    bool code;         /* its code was to go */
    bool writable;     /* what a look-up said during the revocation */
    uint8_t bytes[16]; /* the page's first bytes at that time */
};

static void on_revoke(void *context, const struct pmap_revocation *what)
{
    struct revocations *seen = context;
    assert_int_equal(what->count, 1);
    seen->count++;
    seen->ppn = what->ppns[0];
    seen->code = what->code_count == 1 && what->code_ppns[0] == seen->ppn;
    const uint8_t *page = pmap_page_read(seen->map, seen->ppn, &seen->writable);
    memcpy(seen->bytes, page, sizeof(seen->bytes));
    marks_take_off(seen->map, what);
}

static int setup(void **state)
{
    struct pmap *map = NULL;
    struct error err = {0};
    assert_int_equal(pmap_create(&map, layout, ARRAY_LENGTH(layout), &err), STATUS_OK);
    *state = map;
    return 0;
}

static int teardown(void **state)
{
    struct error err = {0};
    enum status status = pmap_check(*state, &err);
    if (status != STATUS_OK)
        print_error("%s\n", err.text);
    pmap_destroy(*state);
    return status == STATUS_OK ? 0 : -1;
}

static struct pmap_stats stats_of(const struct pmap *map)
{
    struct pmap_stats stats;
    pmap_get_stats(map, &stats);
    return stats;
}

static void test_create_rejects(void **state)
{
    static const struct ram_range bad[][2] = {
        {{0, 0}, {MIB, MIB}},                        /* empty */
        {{0, 100}, {MIB, MIB}},                      /* not whole pages */
        {{1, PAGE_SIZE}, {MIB, MIB}},                /* not aligned */
        {{MIB, MIB}, {0, PAGE_SIZE}},                /* descending */
        {{0, MIB + PAGE_SIZE}, {MIB, MIB}},          /* overlapping */
        {{0, MIB}, {(uint64_t)1 << 46, PAGE_SIZE}},  /* beyond the end */
        {{0, MIB}, {MIB, (uint64_t)1 << 46}},        /* over the end */
        {{0, MIB}, {-PAGE_SIZE, PAGE_SIZE}},         /* up to 2^64 */
        {{0, MIB}, {MIB, -MIB}},                     /* wraps */
        {{0, MIB}, {-2 * PAGE_SIZE, 4 * PAGE_SIZE}}, /* wraps, from above */
    };
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        struct pmap *map = NULL;
        struct error err = {0};
        assert_int_equal(pmap_create(&map, bad[i], 2, &err), STATUS_INVALID);
        assert_null(map);
        assert_int_not_equal(err.text[0], '\0');
    }
    struct pmap *map = NULL;
    assert_int_equal(pmap_create(&map, layout, 0, NULL), STATUS_INVALID);
    pmap_destroy(NULL);
}

/* A huge guest with a page at each end costs address space alone. */
static void test_sparse(void **state)
{
    static const struct ram_range ranges[] = {{0, MIB}, {(uint64_t)1 << 40, MIB}};
    struct pmap *map = NULL;
    struct error err = {0};
    assert_int_equal(pmap_create(&map, ranges, 2, &err), STATUS_OK);
    uint64_t value = 0x1234, last = ranges[1].base + MIB - 8;
    assert_int_equal(pmap_write(map, last, &value, 8), STATUS_OK);
    value = 0;
    assert_int_equal(pmap_read(map, last, &value, 8), STATUS_OK);
    assert_int_equal(value, 0x1234);
    assert_int_equal(pmap_state(map, 1 << 20), PAGE_NONE);
    assert_int_equal(stats_of(map).private_pages, 1);
    assert_int_equal(pmap_check(map, &err), STATUS_OK);
    pmap_destroy(map);
}

static void test_ranges(void **state)
{
    struct pmap *map = *state;
    unsigned count = 0;
    const struct ram_range *ranges = pmap_ranges(map, &count);
    assert_int_equal(count, ARRAY_LENGTH(layout));
    assert_memory_equal(ranges, layout, sizeof(layout));

    static const uint64_t none[] = {LOW_END >> PAGE_SHIFT,  (MIB >> PAGE_SHIFT) - 1,
                                    HIGH_END >> PAGE_SHIFT, (uint64_t)1 << 34,
                                    (uint64_t)1 << 52,      UINT64_MAX,
                                    UINT64_MAX - MIB,       (uint64_t)1 << 51 | 3};
    for (size_t i = 0; i < ARRAY_LENGTH(none); i++) {
        bool writable = false;
        assert_int_equal(pmap_state(map, none[i]), PAGE_NONE);
        assert_null(pmap_page_read(map, none[i], &writable));
        assert_null(pmap_page_write(map, none[i]));
        assert_false(pmap_code_mark(map, none[i]));
        pmap_code_guard(map, none[i]);
        pmap_code_clear(map, none[i]);
        assert_false(pmap_has_code(map, none[i]));
        assert_false(pmap_code_is_guarded(map, none[i]));
    }
    assert_int_equal(pmap_state(map, 0), PAGE_ZERO);
    assert_int_equal(pmap_state(map, (LOW_END >> PAGE_SHIFT) - 1), PAGE_ZERO);
    assert_int_equal(pmap_state(map, MIB >> PAGE_SHIFT), PAGE_ZERO);
    assert_int_equal(pmap_state(map, (HIGH_END >> PAGE_SHIFT) - 1), PAGE_ZERO);
    struct pmap_stats stats = stats_of(map);
    assert_int_equal(stats.max_pages, ALL_PAGES);
    assert_int_equal(stats.zero_pages, ALL_PAGES);
    assert_int_equal(stats.private_pages, 0);
}

static void test_zero_to_private(void **state)
{
    struct pmap *map = *state;
    struct revocations seen = {.map = map};
    pmap_set_revoke_hook(map, on_revoke, &seen);

    /* Never lent: nobody to revoke from. */
    uint8_t *page = pmap_page_write(map, 3);
    assert_non_null(page);
    assert_int_equal(seen.count, 0);
    bool writable = false;
    assert_ptr_equal(pmap_page_read(map, 3, &writable), page);
    assert_true(writable);
    page[0] = 9;
    assert_ptr_equal(pmap_page_write(map, 3), page);
    assert_int_equal(page[0], 9);

    /* Lent: revoked once, while every look-up already gives the new page, not yet writable. */
    const uint8_t *zero = pmap_page_read(map, 4, &writable);
    assert_false(writable);
    for (unsigned i = 0; i < PAGE_SIZE; i++)
        assert_int_equal(zero[i], 0);
    assert_ptr_equal(pmap_page_read(map, 5, &writable), zero);
    seen.writable = true;
    page = pmap_page_write(map, 4);
    assert_ptr_not_equal(page, zero);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.ppn, 4);
    assert_false(seen.code);
    assert_false(seen.writable);
    assert_ptr_equal(pmap_page_read(map, 4, &writable), page);
    assert_true(writable);

    struct pmap_stats stats = stats_of(map);
    assert_int_equal(stats.private_pages, 2);
    assert_int_equal(stats.zero_pages, ALL_PAGES - 2);
    assert_int_equal(stats.faults_zero, 2);
    assert_int_equal(stats.revocations, 1);
    assert_int_equal(pmap_state(map, 4), PAGE_PRIVATE);
    assert_int_equal(pmap_state(map, 5), PAGE_ZERO);
}

/* A claim takes a page that nobody has seen, and leaves all others as they are. */
static void test_claim(void **state)
{
    struct pmap *map = *state;
    struct revocations seen = {.map = map};
    pmap_set_revoke_hook(map, on_revoke, &seen);
    bool writable = false;
    const uint8_t *page = pmap_page_claim(map, 3, &writable);
    assert_true(writable);
    assert_int_equal(pmap_state(map, 3), PAGE_PRIVATE);
    assert_ptr_equal(pmap_page_read(map, 3, &writable), page);
    assert_ptr_equal(pmap_page_claim(map, 3, &writable), page);
    assert_true(writable);

    const uint8_t *zero = pmap_page_read(map, 4, &writable);
    assert_ptr_equal(pmap_page_claim(map, 4, &writable), zero);
    assert_false(writable);
    assert_int_equal(pmap_state(map, 4), PAGE_ZERO);

    pmap_code_mark(map, 5);
    pmap_page_claim(map, 5, &writable);
    assert_false(writable);
    assert_int_equal(pmap_state(map, 5), PAGE_PRIVATE);

    struct pmap_stats stats = stats_of(map);
    assert_int_equal(stats.private_pages, 2);
    assert_int_equal(stats.faults_zero, 2);
    assert_int_equal(seen.count, 0);
}

/* pmap_write of a lent page: no byte is written before the revocation is over. */
static void test_write_revokes_first(void **state)
{
    struct pmap *map = *state;
    struct revocations seen = {.map = map};
    pmap_set_revoke_hook(map, on_revoke, &seen);
    bool writable;
    pmap_page_read(map, 6, &writable);
    memset(seen.bytes, 0xee, sizeof(seen.bytes));
    assert_int_equal(pmap_write(map, 6 * PAGE_SIZE, "hello", 5), STATUS_OK);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.bytes[0], 0);
    char text[5];
    assert_int_equal(pmap_read(map, 6 * PAGE_SIZE, text, 5), STATUS_OK);
    assert_memory_equal(text, "hello", 5);
    /* A copy out does not lend the page. */
    assert_int_equal(pmap_read(map, 7 * PAGE_SIZE, text, 5), STATUS_OK);
    assert_int_equal(pmap_write(map, 7 * PAGE_SIZE, "x", 1), STATUS_OK);
    assert_int_equal(seen.count, 1);
}

static void test_copy_borders(void **state)
{
    struct pmap *map = *state;
    uint8_t out[3 * PAGE_SIZE], in[3 * PAGE_SIZE];
    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 7 + 1);

    /* Over page borders, over the seam of two ranges, and to the last byte of each range. */
    static const struct {
        uint64_t gpa, length;
    } good[] = {{PAGE_SIZE - 1, 2},
                {100, 2 * PAGE_SIZE + 50},
                {LOW_END - 5, 5},
                {LOW_END - 3 * PAGE_SIZE, 3 * PAGE_SIZE},
                {MIB, 1},
                {MIB + 32 * KIB - 7, 14},
                {MIB + 32 * KIB - PAGE_SIZE - 1, 2 * PAGE_SIZE + 2},
                {HIGH_END - 1, 1}};
    for (size_t i = 0; i < ARRAY_LENGTH(good); i++) {
        assert_int_equal(pmap_write(map, good[i].gpa, out, good[i].length), STATUS_OK);
        memset(in, 0, sizeof(in));
        assert_int_equal(pmap_read(map, good[i].gpa, in, good[i].length), STATUS_OK);
        assert_memory_equal(in, out, good[i].length);
    }
    /* A mix of private and zero pages. */
    assert_int_equal(pmap_write(map, 9 * PAGE_SIZE, out, PAGE_SIZE), STATUS_OK);
    assert_int_equal(pmap_read(map, 8 * PAGE_SIZE, in, 3 * PAGE_SIZE), STATUS_OK);
    assert_int_equal(in[PAGE_SIZE - 1], 0);
    assert_memory_equal(in + PAGE_SIZE, out, PAGE_SIZE);
    assert_int_equal(in[2 * PAGE_SIZE], 0);
    assert_int_equal(pmap_state(map, 8), PAGE_ZERO);
}

static void test_copy_hostile(void **state)
{
    struct pmap *map = *state;
    static const struct {
        uint64_t gpa, length;
    } bad[] = {{LOW_END - 1, 2},       {LOW_END, 1},           {MIB - 1, 2},
               {MIB - 1, 1},           {HIGH_END - 8, 16},     {HIGH_END, 1},
               {0, MIB + PAGE_SIZE},                        /* over the hole */
               {0, UINT64_MAX},        {8, UINT64_MAX - 7}, /* ends at 2^64 exactly */
               {8, UINT64_MAX - 6},                         /* wraps to 1 */
               {UINT64_MAX, 1},        {UINT64_MAX, 2},        {UINT64_MAX - 7, 16},
               {(uint64_t)1 << 46, 8}, {(uint64_t)1 << 63, 8}, {MIB, UINT64_MAX - MIB + 1 + 4096}};
    uint8_t buffer[16];
    struct iovec iov[2] = {0};
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        unsigned count = 0;
        memset(buffer, 0x5a, sizeof(buffer));
        assert_int_equal(pmap_read(map, bad[i].gpa, buffer, bad[i].length), STATUS_INVALID);
        assert_int_equal(buffer[0], 0x5a);
        assert_int_equal(pmap_write(map, bad[i].gpa, buffer, bad[i].length), STATUS_INVALID);
        assert_int_equal(pmap_pin(map, bad[i].gpa, bad[i].length, PIN_WRITE, iov, &count, 2),
                         STATUS_INVALID);
        assert_int_equal(count, 0);
        pmap_unpin(map, bad[i].gpa, bad[i].length, true);
    }
    /* Nothing was copied anywhere, not even the part that was RAM. */
    assert_int_equal(stats_of(map).private_pages, 0);
    /* No bytes are no mistake. */
    assert_int_equal(pmap_read(map, UINT64_MAX, buffer, 0), STATUS_OK);
    assert_int_equal(pmap_write(map, LOW_END, buffer, 0), STATUS_OK);
}

static void test_pins(void **state)
{
    struct pmap *map = *state;
    struct iovec iov[3] = {0};
    unsigned count = 0;
    assert_int_equal(pmap_pin(map, 100, 2 * PAGE_SIZE, PIN_READ, iov, &count, 3), STATUS_OK);
    assert_int_equal(count, 1);
    assert_int_equal(iov[0].iov_len, 2 * PAGE_SIZE);
    assert_int_equal(stats_of(map).pinned_pages, 3);

    /* The piece is guest memory itself: both sides see each other's bytes. */
    uint8_t byte = 0x77;
    assert_int_equal(pmap_write(map, 100 + PAGE_SIZE, &byte, 1), STATUS_OK);
    assert_int_equal(((uint8_t *)iov[0].iov_base)[PAGE_SIZE], 0x77);
    ((uint8_t *)iov[0].iov_base)[2 * PAGE_SIZE - 1] = 0x66;
    assert_int_equal(pmap_read(map, 100 + 2 * PAGE_SIZE - 1, &byte, 1), STATUS_OK);
    assert_int_equal(byte, 0x66);

    /* Pins count; calls do not merge with each other; over the seam of two ranges is one piece. */
    assert_int_equal(pmap_pin(map, 100 + 2 * PAGE_SIZE, 8, PIN_WRITE, iov, &count, 3), STATUS_OK);
    assert_int_equal(count, 2);
    assert_int_equal(pmap_pin(map, MIB + 32 * KIB - 8, 16, PIN_WRITE, iov, &count, 3), STATUS_OK);
    assert_int_equal(count, 3);
    assert_int_equal(iov[2].iov_len, 16);
    assert_int_equal(stats_of(map).pinned_pages, 6);

    assert_int_equal(pmap_pin(map, 0, 8, PIN_WRITE, iov, &count, 3), STATUS_NO_SPACE);
    assert_int_equal(count, 3);
    assert_int_equal(stats_of(map).pinned_pages, 6);
    assert_int_equal(pmap_pin(map, UINT64_MAX, 0, PIN_WRITE, iov, &count, 3), STATUS_OK);
    assert_int_equal(count, 3);

    pmap_unpin(map, 100, 2 * PAGE_SIZE, false);
    assert_int_equal(stats_of(map).pinned_pages, 3);
    pmap_unpin(map, 100 + 2 * PAGE_SIZE, 8, true);
    pmap_unpin(map, MIB + 32 * KIB - 8, 16, true);
    assert_int_equal(stats_of(map).pinned_pages, 0);
    pmap_unpin(map, 0, PAGE_SIZE, true); /* one too many must not wrap */
    assert_int_equal(stats_of(map).pinned_pages, 0);
}

static void mark_and_guard(struct pmap *map, uint64_t ppn)
{
    assert_true(pmap_code_mark(map, ppn));
    pmap_code_guard(map, ppn);
    assert_true(pmap_code_is_guarded(map, ppn));
}

static void test_code_marks(void **state)
{
    struct pmap *map = *state;
    bool writable = false;
    pmap_page_write(map, 2);
    assert_true(pmap_code_mark(map, 2));
    assert_true(pmap_has_code(map, 2));
    assert_false(pmap_code_is_guarded(map, 2));
    pmap_page_read(map, 2, &writable);
    assert_false(writable); /* from the mark on, before the guard */
    assert_true(pmap_code_mark(map, 2));
    pmap_code_guard(map, 2);
    assert_true(pmap_code_is_guarded(map, 2));
    assert_false(pmap_code_mark(map, 2));
    pmap_page_write(map, 2);
    assert_true(pmap_has_code(map, 2));

    pmap_code_clear(map, 2); /* guarded: nothing happens */
    assert_true(pmap_has_code(map, 2));
    pmap_code_unguard(map, 2);
    assert_true(pmap_has_code(map, 2));
    pmap_code_clear(map, 2);
    assert_false(pmap_has_code(map, 2));
    assert_false(pmap_code_is_guarded(map, 2));
    pmap_page_read(map, 2, &writable);
    assert_true(writable);

    /* The mark vanished before the guard: it stays gone. */
    assert_true(pmap_code_mark(map, 2));
    pmap_code_clear(map, 2);
    pmap_code_guard(map, 2);
    assert_false(pmap_code_is_guarded(map, 2));
    assert_false(pmap_has_code(map, 2));
}

/* Whoever writes a page with code, and is no vCPU, has it revoked after the bytes are there. */
static void test_code_revocations(void **state)
{
    struct pmap *map = *state;
    struct revocations seen = {.map = map};
    pmap_page_write(map, 2);
    pmap_page_write(map, 3);
    pmap_set_revoke_hook(map, on_revoke, &seen);

    mark_and_guard(map, 2);
    assert_int_equal(pmap_write(map, 2 * PAGE_SIZE, "abc", 3), STATUS_OK);
    assert_int_equal(seen.count, 1);
    assert_int_equal(seen.ppn, 2);
    assert_true(seen.code);
    assert_memory_equal(seen.bytes, "abc", 3);
    assert_false(seen.writable);         /* the mark is there until all have heard of it, */
    assert_false(pmap_has_code(map, 2)); /* and no longer */
    assert_int_equal(pmap_write(map, 2 * PAGE_SIZE, "abc", 3), STATUS_OK);
    assert_int_equal(seen.count, 1);

    /* Reading, by copy or by pin, leaves it alone. */
    uint8_t byte;
    struct iovec iov[1];
    unsigned count = 0;
    mark_and_guard(map, 2);
    assert_int_equal(pmap_read(map, 2 * PAGE_SIZE, &byte, 1), STATUS_OK);
    assert_int_equal(pmap_pin(map, 2 * PAGE_SIZE, 8, PIN_READ, iov, &count, 1), STATUS_OK);
    pmap_unpin(map, 2 * PAGE_SIZE, 8, false);
    assert_int_equal(seen.count, 1);
    assert_true(pmap_has_code(map, 2));

    /* A pin for writing drops at the pin, and again what was decoded during the transfer. */
    count = 0;
    assert_int_equal(pmap_pin(map, 2 * PAGE_SIZE + 8, PAGE_SIZE, PIN_WRITE, iov, &count, 1),
                     STATUS_OK);
    assert_int_equal(seen.count, 2);
    assert_false(pmap_has_code(map, 2));
    mark_and_guard(map, 3);
    pmap_unpin(map, 2 * PAGE_SIZE + 8, PAGE_SIZE, true);
    assert_int_equal(seen.count, 3);
    assert_int_equal(seen.ppn, 3);
    assert_false(pmap_has_code(map, 3));
    assert_int_equal(stats_of(map).revocations, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_create_rejects),
        cmocka_unit_test(test_sparse),
        cmocka_unit_test_setup_teardown(test_ranges, setup, teardown),
        cmocka_unit_test_setup_teardown(test_zero_to_private, setup, teardown),
        cmocka_unit_test_setup_teardown(test_claim, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_revokes_first, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copy_borders, setup, teardown),
        cmocka_unit_test_setup_teardown(test_copy_hostile, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_code_marks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_code_revocations, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
