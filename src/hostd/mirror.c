#include "hostd/mirror.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "util/bits.h"
#include "util/sparse.h"

#define CHUNK (PAGE_SIZE / sizeof(share_ref)) /* entries in a page of memory */

static uint64_t chunk_count(uint64_t span)
{
    return (span + CHUNK - 1) / CHUNK;
}

enum status mirror_init(struct mirror *mirror, uint64_t span)
{
    uint64_t chunks = chunk_count(span);
    *mirror = (struct mirror){.span = span};
    mirror->used = calloc(chunks, sizeof *mirror->used);
    mirror->entries = sparse_map(chunks * PAGE_SIZE);
    if (mirror->used == NULL || mirror->entries == NULL) {
        mirror_free(mirror);
        return STATUS_NO_MEMORY;
    }
    madvise(mirror->entries, chunks * PAGE_SIZE, MADV_NOHUGEPAGE);
    return STATUS_OK;
}

void mirror_free(struct mirror *mirror)
{
    sparse_unmap(mirror->entries, chunk_count(mirror->span) * PAGE_SIZE);
    free(mirror->used);
    *mirror = (struct mirror){0};
}

share_ref mirror_get(const struct mirror *mirror, uint32_t ppn)
{
    /* Not even read where there is nothing: that would cost a page table. */
    return mirror->used[ppn / CHUNK] == 0 ? SHARE_NONE : mirror->entries[ppn];
}

static void count(struct mirror *mirror, share_ref ref, uint64_t change)
{
    if (share_is_hint(ref))
        mirror->hints += change;
    else if (ref != SHARE_NONE)
        mirror->frames += change;
}

void mirror_set(struct mirror *mirror, uint32_t ppn, share_ref ref)
{
    uint64_t chunk = ppn / CHUNK;
    share_ref before = mirror_get(mirror, ppn);
    if (before == ref)
        return;
    count(mirror, before, (uint64_t)-1);
    count(mirror, ref, 1);
    mirror->entries[ppn] = ref;
    if (before == SHARE_NONE && mirror->used[chunk]++ == 0)
        mirror->chunks++;
    if (ref == SHARE_NONE && --mirror->used[chunk] == 0) {
        mirror->chunks--;
        sparse_clear(&mirror->entries[chunk * CHUNK], PAGE_SIZE);
    }
}

uint64_t mirror_next(const struct mirror *mirror, uint64_t ppn)
{
    while (ppn < mirror->span) {
        if (mirror->used[ppn / CHUNK] == 0) {
            ppn = (ppn / CHUNK + 1) * CHUNK;
            continue;
        }
        if (mirror->entries[ppn] != SHARE_NONE)
            return ppn;
        ppn++;
    }
    return mirror->span;
}

uint64_t mirror_bytes(const struct mirror *mirror)
{
    return mirror->chunks * PAGE_SIZE;
}
