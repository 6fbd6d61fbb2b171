/*
 * See swap_slots.h. Slots are a bitmap, searched from where the last search ended, so that runs are
 * long while the file is not nearly full; then they get shorter.
 */

#include "mem/swap_slots.h"

#include <stddef.h>

#include "util/bits.h"
#include "util/sparse.h"

#define WORD_BITS 64u

_Static_assert(SWAP_PIECE_SLOTS % WORD_BITS == 0, "a word of the bitmap is of one piece");

static uint64_t words_of(uint64_t slots)
{
    return (slots + WORD_BITS - 1) / WORD_BITS;
}

static void mark_end(struct swap_slots *slots)
{
    if (slots->count % WORD_BITS != 0)
        slots->taken[slots->count / WORD_BITS] = ~(uint64_t)0 << slots->count % WORD_BITS;
}

bool swap_slots_init(struct swap_slots *slots, uint64_t count)
{
    *slots = (struct swap_slots){
        .count = count,
        .piece_count = (count + SWAP_PIECE_SLOTS - 1) / SWAP_PIECE_SLOTS,
    };
    if (count == 0)
        return false;
    slots->taken = sparse_map(words_of(count) * sizeof(uint64_t));
    slots->pieces = sparse_map(slots->piece_count * sizeof slots->pieces[0]);
    if (slots->taken == NULL || slots->pieces == NULL) {
        swap_slots_destroy(slots);
        return false;
    }
    mark_end(slots);
    return true;
}

void swap_slots_destroy(struct swap_slots *slots)
{
    sparse_unmap(slots->taken, words_of(slots->count) * sizeof(uint64_t));
    sparse_unmap(slots->pieces, slots->piece_count * sizeof slots->pieces[0]);
    *slots = (struct swap_slots){0};
}

void swap_slots_clear(struct swap_slots *slots)
{
    sparse_clear(slots->taken, words_of(slots->count) * sizeof(uint64_t));
    sparse_clear(slots->pieces, slots->piece_count * sizeof slots->pieces[0]);
    slots->used = slots->next = slots->holding = 0;
    mark_end(slots);
}

/* ------------------------------------------------------------------------- taking */

static bool is_taken(const struct swap_slots *slots, uint64_t slot)
{
    return slots->taken[slot / WORD_BITS] >> slot % WORD_BITS & 1;
}

static void take(struct swap_slots *slots, uint64_t slot)
{
    struct swap_piece *piece = &slots->pieces[slot / SWAP_PIECE_SLOTS];
    slots->taken[slot / WORD_BITS] |= bit(slot % WORD_BITS);
    slots->used++;
    slots->holding += !piece->holds_space;
    piece->taken++;
    piece->holds_space = true;
    piece->was_free = false;
}

/* The first slot at or after `from` that is (not) taken; slots->count: none. */
static uint64_t next_slot(const struct swap_slots *slots, uint64_t from, bool taken)
{
    while (from < slots->count) {
        uint64_t word = slots->taken[from / WORD_BITS];
        word = (taken ? word : ~word) & ~(uint64_t)0 << from % WORD_BITS;
        if (word != 0) {
            uint64_t slot = align_down(from, WORD_BITS) + (unsigned)__builtin_ctzll(word);
            return slot < slots->count ? slot : slots->count;
        }
        from = align_down(from, WORD_BITS) + WORD_BITS;
    }
    return slots->count;
}

/* A run of at least `want` free slots that begins in [from, to). */
static bool find_run(const struct swap_slots *slots, uint64_t from, uint64_t to, unsigned want,
                     uint64_t *first)
{
    while ((from = next_slot(slots, from, false)) < to) {
        uint64_t end = next_slot(slots, from, true);
        if (end - from >= want) {
            *first = from;
            return true;
        }
        from = end;
    }
    return false;
}

unsigned swap_slots_take(struct swap_slots *slots, unsigned want, uint64_t *first)
{
    unsigned least = want;
    while (least > 0 && slots->used < slots->count) {
        if (find_run(slots, slots->next, slots->count, least, first) ||
            find_run(slots, 0, slots->next, least, first)) {
            unsigned got = 0;
            while (got < want && *first + got < slots->count && !is_taken(slots, *first + got))
                take(slots, *first + got++);
            slots->next = *first + got;
            return got;
        }
        least = least > 4 ? least / 4 : least - 1;
    }
    return 0;
}

void swap_slots_free(struct swap_slots *slots, uint64_t first, uint64_t count)
{
    for (uint64_t slot = first; slot - first < count && slot < slots->count; slot++) {
        if (is_taken(slots, slot)) {
            slots->taken[slot / WORD_BITS] &= ~bit(slot % WORD_BITS);
            slots->pieces[slot / SWAP_PIECE_SLOTS].taken--;
            slots->used--;
        }
    }
}

bool swap_slots_are_taken(const struct swap_slots *slots, uint64_t first, uint64_t count)
{
    bool taken = count >= 1 && range_fits(first, count, slots->count);
    for (uint64_t i = 0; taken && i < count; i++)
        taken = is_taken(slots, first + i);
    return taken;
}

/* ------------------------------------------------------------------------- giving space back */

static bool is_idle(const struct swap_piece *piece)
{
    return piece->holds_space && piece->taken == 0;
}

bool swap_slots_take_free(struct swap_slots *slots, uint64_t *cursor, uint64_t *first,
                          uint64_t *count)
{
    uint64_t at = *cursor;
    for (; at < slots->piece_count && slots->holding > 0; at++) {
        struct swap_piece *piece = &slots->pieces[at];
        if (is_idle(piece) && piece->was_free)
            break;
        piece->was_free = is_idle(piece);
    }
    if (at >= slots->piece_count || slots->holding == 0)
        return false;
    *first = at * SWAP_PIECE_SLOTS;
    while (at < slots->piece_count && is_idle(&slots->pieces[at]) && slots->pieces[at].was_free)
        at++;
    uint64_t end = at * SWAP_PIECE_SLOTS < slots->count ? at * SWAP_PIECE_SLOTS : slots->count;
    for (uint64_t slot = *first; slot < end; slot++)
        take(slots, slot);
    *cursor = at;
    *count = end - *first;
    return true;
}

void swap_slots_give_back(struct swap_slots *slots, uint64_t first, uint64_t count, bool given)
{
    swap_slots_free(slots, first, count);
    for (uint64_t slot = first; given && slot - first < count; slot += SWAP_PIECE_SLOTS) {
        slots->pieces[slot / SWAP_PIECE_SLOTS].holds_space = false;
        slots->holding--;
    }
}
