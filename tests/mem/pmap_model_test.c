/*
 * Random operations on the page map against a model (pmap_model.h). Fixed seeds; pmap_check at
 * intervals.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pmap_model.h"
#include "util/xorshift.h"

static const struct ram_range layout[] = {
    {0, 16 * KIB}, {32 * KIB, 64 * KIB}, {96 * KIB, 32 * KIB}, {160 * KIB, 32 * KIB}};

/* ------------------------------------------------------------------------- copies and pins */

static void random_range(uint64_t *seed, uint64_t *gpa, uint64_t *length)
{
    *gpa = xorshift_next(seed) % (SPAN + 2 * PAGE_SIZE);
    *length = xorshift_next(seed) % (xorshift_next(seed) % 4 == 0 ? 5 * PAGE_SIZE : 64);
    if (xorshift_next(seed) % 4 == 0)
        *gpa &= ~PAGE_MASK;
    if (xorshift_next(seed) % 64 == 0)
        *gpa = -(xorshift_next(seed) % 64);
}

static bool covers_page(uint64_t gpa, uint64_t length, uint64_t ppn)
{
    return gpa <= ppn * PAGE_SIZE && gpa + length >= (ppn + 1) * PAGE_SIZE;
}

static void step_copy(struct model *model)
{
    static uint8_t buffer[5 * 4096];
    uint64_t gpa, length;
    random_range(model->seed, &gpa, &length);
    bool covered = model_covers(model, gpa, length), write = model_choose(model, 2);
    for (size_t i = 0; i < length; i++)
        buffer[i] = (uint8_t)xorshift_next(model->seed);
    enum status status = write ? pmap_write(model->map, gpa, buffer, length)
                               : pmap_read(model->map, gpa, buffer, length);
    assert_int_equal(status, covered ? STATUS_OK : STATUS_INVALID);
    if (!covered || length == 0)
        return;
    for (uint64_t ppn = gpa / PAGE_SIZE; ppn <= (gpa + length - 1) / PAGE_SIZE; ppn++) {
        struct page *page = &model->pages[ppn];
        if (write) {
            model_make_private(model, ppn, !covers_page(gpa, length, ppn));
            model_drop_code(model, ppn);
        } else {
            if (model_is_away(page))
                model_come(model, page, true);
            model_touch(model, page);
            page->leaving = false;
        }
    }
    if (write)
        memcpy(model->bytes + gpa, buffer, length);
    else
        assert_memory_equal(buffer, model->bytes + gpa, length);
}

static void step_pin(struct model *model)
{
    uint64_t gpa, length;
    random_range(model->seed, &gpa, &length);
    if (model->pin_count == PINS_MAX || length == 0)
        return;
    struct pin *pin = &model->pins[model->pin_count];
    unsigned count = 0;
    enum pmap_pin_use use = (enum pmap_pin_use)model_choose(model, 3);
    bool covered = model_covers(model, gpa, length);
    enum status status = pmap_pin(model->map, gpa, length, use, &pin->iov, &count, 1);
    assert_int_equal(status, covered ? STATUS_OK : STATUS_INVALID);
    assert_int_equal(count, covered);
    if (!covered)
        return;
    for (uint64_t ppn = gpa / PAGE_SIZE; ppn <= (gpa + length - 1) / PAGE_SIZE; ppn++) {
        bool is_whole = covers_page(gpa, length, ppn);
        model->stats.double_paging_seen +=
            use == PIN_READ && is_whole && model_is_away(&model->pages[ppn]);
        model_make_private(model, ppn, !(use == PIN_OVERWRITE && is_whole));
        if (use != PIN_READ)
            model_drop_code(model, ppn);
        model->pages[ppn].pins++;
        model->stats.pinned_pages++;
    }
    pin->gpa = gpa;
    pin->length = length;
    model->pin_count++;
    assert_int_equal(pin->iov.iov_len, length);
    assert_memory_equal(pin->iov.iov_base, model->bytes + gpa, length);
}

