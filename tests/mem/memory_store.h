#ifndef AEROSTAT_TESTS_MEM_MEMORY_STORE_H
#define AEROSTAT_TESTS_MEM_MEMORY_STORE_H

/* A page store (page_leave.h) that is an array in memory, for all away states. It notices misuse: a
 * payload read or dropped that is not held, or held in another state. */

#include <pthread.h>
#include <stdatomic.h>

#include "mem/page_leave.h"

#define STORE_SLOTS 256u

struct memory_store {
    pthread_mutex_t lock;
    unsigned used;                     /* slots that are held */
    _Atomic unsigned misused;          /* must stay 0 */
    _Atomic bool is_broken;            /* get fails */
    enum page_state held[STORE_SLOTS]; /* PAGE_NONE: free */
    uint8_t pages[STORE_SLOTS][1 << PAGE_SHIFT];
};

extern const struct page_store_ops memory_store_ops;

struct memory_store *memory_store_create(void); /* aborts without memory */
void memory_store_destroy(struct memory_store *store);

/* Copies a page in. UINT64_MAX: full. */
uint64_t memory_store_put(struct memory_store *store, enum page_state state, const uint8_t *page);
/* The payload that slot n has when it is held. */
uint64_t memory_store_payload(uint64_t slot);
void memory_store_drop(struct memory_store *store, enum page_state state, uint64_t payload);

#endif
