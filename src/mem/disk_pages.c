/*
 * Which pages are equal to which blocks of the disks, and bringing them back from there.
 *
 * INVARIANT: a page that is marked clean, or is in state PAGE_DISK, is equal to the block that
 * `origins` has for it. Origins of other pages mean nothing, and are overwritten some day.
 *   - A transfer sets the origin first, then the mark, then moves the bytes. Pinned pages do not
 *     leave, so nobody acts on the mark before the bytes are there; and if the guest writes the
 * page meanwhile the mark goes, whatever the transfer brings.
 *   - Before a block changes, each page with this origin loses it, and its mark. One in state
 *     PAGE_DISK is brought back. One that is just leaving for there needs the mark for its last
 * step.
 *   - Only transfers of the same disk make new marks for its blocks, and those do not overlap.
 */

#include "mem/disk_pages.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "mem/page_clean.h"
#include "util/bits.h"

struct disk {
    disk_block_read_fn *read;
    void *context;
};

struct disk_pages {
    struct pmap *map;
    struct origins *origins;
    _Atomic bool is_enabled;
    void (*note)(void *context, uint64_t ppn, uint64_t count);
    void *note_context;
    pthread_rwlock_t lock; /* guards the rest; held while a block is read */
    unsigned count;
    struct disk disks[ORIGIN_DISKS];
};

enum status disk_pages_create(struct disk_pages **disks, struct pmap *map, struct error *err)
{
    unsigned count;
    const struct ram_range *ranges = pmap_ranges(map, &count);
    struct disk_pages *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory to follow pages of disks");
    made->map = map;
    uint64_t span = (ranges[count - 1].base + ranges[count - 1].size) >> PAGE_SHIFT;
    enum status status = origins_create(&made->origins, span, err);
    if (status != STATUS_OK) {
        free(made);
        return status;
    }
    pthread_rwlock_init(&made->lock, NULL);
    *disks = made;
    return STATUS_OK;
}

void disk_pages_destroy(struct disk_pages *disks)
{
    if (disks == NULL)
        return;
    origins_destroy(disks->origins);
    pthread_rwlock_destroy(&disks->lock);
    free(disks);
}

enum status disk_pages_add(struct disk_pages *disks, disk_block_read_fn *read, void *context,
                           unsigned *disk, struct error *err)
{
    enum status status = STATUS_OK;
    pthread_rwlock_wrlock(&disks->lock);
    if (disks->count == ORIGIN_DISKS) {
        status = error_set(err, STATUS_NO_SPACE, "more than %u disks", ORIGIN_DISKS);
    } else {
        disks->disks[disks->count] = (struct disk){.read = read, .context = context};
        *disk = disks->count++;
    }
    pthread_rwlock_unlock(&disks->lock);
    return status;
}

void disk_pages_remove(struct disk_pages *disks, unsigned disk)
{
    pthread_rwlock_wrlock(&disks->lock);
    disks->disks[disk].read = NULL;
    pthread_rwlock_unlock(&disks->lock);
}

void disk_pages_set_note(struct disk_pages *disks,
                         void (*note)(void *context, uint64_t ppn, uint64_t count), void *context)
{
    disks->note = note;
    disks->note_context = context;
}

void disk_pages_enable(struct disk_pages *disks, bool enable)
{
    atomic_store(&disks->is_enabled, enable);
}

/* ------------------------------------------------------------------------- transfers */

#define BATCH 64u

/* The whole pages of a transfer that are whole blocks: *ppn from *block on. Returns how many. */
static uint64_t whole_pages(uint64_t offset, uint64_t gpa, uint64_t length, uint64_t *ppn,
                            uint64_t *block)
{
    uint64_t head = -gpa & PAGE_MASK;
    if (((gpa ^ offset) & PAGE_MASK) != 0 || length < head)
        return 0;
    *ppn = (gpa + head) >> PAGE_SHIFT;
    *block = (offset + head) >> PAGE_SHIFT;
    return (length - head) >> PAGE_SHIFT;
}

