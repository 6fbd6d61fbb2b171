#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "marks.h"
#include "pmap_model.h"
#include "util/xorshift.h"

uint64_t model_choose(struct model *model, uint64_t below)
{
    return xorshift_next(model->seed) % below;
}

bool model_is_away(const struct page *page)
{
    return page->state >= PAGE_COMPRESSED && page->state < PAGE_NONE;
}

bool model_covers(const struct model *model, uint64_t gpa, uint64_t length)
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

void model_touch(struct model *model, struct page *page)
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

void model_take_payload(struct page *page)
{
    /* The map has dropped it, or it is the mover's. */
    page->moving = false;
    page->hollow = false;
}

void model_come(struct model *model, struct page *page, bool reads)
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

const struct page_share_ops model_share_ops = {.drop = on_drop};

void model_make_private(struct model *model, uint64_t ppn, bool reads)
{
    struct page *page = &model->pages[ppn];
    if (model_is_away(page)) {
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

void model_drop_code(struct model *model, uint64_t ppn)
{
    model->stats.revocations += model->pages[ppn].code;
    model->revoked_code += model->pages[ppn].code;
    model->pages[ppn].code = false;
}

/* Contents that do not matter: to zero or ballooned. True: changed. */
bool model_discard(struct model *model, uint64_t ppn, enum page_state to, bool *revoked)
{
    struct page *page = &model->pages[ppn];
    if (model_is_away(page)) {
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

void model_on_revoke(void *context, const struct pmap_revocation *what)
{
    struct revoked *revoked = context;
    assert_true(what->count + what->code_count > 0);
    for (unsigned i = 0; i < what->count; i++)
        assert_true(what->ppns[i] < SPAN_PAGES);
    for (unsigned i = 0; i < what->code_count; i++)
        assert_true(what->code_ppns[i] < SPAN_PAGES);
    revoked->calls++;
    revoked->pages += what->count;
    revoked->code += what->keeps_code ? 0 : what->code_count;
    marks_take_off(revoked->map, what);
}

void model_compare(struct model *model)
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
        held += model_is_away(page);
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
