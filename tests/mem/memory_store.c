#include "memory_store.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* Payloads are not small numbers, so that mistakes with the upper bits show. */
#define PAYLOAD_BASE ((uint64_t)0xabcd00000000)

struct memory_store *memory_store_create(void)
{
    struct memory_store *store = calloc(1, sizeof(*store));
    if (store == NULL)
        abort();
    pthread_mutex_init(&store->lock, NULL);
    for (unsigned i = 0; i < STORE_SLOTS; i++)
        store->held[i] = PAGE_NONE;
    return store;
}

void memory_store_destroy(struct memory_store *store)
{
    pthread_mutex_destroy(&store->lock);
    free(store);
}

uint64_t memory_store_put(struct memory_store *store, enum page_state state, const uint8_t *page)
{
    uint64_t payload = UINT64_MAX;
    pthread_mutex_lock(&store->lock);
    for (unsigned i = 0; i < STORE_SLOTS && payload == UINT64_MAX; i++) {
        if (store->held[i] != PAGE_NONE)
            continue;
        store->held[i] = state;
        memcpy(store->pages[i], page, PAGE_SIZE);
        store->used++;
        payload = PAYLOAD_BASE + i;
    }
    pthread_mutex_unlock(&store->lock);
    return payload;
}

uint64_t memory_store_payload(uint64_t slot)
{
    return PAYLOAD_BASE + slot;
}

/* Under the lock. STORE_SLOTS: not held so. */
static unsigned slot_of(struct memory_store *store, enum page_state state, uint64_t payload)
{
    uint64_t slot = payload - PAYLOAD_BASE;
    if (slot < STORE_SLOTS && store->held[slot] == state)
        return (unsigned)slot;
    atomic_fetch_add(&store->misused, 1);
    return STORE_SLOTS;
}

void memory_store_drop(struct memory_store *store, enum page_state state, uint64_t payload)
{
    pthread_mutex_lock(&store->lock);
    unsigned slot = slot_of(store, state, payload);
    if (slot != STORE_SLOTS) {
        store->held[slot] = PAGE_NONE;
        memset(store->pages[slot], 0xdd, PAGE_SIZE);
        store->used--;
    }
    pthread_mutex_unlock(&store->lock);
}

static enum status store_get(void *context, enum page_state state, uint64_t payload, uint64_t ppn,
                             uint8_t *page, struct error *err)
{
    struct memory_store *store = context;
    if ((uintptr_t)page % PAGE_SIZE != 0) /* as a file that is read past the page cache */
        return error_set(err, STATUS_IO, "page 0x%llx is asked for at an odd address",
                         (unsigned long long)ppn);
    if (atomic_load(&store->is_broken)) {
        memset(page, 0xbb, PAGE_SIZE / 2); /* part of it came */
        return error_set(err, STATUS_IO, "cannot read page 0x%llx", (unsigned long long)ppn);
    }
    sched_yield(); /* so that others find it coming */
    pthread_mutex_lock(&store->lock);
    unsigned slot = slot_of(store, state, payload);
    if (slot != STORE_SLOTS)
        memcpy(page, store->pages[slot], PAGE_SIZE);
    pthread_mutex_unlock(&store->lock);
    return STATUS_OK;
}

static void store_drop(void *context, enum page_state state, uint64_t payload)
{
    memory_store_drop(context, state, payload);
}

const struct page_store_ops memory_store_ops = {.get = store_get, .drop = store_drop};
