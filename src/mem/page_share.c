/*
 * Pages that become shared, and private again. The essay in pmap_private.h says why nobody reads a
 * frame that has been dropped.
 *
 * A page is compared as it is about to leave: from the revocation on its bytes do not change unless
 * somebody looks it up, and then it is not shared, whatever the comparison said.
 */

#include "mem/page_share.h"

#include <string.h>

#include "mem/page_hash.h"
#include "mem/pmap_private.h"

#if defined(__SANITIZE_THREAD__)
/* It cannot know that what was read of a page that somebody writes counts for nothing. */
#define LOOKS_IN_PLACE false
#else
#define LOOKS_IN_PLACE true
#endif

void pmap_set_share(struct pmap *map, const struct page_share_ops *ops, void *context)
{
    map->share = ops;
    map->share_context = context;
}

bool pmap_set_pool(struct pmap *map, const uint8_t *base, uint64_t frames)
{
    if (atomic_load(&map->frames_held) != 0)
        return false;
    map->pool = base;
    map->pool_frames = frames;
    return true;
}

bool page_is_frame(const struct pmap *map, uint64_t frame)
{
    return frame != 0 && frame < map->pool_frames;
}

bool pmap_is_shared(const struct pmap *map, uint64_t ppn)
{
    const page_entry *entry = pmap_entry(map, ppn);
    return entry != NULL && entry_state(atomic_load(entry)) == PAGE_SHARED;
}

void frame_drop(struct pmap *map, uint64_t ppn, uint64_t value)
{
    if (map->share != NULL)
        map->share->drop(map->share_context, ppn, (uint32_t)entry_payload(value));
    /* The last that is done with it: the pool may go. */
    atomic_fetch_sub(&map->frames_held, 1);
}

/* ------------------------------------------------------------------------- to shared */

static bool is_equal(struct pmap *map, const struct page_ref *ref)
{
    const uint8_t *frame = map->pool + ((uint64_t)ref->frame << PAGE_SHIFT);
    uint8_t copy[1 << PAGE_SHIFT];
    if (!LOOKS_IN_PLACE)
        return layer_copy(&map->ram, ref->ppn, copy) && memcmp(copy, frame, PAGE_SIZE) == 0;
    /* The page may have been wanted and have left meanwhile: while it is private, and we have this,
     * it has memory (page_look). */
    pthread_rwlock_wrlock(&map->punching);
    bool equal = entry_state(atomic_load(pmap_entry(map, ref->ppn))) == PAGE_PRIVATE &&
                 memcmp(pmap_private_page(map, ref->ppn), frame, PAGE_SIZE) == 0;
    pthread_rwlock_unlock(&map->punching);
    return equal;
}

/* The page is leaving with the ticket. */
static bool try_share(struct pmap *map, const struct page_ref *ref, uint64_t ticket)
{
    if (!is_equal(map, ref)) {
        page_try_cancel(map, ref->ppn, ticket);
        return false;
    }
    atomic_fetch_add(&map->frames_held, 1);
    if (page_try_end(map, ref->ppn, ticket, PAGE_SHARED, ref->frame, ENTRY_HOLLOW))
        return true;
    atomic_fetch_sub(&map->frames_held, 1);
    return false;
}

void page_share(struct pmap *map, const struct page_ref *refs, unsigned count, bool *shared)
{
    _Static_assert(PAGE_SHARE_MAX <= REVOKE_MAX, "one revocation");
    uint64_t ticket = ticket_take(map), hollow[PAGE_SHARE_MAX];
    unsigned hollow_count = 0;
    struct revoke_list list;
    list.count = list.code_count = 0;
    list.keeps_code = true;
    for (unsigned i = 0; i < count; i++)
        shared[i] = i < PAGE_SHARE_MAX && page_is_frame(map, refs[i].frame) &&
                    pmap_entry(map, refs[i].ppn) != NULL &&
                    page_try_leave(map, refs[i].ppn, ticket, true, &list);
    revoke_list_finish(map, &list);
    for (unsigned i = 0; i < count; i++) {
        shared[i] = shared[i] && try_share(map, &refs[i], ticket);
        if (shared[i])
            hollow[hollow_count++] = refs[i].ppn;
    }
    count_event(&map->pages_shared, hollow_count);
    page_punch(map, hollow, hollow_count);
}

/* ------------------------------------------------------------------------- to private */

bool page_borrow_frame(struct pmap *map, uint64_t ppn, const uint8_t **bytes)
{
    page_entry *entry = &map->entries[ppn];
    uint64_t value = atomic_load(entry);
    while (entry_state(value) == PAGE_SHARED) {
        uint64_t wanted = (value & ~ENTRY_KEPT) | ENTRY_COMING | entry_touched(value);
        if (value & ENTRY_COMING) {
            page_wait(map, entry, ENTRY_COMING);
            value = atomic_load(entry);
        } else if (entry_touch(map, entry, &value, wanted)) {
            *bytes = pmap_frame(map, value);
            return true;
        }
    }
    return false;
}