void disk_pages_transfer(struct disk_pages *disks, unsigned disk, uint64_t offset, uint64_t gpa,
                         uint64_t length)
{
    uint64_t ppn, block, ppns[BATCH];
    uint64_t count = whole_pages(offset, gpa, length, &ppn, &block);
    if (count != 0 && disks->note != NULL)
        disks->note(disks->note_context, ppn, count);
    if (!atomic_load(&disks->is_enabled))
        return;
    for (uint64_t done = 0; done < count;) {
        unsigned batch = 0;
        for (; batch < BATCH && done < count; batch++, done++) {
            ppns[batch] = ppn + done;
            /* It may be clean with another origin still. */
            page_clean_end(disks->map, ppn + done);
            origins_set(disks->origins, ppn + done, (struct origin){disk, block + done});
        }
        page_clean_begin(disks->map, ppns, batch);
    }
}

void disk_pages_failed(struct disk_pages *disks, unsigned disk, uint64_t offset, uint64_t gpa,
                       uint64_t length)
{
    uint64_t ppn, block, count = whole_pages(offset, gpa, length, &ppn, &block);
    for (uint64_t i = 0; i < count; i++)
        page_clean_end(disks->map, ppn + i);
}

/* Lets go of a page whose block is about to change. */
static enum status part(struct disk_pages *disks, uint64_t ppn)
{
    while (pmap_state(disks->map, ppn) == PAGE_DISK) {
        enum status status = pmap_page_bring(disks->map, ppn);
        if (status != STATUS_OK)
            return status;
    }
    page_clean_end(disks->map, ppn);
    /* It may have gone there in between. From here on, without the mark, it cannot. */
    if (pmap_state(disks->map, ppn) == PAGE_DISK)
        return pmap_page_bring(disks->map, ppn);
    return STATUS_OK;
}

enum status disk_pages_overwrite(struct disk_pages *disks, unsigned disk, uint64_t offset,
                                 uint64_t length)
{
    uint64_t ppns[BATCH];
    unsigned taken;
    if (length == 0)
        return STATUS_OK;
    struct origin first = {disk, offset >> PAGE_SHIFT};
    uint64_t count = ((offset + length - 1) >> PAGE_SHIFT) - first.block + 1;
    do {
        taken = origins_take(disks->origins, first, count, ppns, BATCH);
        for (unsigned i = 0; i < taken; i++) {
            enum status status = part(disks, ppns[i]);
            if (status != STATUS_OK)
                return status; /* the map is in trouble, which ends the machine */
        }
    } while (taken == BATCH);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------- the way out and back */

uint64_t disk_pages_overhead(struct disk_pages *disks)
{
    return sizeof(*disks) + origins_count(disks->origins) * ORIGIN_BYTES;
}

bool disk_pages_payload(struct disk_pages *disks, uint64_t ppn, uint64_t *payload)
{
    struct origin origin;
    if (!page_is_clean(disks->map, ppn) || !origins_get(disks->origins, ppn, &origin))
        return false;
    *payload = (uint64_t)origin.disk << ORIGIN_BLOCK_BITS | origin.block;
    return true;
}

enum status disk_pages_get(struct disk_pages *disks, uint64_t payload, uint8_t *page,
                           struct error *err)
{
    uint64_t disk = payload >> ORIGIN_BLOCK_BITS, block = payload & (bit(ORIGIN_BLOCK_BITS) - 1);
    enum status status = STATUS_NOT_FOUND;
    pthread_rwlock_rdlock(&disks->lock);
    if (disk < disks->count && disks->disks[disk].read != NULL)
        status = disks->disks[disk].read(disks->disks[disk].context, block, page);
    pthread_rwlock_unlock(&disks->lock);
    if (status != STATUS_OK)
        return error_set(err, STATUS_IO, "cannot read a page back from block %llu of disk %llu",
                         (unsigned long long)block, (unsigned long long)disk);
    return STATUS_OK;
}
