/*
 * See scan.h.
 *
 * `seen` has some bits of each page's hash as of the last look, and whether it was named then; 0:
 * there was none. It is what keeps a VM that does not change from naming the same pages for ever,
 * and one that changes all the time from naming what will not last. It costs two bytes a page.
 */

#include "mem/scan.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "mem/page_hash.h"
#include "mem/page_leave.h"
#include "mem/page_share.h"
#include "util/bits.h"
#include "util/sparse.h"
#include "util/xorshift.h"

#define GROUP_PAGES    16u
#define NOTES          1024u
#define TRIES          16u /* ticks that a pinned page is waited for */
#define REFRESH_ROUNDS 16u
#define STEP_TRIES     1024u /* pages looked for in one step */
#define IMAGE_RANGES   2u    /* a kernel, an initrd */
#define IMAGE_ROUNDS   2u
#define YOUNG_MOST     1024u

/* In `seen`: the hash was named; there is one. And of a page that was shared: whatever it has by
 * now is another. */
#define SEEN_NAMED   1u
#define SEEN_HASH    2u
#define SEEN_CHANGED SEEN_NAMED

struct note {
    uint32_t ppn, count;
    uint8_t fresh, tries;
};

/* What was loaded: page `next` of range `range` is the next to be looked at. */
struct image {
    struct {
        uint64_t ppn, count;
    } ranges[IMAGE_RANGES];
    unsigned range_count, range, rounds;
    uint64_t next;
};

struct scan {
    struct pmap *map;
    uint64_t span_pages, max_pages, seed;
    uint16_t *seen; /* by PPN; takes memory where there are some */

    /* The rest: a round visits each group once. Round 0 in order, others by a full-period generator
     * modulo a power of two. */
    uint64_t groups, modulus, factor, step, position, visited, next; /* next: page of the group */
    _Atomic uint64_t rounds;
    struct image image;

    _Atomic bool enabled;
    pthread_mutex_t lock; /* a leaf; guards the ring of notes */
    struct note notes[NOTES];
    unsigned first, count;
    unsigned in_tick; /* notes that are of this tick */
    unsigned young;   /* pages that may still be named as soon as they have changed */

    _Atomic uint64_t scanned, zeroed;
};

static void round_begin(struct scan *scan)
{
    scan->visited = scan->next = 0;
    scan->position = 0;
    if (scan->rounds == 0) {
        scan->factor = scan->step = 1;
        return;
    }
    scan->factor = xorshift_next(&scan->seed) << 2 | 1;
    scan->step = xorshift_next(&scan->seed) | 1;
    scan->position = xorshift_next(&scan->seed) & (scan->modulus - 1);
}

