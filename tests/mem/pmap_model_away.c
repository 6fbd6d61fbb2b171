/* Pages that leave, and what is done with them: see pmap_model.h. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "pmap_model.h"

static enum page_state random_away(struct model *model)
{
    return model_choose(model, 2) ? PAGE_COMPRESSED : PAGE_SWAPPED;
}

static void random_batch(struct model *model, struct page_batch *batch)
{
    batch->count = 0;
    for (uint64_t i = model_choose(model, 12); i > 0; i--)
        batch->ppn[batch->count++] = model_choose(model, SPAN_PAGES + 2);
}

static bool is_zero(const uint8_t *bytes)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, PAGE_SIZE - 1) == 0;
}

static void end_leaving(struct model *model, const struct page_batch *batch, unsigned i)
{
    uint64_t ppn = batch->ppn[i];
    struct page *page = &model->pages[ppn];
    uint8_t bytes[1 << PAGE_SHIFT];
    assert_true(page_leave_copy(model->map, ppn, bytes));
    bool may = page->leaving && !page->code;
    if (page->leaving)
        assert_memory_equal(bytes, model->bytes + ppn * PAGE_SIZE, PAGE_SIZE);
    page->leaving = false;
    if (model_choose(model, 4) == 0) {
        page_leave_cancel(model->map, batch, i);
        return;
    }
    if (page->state == PAGE_PRIVATE && is_zero(model->bytes + ppn * PAGE_SIZE)) {
        assert_int_equal(page_leave_end(model->map, batch, i, PAGE_ZERO, 0), may);
        if (may)
            page->state = PAGE_ZERO;
    } else {
        enum page_state to = random_away(model);
        uint64_t payload = memory_store_put(model->store, to, bytes);
        assert_true(payload != UINT64_MAX);
        assert_int_equal(page_leave_end(model->map, batch, i, to, payload), may);
        if (may) {
            page->state = to;
            page->payload = payload;
        } else {
            memory_store_drop(model->store, to, payload);
        }
    }
    page->hollow |= may;
}

static void leave_code(struct model *model, const struct page_batch *batch)
{
    unsigned dropped = 0;
    page_leave_code(model->map, batch);
    for (unsigned i = 0; i < batch->count; i++) {
        struct page *page = &model->pages[batch->ppn[i]];
        dropped += page->leaving && page->code;
        page->code = page->code && !page->leaving;
    }
    model->revoked_code += dropped;
    model->stats.revocations += dropped != 0;
}

/* The pages that may leave: those of the model must be those of the map. */
void step_leave(struct model *model)
{
    struct page_batch batch = {.count = 0}, asked;
    random_batch(model, &batch);
    asked = batch;
    unsigned flags = model_choose(model, 2) ? PAGE_LEAVE_ACTIVE : 0, found = 0;
    flags |= model_choose(model, 2) ? PAGE_LEAVE_KEEP_CODE : 0;
    page_leave_begin(model->map, &batch, flags);
    for (unsigned i = 0; i < asked.count; i++) {
        struct page *page = asked.ppn[i] < SPAN_PAGES ? &model->pages[asked.ppn[i]] : NULL;
        if (page == NULL || !page->ram)
            continue;
        if (!(flags & PAGE_LEAVE_ACTIVE) && page->active) {
            page->active = false;
            continue;
        }
        if (page->state != PAGE_PRIVATE || page->pins != 0 || page->leaving)
            continue;
        page->leaving = true;
        if (!(flags & PAGE_LEAVE_KEEP_CODE)) {
            model->revoked_code += page->code;
            page->code = false;
        }
        assert_true(found < batch.count && batch.ppn[found] == asked.ppn[i]);
        found++;
    }
    assert_int_equal(found, batch.count);
    model->stats.revocations += found != 0;

    for (uint64_t i = model_choose(model, 8); i > 0 && found != 0; i--)
        step_page(model, batch.ppn[model_choose(model, found)]);
    if (model_choose(model, 4) == 0)
        step_discard(model);
    if (flags & PAGE_LEAVE_KEEP_CODE)
        leave_code(model, &batch);
    for (unsigned i = 0; i < batch.count; i++)
        end_leaving(model, &batch, i);

    if (model_choose(model, 2))
        step_any_page(model);
    if (model_choose(model, 4) == 0)
        step_discard(model);
    if (model_choose(model, 4) != 0) {
        /* All that is hollow, from whichever batch. */
        uint64_t ppns[SPAN_PAGES + 2];
        for (uint64_t ppn = 0; ppn < ARRAY_LENGTH(ppns); ppn++)
            ppns[ppn] = ppn;
        page_punch(model->map, ppns, ARRAY_LENGTH(ppns));
        for (uint64_t ppn = 0; ppn < SPAN_PAGES; ppn++)
            model->pages[ppn].hollow = false;
    }
}

