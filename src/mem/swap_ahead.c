/* See swap_ahead.h. */

#include "mem/swap_ahead.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "util/bits.h"
#include "util/sparse.h"

#define WINDOWS      16u
#define WINDOW_BYTES (AHEAD_SLOTS * PAGE_SIZE)

/* Luck: up by one for each page that was wanted, down by one for each window that was read. Without
 * any, one of so many reads tries again. */
#define LUCK_MOST 64
#define TRY_EVERY 16u

struct window {
    uint64_t first; /* slot; UINT64_MAX: nothing */
    bool filling;   /* somebody reads into it */
};

struct swap_ahead {
    pthread_mutex_t lock; /* leaf */
    struct window windows[WINDOWS];
    unsigned next; /* to be replaced */
    int luck;
    unsigned alone; /* reads since the last window without luck */
    uint8_t *pages;
};

struct swap_ahead *swap_ahead_create(void)
{
    struct swap_ahead *ahead = calloc(1, sizeof *ahead);
    if (ahead == NULL)
        return NULL;
    void *pages = sparse_map(WINDOWS * WINDOW_BYTES);
    if (pages == NULL) {
        free(ahead);
        return NULL;
    }
    madvise(pages, WINDOWS * WINDOW_BYTES, MADV_DONTDUMP);
    pthread_mutex_init(&ahead->lock, NULL);
    ahead->pages = pages;
    ahead->luck = LUCK_MOST / 2;
    for (unsigned i = 0; i < WINDOWS; i++)
        ahead->windows[i].first = UINT64_MAX;
    return ahead;
}

void swap_ahead_destroy(struct swap_ahead *ahead)
{
    if (ahead == NULL)
        return;
    sparse_unmap(ahead->pages, WINDOWS * WINDOW_BYTES);
    pthread_mutex_destroy(&ahead->lock);
    free(ahead);
}

void swap_ahead_clear(struct swap_ahead *ahead)
{
    pthread_mutex_lock(&ahead->lock);
    for (unsigned i = 0; i < WINDOWS; i++)
        ahead->windows[i].first = UINT64_MAX;
    sparse_clear(ahead->pages, WINDOWS * WINDOW_BYTES);
    pthread_mutex_unlock(&ahead->lock);
}

bool swap_ahead_find(struct swap_ahead *ahead, uint64_t slot, uint8_t *page)
{
    bool found = false;
    pthread_mutex_lock(&ahead->lock);
    for (unsigned i = 0; i < WINDOWS && !found; i++) {
        const struct window *window = &ahead->windows[i];
        if (window->filling || slot - window->first >= AHEAD_SLOTS)
            continue;
        memcpy(page, ahead->pages + i * WINDOW_BYTES + (slot - window->first) * PAGE_SIZE,
               PAGE_SIZE);
        ahead->luck += ahead->luck < LUCK_MOST;
        found = true;
    }
    pthread_mutex_unlock(&ahead->lock);
    return found;
}

uint8_t *swap_ahead_begin(struct swap_ahead *ahead, uint64_t slot)
{
    uint8_t *pages = NULL;
    pthread_mutex_lock(&ahead->lock);
    struct window *window = &ahead->windows[ahead->next];
    bool is_worth = ahead->luck > 0 || ++ahead->alone >= TRY_EVERY;
    if (is_worth && !window->filling) {
        *window = (struct window){.first = align_down(slot, AHEAD_SLOTS), .filling = true};
        /* Nobody else's: the same slots twice would be of no use. */
        for (unsigned i = 0; i < WINDOWS; i++) {
            if (i != ahead->next && ahead->windows[i].first == window->first)
                ahead->windows[i].first = UINT64_MAX;
        }
        pages = ahead->pages + ahead->next * WINDOW_BYTES;
        ahead->next = (ahead->next + 1) % WINDOWS;
        ahead->luck -= ahead->luck > 0;
        ahead->alone = 0;
    }
    pthread_mutex_unlock(&ahead->lock);
    return pages;
}

void swap_ahead_end(struct swap_ahead *ahead, uint8_t *pages, bool good)
{
    pthread_mutex_lock(&ahead->lock);
    struct window *window = &ahead->windows[(uint64_t)(pages - ahead->pages) / WINDOW_BYTES];
    window->filling = false;
    if (!good)
        window->first = UINT64_MAX;
    pthread_mutex_unlock(&ahead->lock);
}
