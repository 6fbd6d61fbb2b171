/*
 * The memory of translations: two rings, one of code and one of data.
 *
 * Both are filled from start to end and then again from the start. Translations stand in them in
 * the order in which they were made, so the oldest one is always the next in the way, and it is
 * evicted when its place is wanted: one translation for another, and nothing to tune. A dropped
 * translation keeps its place until then, since it may be what is running.
 *
 *      start        at          limit                 end
 *        | younger   |   free     | older              |
 *
 * A ring grows at its end for as long as the pool grants memory, so code and data come to have as
 * much of it as they need. `limit` is where the oldest translation stands, or the end if that is
 * behind us. Before a block is translated there must be room for the largest one in a piece, so the
 * end of a ring may stay unused.
 *
 * Eviction happens when a block is to be translated, that is in the dispatcher, or when the vCPU is
 * idle (ring_empty): nothing is running, and no link but `left_by` is remembered anywhere else.
 */

#include "cpu/translate/translate.h"

/* A longer ring, as long as there is memory for it. Its free part is at the end. */
static bool lengthen(struct translate *translate, struct ring *ring)
{
    const struct code_piece *piece = &translate->code;
    size_t most = ring == &translate->code_ring ? piece->code_size : piece->data_size;
    if (most - ring->end < CODE_STEP || !code_pool_grant(translate->pool, &translate->code))
        return false;
    ring->limit = ring->end += (uint32_t)CODE_STEP;
    return true;
}

static void init(struct translate *translate, struct ring *ring, uint32_t size)
{
    while (ring->end < ring->start + size && lengthen(translate, ring)) {
    }
    ring->at = ring->used = ring->start;
}

void ring_init(struct translate *translate)
{
    init(translate, &translate->code_ring, BLOCK_CODE_MAX);
    init(translate, &translate->data_ring, BLOCK_DATA_MAX);
}

/* Where the oldest translation stands in this ring. */
static uint32_t oldest_at(const struct translate *translate, const struct ring *ring)
{
    const struct translation *oldest = ref_get(translate, translate->oldest);
    if (oldest == NULL)
        return ring->end;
    return ring == &translate->code_ring ? oldest->code : translate->oldest * REF_UNIT;
}

static void limit_set(const struct translate *translate, struct ring *ring)
{
    uint32_t oldest = oldest_at(translate, ring);
    ring->limit = oldest < ring->at ? ring->end : oldest;
}

static void evict_oldest(struct translate *translate)
{
    struct translation *t = ref_get(translate, translate->oldest);
    translate_evict(translate, t);
    translate->oldest = t->younger;
    if (translate->oldest == 0)
        translate->youngest = 0;
    limit_set(translate, &translate->code_ring);
    limit_set(translate, &translate->data_ring);
    translate->stats.evictions++;
}

static void reserve(struct translate *translate, struct ring *ring, uint32_t size)
{
    while (ring->limit - ring->at < size) {
        if (ring->limit != ring->end) {
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

void ring_append(struct translate *translate, struct translation *t, uint32_t code_end)
{
    struct translation *youngest = ref_get(translate, translate->youngest);
    ref self = ref_of(translate, t);
    t->younger = 0;
    if (youngest != NULL)
        youngest->younger = self;
    else
        translate->oldest = self;
    translate->youngest = self;
    advance(&translate->code_ring, (uint32_t)align_up(code_end, CODE_ALIGNMENT));
}

void ring_append_code(struct translate *translate, uint32_t code_end)
{
    advance(&translate->code_ring, (uint32_t)align_up(code_end, CODE_ALIGNMENT));
    translate->code_is_new = true;
}

void ring_empty(struct translate *translate)
{
    translate_bury(translate);
    while (translate->oldest != 0)
        evict_oldest(translate);
    code_pool_empty(translate->pool, &translate->code, translate->code_ring.start);
    translate->code_ring.end = translate->data_ring.end = 0;
    translate->code_is_new = true;
    ring_init(translate);
}