void step_share(struct model *model)
{
    struct page_ref refs[8];
    bool shared[8], expected[8], revoked = false;
    unsigned count = (unsigned)model_choose(model, ARRAY_LENGTH(refs) + 1);
    uint64_t ppn = model_choose(model, SPAN_PAGES + 2);
    uint32_t frame = (uint32_t)model_choose(model, FRAMES + 2);
    for (unsigned i = 0; i < count; i++) {
        /* Each once in a batch: 7 and 5 have no factor in common with these numbers. */
        ppn = (ppn + 7) % (SPAN_PAGES + 2);
        frame = (frame + 5) % (FRAMES + 2);
        struct page *page = ppn < SPAN_PAGES && model->pages[ppn].ram ? &model->pages[ppn] : NULL;
        refs[i] = (struct page_ref){ppn, frame};
        expected[i] = false;
        if (frame == 0 || frame >= FRAMES || page == NULL)
            continue;
        if (model->references[frame] == 0 && model_choose(model, 8) != 0)
            memcpy(model->pool[frame], model->bytes + ppn * PAGE_SIZE, PAGE_SIZE);
        if (page->state != PAGE_PRIVATE || page->pins != 0)
            continue;
        revoked = true;
        page->leaving = false;
        if (memcmp(model->pool[frame], model->bytes + ppn * PAGE_SIZE, PAGE_SIZE) != 0)
            continue;
        expected[i] = true;
        page->state = PAGE_SHARED;
        page->frame = model->held[ppn] = frame;
        page->lent = page->hollow = false;
        model->references[frame]++;
        model->stats.pages_shared++;
    }
    model->stats.revocations += revoked;
    page_share(model->map, refs, count, shared);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(shared[i], expected[i]);
}

/* As a device reads. */
void step_peek(struct model *model)
{
    _Alignas(1 << PAGE_SHIFT) uint8_t bytes[1 << PAGE_SHIFT];
    uint64_t ppn = model_choose(model, SPAN_PAGES + 2);
    struct page *page = ppn < SPAN_PAGES && model->pages[ppn].ram ? &model->pages[ppn] : NULL;
    bool is_shared = page != NULL && page->state == PAGE_SHARED;
    assert_int_equal(pmap_is_shared(model->map, ppn), is_shared);
    if (page != NULL && model_is_away(page))
        return;
    assert_int_equal(pmap_peek(model->map, ppn, bytes), is_shared ? STATUS_OK : STATUS_NOT_FOUND);
    if (!is_shared)
        return;
    model_touch(model, page);
    assert_memory_equal(bytes, model->bytes + ppn * PAGE_SIZE, PAGE_SIZE);
}

/* What the scanner sees, and that it leaves no trace. */
void step_scan(struct model *model)
{
    struct page_look_at looks[SPAN_PAGES];
    for (uint64_t ppn = 0; ppn < SPAN_PAGES; ppn++)
        looks[ppn].ppn = ppn;
    page_look(model->map, looks, SPAN_PAGES, 42);
    for (uint64_t ppn = 0; ppn < SPAN_PAGES; ppn++) {
        const struct page *page = &model->pages[ppn];
        const uint8_t *bytes = model->bytes + ppn * PAGE_SIZE;
        enum page_look expected = !page->ram || page->state != PAGE_PRIVATE ? PAGE_LOOK_OTHER
                                  : page->pins != 0                         ? PAGE_LOOK_BUSY
                                  : is_zero(bytes)                          ? PAGE_LOOK_ZERO
                                                                            : PAGE_LOOK_HASHED;
        assert_int_equal(looks[ppn].look, expected);
        if (expected == PAGE_LOOK_HASHED)
            assert_int_equal(looks[ppn].hash, XXH3_64bits_withSeed(bytes, PAGE_SIZE, 42));
    }
}

/* Moves a page to another store, with things happening meanwhile. */
void step_move(struct model *model)
{
    uint64_t ppn = model_choose(model, SPAN_PAGES);
    struct page *page = &model->pages[ppn];
    enum page_state from = page->state, to = random_away(model);
    uint64_t payload = page->payload;
    assert_false(
        page_move_begin(model->map, ppn, model_is_away(page) ? PAGE_ZERO : PAGE_SWAPPED, payload));
    assert_false(page_move_begin(model->map, ppn, from, payload + 1));
    if (!model_is_away(page))
        return;
    assert_true(page_move_begin(model->map, ppn, from, payload));
    assert_false(page_move_begin(model->map, ppn, from, payload));
    page->moving = true;
    for (uint64_t i = model_choose(model, 3); i > 0; i--)
        step_page(model, ppn);
    if (model_choose(model, 4) == 0)
        step_discard(model);
    uint64_t next = memory_store_put(model->store, to, model->bytes + ppn * PAGE_SIZE);
    bool moves = page->moving;
    assert_int_equal(page_move_end(model->map, ppn, from, payload, to, next), moves);
    memory_store_drop(model->store, from, payload);
    page->moving = false;
    if (moves) {
        page->state = to;
        page->payload = next;
    } else {
        memory_store_drop(model->store, to, next);
    }
}

void step_sample(struct model *model)
{
    struct page_batch batch, asked;
    random_batch(model, &batch);
    asked = batch;
    page_sample_begin(model->map, &batch);
    unsigned found = 0, touched = 0;
    for (unsigned i = 0; i < asked.count; i++) {
        struct page *page = asked.ppn[i] < SPAN_PAGES ? &model->pages[asked.ppn[i]] : NULL;
        if (page == NULL || !page->ram || page->sampled)
            continue;
        page->sampled = true;
        assert_true(found < batch.count && batch.ppn[found] == asked.ppn[i]);
        found++;
    }
    assert_int_equal(found, batch.count);
    model->stats.revocations += found != 0;
    for (uint64_t i = model_choose(model, 6); i > 0 && found != 0; i--)
        step_page(model, batch.ppn[model_choose(model, found)]);
    if (model_choose(model, 2))
        step_leave(model);
    for (unsigned i = 0; i < found; i++) {
        touched += !model->pages[batch.ppn[i]].sampled;
        model->pages[batch.ppn[i]].sampled = false;
    }
    assert_int_equal(page_sample_end(model->map, &batch), touched);
}