static void step_unpin(struct model *model)
{
    if (model->pin_count == 0)
        return;
    unsigned at = (unsigned)model_choose(model, model->pin_count);
    struct pin pin = model->pins[at];
    model->pins[at] = model->pins[--model->pin_count];
    /* The piece has stayed good all the time. */
    assert_memory_equal(pin.iov.iov_base, model->bytes + pin.gpa, pin.length);
    bool written = model_choose(model, 2);
    if (written) {
        uint8_t value = (uint8_t)model_choose(model, 256);
        memset(pin.iov.iov_base, value, pin.length);
        memset(model->bytes + pin.gpa, value, pin.length);
    }
    pmap_unpin(model->map, pin.gpa, pin.length, written);
    for (uint64_t ppn = pin.gpa / PAGE_SIZE; ppn <= (pin.gpa + pin.length - 1) / PAGE_SIZE; ppn++) {
        if (written)
            model_drop_code(model, ppn);
        model->pages[ppn].pins--;
        model->stats.pinned_pages--;
    }
}

/* ------------------------------------------------------------------------- look-ups */

static void look_up(struct model *model, uint64_t ppn, bool claims)
{
    bool writable = false;
    const uint8_t *bytes = claims ? pmap_page_claim(model->map, ppn, &writable)
                                  : pmap_page_read(model->map, ppn, &writable);
    struct page *page = ppn < SPAN_PAGES ? &model->pages[ppn] : NULL;
    if (page == NULL || !page->ram || model_is_away(page)) {
        assert_null(bytes);
        return;
    }
    assert_non_null(bytes);
    if (claims && page->state != PAGE_PRIVATE && page->state != PAGE_SHARED && !page->lent)
        model_make_private(model, ppn, true);
    model_touch(model, page);
    page->leaving = false;
    page->lent = page->state == PAGE_ZERO || page->state == PAGE_SHARED;
    assert_int_equal(writable, page->state == PAGE_PRIVATE && !page->code);
    assert_memory_equal(bytes, model->bytes + ppn * PAGE_SIZE, PAGE_SIZE);
}

void step_page(struct model *model, uint64_t ppn)
{
    struct page *page = ppn < SPAN_PAGES && model->pages[ppn].ram ? &model->pages[ppn] : NULL;
    switch (model_choose(model, 6)) {
    case 0:
        look_up(model, ppn, false);
        break;
    case 1:
        look_up(model, ppn, true);
        break;
    case 2: {
        uint8_t *bytes = pmap_page_write(model->map, ppn);
        assert_int_equal(bytes != NULL, page != NULL);
        if (page == NULL || bytes == NULL)
            break;
        model_make_private(model, ppn, true);
        bytes[ppn] = model->bytes[ppn * PAGE_SIZE + ppn] = (uint8_t)model_choose(model, 256);
        break;
    }
    case 3:
        assert_int_equal(pmap_code_mark(model->map, ppn), page != NULL && !page->code);
        pmap_code_guard(model->map, ppn);
        if (page != NULL)
            page->code = true;
        break;
    case 4:
        pmap_code_unguard(model->map, ppn);
        pmap_code_clear(model->map, ppn);
        if (page != NULL)
            page->code = false;
        break;
    default:
        assert_int_equal(pmap_page_bring(model->map, ppn),
                         page != NULL ? STATUS_OK : STATUS_INVALID);
        if (page != NULL && model_is_away(page))
            model_come(model, page, true);
        break;
    }
}

void step_any_page(struct model *model)
{
    step_page(model, model_choose(model, SPAN_PAGES + 2));
}

/* ------------------------------------------------------------------------- balloon */

