#ifndef AEROSTAT_MEM_SWAP_SLOTS_H
#define AEROSTAT_MEM_SWAP_SLOTS_H

/*
 * Which slots of a swap file are taken, and which pieces of it take disk space for nothing.
 *
 * A piece is SWAP_PIECE_SLOTS neighbours. It holds space from when a slot of it is taken until the
 * disk has its space back. A look at the pieces (swap_slots_take_free) finds those that hold space
 * and have had no taken slot since the look before it: what a VM pages out and in all the time
 * keeps its space. What is being given back counts as taken meanwhile.
 *
 * No locks: the caller sees to that.
 */

#include <stdbool.h>
#include <stdint.h>

#define SWAP_PIECE_SLOTS 256u /* 1 MiB */

struct swap_piece {
    uint16_t taken; /* slots of it */
    bool holds_space;
    bool was_free; /* at the last look, and since */
};

struct swap_slots {
    uint64_t count, used, next; /* next: where the next search begins */
    uint64_t *taken;            /* a bit a slot; those beyond the end are set */
    struct swap_piece *pieces;
    uint64_t piece_count, holding; /* holding: how many hold space */
};

/* All free. The memory is taken as it is touched. False: count is 0, or the host refuses. */
bool swap_slots_init(struct swap_slots *slots, uint64_t count);
void swap_slots_destroy(struct swap_slots *slots); /* all zeros is fine */
/* All free, and no piece holds space. */
void swap_slots_clear(struct swap_slots *slots);

/* Up to `want` neighbours, as many as are to be had together, from *first on. 0: none is free. */
unsigned swap_slots_take(struct swap_slots *slots, unsigned want, uint64_t *first);
/* Frees those of [first, first + count) that are taken. */
void swap_slots_free(struct swap_slots *slots, uint64_t first, uint64_t count);
/* Whether all of [first, first + count) are taken, and there are any. */
bool swap_slots_are_taken(const struct swap_slots *slots, uint64_t first, uint64_t count);

/*
 * Goes on with a look, from piece *cursor on (0: a new look): the next run of neighbouring pieces
 * whose space can be given back, as slots. They are taken until swap_slots_give_back. False: the
 * look is over.
 */
bool swap_slots_take_free(struct swap_slots *slots, uint64_t *cursor, uint64_t *first,
                          uint64_t *count);
/* The run is free again; `given`: the disk has its space. */
void swap_slots_give_back(struct swap_slots *slots, uint64_t first, uint64_t count, bool given);

#endif
