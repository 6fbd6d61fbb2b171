#ifndef AEROSTAT_HOSTD_POOL_H
#define AEROSTAT_HOSTD_POOL_H

/*
 * The pages of a group's frames: a sparse memfd, frame f at offset f * 4096, which only the manager
 * can write. It never changes its size (sealed), so whoever has it mapped reads it without a fault;
 * its mode is 0400 while it is in use, so a VM, which gets it opened for reading and has no
 * capabilities, cannot open it for writing.
 */

#include <stdint.h>
#include <sys/types.h>

#include "proto/link.h"
#include "util/bits.h"
#include "util/status.h"

#define POOL_BYTES ((uint64_t)LINK_FRAMES_MOST * PAGE_SIZE)

#define POOL_FREED_MOST 1024u

struct pool {
    int fd; /* -1: none */
    dev_t device;
    ino_t inode;
    uint32_t freed[POOL_FREED_MOST]; /* no longer used, and not given back to the host yet */
    uint32_t freed_count;
};

enum status pool_create(struct pool *pool, struct error *err);
/* One that a VM hands back; the descriptor stays the caller's. INVALID where it is not the very
 * file that is named, as pool_create makes it. */
enum status pool_reopen(struct pool *pool, int fd, dev_t device, ino_t inode, struct error *err);
void pool_close(struct pool *pool);

/* A descriptor for reading alone, the caller's. */
enum status pool_reader(const struct pool *pool, int *fd, struct error *err);

/* One page. IO, NO_MEMORY: what is there now is not known. */
enum status pool_write(struct pool *pool, uint32_t frame, const void *page);
enum status pool_read(const struct pool *pool, uint32_t frame, void *page);

/* The first frame from `frame` on that has memory; LINK_FRAMES_MOST where there is none. */
uint32_t pool_next(const struct pool *pool, uint32_t frame);

/* Memory of a frame that is no longer used: given back with that of others, in runs, by pool_punch,
 * which leaves the frames in `freed`, sorted; `freed_count` is the caller's to set to 0. At most
 * POOL_FREED_MOST before that. */
void pool_free(struct pool *pool, uint32_t frame);
void pool_punch(struct pool *pool);

/* Memory that it takes, in bytes. */
uint64_t pool_used(const struct pool *pool);

#endif
