#ifndef AEROSTAT_MEM_DISK_PAGES_H
#define AEROSTAT_MEM_DISK_PAGES_H

/*
 * Pages that are still what a virtual disk has: their memory can go, and come back from the disk's
 * own image, without being stored a second time (the page map's PAGE_DISK).
 *
 * A disk tells of each transfer before it begins, and of those that have failed. A page that was
 * read whole from a block, or written whole to it, is equal to it until the guest writes either.
 * The page is watched by the page map (page_clean.h), the block by the disk itself, which calls
 * disk_pages_overwrite before it changes blocks.
 *
 * Threads: transfers of one disk do not overlap; different disks may be at it at the same time.
 * Everything else may be called from any thread, except create, destroy and add.
 */

#include "mem/origins.h"
#include "mem/pmap.h"

struct disk_pages;

/* Reads one block of a disk to memory, from any thread, without calling back into the map. */
typedef enum status disk_block_read_fn(void *context, uint64_t block, uint8_t *page);

/* For maps of up to 2^32 pages. Follows nothing before disk_pages_enable. */
enum status disk_pages_create(struct disk_pages **disks, struct pmap *map, struct error *err);
void disk_pages_destroy(struct disk_pages *disks); /* NULL is fine */

/* NO_SPACE: ORIGIN_DISKS are there. *disk is what the functions below call it. */
enum status disk_pages_add(struct disk_pages *disks, disk_block_read_fn *read, void *context,
                           unsigned *disk, struct error *err);

/* The disk goes: pages that only it has are lost, and it is not read any more. */
void disk_pages_remove(struct disk_pages *disks, unsigned disk);

/* Tells of each page that is about to be filled from a block, or written to one, whole: from any
 * thread, quickly. Before there are disks. */
void disk_pages_set_note(struct disk_pages *disks,
                         void (*note)(void *context, uint64_t ppn, uint64_t count), void *context);

/* It costs a revocation for each transfer: so it is on only while memory is to be saved. */
void disk_pages_enable(struct disk_pages *disks, bool enable);

/*
 * `length` bytes at `offset` of the disk are about to be transferred to, or from, guest memory at
 * gpa, which the disk has pinned. For a write, disk_pages_overwrite has been called. If the
 * transfer fails, disk_pages_failed is called with the same numbers, before the pages are unpinned.
 */
void disk_pages_transfer(struct disk_pages *disks, unsigned disk, uint64_t offset, uint64_t gpa,
                         uint64_t length);
void disk_pages_failed(struct disk_pages *disks, unsigned disk, uint64_t offset, uint64_t gpa,
                       uint64_t length);

/*
 * Bytes of the disk are about to change. When it returns OK no page is counted equal to their
 * blocks, and those that were only there are in memory again. IO: one cannot be read, and they must
 * not be changed.
 */
enum status disk_pages_overwrite(struct disk_pages *disks, unsigned disk, uint64_t offset,
                                 uint64_t length);

/* Memory that it all takes, in bytes. */
uint64_t disk_pages_overhead(struct disk_pages *disks);

/* For reclaim: the payload with which the page may leave as PAGE_DISK, if it is clean. */
bool disk_pages_payload(struct disk_pages *disks, uint64_t ppn, uint64_t *payload);
/* For the page store: the bytes of a page in state PAGE_DISK. There is nothing to drop. */
enum status disk_pages_get(struct disk_pages *disks, uint64_t payload, uint8_t *page,
                           struct error *err);

#endif
