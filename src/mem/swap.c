/*
 * See swap.h.
 *
 * A read takes the slots around it along (swap_ahead.h): what it finds there later is used if the
 * checksum is that of what the slot has now.
 *
 * Checksums are XXH3 with the slot's number as its seed: a page that was written to another slot,
 * or is read from one, is wrong as well. They are never written to the file.
 */

#include "mem/swap.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "mem/swap_ahead.h"
#include "mem/swap_slots.h"
#include "util/bits.h"
#include "util/sparse.h"

struct swap {
    struct swap_file file;

    pthread_mutex_t lock; /* leaf; guards slots */
    struct swap_slots slots;

    uint64_t *sums; /* of slot i; its owner's */

    struct swap_ahead *ahead;
    _Atomic uint64_t bytes_read, bytes_written, read_errors, write_errors;
};

enum status swap_create(struct swap **out, const struct swap_file *file, uint64_t max_bytes,
                        struct error *err)
{
    struct swap *swap = calloc(1, sizeof *swap);
    if (swap == NULL) {
        file->ops->close(file->context);
        return error_set(err, STATUS_NO_MEMORY, "no memory for a swap file");
    }
    pthread_mutex_init(&swap->lock, NULL);
    swap->file = *file;
    if (swap_slots_init(&swap->slots, max_bytes >> PAGE_SHIFT))
        swap->sums = sparse_map(swap->slots.count * sizeof(uint64_t));
    swap->ahead = swap_ahead_create();
    if (swap->sums == NULL || swap->ahead == NULL) {
        swap_destroy(swap);
        return error_set(err, max_bytes < PAGE_SIZE ? STATUS_INVALID : STATUS_NO_MEMORY,
                         "no memory for a swap file of %llu MiB",
                         (unsigned long long)(max_bytes / MIB));
    }
    *out = swap;
    return STATUS_OK;
}

void swap_destroy(struct swap *swap)
{
    if (swap == NULL)
        return;
    sparse_unmap(swap->sums, swap->slots.count * sizeof(uint64_t));
    swap_slots_destroy(&swap->slots);
    swap_ahead_destroy(swap->ahead);
    swap->file.ops->close(swap->file.context);
    pthread_mutex_destroy(&swap->lock);
    free(swap);
}

void swap_clear(struct swap *swap)
{
    pthread_mutex_lock(&swap->lock);
    sparse_clear(swap->sums, swap->slots.count * sizeof(uint64_t));
    swap_slots_clear(&swap->slots);
    pthread_mutex_unlock(&swap->lock);
    swap_ahead_clear(swap->ahead);
    swap->file.ops->discard(swap->file.context, 0, swap->slots.count << PAGE_SHIFT);
}

/* ------------------------------------------------------------------------- slots */

unsigned swap_allocate(struct swap *swap, unsigned want, uint64_t *first)
{
    pthread_mutex_lock(&swap->lock);
    unsigned count =
        swap_slots_take(&swap->slots, want < SWAP_RUN_MAX ? want : SWAP_RUN_MAX, first);
    pthread_mutex_unlock(&swap->lock);
    return count;
}

void swap_free(struct swap *swap, uint64_t first, unsigned count)
{
    pthread_mutex_lock(&swap->lock);
    swap_slots_free(&swap->slots, first, count);
    pthread_mutex_unlock(&swap->lock);
}

void swap_trim(struct swap *swap)
{
    uint64_t cursor = 0, first, count;
    pthread_mutex_lock(&swap->lock);
    while (swap_slots_take_free(&swap->slots, &cursor, &first, &count)) {
        pthread_mutex_unlock(&swap->lock);
        bool given =
            swap->file.ops->discard(swap->file.context, first << PAGE_SHIFT, count << PAGE_SHIFT);
        pthread_mutex_lock(&swap->lock);
        swap_slots_give_back(&swap->slots, first, count, given);
    }
    pthread_mutex_unlock(&swap->lock);
}

static bool run_is_taken(struct swap *swap, uint64_t first, unsigned count)
{
    pthread_mutex_lock(&swap->lock);
    bool taken = swap_slots_are_taken(&swap->slots, first, count);
    pthread_mutex_unlock(&swap->lock);
    return taken;
}

/* ------------------------------------------------------------------------- writing */

static uint64_t sum_of(const uint8_t *page, uint64_t slot)
{
    return XXH3_64bits_withSeed(page, PAGE_SIZE, slot);
}

