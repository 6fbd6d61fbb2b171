/*
 * See zcache.h.
 *
 * A packed page with its header is rounded up to a multiple of 64 bytes, which makes 32 classes of
 * equal slots. Each class is one dense array, in address space reserved for the largest it can ever
 * be, so it grows and shrinks at its end alone. Dropping a page moves the last one of its class
 * into the gap: there is no free list and no fragmentation, at the cost of copying at most 2 KiB.
 *
 *   class 7 (448 bytes)   [page A][page B][page C][page D]| spare |  reserved, no memory ...
 *   drop B                [page A][page D][page C]|   spare       |
 *
 * A few pages are spare at the end of each class, so that a drop and a put in turn do not give
 * memory back and take it again; when memory is short elsewhere in the cache they go first.
 *
 * Because packed pages move, handles name an entry of a table, which has the place. Entries are
 * linked from the oldest to the newest. A handle has a serial number in it beside the entry's, so
 * that one that was dropped is known as such while its entry serves another page.
 *
 * One lock guards it all. Packing and unpacking happen outside it.
 */

#include "mem/zcache.h"

#include <errno.h>
#include <lz4.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "util/bits.h"
#include "util/sparse.h"

#define CLASS_STEP  64u
#define CLASSES     32u
#define SPARE_PAGES 8u /* that a class keeps at its end */

#define INDEX_BITS   28
#define INDEX_NONE   ((uint32_t)-1)
#define ENTRIES_MOST ((uint64_t)1 << INDEX_BITS)
#define SERIAL_MASK  ((1u << (ZCACHE_HANDLE_BITS - INDEX_BITS)) - 1)

struct packed {
    uint32_t entry;
    uint32_t length; /* of bytes */
    uint8_t bytes[];
};

_Static_assert(sizeof(struct packed) + ZCACHE_PACKED_MOST == (size_t)CLASSES * CLASS_STEP,
               "the largest page fills the largest class");

struct entry {
    uint64_t ppn;
    uint32_t at;           /* slot in its class */
    uint32_t older, newer; /* INDEX_NONE at the ends; `newer` links the free ones too */
    uint16_t serial;
    uint8_t class; /* of slots of (class + 1) * CLASS_STEP bytes */
    bool used;
};

/* Memory that grows and shrinks at its end, in reserved address space. */
struct arena {
    uint8_t *base;
    uint64_t pages; /* from the beginning, that may have memory */
};

struct zcache {
    pthread_mutex_t lock;
    uint64_t max_pages, held_pages;
    uint64_t count, packed_bytes;

    struct arena classes[CLASSES];
    uint32_t used[CLASSES]; /* slots */

    struct arena table; /* of struct entry */
    uint32_t entries;   /* of the table that were ever in use since it was empty */
    uint32_t entries_most;
    uint32_t free, oldest, newest;
    uint16_t serial; /* of the next page */

    uint8_t *reserved;
    uint64_t reserved_bytes;
};

static uint32_t class_size(unsigned class)
{
    return (class + 1) * CLASS_STEP;
}

static struct packed *packed_at(const struct zcache *cache, unsigned class, uint32_t at)
{
    return (struct packed *)(void *)(cache->classes[class].base + (uint64_t)at * class_size(class));
}

static struct entry *entry_at(const struct zcache *cache, uint32_t index)
{
    return (struct entry *)(void *)cache->table.base + index;
}

static uint64_t pages_of(uint64_t bytes)
{
    return (bytes + PAGE_MASK) >> PAGE_SHIFT;
}

