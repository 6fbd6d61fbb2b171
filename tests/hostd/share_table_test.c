/* The table of frames and hints against a plain list, and its size. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hostd/share_table.h"
#include "util/bits.h"
#include "util/xorshift.h"

static uint64_t random_state = 88172645463325252u;

static uint64_t random_hash(void)
{
    return xorshift_next(&random_state) * 0x2545f4914f6cdd1du;
}

static unsigned below(unsigned n)
{
    return (unsigned)(random_hash() >> 33) % n;
}

#define KEYS 4000u

/* By key: what the table should have. */
static struct expected {
    enum { NOTHING, HINT, FRAME } what;
    uint64_t hash, count;
    share_ref ref;
} expected[KEYS];

static void add(struct share_table *table, unsigned key, bool as_frame)
{
    struct expected *it = &expected[key];
    if (as_frame) {
        assert_int_equal(share_add_frame(table, it->hash, &it->ref), STATUS_OK);
        it->what = FRAME;
    } else {
        struct share_page page = {.ppn = key, .vm = (uint16_t)(key % 7)};
        assert_int_equal(share_add_hint(table, it->hash, page, &it->ref), STATUS_OK);
        it->what = HINT;
    }
    it->count = 0;
}

static void forget(struct share_table *table, unsigned key)
{
    struct expected *it = &expected[key];
    struct share_page moved;
    if (it->what == HINT) {
        if (share_remove_hint(table, it->ref, &moved)) {
            assert_int_equal(moved.vm, moved.ppn % 7);
            expected[moved.ppn].ref = it->ref;
        }
    } else if (it->what == FRAME) {
        while (it->count > 0)
            assert_int_equal(share_release(table, it->ref), --it->count);
        share_remove_frame(table, it->ref);
        share_reuse_frame(table, it->ref);
    }
    it->what = NOTHING;
}

static void test_against_a_list(void **state)
{
    struct share_table table;
    assert_int_equal(share_table_init(&table), STATUS_OK);
    for (unsigned key = 0; key < KEYS; key++) {
        expected[key].hash = random_hash();
        if (key % 50 == 1) /* one that shares most of its low bits with another */
            expected[key].hash = expected[key - 1].hash ^ bit(28 + key % 20);
    }
    for (unsigned phase = 0; phase < 6; phase++) {
        /* by turns it grows and shrinks */
        for (unsigned i = 0; i < 3 * KEYS; i++) {
            unsigned key = below(KEYS);
            struct expected *it = &expected[key];
            bool grows = below(4) != 0 ? phase % 2 == 0 : phase % 2 != 0;
            if (it->what == NOTHING && grows)
                add(&table, key, below(2) == 0);
            else if (it->what == FRAME && below(2) == 0 && it->count < 50)
                assert_int_equal(share_hold(&table, it->ref), (it->count++, STATUS_OK));
            else if (it->what != NOTHING && !grows)
                forget(&table, key);
            if (i % 997 == 0)
                share_table_check(&table);
        }
        for (unsigned key = 0; key < KEYS; key++) {
            const struct expected *it = &expected[key];
            share_ref found = share_find(&table, it->hash);
            assert_int_equal(found, it->what == NOTHING ? SHARE_NONE : it->ref);
            if (it->what == HINT) {
                assert_int_equal(share_hint_page(&table, found).ppn, key);
                assert_true(share_is_hint(found) && !share_is_frame(found));
            } else if (it->what == FRAME) {
                assert_true(share_is_frame(found) && share_frame_exists(&table, found));
                assert_int_equal(share_count(&table, found), it->count);
            }
        }
    }
    for (unsigned key = 0; key < KEYS; key++)
        forget(&table, key);
    share_table_check(&table);
    assert_int_equal(table.frame_count + table.hint_count, 0);
    share_forget_frames(&table);
    assert_true(share_table_bytes(&table) <= 2 * PAGE_SIZE);
    share_table_free(&table);
}

static void test_counts_beyond_16_bits(void **state)
{
    struct share_table table;
    uint32_t frames[3];
    uint64_t counts[3] = {70000, 65535, 200000};
    assert_int_equal(share_table_init(&table), STATUS_OK);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(share_add_frame(&table, i + 1, &frames[i]), STATUS_OK);
    for (unsigned order = 0; order < 2; order++) {
        for (unsigned i = 3; i-- > 0;) {
            for (uint64_t n = 1; n <= counts[i]; n++) {
                assert_int_equal(share_hold(&table, frames[i]), STATUS_OK);
                if (n % 1000 > 530 && n % 1000 < 540)
                    assert_int_equal(share_count(&table, frames[i]), n);
            }
        }
        share_table_check(&table);
        assert_int_equal(table.overflow.length, 3);
        for (unsigned i = 0; i < 3; i++) {
            for (uint64_t n = counts[i]; n-- > 0;)
                assert_int_equal(share_release(&table, frames[i]), n);
            share_table_check(&table);
        }
        assert_int_equal(table.overflow.length, 0);
    }
    share_table_free(&table);
}

static void test_numbers_of_before(void **state)
{
    struct share_table table;
    uint32_t frame;
    assert_int_equal(share_table_init(&table), STATUS_OK);
    assert_int_equal(share_place_frame(&table, 3, 33), STATUS_OK);
    assert_int_equal(share_place_frame(&table, 4, 44), STATUS_OK);
    assert_int_equal(share_place_frame(&table, 9, 33), STATUS_INVALID); /* twice the same content */
    assert_int_equal(share_find(&table, 33), 3);
    for (uint32_t f = 0; f < 12; f++)
        assert_int_equal(share_frame_exists(&table, f), f == 3 || f == 4 || f == 9);
    assert_int_equal(share_hold(&table, 9), STATUS_OK);
    share_table_check(&table);
    /* new ones are none of those */
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(share_add_frame(&table, 100 + i, &frame), STATUS_OK);
        assert_true(frame != 0 && frame != 3 && frame != 4 && frame != 9);
    }
    assert_int_equal(share_release(&table, 9), 0);
    share_remove_frame(&table, 9);
    assert_false(share_frame_exists(&table, 9));
    assert_int_equal(share_find(&table, 33), 3);
    share_table_check(&table);
    share_table_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_a_list),
        cmocka_unit_test(test_counts_beyond_16_bits),
        cmocka_unit_test(test_numbers_of_before),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
