/*
 * The memory of translations: three rings, two of code and one of data.
 *
 * Code that is seldom run is set aside, in a ring of its own: slow paths, exits that links go past.
 * It is nearly half of all code, and what is run fits into so many fewer cache lines and pages.
 *
 * All are filled from start to end and then again from the start. Translations stand in them in
 * the order in which they were made, so the oldest one is always the next in the way, and it is
 * evicted when its place is wanted: one translation for another, and nothing to tune. A dropped
 * translation keeps its place until then, since it may be what is running.
 *
 *      start        at          limit                 end
 *        | younger   |   free     | older              |
 *
 * A ring grows at its end for as long as the pool grants memory, so each comes to have as much of
 * it as it needs. What every vCPU is sure of is granted at once. More is a loan for who translates
 * again what was evicted: a step for each step's worth of that, so that memory is never spent on
 * code that nobody comes back to, and translating again costs at most about twice what it would if
 * the memory had been there from the beginning. `limit` is where the oldest translation stands, or
 * the end if that is behind us. Before a block is translated there must be room for the largest one
 * in a piece, so the end of a ring may stay unused.
 *
 * Eviction happens when a block is to be translated, that is in the dispatcher, or when the vCPU is
 * idle (ring_empty): nothing is running, and no link but `left_by` is remembered anywhere else.
 */

#include "cpu/translate/translate.h"

/* A longer ring, as long as there is memory for it. Its free part is at the end. */
static bool lengthen(struct translate *translate, struct ring *ring)
{
    bool is_sure = code_pool_is_sure(translate->pool, &translate->code);
    if (ring->last - ring->end < CODE_STEP || (!is_sure && translate->missed < CODE_STEP) ||
        !code_pool_grant(translate->pool, &translate->code))
        return false;
    if (!is_sure)
        translate->missed -= CODE_STEP;
    ring->limit = ring->end += (uint32_t)CODE_STEP;
    return true;
}

/* Where it is remembered that a translation had to give way, and what says that it was that one. */
static uint16_t *evicted_slot(struct translate *translate, const struct translation *t,
                              uint16_t *print)
{
    uint64_t kind = t->privilege | t->is_direct << 2;
    uint64_t hash = (translation_gpa(t) ^ kind) * 0x9e3779b97f4a7c15u;
    *print = (uint16_t)(hash >> 32) | 1;
    return &translate->evicted[(hash >> 48) % ARRAY_LENGTH(translate->evicted)];
}

static void note_evicted(struct translate *translate, const struct translation *t)
{
    uint16_t print, *slot = evicted_slot(translate, t, &print);
    if (!t->is_dead)
        *slot = print;
}

/* One that has been made takes so many bytes. */
static void note_made(struct translate *translate, const struct translation *t, size_t bytes)
{
    uint16_t print, *slot = evicted_slot(translate, t, &print);
    if (*slot != print)
        return;
    *slot = 0;
    translate->missed += bytes;
}

static void init(struct translate *translate, struct ring *ring, size_t first, size_t last,
                 uint32_t size)
{
    ring->first = ring->end = (uint32_t)first;
    ring->last = (uint32_t)last;
    if (ring->start < ring->first)
        ring->start = ring->first;
    while (ring->end < ring->start + size && lengthen(translate, ring)) {
    }
    ring->at = ring->used = ring->start;
}

void ring_init(struct translate *translate)
{
    const struct code_piece *piece = &translate->code;
    /* Data takes a third of what is granted, so neither of these comes to its end before. */
    size_t aside = align_down(piece->code_size / 8 * 5, PAGE_SIZE);
    init(translate, &translate->code_ring, 0, aside, BLOCK_CODE_MAX);
    init(translate, &translate->aside_ring, aside, piece->code_size, BLOCK_CODE_MAX);
    init(translate, &translate->data_ring, 0, piece->data_size, BLOCK_DATA_MAX);
}

/* Where the oldest translation stands in this ring. */
static uint32_t oldest_at(const struct translate *translate, const struct ring *ring)
{
    const struct translation *oldest = ref_get(translate, translate->oldest);
    if (oldest == NULL)
        return ring->end;
    if (ring == &translate->data_ring)
        return translate->oldest * REF_UNIT;
    return ring == &translate->code_ring ? oldest->code : oldest->aside;
}

static void limit_set(const struct translate *translate, struct ring *ring)
{
    uint32_t oldest = oldest_at(translate, ring);
    ring->limit = oldest < ring->at ? ring->end : oldest;
}

/* ------------------------------------------------------------------------- whose code it is */

