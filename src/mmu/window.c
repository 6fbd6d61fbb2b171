#include "mmu/window.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

#define BUCKETS  WINDOW_PAGES
#define NO_ENTRY 0u

/* Found by linear page and by PPN. Entry 0 is none. */
struct entry {
    struct window_page page;
    bool is_used, is_kept;
    uint16_t linear_next, ppn_next; /* in their buckets; free ones are a list by linear_next */
};

struct window {
    bool is_reserved;
    unsigned count;
    uint16_t free;
    unsigned used; /* entries that have ever been */
    uint64_t losses;
    uint16_t by_linear[BUCKETS], by_ppn[BUCKETS];
    struct entry entries[WINDOW_PAGES + 1];
};

static void *host_place(uint64_t linear)
{
    return (void *)(uintptr_t)window_flip(linear);
}

static bool reserve(struct window *window)
{
    void *want = (void *)(uintptr_t)WINDOW_FIRST;
    void *place = mmap(want, WINDOW_END - WINDOW_FIRST, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (place != MAP_FAILED && place != want) { /* a kernel that does not know the flag */
        munmap(place, WINDOW_END - WINDOW_FIRST);
        place = MAP_FAILED;
        errno = EEXIST;
    }
    window->is_reserved = place != MAP_FAILED;
    return window->is_reserved;
}

enum status window_create(struct window **out, struct error *err)
{
    struct window *window = calloc(1, sizeof(*window));
    if (window == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the window's table");
    if (!reserve(window)) {
        free(window);
        return error_set(err, STATUS_UNSUPPORTED, "no address space for a window: %s",
                         strerror(errno));
    }
    *out = window;
    return STATUS_OK;
}

void window_destroy(struct window *window)
{
    if (window == NULL)
        return;
    if (window->is_reserved)
        munmap((void *)(uintptr_t)WINDOW_FIRST, WINDOW_END - WINDOW_FIRST);
    free(window);
}

/* ------------------------------------------------------------------------- entries */

static uint16_t *linear_bucket(struct window *window, uint64_t linear)
{
    return &window->by_linear[(linear >> PAGE_SHIFT ^ linear >> 40) % BUCKETS];
}

static uint16_t *ppn_bucket(struct window *window, uint64_t ppn)
{
    return &window->by_ppn[ppn % BUCKETS];
}

static struct entry *find(struct window *window, uint64_t linear)
{
    unsigned at = *linear_bucket(window, linear);
    while (at != NO_ENTRY && window->entries[at].page.linear != linear)
        at = window->entries[at].linear_next;
    return at != NO_ENTRY ? &window->entries[at] : NULL;
}

static void add(struct window *window, struct window_page page)
{
    uint16_t *in_linear = linear_bucket(window, page.linear);
    uint16_t *in_ppn = ppn_bucket(window, page.ppn);
    uint16_t at = window->free;
    if (at != NO_ENTRY)
        window->free = window->entries[at].linear_next;
    else
        at = (uint16_t)++window->used;
    window->entries[at] = (struct entry){
        .page = page, .is_used = true, .linear_next = *in_linear, .ppn_next = *in_ppn};
    *in_linear = *in_ppn = at;
    window->count++;
}

static void take_out(struct window *window, struct entry *entry)
{
    uint16_t self = (uint16_t)(entry - window->entries);
    uint16_t *at = linear_bucket(window, entry->page.linear);
    while (*at != self)
        at = &window->entries[*at].linear_next;
    *at = entry->linear_next;
    at = ppn_bucket(window, entry->page.ppn);
    while (*at != self)
        at = &window->entries[*at].ppn_next;
    *at = entry->ppn_next;
    entry->is_used = false;
    entry->linear_next = window->free;
    window->free = self;
    window->count--;
}

static void forget_all(struct window *window)
{
    memset(window->by_linear, 0, sizeof(window->by_linear));
    memset(window->by_ppn, 0, sizeof(window->by_ppn));
    window->free = NO_ENTRY;
    window->used = window->count = 0;
}

/* ------------------------------------------------------------------------- mappings */

static bool reserve_again(uint64_t from, uint64_t size)
{
    return mmap((void *)(uintptr_t)from, size, PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

/* The host may have no memory for the bookkeeping that a hole in a mapping takes. What has to go
 * goes all the same, and if it takes the whole reservation along. */
static void empty(struct window *window)
{
    forget_all(window);
    if (reserve_again(WINDOW_FIRST, WINDOW_END - WINDOW_FIRST))
        return;
    window->is_reserved = false;
    while (munmap((void *)(uintptr_t)WINDOW_FIRST, WINDOW_END - WINDOW_FIRST) != 0) {
    }
}

void window_empty(struct window *window)
{
    if (window->count != 0)
        empty(window);
}

static void drop(struct window *window, struct entry *entry)
{
    uint64_t place = window_flip(entry->page.linear);
    take_out(window, entry);
    window->losses++;
    if (!reserve_again(place, PAGE_SIZE))
        empty(window);
}

static bool map(void *place, const uint8_t *host, enum window_access access)
{
    if (access == WINDOW_ZERO)
        return mmap(place, PAGE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
               MAP_FAILED;
    /* An old size of 0 makes a second mapping of what is shared: mremap(2). */
    if (mremap((void *)(uintptr_t)host, 0, PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, place) ==
            MAP_FAILED ||
        (access == WINDOW_READ && mprotect(place, PAGE_SIZE, PROT_READ) != 0))
        return false;
    /* It is about to be accessed: that saves a fault, where the kernel knows the advice. */
    madvise(place, PAGE_SIZE, access == WINDOW_WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ);
    return true;
}

bool window_map(struct window *window, uint64_t linear, uint64_t ppn, const uint8_t *host,
                enum window_access access)
{
    struct entry *old = find(window, linear);
    if (old != NULL)
        take_out(window, old);
    if (window->count == WINDOW_PAGES) {
        window->losses += WINDOW_PAGES;
        window_empty(window);
    }
    if (!window->is_reserved && !reserve(window))
        return false;
    add(window, (struct window_page){linear, ppn, access});
    if (map(host_place(linear), host, access))
        return true;
    drop(window, find(window, linear));
    return false;
}

void window_drop_linear(struct window *window, uint64_t linear)
{
    struct entry *entry = find(window, linear);
    if (entry != NULL)
        drop(window, entry);
}

void window_drop_ppn(struct window *window, uint64_t ppn)
{
    unsigned at = *ppn_bucket(window, ppn);
    while (at != NO_ENTRY) {
        struct entry *entry = &window->entries[at];
        at = entry->ppn_next;
        if (entry->page.ppn != ppn)
            continue;
        drop(window, entry);
        if (window->count == 0) /* it may have been emptied */
            return;
    }
}

void window_keep(struct window *window, bool (*keep)(const struct window_page *page, void *context),
                 void *context)
{
    unsigned kept = 0;
    for (unsigned at = 1; at <= window->used; at++) {
        struct entry *entry = &window->entries[at];
        entry->is_kept = entry->is_used && keep(&entry->page, context);
        kept += entry->is_kept;
    }
    if (kept == 0) { /* all at once takes less */
        window_empty(window);
        return;
    }
    for (unsigned at = 1; at <= window->used; at++) {
        struct entry *entry = &window->entries[at];
        if (entry->is_used && !entry->is_kept)
            drop(window, entry);
    }
}

unsigned window_count(const struct window *window)
{
    return window->count;
}

uint64_t window_losses(const struct window *window)
{
    return window->losses;
}