/* Pages side by side become one piece. */
static void gather(struct swap_write *write)
{
    write->iov_count = 0;
    for (unsigned i = 0; i < write->count; i++) {
        struct iovec *last = write->iov_count == 0 ? NULL : &write->iov[write->iov_count - 1];
        if (last != NULL && (const uint8_t *)last->iov_base + last->iov_len == write->pages[i])
            last->iov_len += PAGE_SIZE;
        else
            write->iov[write->iov_count++] = (struct iovec){(void *)write->pages[i], PAGE_SIZE};
    }
}

/* `done` more bytes of iov are through; returns how many pieces are left, moved to the front. */
static unsigned iov_advance(struct iovec *iov, unsigned count, size_t done)
{
    unsigned skip = 0;
    while (skip < count && done >= iov[skip].iov_len)
        done -= iov[skip++].iov_len;
    memmove(iov, iov + skip, (count - skip) * sizeof *iov);
    if (skip < count) {
        iov[0].iov_base = (uint8_t *)iov[0].iov_base + done;
        iov[0].iov_len -= done;
    }
    return count - skip;
}

/* Counts what a write has done; what is left is written at once. */
static void write_finish(struct swap *swap, struct swap_write *write, ssize_t done)
{
    uint64_t offset = write->first << PAGE_SHIFT, left = (uint64_t)write->count << PAGE_SHIFT;
    while (done > 0 && (uint64_t)done < left) {
        /* In whole pages: the file may be open for nothing less. */
        uint64_t pages = align_down((uint64_t)done, PAGE_SIZE);
        if (pages == 0) {
            done = -EIO;
            break;
        }
        write->iov_count = iov_advance(write->iov, write->iov_count, pages);
        offset += pages;
        left -= pages;
        done = swap->file.ops->write(swap->file.context, write->iov, write->iov_count, offset);
    }
    write->error = done < 0 ? (int)-done : (uint64_t)done == left ? 0 : EIO;
    write->done = true;
    if (write->error == 0)
        atomic_fetch_add(&swap->bytes_written, (uint64_t)write->count << PAGE_SHIFT);
    else
        atomic_fetch_add(&swap->write_errors, 1);
}

static bool write_prepare(struct swap *swap, struct swap_write *write)
{
    write->done = false;
    if (write->count > SWAP_RUN_MAX || !run_is_taken(swap, write->first, write->count)) {
        write->error = EINVAL;
        write->done = true;
        return false;
    }
    for (unsigned i = 0; i < write->count; i++)
        swap->sums[write->first + i] = sum_of(write->pages[i], write->first + i);
    gather(write);
    return true;
}

static void write_at_once(struct swap *swap, struct swap_write *write)
{
    write_finish(swap, write,
                 swap->file.ops->write(swap->file.context, write->iov, write->iov_count,
                                       write->first << PAGE_SHIFT));
}

static enum status write_status(const struct swap_write *write, struct error *err)
{
    switch (write->error) {
    case 0:
        return STATUS_OK;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return error_set(err, STATUS_NO_SPACE, "the disk of the swap file is full: %s",
                         strerror(write->error));
    default:
        return error_set(err, STATUS_IO, "cannot write the swap file: %s", strerror(write->error));
    }
}

void swap_write_begin(struct swap *swap, struct swap_write *write)
{
    if (!write_prepare(swap, write))
        return;
    const struct swap_file *file = &swap->file;
    if (file->ops->submit == NULL || !file->ops->submit(file->context, write->iov, write->iov_count,
                                                        write->first << PAGE_SHIFT, write))
        write_at_once(swap, write);
}

enum status swap_write_end(struct swap *swap, struct swap_write *write, struct error *err)
{
    while (!write->done) {
        void *tag;
        ssize_t done = swap->file.ops->reap(swap->file.context, &tag);
        if (tag == NULL) {
            write->error = EIO;
            break;
        }
        write_finish(swap, tag, done);
    }
    return write_status(write, err);
}

enum status swap_write(struct swap *swap, struct swap_write *write, struct error *err)
{
    if (write_prepare(swap, write))
        write_at_once(swap, write);
    return write_status(write, err);
}

/* ------------------------------------------------------------------------- reading */

