#ifndef AEROSTAT_MEM_SWAP_AHEAD_H
#define AEROSTAT_MEM_SWAP_AHEAD_H

/*
 * Pages of the swap file that were read along with their neighbours, and may be wanted next.
 *
 * Neighbours in the file were mostly neighbours in the guest (reclaim.h), and reading eight of them
 * takes little longer than reading one. They are kept here, not in the guest's memory: who does not
 * need them has lost nothing. Where they are seldom needed, they are seldom read.
 *
 * It does not know whether what it has is still what the slot has: its user, swap.c, compares
 * checksums. All functions may be called from any thread, except create and destroy.
 */

#include <stdbool.h>
#include <stdint.h>

#include "util/status.h"

#define AHEAD_SLOTS 8u /* in a window; its first slot is a multiple of that */

struct swap_ahead;

/* Takes up to half a MiB as it is used. NULL: no memory. */
struct swap_ahead *swap_ahead_create(void);
void swap_ahead_destroy(struct swap_ahead *ahead); /* NULL is fine */
void swap_ahead_clear(struct swap_ahead *ahead);   /* forgets all, and gives the memory back */

/* Copies the slot's page, if it is here. */
bool swap_ahead_find(struct swap_ahead *ahead, uint64_t slot, uint8_t *page);

/* Whether to read the slot's whole window: then AHEAD_SLOTS pages for it, until _end says whether
 * they were read. NULL: read the slot alone. */
uint8_t *swap_ahead_begin(struct swap_ahead *ahead, uint64_t slot);
void swap_ahead_end(struct swap_ahead *ahead, uint8_t *pages, bool good);

#endif