void step_discard(struct model *model)
{
    uint64_t first = model_choose(model, SPAN_PAGES + 2), count = model_choose(model, 6),
             changed = 0;
    if (model_choose(model, 50) == 0)
        count = UINT64_MAX - model_choose(model, 2 * SPAN_PAGES);
    uint64_t end = count > SPAN_PAGES ? SPAN_PAGES : first + count;
    if (end > SPAN_PAGES)
        end = SPAN_PAGES;
    if (model_choose(model, 50) == 0) {
        pmap_balloon_reset(model->map);
        for (uint64_t ppn = 0; ppn < SPAN_PAGES; ppn++) {
            if (model->pages[ppn].state == PAGE_BALLOONED)
                model->pages[ppn].state = PAGE_ZERO;
        }
        return;
    }
    unsigned what = (unsigned)model_choose(model, 3);
    bool revoked = false;
    for (uint64_t ppn = first; ppn < end; ppn++) {
        struct page *page = &model->pages[ppn];
        if (!page->ram)
            continue;
        if (what != 2) {
            changed += model_discard(model, ppn, what == 0 ? PAGE_BALLOONED : PAGE_ZERO, &revoked);
        } else if (page->state == PAGE_BALLOONED) {
            page->state = PAGE_ZERO;
            changed++;
        }
    }
    model->stats.revocations += revoked;
    uint64_t said = what == 0   ? pmap_balloon_take(model->map, first, count)
                    : what == 1 ? pmap_release(model->map, first, count)
                                : pmap_balloon_give(model->map, first, count);
    assert_int_equal(said, changed);
}

/* ------------------------------------------------------------------------- all together */

static void step(struct model *model)
{
    switch (model_choose(model, 20)) {
    case 0:
    case 1:
    case 2:
        step_copy(model);
        break;
    case 3:
        step_pin(model);
        break;
    case 4:
    case 5:
        step_unpin(model);
        break;
    case 6:
        step_discard(model);
        break;
    case 7:
    case 8:
    case 9:
        step_leave(model);
        break;
    case 10:
        step_move(model);
        break;
    case 11:
        step_sample(model);
        break;
    case 12:
    case 13:
        step_share(model);
        break;
    case 14:
        step_peek(model);
        break;
    case 15:
        step_scan(model);
        break;
    default:
        step_any_page(model);
        break;
    }
}

/* All frames are given back, one way or the other; not before may the pool be another. */
static void unmake_shared(struct model *model)
{
    uint64_t next = 0;
    bool is_shared = model->stats.shared != 0;
    assert_int_equal(pmap_set_pool(model->map, NULL, 0), !is_shared);
    if (model_choose(model, 2)) {
        while (next < SPAN_PAGES)
            assert_int_equal(page_unshare_some(model->map, &next, 2), STATUS_OK);
        for (uint64_t ppn = 0; ppn < SPAN_PAGES; ppn++) {
            if (model->pages[ppn].ram && model->pages[ppn].state == PAGE_SHARED)
                model_make_private(model, ppn, true);
        }
        model_compare(model);
    } else {
        page_share_end(model->map);
    }
    for (uint64_t ppn = 0; ppn < SPAN_PAGES; ppn++)
        assert_int_equal(model->held[ppn], 0);
    assert_true(pmap_set_pool(model->map, NULL, 0));
}

static void run(uint64_t seed)
{
    struct error err = {0};
    struct model *model = calloc(1, sizeof(*model));
    assert_non_null(model);
    model->seed = &seed;
    model->store = memory_store_create();
    assert_int_equal(pmap_create(&model->map, layout, ARRAY_LENGTH(layout), &err), STATUS_OK);
    struct revoked revoked = {.map = model->map};
    pmap_set_revoke_hook(model->map, model_on_revoke, &revoked);
    pmap_set_store(model->map, &memory_store_ops, model->store);
    pmap_set_share(model->map, &model_share_ops, model);
    assert_true(pmap_set_pool(model->map, model->pool[0], FRAMES));
    uint64_t n = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(layout); i++) {
        for (uint64_t at = 0; at < layout[i].size; at += PAGE_SIZE) {
            model->pages[(layout[i].base + at) / PAGE_SIZE].ram = true;
            assert_int_equal(pmap_nth_page(model->map, n++), (layout[i].base + at) / PAGE_SIZE);
        }
    }
    for (unsigned i = 0; i < 2000; i++) {
        step(model);
        if (i % 64 == 0)
            model_compare(model);
    }
    while (model->pin_count != 0)
        step_unpin(model);
    model_compare(model);
    unmake_shared(model);
    assert_int_equal(model->stats.revocations, revoked.calls);
    assert_int_equal(model->revoked_code, revoked.code);
    pmap_destroy(model->map);
    memory_store_destroy(model->store);
    free(model);
}

static void test_model(void **state)
{
    for (uint64_t seed = 1; seed <= 40; seed++)
        run(seed * 0x9e3779b97f4a7c15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
