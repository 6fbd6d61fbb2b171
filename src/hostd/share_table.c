#include "hostd/share_table.h"

#include <stdlib.h>

#include "util/bits.h"

#define LOAD          9u /* entries to a bucket, before there is one bucket more */
#define BUCKETS_LEAST 16u

#define COUNT_OVERFLOW UINT16_MAX

struct frame {
    uint64_t hash;
    share_ref next;
    uint16_t count;
    uint16_t state;
};

enum frame_state { FRAME_FREE, FRAME_LIVE, FRAME_UNFOUND /* lives, in no chain */ };

struct hint {
    share_ref next;
    uint32_t ppn;
    uint16_t vm;
    uint16_t hash_high; /* bits 47 to 32 */
    uint32_t hash_low;
};

_Static_assert(sizeof(struct frame) == 16 && sizeof(struct hint) == 16, "entries of 16 bytes");

#define HINT_HASH_MASK (bit(48) - 1)

static struct frame *frame_at(const struct share_table *table, uint32_t frame)
{
    return (struct frame *)table->frames.base + frame;
}

static struct hint *hint_at(const struct share_table *table, share_ref ref)
{
    return (struct hint *)table->hints.base + (ref & ~SHARE_HINT);
}

static share_ref *next_of(const struct share_table *table, share_ref ref)
{
    return share_is_hint(ref) ? &hint_at(table, ref)->next : &frame_at(table, ref)->next;
}

/* As far as it is known: 48 bits of a hint's. */
static uint64_t hash_of(const struct share_table *table, share_ref ref)
{
    if (!share_is_hint(ref))
        return frame_at(table, ref)->hash;
    const struct hint *hint = hint_at(table, ref);
    return (uint64_t)hint->hash_high << 32 | hint->hash_low;
}

/* The greatest power of two that is not above n, which is not 0. */
static uint32_t power_below(uint32_t n)
{
    return 1u << (31 - __builtin_clz(n));
}

/* With between 2^k and 2^(k+1) buckets, those that have been split are told apart by one bit more
 * than the others. */
static share_ref *bucket_of(const struct share_table *table, uint64_t hash)
{
    uint32_t whole = power_below(table->bucket_count);
    uint32_t bucket = (uint32_t)hash & (2 * whole - 1);
    if (bucket >= table->bucket_count)
        bucket -= whole;
    return (share_ref *)table->buckets.base + bucket;
}

static uint64_t entry_count(const struct share_table *table)
{
    return (uint64_t)table->hint_count + table->frame_count;
}

/* One bucket more, which takes its part of the chain of the one that it is split from. */
static void bucket_split(struct share_table *table)
{
    uint32_t added = table->bucket_count, whole = power_below(added);
    if (area_reach(&table->buckets, (added + 1) * sizeof(share_ref)) != STATUS_OK)
        return; /* longer chains, then */
    share_ref *buckets = table->buckets.base;
    share_ref *from = &buckets[added - whole], *to = &buckets[added];
    *to = SHARE_NONE;
    while (*from != SHARE_NONE) {
        share_ref ref = *from;
        share_ref *next = next_of(table, ref);
        if ((hash_of(table, ref) & whole) != 0) {
            *from = *next;
            *next = *to;
            *to = ref;
        } else {
            from = next;
        }
    }
    table->bucket_count++;
}

/* One less: the reverse. */
static void bucket_merge(struct share_table *table)
{
    share_ref *buckets = table->buckets.base;
    uint32_t removed = --table->bucket_count;
    share_ref *end = &buckets[removed - power_below(removed)];
    while (*end != SHARE_NONE)
        end = next_of(table, *end);
    *end = buckets[removed];
    buckets[removed] = SHARE_NONE;
    area_trim(&table->buckets, table->bucket_count * sizeof(share_ref));
}

static void chain_insert(struct share_table *table, share_ref ref, uint64_t hash)
{
    if (entry_count(table) > (uint64_t)LOAD * table->bucket_count)
        bucket_split(table);
    share_ref *bucket = bucket_of(table, hash);
    *next_of(table, ref) = *bucket;
    *bucket = ref;
}

/* What points to the entry, which is in its chain. */
static share_ref *chain_link(const struct share_table *table, share_ref ref)
{
    share_ref *at = bucket_of(table, hash_of(table, ref));
    while (*at != ref)
        at = next_of(table, *at);
    return at;
}

