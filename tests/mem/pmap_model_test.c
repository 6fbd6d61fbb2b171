/*
 * Random operations on the page map against a model that is nothing but arrays: bytes, states,
 * pins, marks, what is in the store and in the pool. A frame is overwritten as soon as nobody
 * refers to it. Fixed seeds; pmap_check at intervals.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "mem/page_share.h"
#include "memory_store.h"
#include "util/xorshift.h"

#define SPAN_PAGES 48u
#define SPAN       (SPAN_PAGES * PAGE_SIZE)
#define PINS_MAX   16u
#define FRAMES     24u /* number 0 is none */

static const struct ram_range layout[] = {
    {0, 16 * KIB}, {32 * KIB, 64 * KIB}, {96 * KIB, 32 * KIB}, {160 * KIB, 32 * KIB}};

struct pin {
    uint64_t gpa, length;
    struct iovec iov;
};

struct page {
    bool ram;
    enum page_state state;
    bool lent, code, hollow, active, sampled;
    bool leaving; /* in the batch that is open, and not wanted since */
    bool moving;  /* is being moved: its payload is the test's */
    unsigned pins;
    uint64_t payload;
    uint32_t frame; /* shared */
};

struct model {
    uint8_t bytes[SPAN];
    struct page pages[SPAN_PAGES];
    struct pin pins[PINS_MAX];
    unsigned pin_count;
    struct pmap_stats stats; /* the counts of events */
    uint64_t revoked_code;   /* pages whose code had to go */
    struct pmap *map;
    struct memory_store *store;
    uint64_t *seed;
    uint8_t pool[FRAMES][1 << PAGE_SHIFT];
    uint32_t held[SPAN_PAGES]; /* as the pool's owner sees it */
    unsigned references[FRAMES];
};

static uint64_t choose(struct model *model, uint64_t below)
{
    return xorshift_next(model->seed) % below;
}

static bool is_away(const struct page *page)
{
    return page->state >= PAGE_COMPRESSED && page->state < PAGE_NONE;
}

static bool model_covers(const struct model *model, uint64_t gpa, uint64_t length)
{
    if (length != 0 && (gpa >= SPAN || length > SPAN - gpa))
        return false;
    for (uint64_t at = gpa; at < gpa + length; at++) {
        if (!model->pages[at / PAGE_SIZE].ram)
            return false;
    }
    return true;
}

/* ------------------------------------------------------------------------- what must happen */

static void model_touch(struct model *model, struct page *page)
{
    if (page->sampled) {
        model->stats.sample_touches++;
        page->sampled = false;
        page->active = true;
    }
    if (page->state == PAGE_BALLOONED) {
        model->stats.balloon_popped++;
        page->state = PAGE_ZERO;
    }
}

static void model_take_payload(struct page *page)
{
    /* The map has dropped it, or it is the mover's. */
    page->moving = false;
    page->hollow = false;
}

/* `reads`: from the store, unless it is hollow. */
static void model_come(struct model *model, struct page *page, bool reads)
{
    if (page->hollow)
        model->stats.second_chances++;
    else if (!reads)
        model->stats.overwritten++;
    else if (page->state == PAGE_COMPRESSED)
        model->stats.faults_compressed++;
    else if (page->state == PAGE_SWAPPED)
        model->stats.faults_swap_in++;
    else
        model->stats.faults_disk++;
    model_touch(model, page);
    page->state = PAGE_PRIVATE;
    page->active = true;
    model_take_payload(page);
}

/* The pool's owner hears that a page of a frame has gone. */
static void on_drop(void *context, uint64_t ppn, uint32_t frame)
{
    struct model *model = context;
    assert_true(ppn < SPAN_PAGES && frame != 0 && frame < FRAMES);
    assert_int_equal(model->held[ppn], frame);
    model->held[ppn] = 0;
    if (--model->references[frame] == 0)
        memset(model->pool[frame], 0xdd, PAGE_SIZE);
}

static const struct page_share_ops share_ops = {.drop = on_drop};

static void model_make_private(struct model *model, uint64_t ppn, bool reads)
{
    struct page *page = &model->pages[ppn];
    if (is_away(page)) {
        if (!reads && !page->hollow)
            memset(model->bytes + ppn * PAGE_SIZE, 0, PAGE_SIZE);
        model_come(model, page, reads);
    }
    model_touch(model, page);
    page->leaving = false;
    if (page->state == PAGE_PRIVATE)
        return;
    if (page->state == PAGE_SHARED) {
        model->stats.cow_breaks++;
        model->stats.second_chances += page->hollow;
        page->active = true;
    } else {
        model->stats.faults_zero++;
    }
    model->stats.revocations += page->lent;
    page->state = PAGE_PRIVATE;
    page->lent = page->hollow = false;
}