enum status zcache_create(struct zcache **out, uint64_t max_bytes, struct error *err)
{
    uint64_t entries = max_bytes / CLASS_STEP;
    if (entries > ENTRIES_MOST)
        entries = ENTRIES_MOST;
    uint64_t arena_bytes = align_up(max_bytes, PAGE_SIZE);
    uint64_t table_bytes = align_up(entries * sizeof(struct entry), PAGE_SIZE);
    uint64_t reserved;
    if (max_bytes == 0 || arena_bytes < max_bytes ||
        __builtin_mul_overflow(arena_bytes, (uint64_t)CLASSES, &reserved) ||
        __builtin_add_overflow(reserved, table_bytes, &reserved))
        return error_set(err, STATUS_INVALID, "a compression cache of %llu bytes",
                         (unsigned long long)max_bytes);
    struct zcache *cache = calloc(1, sizeof *cache);
    if (cache == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a compression cache");
    void *base = sparse_map(reserved);
    if (base == NULL) {
        error_set(err, STATUS_NO_MEMORY, "cannot reserve a compression cache of %llu MiB: %s",
                  (unsigned long long)(max_bytes / MIB), strerror(errno));
        free(cache);
        return STATUS_NO_MEMORY;
    }
    madvise(base, reserved, MADV_DONTDUMP); /* guests' secrets do not belong in core files */
    madvise(base, reserved, MADV_NOHUGEPAGE);
    pthread_mutex_init(&cache->lock, NULL);
    cache->reserved = base;
    cache->reserved_bytes = reserved;
    for (unsigned i = 0; i < CLASSES; i++)
        cache->classes[i].base = cache->reserved + i * arena_bytes;
    cache->table.base = cache->reserved + CLASSES * arena_bytes;
    cache->entries_most = (uint32_t)entries;
    cache->max_pages = max_bytes >> PAGE_SHIFT;
    cache->free = cache->oldest = cache->newest = INDEX_NONE;
    *out = cache;
    return STATUS_OK;
}

void zcache_destroy(struct zcache *cache)
{
    if (cache == NULL)
        return;
    sparse_unmap(cache->reserved, cache->reserved_bytes);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

/* The rest runs under the lock, but for what says otherwise. */

static void arena_shrink(struct zcache *cache, struct arena *arena, uint64_t pages)
{
    if (arena->pages <= pages)
        return;
    sparse_clear(arena->base + (pages << PAGE_SHIFT), (arena->pages - pages) << PAGE_SHIFT);
    cache->held_pages -= arena->pages - pages;
    arena->pages = pages;
}

static void drop_spares(struct zcache *cache)
{
    for (unsigned i = 0; i < CLASSES; i++)
        arena_shrink(cache, &cache->classes[i], pages_of((uint64_t)cache->used[i] * class_size(i)));
}

static bool arena_grow(struct zcache *cache, struct arena *arena, uint64_t bytes)
{
    uint64_t pages = pages_of(bytes);
    if (pages <= arena->pages)
        return true;
    if (cache->held_pages + (pages - arena->pages) > cache->max_pages)
        drop_spares(cache);
    if (cache->held_pages + (pages - arena->pages) > cache->max_pages)
        return false;
    cache->held_pages += pages - arena->pages;
    arena->pages = pages;
    return true;
}

/* INDEX_NONE when there is no room. */
static uint32_t entry_take(struct zcache *cache)
{
    uint32_t index = cache->free;
    if (index != INDEX_NONE) {
        cache->free = entry_at(cache, index)->newer;
        return index;
    }
    if (cache->entries == cache->entries_most ||
        !arena_grow(cache, &cache->table, (cache->entries + 1) * sizeof(struct entry)))
        return INDEX_NONE;
    return cache->entries++;
}

static void entry_give(struct zcache *cache, uint32_t index)
{
    struct entry *entry = entry_at(cache, index);
    entry->used = false;
    entry->newer = cache->free;
    cache->free = index;
}

static void entry_link(struct zcache *cache, uint32_t index)
{
    struct entry *entry = entry_at(cache, index);
    entry->older = cache->newest;
    entry->newer = INDEX_NONE;
    if (cache->newest != INDEX_NONE)
        entry_at(cache, cache->newest)->newer = index;
    else
        cache->oldest = index;
    cache->newest = index;
}

static void entry_unlink(struct zcache *cache, const struct entry *entry)
{
    if (entry->older != INDEX_NONE)
        entry_at(cache, entry->older)->newer = entry->newer;
    else
        cache->oldest = entry->newer;
    if (entry->newer != INDEX_NONE)
        entry_at(cache, entry->newer)->older = entry->older;
    else
        cache->newest = entry->older;
}

static uint64_t handle_of(const struct entry *entry, uint32_t index)
{
    return (uint64_t)entry->serial << INDEX_BITS | index;
}

static struct entry *entry_find(const struct zcache *cache, uint64_t handle)
{
    uint64_t index = handle & (ENTRIES_MOST - 1);
    if (index >= cache->entries)
        return NULL;
    struct entry *entry = entry_at(cache, (uint32_t)index);
    return entry->used && entry->serial == handle >> INDEX_BITS ? entry : NULL;
}

static enum status insert(struct zcache *cache, uint64_t ppn, const void *bytes, uint32_t length,
                          uint64_t *handle)
{
    unsigned class = (unsigned)((sizeof(struct packed) + length - 1) / CLASS_STEP);
    uint32_t index = entry_take(cache);
    if (index == INDEX_NONE)
        return STATUS_NO_SPACE;
    if (!arena_grow(cache, &cache->classes[class],
                    (uint64_t)(cache->used[class] + 1) * class_size(class))) {
        entry_give(cache, index);
        return STATUS_NO_SPACE;
    }
    struct entry *entry = entry_at(cache, index);
    entry->ppn = ppn;
    entry->class = (uint8_t) class;
    entry->at = cache->used[class]++;
    entry->used = true;
    entry->serial = cache->serial++ & SERIAL_MASK;
    entry_link(cache, index);

    struct packed *packed = packed_at(cache, class, entry->at);
    packed->entry = index;
    packed->length = length;
    memcpy(packed->bytes, bytes, length);
    cache->count++;
    cache->packed_bytes += length;
    *handle = handle_of(entry, index);
    return STATUS_OK;
}

enum status zcache_put(struct zcache *cache, uint64_t ppn, const void *page, uint64_t *handle)
{
    char bytes[ZCACHE_PACKED_MOST];
    int length = LZ4_compress_default(page, bytes, (int)PAGE_SIZE, (int)sizeof bytes);
    if (length <= 0)
        return STATUS_UNSUPPORTED;
    pthread_mutex_lock(&cache->lock);
    enum status status = insert(cache, ppn, bytes, (uint32_t)length, handle);
    pthread_mutex_unlock(&cache->lock);
    return status;
}

enum status zcache_get(struct zcache *cache, uint64_t handle, void *page)
{
    char bytes[ZCACHE_PACKED_MOST];
    uint32_t length = 0;
    pthread_mutex_lock(&cache->lock);
    const struct entry *entry = entry_find(cache, handle);
    if (entry != NULL) {
        const struct packed *packed = packed_at(cache, entry->class, entry->at);
        length = packed->length;
        memcpy(bytes, packed->bytes, length);
    }
    pthread_mutex_unlock(&cache->lock);
    if (entry == NULL)
        return STATUS_NOT_FOUND;
    return LZ4_decompress_safe(bytes, page, (int)length, (int)PAGE_SIZE) == (int)PAGE_SIZE
               ? STATUS_OK
               : STATUS_INTERNAL;
}

/* Takes a packed page out of its class: the last one fills the gap. */
static void close_gap(struct zcache *cache, const struct entry *entry)
{
    unsigned class = entry->class;
    struct packed *gap = packed_at(cache, class, entry->at);
    cache->packed_bytes -= gap->length;
    uint32_t last = --cache->used[class];
    if (entry->at != last) {
        const struct packed *moved = packed_at(cache, class, last);
        memcpy(gap, moved, sizeof *moved + moved->length);
        entry_at(cache, gap->entry)->at = entry->at;
    }
    uint64_t pages = pages_of((uint64_t)last * class_size(class));
    if (cache->classes[class].pages >= pages + 2 * SPARE_PAGES)
        arena_shrink(cache, &cache->classes[class], pages + SPARE_PAGES);
}

void zcache_drop(struct zcache *cache, uint64_t handle)
{
    pthread_mutex_lock(&cache->lock);
    struct entry *entry = entry_find(cache, handle);
    if (entry == NULL)
        goto out;
    close_gap(cache, entry);
    entry_unlink(cache, entry);
    entry_give(cache, (uint32_t)(handle & (ENTRIES_MOST - 1)));
    if (--cache->count == 0) {
        drop_spares(cache);
        arena_shrink(cache, &cache->table, 0);
        cache->entries = 0;
        cache->free = INDEX_NONE;
    }
out:
    pthread_mutex_unlock(&cache->lock);
}

unsigned zcache_oldest(struct zcache *cache, struct zcache_item *items, unsigned most)
{
    unsigned count = 0;
    pthread_mutex_lock(&cache->lock);
    for (uint32_t index = cache->oldest; index != INDEX_NONE && count < most;) {
        const struct entry *entry = entry_at(cache, index);
        items[count++] = (struct zcache_item){.ppn = entry->ppn, .handle = handle_of(entry, index)};
        index = entry->newer;
    }
    pthread_mutex_unlock(&cache->lock);
    return count;
}

void zcache_get_stats(struct zcache *cache, struct zcache_stats *stats)
{
    pthread_mutex_lock(&cache->lock);
    *stats = (struct zcache_stats){
        .pages = cache->count,
        .packed_bytes = cache->packed_bytes,
        .held_bytes = cache->held_pages << PAGE_SHIFT,
        .max_bytes = cache->max_pages << PAGE_SHIFT,
    };
    pthread_mutex_unlock(&cache->lock);
}
