/* Pages of layer 0 that are taken out of the process's page tables: gone from there, and unharmed.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "mem/layer.h"
#include "mem/page_leave.h"
#include "mem/pmap.h"
#include "util/bits.h"

#define PAGES 64u

static bool is_mapped(const uint8_t *page)
{
    uint64_t entry;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    off_t at = (off_t)((uintptr_t)page / PAGE_SIZE * sizeof entry);
    assert_int_equal(pread(fd, &entry, sizeof entry, at), sizeof entry);
    close(fd);
    return entry >> 63;
}

static void test_unmapped_pages_keep_their_bytes(void **state)
{
    struct layer layer;
    assert_int_equal(layer_create(&layer, PAGES * PAGE_SIZE, NULL), STATUS_OK);
    memset(layer.base, 0x5a, layer.size);
    layer_unmap(&layer, 10, 20);
    for (unsigned page = 0; page < PAGES; page++)
        assert_int_equal(is_mapped(layer.base + page * PAGE_SIZE), page < 10 || page >= 30);
    for (uint64_t at = 0; at < layer.size; at++)
        assert_int_equal(layer.base[at], 0x5a);
    layer_destroy(&layer);
}

/* Holes that lie close together are unmapped with what is between them, which is none the worse. */
static void test_close_holes(void **state)
{
    static const struct ram_range ram = {0, PAGES * PAGE_SIZE};
    static const uint64_t leaving[] = {2, 3, 6, 15, 40};
    struct page_batch batch = {.count = ARRAY_LENGTH(leaving)};
    const uint8_t *pages[PAGES];
    struct layer layer;
    struct pmap *map;
    assert_int_equal(layer_create(&layer, PAGES * PAGE_SIZE, NULL), STATUS_OK);
    assert_int_equal(pmap_create_in(&map, &ram, 1, &layer, NULL), STATUS_OK);
    for (uint64_t ppn = 0; ppn < PAGES; ppn++) {
        uint8_t *page = pmap_page_write(map, ppn);
        assert_non_null(page);
        memset(page, (int)ppn + 1, PAGE_SIZE);
        pages[ppn] = page;
    }
    memcpy(batch.ppn, leaving, sizeof leaving);
    page_leave_begin(map, &batch, PAGE_LEAVE_ACTIVE);
    assert_int_equal(batch.count, ARRAY_LENGTH(leaving));
    for (unsigned i = 0; i < batch.count; i++)
        assert_true(page_leave_end(map, &batch, i, PAGE_ZERO, 0));
    page_punch(map, batch.ppn, batch.count);
    for (uint64_t ppn = 0; ppn < PAGES; ppn++)
        assert_int_equal(is_mapped(pages[ppn]), ppn < 2 || (ppn > 15 && ppn != 40));
    for (uint64_t ppn = 0; ppn < PAGES; ppn++) {
        uint8_t byte;
        bool has_left = ppn == 2 || ppn == 3 || ppn == 6 || ppn == 15 || ppn == 40;
        assert_int_equal(pmap_read(map, ppn * PAGE_SIZE + 7, &byte, 1), STATUS_OK);
        assert_int_equal(byte, has_left ? 0 : ppn + 1);
    }
    pmap_destroy(map);
    layer_destroy(&layer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unmapped_pages_keep_their_bytes),
        cmocka_unit_test(test_close_holes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
