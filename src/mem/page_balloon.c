/*
 * Pages whose contents the guest has given up: ballooned, or reported free.
 *
 * A private page goes as it does for reclaim, in batches with one revocation each: LEAVING first,
 * so that it stays where somebody touches it in that moment, and then straight to PUNCHING, for
 * what is in it is of no use to anybody. A page that another thread is about to take away is taken
 * over: a page known free is not worth a place in a store.
 */

#include "mem/pmap_private.h"

/* Pages of one revocation. Balloons come in 256 pages at a time, free pages by the MiB. */
#define DISCARD_BATCH REVOKE_MAX

/* Pages that go in one revocation, and those whose memory is to be given back. */
struct discard {
    struct pmap *map;
    enum page_state to; /* PAGE_ZERO or PAGE_BALLOONED */
    uint64_t ticket, changed;
    unsigned punching_count, shared_count;
    uint64_t punching[DISCARD_BATCH];
    uint64_t shared[DISCARD_BATCH], shared_as[DISCARD_BATCH]; /* pages, and their entries */
    struct revoke_list leaving;                               /* and lent frames */
};

/* The page, whose entry was *value, is discarded; flags in `kept` stay, and memory that it still
 * has is to be given back. False: *value is what its entry is now. */
static bool try_discard(struct discard *discard, uint64_t ppn, uint64_t *value, uint64_t kept)
{
    struct pmap *map = discard->map;
    uint64_t wanted = (uint64_t)discard->to | (*value & kept);
    if (*value & ENTRY_HOLLOW)
        wanted |= ENTRY_PUNCHING;
    if (!entry_change(map, &map->entries[ppn], value, wanted))
        return false;
    if (*value & ENTRY_HOLLOW)
        discard->punching[discard->punching_count++] = ppn;
    discard->changed++;
    return true;
}

/* An away page: its payload is dropped, unread. */
static void discard_away(struct discard *discard, uint64_t ppn, uint64_t value)
{
    /* While it comes it is being touched. */
    while (entry_is_away(value) && !(value & ENTRY_COMING)) {
        if (!try_discard(discard, ppn, &value, ENTRY_KEPT | ENTRY_PUNCHING))
            continue;
        payload_drop(discard->map, value);
        return;
    }
}

/* A shared page changes at once, for those who look it up; its reference is dropped when no TLB has
 * the frame any more, and its mark when nobody has code of it (page_code.c). */
static void discard_shared(struct discard *discard, uint64_t ppn, uint64_t value)
{
    const uint64_t kept = ENTRY_LENT | ENTRY_PUNCHING | ENTRY_KEPT;
    while (entry_state(value) == PAGE_SHARED && !(value & ENTRY_COMING)) {
        if (!try_discard(discard, ppn, &value, kept))
            continue;
        if (value & (ENTRY_LENT | ENTRY_CODE))
            revoke_list_add(&discard->leaving, ppn, value);
        discard->shared[discard->shared_count] = ppn;
        discard->shared_as[discard->shared_count++] = value;
        return;
    }
}

/* Between zero and ballooned; the memory, the zero page in TLBs and its marks stay as they are. */
static bool rename_zero(struct pmap *map, uint64_t ppn, enum page_state from, enum page_state to)
{
    page_entry *entry = &map->entries[ppn];
    uint64_t value = atomic_load(entry);
    while (entry_state(value) == from) {
        if (entry_change(map, entry, &value, (value & ~ENTRY_STATE) | (uint64_t)to))
            return true;
    }
    return false;
}

static void discard_page(struct discard *discard, uint64_t ppn)
{
    struct pmap *map = discard->map;
    uint64_t value = atomic_load(&map->entries[ppn]);
    if (entry_is_away(value))
        discard_away(discard, ppn, value);
    else if (entry_state(value) == PAGE_SHARED)
        discard_shared(discard, ppn, value);
    else if (entry_state(value) == PAGE_ZERO && discard->to == PAGE_BALLOONED)
        discard->changed += rename_zero(map, ppn, PAGE_ZERO, PAGE_BALLOONED);
    else
        page_try_leave(map, ppn, discard->ticket, true, &discard->leaving);
}

static void discard_finish(struct discard *discard)
{
    struct pmap *map = discard->map;
    pages_punch(map, discard->punching, discard->punching_count);
    discard->punching_count = 0;
    revoke_list_finish(map, &discard->leaving);
    for (unsigned i = 0; i < discard->shared_count; i++)
        frame_drop(map, discard->shared[i], discard->shared_as[i]);
    for (unsigned i = 0; i < discard->leaving.count; i++) {
        uint64_t ppn = discard->leaving.ppns[i];
        if (page_try_end(map, ppn, discard->ticket, discard->to, 0, ENTRY_PUNCHING)) {
            discard->punching[discard->punching_count++] = ppn;
            discard->changed++;
        }
    }
    pages_punch(map, discard->punching, discard->punching_count);
    discard->punching_count = discard->shared_count = 0;
    discard->leaving.count = discard->leaving.code_count = 0;
}

static uint64_t pages_discard(struct pmap *map, uint64_t first, uint64_t count, enum page_state to)
{
    struct discard discard;
    discard.map = map;
    discard.to = to;
    discard.ticket = ticket_take(map);
    discard.changed = 0;
    discard.punching_count = discard.shared_count = 0;
    discard.leaving.count = discard.leaving.code_count = 0;
    discard.leaving.keeps_code = false;
    unsigned in_batch = 0;
    for (unsigned i = 0; i < map->range_count; i++) {
        uint64_t from, end;
        if (!range_part(map, i, first, count, &from, &end))
            continue;
        for (uint64_t ppn = from; ppn < end; ppn++) {
            discard_page(&discard, ppn);
            if (++in_batch == DISCARD_BATCH) {
                discard_finish(&discard);
                in_batch = 0;
            }
        }
    }
    discard_finish(&discard);
    return discard.changed;
}

uint64_t pmap_balloon_take(struct pmap *map, uint64_t first, uint64_t count)
{
    return pages_discard(map, first, count, PAGE_BALLOONED);
}

uint64_t pmap_release(struct pmap *map, uint64_t first, uint64_t count)
{
    return pages_discard(map, first, count, PAGE_ZERO);
}

uint64_t pmap_balloon_give(struct pmap *map, uint64_t first, uint64_t count)
{
    uint64_t changed = 0;
    for (unsigned i = 0; i < map->range_count; i++) {
        uint64_t from, end;
        if (!range_part(map, i, first, count, &from, &end))
            continue;
        for (uint64_t ppn = from; ppn < end; ppn++)
            changed += rename_zero(map, ppn, PAGE_BALLOONED, PAGE_ZERO);
    }
    return changed;
}

void pmap_balloon_reset(struct pmap *map)
{
    if (atomic_load(&map->pages[PAGE_BALLOONED]) != 0)
        pmap_balloon_give(map, 0, map->span_pages);
}
