#ifndef AEROSTAT_MEM_SWAP_H
#define AEROSTAT_MEM_SWAP_H

/*
 * The swap file as slots of a page each. Slots are given out in runs of neighbours, so that many
 * pages are one write. A checksum of each page is kept in memory: a page that is read is the page
 * that was written, or an error.
 *
 * All functions may be called from any thread, but for create and destroy, and for swap_write_begin
 * and swap_write_end, which belong to one thread. A slot is its owner's, from swap_allocate to
 * swap_free: two threads do not write, read and free the same one at once.
 */

#include <stdbool.h>
#include <stdint.h>

#include "mem/swap_file.h"
#include "util/status.h"

struct swap;

#define SWAP_RUN_MAX 64u /* slots in one write at most */

struct swap_stats {
    uint64_t slots, used;
    uint64_t disk_bytes; /* of the host's disk, in pieces of 1 MiB */
    uint64_t bytes_read, bytes_written;
    uint64_t read_errors, write_errors;
};

/* Takes over the file, also when it fails. max_bytes: how much of it to use, the size it was opened
 * with. Needs memory as slots are used: 8 bytes and a bit each. */
enum status swap_create(struct swap **swap, const struct swap_file *file, uint64_t max_bytes,
                        struct error *err);
void swap_destroy(struct swap *swap); /* NULL is fine; no write may be under way */

/* Forgets everything: all slots are free, and the disk has its space back. For a new machine. */
void swap_clear(struct swap *swap);

/* Up to `want` neighbouring slots, as many as are to be had together, from *first on. Returns how
 * many; 0: the file is full. */
unsigned swap_allocate(struct swap *swap, unsigned want, uint64_t *first);
void swap_free(struct swap *swap, uint64_t first, unsigned count);

/* Gives the disk its space back where all slots of a MiB have been free since the last call. */
void swap_trim(struct swap *swap);

/*
 * Writing. The caller fills `first`, `count` and `pages` (page-aligned), then calls begin, and in
 * the end end; meanwhile neither the structure nor the pages may go away, and at most
 * SWAP_QUEUE_DEPTH writes may be under way. Pages that change meanwhile leave their slots without
 * meaning: the caller knows and frees them. begin may wait for the disk, where there is no queue.
 * end: NO_SPACE: the host's disk is full. IO: it fails otherwise; *err has the line. What was
 * written is then undefined, and the slots stay the caller's.
 */
struct swap_write {
    uint64_t first;
    unsigned count; /* 1 to SWAP_RUN_MAX */
    const uint8_t *pages[SWAP_RUN_MAX];

    struct iovec iov[SWAP_RUN_MAX]; /* swap.c's from here on */
    unsigned iov_count;
    bool done;
    int error; /* an errno, 0: none */
};
void swap_write_begin(struct swap *swap, struct swap_write *write);
enum status swap_write_end(struct swap *swap, struct swap_write *write, struct error *err);

/* The same at once, from any thread. */
enum status swap_write(struct swap *swap, struct swap_write *write, struct error *err);

/* Reads a slot that was written. IO: the host failed, or what came is not what was written; `page`
 * is then garbage. A page-aligned one saves a copy. INVALID: no such slot in use. */
enum status swap_read(struct swap *swap, uint64_t slot, uint8_t *page, struct error *err);

void swap_get_stats(struct swap *swap, struct swap_stats *stats);

#endif