/* t, the youngest, is the first to begin in its page of code, or it is not; and none begins in
 * those that are all its own. */
static void note_start(struct translate *translate, const struct translation *t,
                       const struct translation *previous, uint32_t code_end)
{
    uint32_t page = t->code >> PAGE_SHIFT;
    if (previous == NULL || previous->code >> PAGE_SHIFT != page)
        translate->code_starts[page] = ref_of(translate, t);
    while (++page <= (code_end - 1) >> PAGE_SHIFT)
        translate->code_starts[page] = 0;
}

/* t, the oldest, goes. */
static void forget_start(struct translate *translate, const struct translation *t)
{
    const struct translation *next = ref_get(translate, t->younger);
    ref *start = &translate->code_starts[t->code >> PAGE_SHIFT];
    if (*start == ref_of(translate, t))
        *start = next != NULL && next->code > t->code && (next->code ^ t->code) >> PAGE_SHIFT == 0
                     ? t->younger
                     : 0;
}

struct translation *ring_find(const struct translate *translate, uint32_t code)
{
    struct translation *t = NULL, *next;
    for (uint32_t page = code >> PAGE_SHIFT;; page--) {
        t = ref_get(translate, translate->code_starts[page]);
        if (t != NULL && t->code <= code)
            break;
        if (page == 0)
            return NULL;
    }
    while ((next = ref_get(translate, t->younger)) != NULL && next->code > t->code &&
           next->code <= code)
        t = next;
    return t;
}

static void evict_oldest(struct translate *translate)
{
    struct translation *t = ref_get(translate, translate->oldest);
    translate_evict(translate, t);
    forget_start(translate, t);
    translate->oldest = t->younger;
    if (translate->oldest == 0)
        translate->youngest = 0;
    limit_set(translate, &translate->code_ring);
    limit_set(translate, &translate->aside_ring);
    limit_set(translate, &translate->data_ring);
    translate->stats.evictions++;
}

static void reserve(struct translate *translate, struct ring *ring, uint32_t size)
{
    while (ring->limit - ring->at < size) {
        if (ring->limit != ring->end) {
            note_evicted(translate, ref_get(translate, translate->oldest));
            evict_oldest(translate);
        } else if (!lengthen(translate, ring)) {
            ring->at = ring->start;
            limit_set(translate, ring);
        }
    }
}

void ring_reserve(struct translate *translate)
{
    translate_bury(translate);
    reserve(translate, &translate->code_ring, BLOCK_CODE_MAX);
    reserve(translate, &translate->aside_ring, BLOCK_CODE_MAX);
    reserve(translate, &translate->data_ring, BLOCK_DATA_MAX);
}

static void advance(struct ring *ring, uint32_t at)
{
    ring->at = at;
    if (at > ring->used)
        ring->used = at;
}

void *ring_allocate(struct translate *translate, size_t size)
{
    struct ring *ring = &translate->data_ring;
    void *memory = translate->code.data + ring->at;
    advance(ring, ring->at + (uint32_t)align_up(size, REF_UNIT));
    return memory;
}

void ring_append(struct translate *translate, struct translation *t, uint32_t code_end,
                 uint32_t aside_end)
{
    struct translation *youngest = ref_get(translate, translate->youngest);
    ref self = ref_of(translate, t);
    note_made(translate, t,
              (code_end - translate->code_ring.at) + (aside_end - translate->aside_ring.at) +
                  (translate->data_ring.at - self * REF_UNIT));
    t->younger = 0;
    if (youngest != NULL)
        youngest->younger = self;
    else
        translate->oldest = self;
    translate->youngest = self;
    note_start(translate, t, youngest, code_end);
    advance(&translate->code_ring, (uint32_t)align_up(code_end, CODE_ALIGNMENT));
    advance(&translate->aside_ring, (uint32_t)align_up(aside_end, CODE_ALIGNMENT));
}

void ring_append_code(struct translate *translate, uint32_t code_end)
{
    advance(&translate->code_ring, (uint32_t)align_up(code_end, CODE_ALIGNMENT));
    translate->code_is_new = true;
}

/* Another thread may ask, as for other statistics. */
__attribute__((no_sanitize("thread"))) size_t ring_bytes(const struct translate *translate)
{
    const struct ring *aside = &translate->aside_ring;
    return translate->code_ring.used + (aside->used - aside->first) + translate->data_ring.used;
}

void ring_empty(struct translate *translate)
{
    translate_bury(translate);
    while (translate->oldest != 0)
        evict_oldest(translate);
    code_pool_empty(translate->pool, &translate->code, translate->code_ring.start);
    translate->code_is_new = true;
    ring_init(translate);
}