static void model_drop_code(struct model *model, uint64_t ppn)
{
    model->stats.revocations += model->pages[ppn].code;
    model->revoked_code += model->pages[ppn].code;
    model->pages[ppn].code = false;
}

/* Contents that do not matter: to zero or ballooned. True: changed. */
static bool model_discard(struct model *model, uint64_t ppn, enum page_state to, bool *revoked)
{
    struct page *page = &model->pages[ppn];
    if (is_away(page)) {
        model_take_payload(page);
    } else if (page->state == PAGE_PRIVATE && page->pins == 0) {
        *revoked = true;
        model->revoked_code += page->code;
        page->leaving = page->code = false;
    } else if (page->state == PAGE_SHARED) {
        *revoked |= page->lent || page->code;
        model->revoked_code += page->code;
        page->hollow = page->code = false;
    } else if (page->state != PAGE_ZERO || to != PAGE_BALLOONED) {
        return false;
    }
    page->state = to;
    memset(model->bytes + ppn * PAGE_SIZE, 0, PAGE_SIZE);
    return true;
}

/* Counted in pages and in pages whose code goes: the model says how many. */
struct revoked {
    uint64_t calls, pages, code;
};

static void on_revoke(void *context, const struct pmap_revocation *what)
{
    struct revoked *revoked = context;
    assert_true(what->count > 0);
    for (unsigned i = 0; i < what->count; i++)
        assert_true(what->ppns[i] < SPAN_PAGES);
    for (unsigned i = 0; i < what->code_count; i++)
        assert_true(what->code_ppns[i] < SPAN_PAGES);
    revoked->calls++;
    revoked->pages += what->count;
    revoked->code += what->code_count;
}

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
    bool covered = model_covers(model, gpa, length), write = choose(model, 2);
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
            if (is_away(page))
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
    enum pmap_pin_use use = (enum pmap_pin_use)choose(model, 3);
    bool covered = model_covers(model, gpa, length);
    enum status status = pmap_pin(model->map, gpa, length, use, &pin->iov, &count, 1);
    assert_int_equal(status, covered ? STATUS_OK : STATUS_INVALID);
    assert_int_equal(count, covered);
    if (!covered)
        return;
    for (uint64_t ppn = gpa / PAGE_SIZE; ppn <= (gpa + length - 1) / PAGE_SIZE; ppn++) {
        bool is_whole = covers_page(gpa, length, ppn);
        model->stats.double_paging_seen +=
            use == PIN_READ && is_whole && is_away(&model->pages[ppn]);
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
    unsigned at = (unsigned)choose(model, model->pin_count);
    struct pin pin = model->pins[at];
    model->pins[at] = model->pins[--model->pin_count];
    /* The piece has stayed good all the time. */
    assert_memory_equal(pin.iov.iov_base, model->bytes + pin.gpa, pin.length);
    bool written = choose(model, 2);
    if (written) {
        uint8_t value = (uint8_t)choose(model, 256);
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
    if (page == NULL || !page->ram || is_away(page)) {
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

static void step_page(struct model *model, uint64_t ppn)
{
    struct page *page = ppn < SPAN_PAGES && model->pages[ppn].ram ? &model->pages[ppn] : NULL;
    switch (choose(model, 6)) {
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
        bytes[ppn] = model->bytes[ppn * PAGE_SIZE + ppn] = (uint8_t)choose(model, 256);
        break;
    }
    case 3:
        assert_int_equal(pmap_code_mark(model->map, ppn), page != NULL && !page->code);
        pmap_code_guard(model->map, ppn);
        if (page != NULL)
            page->code = true;
        break;
    case 4:
        pmap_code_clear(model->map, ppn);
        if (page != NULL)
            page->code = false;
        break;
    default:
        assert_int_equal(pmap_page_bring(model->map, ppn),
                         page != NULL ? STATUS_OK : STATUS_INVALID);
        if (page != NULL && is_away(page))
            model_come(model, page, true);
        break;
    }
}

static void step_any_page(struct model *model)
{
    step_page(model, choose(model, SPAN_PAGES + 2));
}

/* ------------------------------------------------------------------------- balloon */

static void step_discard(struct model *model)
{
    uint64_t first = choose(model, SPAN_PAGES + 2), count = choose(model, 6), changed = 0;
    if (choose(model, 50) == 0)
        count = UINT64_MAX - choose(model, 2 * SPAN_PAGES);
    uint64_t end = count > SPAN_PAGES ? SPAN_PAGES : first + count;
    if (end > SPAN_PAGES)
        end = SPAN_PAGES;
    if (choose(model, 50) == 0) {
        pmap_balloon_reset(model->map);
        for (uint64_t ppn = 0; ppn < SPAN_PAGES; ppn++) {
            if (model->pages[ppn].state == PAGE_BALLOONED)
                model->pages[ppn].state = PAGE_ZERO;
        }
        return;
    }
    unsigned what = (unsigned)choose(model, 3);
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

/* ------------------------------------------------------------------------- leaving */

static enum page_state random_away(struct model *model)
{
    return choose(model, 2) ? PAGE_COMPRESSED : PAGE_SWAPPED;
}

static void random_batch(struct model *model, struct page_batch *batch)
{
    batch->count = 0;
    for (uint64_t i = choose(model, 12); i > 0; i--)
        batch->ppn[batch->count++] = choose(model, SPAN_PAGES + 2);
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
    if (choose(model, 4) == 0) {
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

/* The pages that may leave: those of the model must be those of the map. */
static void step_leave(struct model *model)
{
    struct page_batch batch = {.count = 0}, asked;
    random_batch(model, &batch);
    asked = batch;
    unsigned flags = choose(model, 2) ? PAGE_LEAVE_ACTIVE : 0, found = 0;
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
        model->revoked_code += page->code;
        page->code = false;
        assert_true(found < batch.count && batch.ppn[found] == asked.ppn[i]);
        found++;
    }
    assert_int_equal(found, batch.count);
    model->stats.revocations += found != 0;

    for (uint64_t i = choose(model, 8); i > 0 && found != 0; i--)
        step_page(model, batch.ppn[choose(model, found)]);
    if (choose(model, 4) == 0)
        step_discard(model);
    for (unsigned i = 0; i < batch.count; i++)
        end_leaving(model, &batch, i);

    if (choose(model, 2))
        step_any_page(model);
    if (choose(model, 4) == 0)
        step_discard(model);
    if (choose(model, 4) != 0) {
        /* All that is hollow, from whichever batch. */
        uint64_t ppns[SPAN_PAGES + 2];
        for (uint64_t ppn = 0; ppn < ARRAY_LENGTH(ppns); ppn++)
            ppns[ppn] = ppn;
        page_punch(model->map, ppns, ARRAY_LENGTH(ppns));
        for (uint64_t ppn = 0; ppn < SPAN_PAGES; ppn++)
            model->pages[ppn].hollow = false;
    }
}

static void step_share(struct model *model)
{
    struct page_ref refs[8];
    bool shared[8], expected[8], revoked = false;
    unsigned count = (unsigned)choose(model, ARRAY_LENGTH(refs) + 1);
    uint64_t ppn = choose(model, SPAN_PAGES + 2);
    uint32_t frame = (uint32_t)choose(model, FRAMES + 2);
    for (unsigned i = 0; i < count; i++) {
        /* Each once in a batch: 7 and 5 have no factor in common with these numbers. */
        ppn = (ppn + 7) % (SPAN_PAGES + 2);
        frame = (frame + 5) % (FRAMES + 2);
        struct page *page = ppn < SPAN_PAGES && model->pages[ppn].ram ? &model->pages[ppn] : NULL;
        refs[i] = (struct page_ref){ppn, frame};
        expected[i] = false;
        if (frame == 0 || frame >= FRAMES || page == NULL)
            continue;
        if (model->references[frame] == 0 && choose(model, 8) != 0)
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
static void step_peek(struct model *model)
{
    _Alignas(1 << PAGE_SHIFT) uint8_t bytes[1 << PAGE_SHIFT];
    uint64_t ppn = choose(model, SPAN_PAGES + 2);
    struct page *page = ppn < SPAN_PAGES && model->pages[ppn].ram ? &model->pages[ppn] : NULL;
    bool is_shared = page != NULL && page->state == PAGE_SHARED;
    assert_int_equal(pmap_is_shared(model->map, ppn), is_shared);
    if (page != NULL && is_away(page))
        return;
    assert_int_equal(pmap_peek(model->map, ppn, bytes), is_shared ? STATUS_OK : STATUS_NOT_FOUND);
    if (!is_shared)
        return;
    model_touch(model, page);
    assert_memory_equal(bytes, model->bytes + ppn * PAGE_SIZE, PAGE_SIZE);
}

/* What the scanner sees, and that it leaves no trace. */
static void step_scan(struct model *model)
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
static void step_move(struct model *model)
{
    uint64_t ppn = choose(model, SPAN_PAGES);
    struct page *page = &model->pages[ppn];
    enum page_state from = page->state, to = random_away(model);
    uint64_t payload = page->payload;
    assert_false(
        page_move_begin(model->map, ppn, is_away(page) ? PAGE_ZERO : PAGE_SWAPPED, payload));
    assert_false(page_move_begin(model->map, ppn, from, payload + 1));
    if (!is_away(page))
        return;
    assert_true(page_move_begin(model->map, ppn, from, payload));
    assert_false(page_move_begin(model->map, ppn, from, payload));
    page->moving = true;
    for (uint64_t i = choose(model, 3); i > 0; i--)
        step_page(model, ppn);
    if (choose(model, 4) == 0)
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

static void step_sample(struct model *model)
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
        model->revoked_code += page->code;
        assert_true(found < batch.count && batch.ppn[found] == asked.ppn[i]);
        found++;
    }
    assert_int_equal(found, batch.count);
    model->stats.revocations += found != 0;
    for (uint64_t i = choose(model, 6); i > 0 && found != 0; i--)
        step_page(model, batch.ppn[choose(model, found)]);
    if (choose(model, 2))
        step_leave(model);
    for (unsigned i = 0; i < found; i++) {
        touched += !model->pages[batch.ppn[i]].sampled;
        model->pages[batch.ppn[i]].sampled = false;
    }
    assert_int_equal(page_sample_end(model->map, &batch), touched);
}

/* ------------------------------------------------------------------------- all together */

static void compare(struct model *model)
{
    struct error err = {0};
    if (pmap_check(model->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    struct pmap_stats stats, *expected = &model->stats;
    pmap_get_stats(model->map, &stats);
    uint64_t pages = 0, in[PAGE_STATES] = {0};
    unsigned held = 0;
    for (uint64_t ppn = 0; ppn < SPAN_PAGES; ppn++) {
        const struct page *page = &model->pages[ppn];
        assert_int_equal(pmap_state(model->map, ppn), page->ram ? page->state : PAGE_NONE);
        assert_int_equal(pmap_has_code(model->map, ppn), page->code);
        assert_int_equal(page_is_active(model->map, ppn), page->active);
        pages += page->ram;
        in[page->state] += page->ram;
        assert_int_equal(model->held[ppn],
                         page->ram && page->state == PAGE_SHARED ? page->frame : 0);
        held += is_away(page);
    }
    expected->max_pages = pages;
    expected->zero_pages = in[PAGE_ZERO];
    expected->private_pages = in[PAGE_PRIVATE];
    expected->ballooned = in[PAGE_BALLOONED];
    expected->shared = in[PAGE_SHARED];
    expected->compressed = in[PAGE_COMPRESSED];
    expected->swapped = in[PAGE_SWAPPED];
    expected->disk_backed = in[PAGE_DISK];
    expected->reclaim_stall_ns = stats.reclaim_stall_ns;
    assert_memory_equal(&stats, expected, sizeof(stats));
    assert_int_equal(model->store->used, held);
    assert_int_equal(model->store->misused, 0);
}

static void step(struct model *model)
{
    switch (choose(model, 20)) {
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
    if (choose(model, 2)) {
        while (next < SPAN_PAGES)
            assert_int_equal(page_unshare_some(model->map, &next, 2), STATUS_OK);
        for (uint64_t ppn = 0; ppn < SPAN_PAGES; ppn++) {
            if (model->pages[ppn].ram && model->pages[ppn].state == PAGE_SHARED)
                model_make_private(model, ppn, true);
        }
        compare(model);
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
    struct revoked revoked = {0};
    struct model *model = calloc(1, sizeof(*model));
    assert_non_null(model);
    model->seed = &seed;
    model->store = memory_store_create();
    assert_int_equal(pmap_create(&model->map, layout, ARRAY_LENGTH(layout), &err), STATUS_OK);
    pmap_set_revoke_hook(model->map, on_revoke, &revoked);
    pmap_set_store(model->map, &memory_store_ops, model->store);
    pmap_set_share(model->map, &share_ops, model);
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
            compare(model);
    }
    while (model->pin_count != 0)
        step_unpin(model);
    compare(model);
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