/* Whether the page is the one that was written to the slot. */
static bool is_right(const struct swap *swap, uint64_t slot, const uint8_t *page)
{
    return sum_of(page, slot) == swap->sums[slot];
}

/* Reads a slot into `page`, and into `window` those around it. Bytes of the slot, or -errno. */
static ssize_t read_around(struct swap *swap, uint64_t slot, uint8_t *page, uint8_t *window)
{
    uint64_t first = align_down(slot, AHEAD_SLOTS), at = slot - first;
    struct iovec iov[3] = {
        {window, at * PAGE_SIZE},
        {page, PAGE_SIZE},
        {window + (at + 1) * PAGE_SIZE, (AHEAD_SLOTS - 1 - at) * PAGE_SIZE},
    };
    unsigned from = at == 0 ? 1 : 0, end = at == AHEAD_SLOTS - 1 ? 2 : 3;
    ssize_t done =
        swap->file.ops->read(swap->file.context, iov + from, end - from, first << PAGE_SHIFT);
    if (done > 0)
        atomic_fetch_add(&swap->bytes_read, (uint64_t)done);
    bool whole = done == (ssize_t)(AHEAD_SLOTS * PAGE_SIZE);
    if (whole)
        memcpy(window + at * PAGE_SIZE, page, PAGE_SIZE);
    swap_ahead_end(swap->ahead, window, whole);
    return whole ? (ssize_t)PAGE_SIZE : done < 0 ? done : 0;
}

static ssize_t read_one(struct swap *swap, uint64_t slot, uint8_t *page)
{
    struct iovec iov = {page, PAGE_SIZE};
    ssize_t done = swap->file.ops->read(swap->file.context, &iov, 1, slot << PAGE_SHIFT);
    if (done > 0)
        atomic_fetch_add(&swap->bytes_read, (uint64_t)done);
    return done;
}

static enum status read_aligned(struct swap *swap, uint64_t slot, uint8_t *page, struct error *err)
{
    if (!run_is_taken(swap, slot, 1))
        return error_set(err, STATUS_INVALID, "slot %llu of the swap file is not in use",
                         (unsigned long long)slot);
    if (swap_ahead_find(swap->ahead, slot, page) && is_right(swap, slot, page))
        return STATUS_OK;
    uint8_t *window = align_down(slot, AHEAD_SLOTS) + AHEAD_SLOTS <= swap->slots.count
                          ? swap_ahead_begin(swap->ahead, slot)
                          : NULL;
    if (window != NULL && read_around(swap, slot, page, window) == (ssize_t)PAGE_SIZE &&
        is_right(swap, slot, page))
        return STATUS_OK;
    /* By itself: a neighbour may be what cannot be read. */
    ssize_t done = read_one(swap, slot, page);
    if (done == (ssize_t)PAGE_SIZE && is_right(swap, slot, page))
        return STATUS_OK;
    atomic_fetch_add(&swap->read_errors, 1);
    if (done < 0)
        return error_set(err, STATUS_IO, "cannot read the swap file: %s", strerror((int)-done));
    return error_set(err, STATUS_IO, "the swap file has lost a page (slot %llu)",
                     (unsigned long long)slot);
}

enum status swap_read(struct swap *swap, uint64_t slot, uint8_t *page, struct error *err)
{
    if (((uintptr_t)page & PAGE_MASK) == 0)
        return read_aligned(swap, slot, page, err);
    /* A file that is open past the page cache reads into whole pages alone. */
    uint8_t bounce[1 << PAGE_SHIFT] __attribute__((aligned(1 << PAGE_SHIFT)));
    enum status status = read_aligned(swap, slot, bounce, err);
    if (status == STATUS_OK)
        memcpy(page, bounce, PAGE_SIZE);
    return status;
}

void swap_get_stats(struct swap *swap, struct swap_stats *stats)
{
    pthread_mutex_lock(&swap->lock);
    *stats = (struct swap_stats){
        .slots = swap->slots.count,
        .used = swap->slots.used,
        .disk_bytes = swap->slots.holding * SWAP_PIECE_SLOTS * PAGE_SIZE,
    };
    pthread_mutex_unlock(&swap->lock);
    stats->bytes_read = atomic_load(&swap->bytes_read);
    stats->bytes_written = atomic_load(&swap->bytes_written);
    stats->read_errors = atomic_load(&swap->read_errors);
    stats->write_errors = atomic_load(&swap->write_errors);
}
