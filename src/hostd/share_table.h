#ifndef AEROSTAT_HOSTD_SHARE_TABLE_H
#define AEROSTAT_HOSTD_SHARE_TABLE_H

/*
 * What a group knows of page contents: from hashes to frames and hints (section 4.2 of the ESX
 * paper). A frame is a page of the pool, with the number of pages that hold it; a hint says which
 * page of which VM had that content when it was scanned. There is at most one of either for a hash.
 *
 * Both are 16 bytes, in chains of one hash table, which grows and shrinks a bucket at a time
 * (linear hashing), so that no request waits for all of it to be moved. Chains are long on purpose:
 * with nine entries to a bucket everything, the mirror's 4 bytes included, is 20.45 bytes a page
 * that has a hint, less than 0.5 % of it.
 *
 * Frames are numbered by their place in the pool, so their entries stay where they are. Hints are
 * dense: when one goes the last takes its place, which the caller is told.
 *
 * Metadata alone: the pages are the pool's business (pool.h), who holds what is the mirrors'.
 */

#include <stdbool.h>
#include <stdint.h>

#include "hostd/area.h"
#include "hostd/overflow.h"
#include "proto/link.h"

/* What a hash or a PPN leads to: 0 for nothing, a frame's number, or a hint's with SHARE_HINT. */
typedef uint32_t share_ref;
#define SHARE_NONE       0u
#define SHARE_HINT       (1u << 31)
#define SHARE_HINTS_MOST (1u << 28)

static inline bool share_is_hint(share_ref ref)
{
    return (ref & SHARE_HINT) != 0;
}

static inline bool share_is_frame(share_ref ref)
{
    return ref != SHARE_NONE && !share_is_hint(ref);
}

struct share_table {
    struct area frames, hints, buckets;
    struct overflow overflow;
    uint32_t bucket_count;
    uint32_t hint_count;
    uint32_t frame_count; /* that exist */
    uint32_t frame_end;   /* all frames ever are below this */
    uint32_t free_frame;  /* first of a chain through `next`; 0: none */
};

struct share_page { /* of a VM of the group */
    uint32_t ppn;
    uint16_t vm;
};

enum status share_table_init(struct share_table *table);
void share_table_free(struct share_table *table);

/* What has this hash. Of a hint 48 bits are compared: it may be another one's. */
share_ref share_find(const struct share_table *table, uint64_t hash);

/* For a hash that nothing has. NO_MEMORY, NO_SPACE: nothing has changed. */
enum status share_add_hint(struct share_table *table, uint64_t hash, struct share_page page,
                           share_ref *ref);
struct share_page share_hint_page(const struct share_table *table, share_ref hint);
/* Afterwards the hint of *moved, if this returns true, is the one named `hint`. */
bool share_remove_hint(struct share_table *table, share_ref hint, struct share_page *moved);

/* A new frame, that nobody holds yet; for a hash that nothing has. NO_MEMORY, NO_SPACE as above. */
enum status share_add_frame(struct share_table *table, uint64_t hash, uint32_t *frame);
/* The same with a number from before; to be called with rising numbers, before any other frame is
 * added. INVALID: there is one with that hash, which keeps it; this one is found by nobody, but can
 * be held. */
enum status share_place_frame(struct share_table *table, uint32_t frame, uint64_t hash);
bool share_frame_exists(const struct share_table *table, uint32_t frame);
/* A frame that nobody holds ceases to exist. Its number is not given again before share_reuse. */
void share_remove_frame(struct share_table *table, uint32_t frame);
void share_reuse_frame(struct share_table *table, uint32_t frame);

/* Where no frame exists: their entries' memory goes back to the host, and all numbers are free. */
void share_forget_frames(struct share_table *table);

/* How many hold a frame that exists. */
uint64_t share_count(const struct share_table *table, uint32_t frame);
enum status share_hold(struct share_table *table, uint32_t frame); /* NO_MEMORY: not counted */
uint64_t share_release(struct share_table *table, uint32_t frame); /* how many still do */

/* Memory that it takes, in bytes. */
uint64_t share_table_bytes(const struct share_table *table);

/* Recounts everything; aborts where it does not fit together. For tests. */
void share_table_check(const struct share_table *table);

#endif
