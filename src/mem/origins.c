/*
 * A hash table of blocks whose chains run through an array of pages.
 *
 *     heads[hash(disk, block)]  -> ppn -> ppn -> ...      (next[ppn]; numbers are PPN + 1, 0 ends)
 *     of[ppn]                      disk and block, packed, + 1; 0: none
 *
 * All three are anonymous mappings, so that pages without an origin cost nothing. There are half as
 * many heads as pages, so chains stay short when every page has an origin; the pages of one block
 * are in one chain, among others.
 */

#include "mem/origins.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "util/bits.h"
#include "util/sparse.h"

struct origins {
    pthread_mutex_t lock; /* leaf */
    uint64_t pages;
    unsigned head_bits;
    uint32_t *heads, *next;
    uint64_t *of;
    uint64_t count;
    uint64_t disk_count[ORIGIN_DISKS];
};

static uint64_t pack(struct origin origin)
{
    return ((uint64_t)origin.disk << ORIGIN_BLOCK_BITS | origin.block) + 1;
}

static struct origin unpack(uint64_t packed)
{
    return (struct origin){.disk = (unsigned)((packed - 1) >> ORIGIN_BLOCK_BITS),
                           .block = (packed - 1) & (bit(ORIGIN_BLOCK_BITS) - 1)};
}

static uint32_t *head_of(const struct origins *origins, uint64_t packed)
{
    return &origins->heads[hash_to_bits(packed, origins->head_bits)];
}

static uint64_t head_count(const struct origins *origins)
{
    return bit(origins->head_bits);
}

enum status origins_create(struct origins **origins, uint64_t pages, struct error *err)
{
    if (pages == 0 || pages >= UINT32_MAX)
        return error_set(err, STATUS_INVALID, "no table of origins for %llu pages",
                         (unsigned long long)pages);
    struct origins *made = calloc(1, sizeof(*made));
    if (made == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a table of origins");
    pthread_mutex_init(&made->lock, NULL);
    made->pages = pages;
    made->head_bits = 1;
    while (head_count(made) < pages / 2)
        made->head_bits++;
    made->heads = sparse_map(head_count(made) * sizeof(*made->heads));
    made->next = sparse_map(pages * sizeof(*made->next));
    made->of = sparse_map(pages * sizeof(*made->of));
    if (made->heads == NULL || made->next == NULL || made->of == NULL) {
        origins_destroy(made);
        return error_set(err, STATUS_NO_MEMORY, "cannot map a table of origins: %s",
                         strerror(errno));
    }
    *origins = made;
    return STATUS_OK;
}

void origins_destroy(struct origins *origins)
{
    if (origins == NULL)
        return;
    sparse_unmap(origins->heads, head_count(origins) * sizeof(*origins->heads));
    sparse_unmap(origins->next, origins->pages * sizeof(*origins->next));
    sparse_unmap(origins->of, origins->pages * sizeof(*origins->of));
    pthread_mutex_destroy(&origins->lock);
    free(origins);
}

/* Under the lock, as those below. */
static void forget(struct origins *origins, uint64_t ppn)
{
    uint64_t packed = origins->of[ppn];
    if (packed == 0)
        return;
    uint32_t *at = head_of(origins, packed);
    while (*at != ppn + 1)
        at = &origins->next[*at - 1];
    *at = origins->next[ppn];
    origins->of[ppn] = 0;
    origins->count--;
    origins->disk_count[unpack(packed).disk]--;
}

static void set(struct origins *origins, uint64_t ppn, uint64_t packed)
{
    uint32_t *head = head_of(origins, packed);
    origins->of[ppn] = packed;
    origins->next[ppn] = *head;
    *head = (uint32_t)ppn + 1;
    origins->count++;
    origins->disk_count[unpack(packed).disk]++;
}

void origins_set(struct origins *origins, uint64_t ppn, struct origin origin)
{
    if (ppn >= origins->pages || origin.disk >= ORIGIN_DISKS ||
        origin.block >> ORIGIN_BLOCK_BITS != 0)
        return;
    pthread_mutex_lock(&origins->lock);
    if (origins->of[ppn] != pack(origin)) {
        forget(origins, ppn);
        set(origins, ppn, pack(origin));
    }
    pthread_mutex_unlock(&origins->lock);
}

bool origins_get(struct origins *origins, uint64_t ppn, struct origin *origin)
{
    if (ppn >= origins->pages)
        return false;
    pthread_mutex_lock(&origins->lock);
    uint64_t packed = origins->of[ppn];
    pthread_mutex_unlock(&origins->lock);
    if (packed == 0)
        return false;
    *origin = unpack(packed);
    return true;
}

static unsigned take_by_block(struct origins *origins, struct origin first, uint64_t count,
                              uint64_t *ppns, unsigned most)
{
    unsigned taken = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t packed = pack((struct origin){first.disk, first.block + i});
        for (uint32_t at = *head_of(origins, packed), next; at != 0; at = next) {
            next = origins->next[at - 1];
            if (origins->of[at - 1] != packed)
                continue;
            if (taken == most)
                return taken;
            ppns[taken++] = at - 1;
            forget(origins, at - 1);
        }
    }
    return taken;
}

/* For long ranges: past all pages rather than past all blocks. */
static unsigned take_by_page(struct origins *origins, struct origin first, uint64_t count,
                             uint64_t *ppns, unsigned most)
{
    unsigned taken = 0;
    for (uint64_t ppn = 0; ppn < origins->pages && taken < most; ppn++) {
        uint64_t packed = origins->of[ppn];
        if (packed != 0 && packed - pack(first) < count) {
            ppns[taken++] = ppn;
            forget(origins, ppn);
        }
    }
    return taken;
}

unsigned origins_take(struct origins *origins, struct origin first, uint64_t count, uint64_t *ppns,
                      unsigned most)
{
    unsigned taken = 0;
    if (first.disk >= ORIGIN_DISKS || first.block >> ORIGIN_BLOCK_BITS != 0)
        return 0;
    if (count > bit(ORIGIN_BLOCK_BITS) - first.block)
        count = bit(ORIGIN_BLOCK_BITS) - first.block;
    pthread_mutex_lock(&origins->lock);
    if (origins->disk_count[first.disk] != 0)
        taken = count < origins->pages ? take_by_block(origins, first, count, ppns, most)
                                       : take_by_page(origins, first, count, ppns, most);
    pthread_mutex_unlock(&origins->lock);
    return taken;
}

uint64_t origins_count(struct origins *origins)
{
    pthread_mutex_lock(&origins->lock);
    uint64_t count = origins->count;
    pthread_mutex_unlock(&origins->lock);
    return count;
}