static void chain_remove(struct share_table *table, share_ref ref)
{
    *chain_link(table, ref) = *next_of(table, ref);
}

static void buckets_adjust(struct share_table *table)
{
    if (table->bucket_count > BUCKETS_LEAST &&
        entry_count(table) < (uint64_t)LOAD / 2 * table->bucket_count)
        bucket_merge(table);
}

enum status share_table_init(struct share_table *table)
{
    *table = (struct share_table){.bucket_count = BUCKETS_LEAST, .frame_end = 1};
    return area_reach(&table->buckets, BUCKETS_LEAST * sizeof(share_ref));
}

void share_table_free(struct share_table *table)
{
    area_free(&table->frames);
    area_free(&table->hints);
    area_free(&table->buckets);
    overflow_free(&table->overflow);
}

share_ref share_find(const struct share_table *table, uint64_t hash)
{
    share_ref ref = *bucket_of(table, hash);
    while (ref != SHARE_NONE) {
        if (share_is_hint(ref)) {
            const struct hint *hint = hint_at(table, ref);
            if (hint->hash_low == (uint32_t)hash && hint->hash_high == (uint16_t)(hash >> 32))
                return ref;
            ref = hint->next;
        } else {
            const struct frame *frame = frame_at(table, ref);
            if (frame->hash == hash)
                return ref;
            ref = frame->next;
        }
    }
    return SHARE_NONE;
}

enum status share_add_hint(struct share_table *table, uint64_t hash, struct share_page page,
                           share_ref *ref)
{
    uint32_t index = table->hint_count;
    if (index == SHARE_HINTS_MOST)
        return STATUS_NO_SPACE;
    if (area_reach(&table->hints, (index + 1) * sizeof(struct hint)) != STATUS_OK)
        return STATUS_NO_MEMORY;
    *ref = SHARE_HINT | index;
    table->hint_count++;
    *hint_at(table, *ref) = (struct hint){.ppn = page.ppn,
                                          .vm = page.vm,
                                          .hash_high = (uint16_t)(hash >> 32),
                                          .hash_low = (uint32_t)hash};
    chain_insert(table, *ref, hash & HINT_HASH_MASK);
    return STATUS_OK;
}

struct share_page share_hint_page(const struct share_table *table, share_ref hint)
{
    return (struct share_page){.ppn = hint_at(table, hint)->ppn, .vm = hint_at(table, hint)->vm};
}

bool share_remove_hint(struct share_table *table, share_ref hint, struct share_page *moved)
{
    share_ref last = SHARE_HINT | (table->hint_count - 1);
    chain_remove(table, hint);
    if (hint != last) {
        *chain_link(table, last) = hint;
        *hint_at(table, hint) = *hint_at(table, last);
        *moved = share_hint_page(table, hint);
    }
    table->hint_count--;
    area_trim(&table->hints, table->hint_count * sizeof(struct hint));
    buckets_adjust(table);
    return hint != last;
}

static void frame_begin(struct share_table *table, uint32_t number, uint64_t hash)
{
    *frame_at(table, number) = (struct frame){.hash = hash, .state = FRAME_LIVE};
    table->frame_count++;
}

enum status share_add_frame(struct share_table *table, uint64_t hash, uint32_t *frame)
{
    uint32_t number = table->free_frame;
    if (number != 0) {
        table->free_frame = frame_at(table, number)->next;
    } else {
        number = table->frame_end;
        if (number == LINK_FRAMES_MOST)
            return STATUS_NO_SPACE;
        if (area_reach(&table->frames, (number + 1) * sizeof(struct frame)) != STATUS_OK)
            return STATUS_NO_MEMORY;
        table->frame_end++;
    }
    frame_begin(table, number, hash);
    chain_insert(table, number, hash);
    *frame = number;
    return STATUS_OK;
}

