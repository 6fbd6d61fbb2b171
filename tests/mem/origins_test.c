/* The table of origins, against a plain array of what each page has. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "mem/origins.h"
#include "util/bits.h"
#include "util/xorshift.h"

#define PAGES  61u
#define DISKS  3u
#define BLOCKS 20u
#define MANY   (1u << 20)

struct model {
    bool has[PAGES];
    struct origin of[PAGES];
};

static bool model_lies_in(const struct model *model, uint64_t ppn, struct origin first,
                          uint64_t count)
{
    return model->has[ppn] && model->of[ppn].disk == first.disk &&
           model->of[ppn].block >= first.block && model->of[ppn].block - first.block < count;
}

static void check_pages(struct origins *origins, const struct model *model)
{
    uint64_t count = 0;
    for (uint64_t ppn = 0; ppn < PAGES; ppn++) {
        struct origin origin;
        count += model->has[ppn];
        assert_int_equal(origins_get(origins, ppn, &origin), model->has[ppn]);
        if (model->has[ppn]) {
            assert_int_equal(origin.disk, model->of[ppn].disk);
            assert_int_equal(origin.block, model->of[ppn].block);
        }
    }
    assert_int_equal(origins_count(origins), count);
}

static void check_take(struct origins *origins, struct model *model, struct origin first,
                       uint64_t count, unsigned most)
{
    uint64_t ppns[PAGES];
    bool seen[PAGES] = {false};
    unsigned expected = 0, found = origins_take(origins, first, count, ppns, most);
    for (uint64_t ppn = 0; ppn < PAGES; ppn++)
        expected += model_lies_in(model, ppn, first, count);
    assert_int_equal(found, expected < most ? expected : most);
    for (unsigned i = 0; i < found; i++) {
        assert_true(ppns[i] < PAGES);
        assert_false(seen[ppns[i]]);
        assert_true(model_lies_in(model, ppns[i], first, count));
        seen[ppns[i]] = true;
    }
    for (unsigned i = 0; i < found; i++)
        model->has[ppns[i]] = false;
}

static void test_random_histories(void **state)
{
    (void)state;
    for (uint64_t round = 1; round <= 20; round++) {
        uint64_t seed = round * 0x9e3779b97f4a7c15u;
        struct model model = {0};
        struct origins *origins;
        assert_int_equal(origins_create(&origins, PAGES, NULL), STATUS_OK);
        for (unsigned step = 0; step < 2000; step++) {
            uint64_t ppn = xorshift_next(&seed) % PAGES;
            struct origin origin = {.disk = (unsigned)(xorshift_next(&seed) % DISKS),
                                    .block = xorshift_next(&seed) % BLOCKS};
            if (xorshift_next(&seed) % 16 != 0) {
                origins_set(origins, ppn, origin);
                model.has[ppn] = true;
                model.of[ppn] = origin;
            } else {
                /* Short ranges are looked up by block, those beyond PAGES by page. */
                uint64_t count = xorshift_next(&seed) % (step % 2 ? 8 : 4 * PAGES);
                unsigned most = step % 5 == 0 ? 3 : PAGES;
                check_take(origins, &model, origin, count, most);
            }
            if (step % 100 == 0)
                check_pages(origins, &model);
        }
        check_pages(origins, &model);
        origins_destroy(origins);
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct origins *origins;
    struct origin origin, last = {.disk = ORIGIN_DISKS - 1, .block = bit(ORIGIN_BLOCK_BITS) - 1};
    uint64_t ppn;
    assert_int_equal(origins_create(&origins, 0, NULL), STATUS_INVALID);
    assert_int_equal(origins_create(&origins, UINT32_MAX, NULL), STATUS_INVALID);
    assert_int_equal(origins_create(&origins, MANY, NULL), STATUS_OK);

    origins_set(origins, MANY - 1, last);
    assert_true(origins_get(origins, MANY - 1, &origin));
    assert_int_equal(origin.disk, last.disk);
    assert_int_equal(origin.block, last.block);
    assert_int_equal(origins_take(origins, last, 2, &ppn, 1), 1); /* beyond the last block */
    assert_int_equal(ppn, MANY - 1);

    origins_set(origins, MANY, last);
    origins_set(origins, 0, (struct origin){.disk = ORIGIN_DISKS});
    origins_set(origins, 0, (struct origin){.block = bit(ORIGIN_BLOCK_BITS)});
    assert_int_equal(origins_count(origins), 0);
    assert_int_equal(origins_take(origins, (struct origin){.disk = ORIGIN_DISKS}, 1, &ppn, 1), 0);
    origins_destroy(origins);
    origins_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_histories),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
