#ifndef AEROSTAT_MEM_ORIGINS_H
#define AEROSTAT_MEM_ORIGINS_H

/*
 * Which pages of memory were read from which blocks of the virtual disks: both ways, PPN to block
 * and block to PPNs. A page has one origin at most, a block any number of pages.
 *
 * This is a table and nothing else: whether a page is still equal to its block is the page map's
 * business (disk_pages.h). All functions may be called from any thread, except create and destroy;
 * none blocks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "util/status.h"

#define ORIGIN_BYTES      16u /* what a page that has one takes */
#define ORIGIN_DISKS      16u /* disks are numbered below this, */
#define ORIGIN_BLOCK_BITS 40u /* blocks of PAGE_SIZE bytes below 2^this */

struct origin {
    unsigned disk;
    uint64_t block; /* of PAGE_SIZE bytes */
};

struct origins;

/* For PPNs below `pages`, at most 2^32 - 1. Takes memory as pages get origins: 12 to 16 bytes each,
 * by runs of PPNs, and 2 to 4 bytes for each page there is. */
enum status origins_create(struct origins **origins, uint64_t pages, struct error *err);
void origins_destroy(struct origins *origins); /* NULL is fine */

/* Replaces what the page had. */
void origins_set(struct origins *origins, uint64_t ppn, struct origin origin);
bool origins_get(struct origins *origins, uint64_t ppn, struct origin *origin);

/* Takes their origins from pages that have one of the blocks [block, block + count) of the disk,
 * `most` at most, and lists them, in no order. */
unsigned origins_take(struct origins *origins, struct origin first, uint64_t count, uint64_t *ppns,
                      unsigned most);

uint64_t origins_count(struct origins *origins); /* pages that have one */

#endif