static uint64_t unshared(uint64_t value)
{
    uint64_t settling = value & ENTRY_LENT ? ENTRY_SETTLING : 0;
    return PAGE_PRIVATE | ENTRY_ACTIVE | entry_touched(value) | settling;
}

/* Private by now; its entry was `value`. */
static void unshare_end(struct pmap *map, uint64_t ppn, uint64_t value)
{
    count_event(&map->cow_breaks, 1);
    if (value & ENTRY_LENT) {
        /* Code decoded from it stays: the bytes are the same. */
        pages_revoke(map, &(struct pmap_revocation){.ppns = &ppn, .count = 1});
        page_wake(map, &ppn, 1, ENTRY_SETTLING);
    } else {
        page_wake(map, &ppn, 0, 0);
    }
    frame_drop(map, ppn, value);
}

enum status page_unshare(struct pmap *map, uint64_t ppn, uint64_t value)
{
    page_entry *entry = &map->entries[ppn];
    enum status status;
    if (entry_is_hollow(value)) {
        if (entry_touch(map, entry, &value, unshared(value))) {
            count_event(&map->second_chances, 1);
            unshare_end(map, ppn, value);
        }
        return STATUS_OK;
    }
    if (!page_begin_coming(map, ppn, value, &status))
        return status;
    /* All of it, even if it is to be overwritten: between here and the end of the revocation some
     * vCPUs see the frame and some this. */
    memcpy(pmap_private_page(map, ppn), pmap_frame(map, value), PAGE_SIZE);
    value = atomic_load(entry);
    while (!entry_touch(map, entry, &value, unshared(value)))
        ;
    unshare_end(map, ppn, value);
    return STATUS_OK;
}

enum status page_unshare_some(struct pmap *map, uint64_t *next, unsigned most)
{
    for (; *next < map->span_pages && most != 0; ++*next) {
        if (!pmap_is_shared(map, *next))
            continue;
        if (pmap_page_write(map, *next) == NULL)
            return STATUS_NO_MEMORY;
        most--;
    }
    return STATUS_OK;
}

void page_share_end(struct pmap *map)
{
    for (uint64_t ppn = 0; ppn < map->span_pages && map->frames_held != 0; ppn++) {
        page_entry *entry = pmap_entry(map, ppn);
        uint64_t value = entry != NULL ? atomic_load(entry) : 0;
        if (entry_state(value) != PAGE_SHARED || !entry_change(map, entry, &value, PAGE_ZERO))
            continue;
        frame_drop(map, ppn, value);
    }
}

/* ------------------------------------------------------------------------- looking */

static void look_at(const struct pmap *map, struct page_look_at *page, uint64_t key)
{
    const page_entry *entry = pmap_entry(map, page->ppn);
    uint64_t value = entry != NULL ? atomic_load(entry) : 0;
    uint8_t copy[1 << PAGE_SHIFT];
    const uint8_t *bytes = pmap_private_page(map, page->ppn);
    page->look = PAGE_LOOK_OTHER;
    if (entry_state(value) != PAGE_PRIVATE || value & ENTRY_SETTLING)
        return;
    page->look = PAGE_LOOK_BUSY;
    if (!(value & ENTRY_LEAVING) && entry_payload(value) != 0)
        return;
    if (!LOOKS_IN_PLACE) {
        if (!layer_copy(&map->ram, page->ppn, copy))
            return;
        bytes = copy;
    }
    if (page_is_zero(bytes)) {
        page->look = PAGE_LOOK_ZERO;
        return;
    }
    page->look = PAGE_LOOK_HASHED;
    page->hash = page_hash(bytes, key);
}

/* The processor finds the rest by itself, once it has begun. */
static void prefetch(const struct pmap *map, uint64_t ppn)
{
    const uint8_t *page = pmap_private_page(map, ppn);
    for (unsigned at = 0; LOOKS_IN_PLACE && at < 1024; at += 64)
        __builtin_prefetch(page + at);
}

void page_look(struct pmap *map, struct page_look_at *pages, unsigned count, uint64_t key)
{
    /* A page that is private now has memory as long as we have this, whatever becomes of it: to
     * read it cannot give it any. */
    pthread_rwlock_wrlock(&map->punching);
    for (unsigned i = 0; i < count; i++) {
        if (i + 1 < count && pages[i + 1].ppn < map->span_pages)
            prefetch(map, pages[i + 1].ppn);
        look_at(map, &pages[i], key);
    }
    pthread_rwlock_unlock(&map->punching);
}