enum status share_place_frame(struct share_table *table, uint32_t frame, uint64_t hash)
{
    if (frame < table->frame_end || frame >= LINK_FRAMES_MOST)
        return STATUS_INTERNAL;
    if (area_reach(&table->frames, (frame + 1) * sizeof(struct frame)) != STATUS_OK)
        return STATUS_NO_MEMORY;
    for (; table->frame_end < frame; table->frame_end++)
        share_reuse_frame(table, table->frame_end);
    table->frame_end = frame + 1;
    bool known = share_find(table, hash) != SHARE_NONE;
    frame_begin(table, frame, hash);
    if (known)
        frame_at(table, frame)->state = FRAME_UNFOUND;
    else
        chain_insert(table, frame, hash);
    return known ? STATUS_INVALID : STATUS_OK;
}

bool share_frame_exists(const struct share_table *table, uint32_t frame)
{
    return frame != 0 && frame < table->frame_end && frame_at(table, frame)->state != FRAME_FREE;
}

void share_remove_frame(struct share_table *table, uint32_t frame)
{
    if (frame_at(table, frame)->state == FRAME_LIVE)
        chain_remove(table, frame);
    frame_at(table, frame)->state = FRAME_FREE;
    table->frame_count--;
    buckets_adjust(table);
}

void share_reuse_frame(struct share_table *table, uint32_t frame)
{
    *frame_at(table, frame) = (struct frame){.next = table->free_frame, .state = FRAME_FREE};
    table->free_frame = frame;
}

void share_forget_frames(struct share_table *table)
{
    table->free_frame = 0;
    table->frame_end = 1;
    area_trim(&table->frames, 0);
}

uint64_t share_count(const struct share_table *table, uint32_t frame)
{
    uint16_t count = frame_at(table, frame)->count;
    return count == COUNT_OVERFLOW ? *overflow_find(&table->overflow, frame) : count;
}

enum status share_hold(struct share_table *table, uint32_t frame)
{
    uint16_t *count = &frame_at(table, frame)->count;
    if (*count == COUNT_OVERFLOW) {
        ++*overflow_find(&table->overflow, frame);
        return STATUS_OK;
    }
    if (*count == COUNT_OVERFLOW - 1 &&
        overflow_add(&table->overflow, frame, COUNT_OVERFLOW) != STATUS_OK)
        return STATUS_NO_MEMORY;
    ++*count;
    return STATUS_OK;
}

uint64_t share_release(struct share_table *table, uint32_t frame)
{
    uint16_t *count = &frame_at(table, frame)->count;
    if (*count != COUNT_OVERFLOW)
        return --*count;
    uint64_t left = --*overflow_find(&table->overflow, frame);
    if (left < COUNT_OVERFLOW) {
        overflow_remove(&table->overflow, frame);
        *count = (uint16_t)left;
    }
    return left;
}

uint64_t share_table_bytes(const struct share_table *table)
{
    return table->frames.reached + table->hints.reached + table->buckets.reached +
           table->overflow.room * sizeof(struct overflow_count);
}

static void must(bool holds)
{
    if (!holds)
        abort();
}

void share_table_check(const struct share_table *table)
{
    const share_ref *buckets = table->buckets.base;
    uint64_t chained_frames = 0, chained_hints = 0, live = 0, unfound = 0, free_frames = 0;
    for (uint32_t b = 0; b < table->bucket_count; b++) {
        for (share_ref ref = buckets[b]; ref != SHARE_NONE; ref = *next_of(table, ref)) {
            must(bucket_of(table, hash_of(table, ref)) == &buckets[b]);
            if (share_is_hint(ref)) {
                must((ref & ~SHARE_HINT) < table->hint_count);
                chained_hints++;
            } else {
                must(ref < table->frame_end && frame_at(table, ref)->state == FRAME_LIVE);
                chained_frames++;
            }
            must(chained_hints + chained_frames <= entry_count(table));
        }
    }
    uint64_t overflown = 0;
    for (uint32_t f = 1; f < table->frame_end; f++) {
        const struct frame *frame = frame_at(table, f);
        live += frame->state != FRAME_FREE;
        unfound += frame->state == FRAME_UNFOUND;
        overflown += frame->state != FRAME_FREE && frame->count == COUNT_OVERFLOW;
    }
    for (uint32_t f = table->free_frame; f != 0; f = frame_at(table, f)->next) {
        must(f < table->frame_end && frame_at(table, f)->state == FRAME_FREE);
        must(++free_frames < table->frame_end);
    }
    must(chained_hints == table->hint_count);
    must(live == table->frame_count && chained_frames == live - unfound);
    must(overflown == table->overflow.length);
}