enum status scan_create(struct scan **out, struct pmap *map, uint64_t seed, struct error *err)
{
    unsigned count;
    const struct ram_range *ranges = pmap_ranges(map, &count);
    struct scan *scan = calloc(1, sizeof *scan);
    if (scan == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for scanning");
    pthread_mutex_init(&scan->lock, NULL);
    scan->map = map;
    scan->seed = seed | 1;
    scan->span_pages = (ranges[count - 1].base + ranges[count - 1].size) >> PAGE_SHIFT;
    struct pmap_stats stats;
    pmap_get_stats(map, &stats);
    scan->max_pages = stats.max_pages;
    scan->groups = (stats.max_pages + GROUP_PAGES - 1) / GROUP_PAGES;
    for (scan->modulus = 4; scan->modulus < scan->groups;)
        scan->modulus *= 2;
    round_begin(scan);
    scan->seen = sparse_map(scan->span_pages * sizeof *scan->seen);
    if (scan->seen == NULL) {
        error_set(err, STATUS_NO_MEMORY, "no memory for scanning: %s", strerror(errno));
        scan_destroy(scan);
        return STATUS_NO_MEMORY;
    }
    *out = scan;
    return STATUS_OK;
}

void scan_destroy(struct scan *scan)
{
    if (scan == NULL)
        return;
    sparse_unmap(scan->seen, scan->span_pages * sizeof *scan->seen);
    pthread_mutex_destroy(&scan->lock);
    free(scan);
}

void scan_enable(struct scan *scan, bool enable)
{
    atomic_store(&scan->enabled, enable);
}

/* ------------------------------------------------------------------------- notes */

static void note(struct scan *scan, uint64_t ppn, uint64_t count, bool fresh, unsigned tries)
{
    struct note new = {(uint32_t)ppn, (uint32_t)count, fresh, (uint8_t)tries};
    pthread_mutex_lock(&scan->lock);
    struct note *last = &scan->notes[(scan->first + scan->count - 1) % NOTES];
    if (scan->count > scan->in_tick && last->ppn + last->count == ppn && last->fresh == fresh &&
        last->tries == tries) {
        last->count += new.count;
    } else {
        if (scan->count == NOTES) { /* the oldest is the one that is likeliest to be gone */
            scan->first = (scan->first + 1) % NOTES;
            scan->count--;
            scan->in_tick -= scan->in_tick != 0;
        }
        scan->notes[(scan->first + scan->count++) % NOTES] = new;
    }
    pthread_mutex_unlock(&scan->lock);
}

void scan_note(struct scan *scan, uint64_t ppn, uint64_t count, bool fresh)
{
    if (!atomic_load_explicit(&scan->enabled, memory_order_relaxed) || ppn >= scan->span_pages)
        return;
    note(scan, ppn, count < scan->span_pages - ppn ? count : scan->span_pages - ppn, fresh, 0);
}

void scan_tick(struct scan *scan, unsigned young)
{
    pthread_mutex_lock(&scan->lock);
    scan->in_tick = scan->count;
    pthread_mutex_unlock(&scan->lock);
    scan->young = young < YOUNG_MOST - scan->young ? scan->young + young : YOUNG_MOST;
}

/* What is to be looked at, and why. */
struct choice {
    unsigned count;
    uint64_t round; /* that they are of */
    bool loaded;    /* all of them */
    struct page_look_at pages[SCAN_STEP];
    struct note from[SCAN_STEP]; /* count 0: none */
};

static void choose_noted(struct scan *scan, struct choice *choice)
{
    pthread_mutex_lock(&scan->lock);
    while (choice->count < SCAN_STEP && scan->in_tick != 0) {
        struct note *oldest = &scan->notes[scan->first];
        choice->from[choice->count] = *oldest;
        choice->pages[choice->count++].ppn = oldest->ppn++;
        if (--oldest->count != 0)
            continue;
        scan->first = (scan->first + 1) % NOTES;
        scan->count--;
        scan->in_tick--;
    }
    pthread_mutex_unlock(&scan->lock);
}

/* ------------------------------------------------------------------------- rounds */

/* A page for the choice, if it is private. What is not has nothing that could have been named; when
 * a shared one is private again, it has been written. */
static void choose(struct scan *scan, struct choice *choice, uint64_t ppn)
{
    enum page_state state = pmap_state(scan->map, ppn);
    if (state != PAGE_PRIVATE) {
        uint16_t seen = state == PAGE_SHARED ? SEEN_CHANGED : 0;
        if (scan->seen[ppn] != seen)
            scan->seen[ppn] = seen;
        return;
    }
    choice->from[choice->count].count = 0;
    choice->pages[choice->count++].ppn = ppn;
}

void scan_image(struct scan *scan, uint64_t ppn, uint64_t count)
{
    struct image *image = &scan->image;
    if (image->range_count == IMAGE_RANGES || ppn >= scan->span_pages || count == 0)
        return;
    image->ranges[image->range_count].ppn = ppn;
    image->ranges[image->range_count++].count =
        count < scan->span_pages - ppn ? count : scan->span_pages - ppn;
}

/* The next page of what was loaded. False: the round is over, or the last one was. */
static bool image_next(struct image *image, uint64_t *ppn)
{
    if (image->rounds == IMAGE_ROUNDS)
        return false;
    if (image->range == image->range_count) {
        image->range = 0;
        image->rounds = image->range_count != 0 ? image->rounds + 1 : IMAGE_ROUNDS;
        return false;
    }
    *ppn = image->ranges[image->range].ppn + image->next;
    if (++image->next == image->ranges[image->range].count) {
        image->range++;
        image->next = 0;
    }
    return true;
}

static void choose_image(struct scan *scan, struct choice *choice)
{
    uint64_t ppn;
    for (unsigned i = 0; i < STEP_TRIES && choice->count < SCAN_STEP; i++) {
        if (!image_next(&scan->image, &ppn))
            return;
        choose(scan, choice, ppn);
    }
}

/* The next page of the round. False: that was the last one. */
static bool round_next(struct scan *scan, uint64_t *ppn)
{
    for (;;) {
        uint64_t n = scan->position * GROUP_PAGES + scan->next;
        if (scan->position < scan->groups && scan->next < GROUP_PAGES && n < scan->max_pages) {
            scan->next++;
            *ppn = pmap_nth_page(scan->map, n);
            return true;
        }
        scan->next = 0;
        scan->position = (scan->position * scan->factor + scan->step) & (scan->modulus - 1);
        if (++scan->visited == scan->modulus) {
            scan->rounds++;
            round_begin(scan);
            return false;
        }
    }
}

static void choose_next(struct scan *scan, struct choice *choice)
{
    uint64_t ppn;
    for (unsigned i = 0; i < STEP_TRIES && choice->count < SCAN_STEP; i++) {
        if (!round_next(scan, &ppn))
            return; /* no page twice in one step */
        choose(scan, choice, ppn);
    }
}

/* ------------------------------------------------------------------------- looking */

/* Pages that seem to be zero, and take memory for it. */
static void drop_zeros(struct scan *scan, struct page_batch *batch)
{
    uint8_t bytes[1 << PAGE_SHIFT];
    if (batch->count == 0)
        return;
    page_leave_begin(scan->map, batch, PAGE_LEAVE_ACTIVE);
    for (unsigned i = 0; i < batch->count; i++) {
        if (!page_leave_copy(scan->map, batch->ppn[i], bytes) || !page_is_zero(bytes))
            page_leave_cancel(scan->map, batch, i);
        else if (page_leave_end(scan->map, batch, i, PAGE_ZERO, 0))
            atomic_fetch_add(&scan->zeroed, 1);
    }
    page_punch(scan->map, batch->ppn, batch->count);
}

static uint16_t mark_of(uint64_t hash)
{
    return (uint16_t)((hash >> 48 & ~(uint64_t)SEEN_NAMED) | SEEN_HASH);
}

/* Whether what is in the page is to be named. */
static bool is_news(struct scan *scan, const struct choice *choice, unsigned i)
{
    const struct page_look_at *page = &choice->pages[i];
    const struct note *from = &choice->from[i];
    uint16_t mark = mark_of(page->hash), before = scan->seen[page->ppn];
    bool is_noted = from->count != 0, is_leaving = is_noted && !from->fresh;
    if (before != 0 && (before & ~SEEN_NAMED) != mark && !choice->loaded && !is_leaving) {
        if (scan->young == 0) {
            scan->seen[page->ppn] = mark;
            return false;
        }
        scan->young--;
    }
    scan->seen[page->ppn] = mark | SEEN_NAMED;
    return before != (mark | SEEN_NAMED) || is_noted ||
           (choice->round % REFRESH_ROUNDS == 0 && choice->round != 0);
}

unsigned scan_step(struct scan *scan, uint64_t key, struct scan_offer offers[SCAN_STEP],
                   unsigned *looked)
{
    struct choice choice;
    struct page_batch zeros;
    unsigned count = 0;
    choice.count = zeros.count = 0;
    choice.round = atomic_load(&scan->rounds);
    *looked = 0;
    choose_image(scan, &choice);
    choice.loaded = choice.count != 0;
    if (choice.count == 0)
        choose_noted(scan, &choice);
    if (choice.count == 0)
        choose_next(scan, &choice);
    page_look(scan->map, choice.pages, choice.count, key);
    for (unsigned i = 0; i < choice.count; i++) {
        const struct page_look_at *page = &choice.pages[i];
        const struct note *from = &choice.from[i];
        *looked += page->look != PAGE_LOOK_OTHER;
        if (page->look == PAGE_LOOK_BUSY && from->count != 0 && from->tries < TRIES)
            note(scan, page->ppn, 1, from->fresh, from->tries + 1u);
        else if (page->look == PAGE_LOOK_ZERO)
            zeros.ppn[zeros.count++] = page->ppn;
        else if (page->look == PAGE_LOOK_HASHED && is_news(scan, &choice, i))
            offers[count++] = (struct scan_offer){
                .ppn = page->ppn,
                .hash = page->hash,
                .fresh = from->count != 0 ? from->fresh : choice.round == 0,
            };
    }
    atomic_fetch_add(&scan->scanned, *looked);
    drop_zeros(scan, &zeros);
    return count;
}

void scan_forget(struct scan *scan, uint64_t ppn)
{
    if (ppn < scan->span_pages)
        scan->seen[ppn] = SEEN_CHANGED;
}

void scan_forget_all(struct scan *scan)
{
    sparse_clear(scan->seen, scan->span_pages * sizeof *scan->seen);
}

void scan_get_stats(const struct scan *scan, struct scan_stats *stats)
{
    *stats = (struct scan_stats){
        .scanned = atomic_load(&scan->scanned),
        .zeroed = atomic_load(&scan->zeroed),
        .rounds = atomic_load(&scan->rounds),
    };
}
