/*
 * Every change of a page's entry, each one function, with its accounting.
 *
 * Zero to private. The common zero page may be in TLBs (ENTRY_LENT), and nobody may write the
 * private page while a TLB still shows the other: a reader would see its own write missing. So the
 * thread that wins the compare-and-swap makes the page private *and settling*, from where on every
 * look-up gives the private page, still all zero and not writable; then it revokes the zero page
 * from the TLBs, without a lock; then it clears the settling flag. Threads that want to write
 * meanwhile wait for that. They are parked, and a revocation waits for running vCPUs only, so the
 * wait always ends. A page that was never lent skips all this.
 *
 * Code. The mark comes in two steps: CODE makes every *new* look-up say "not writable"; then the
 * caller sweeps the TLBs; then GUARDED says that this is done, and code may be decoded. Whoever
 * clears the mark afterwards makes everybody drop the code decoded from it.
 */

#include "mem/pmap_private.h"

/* In the read-only segment: a write through a stale pointer is a crash, not a corruption. */
static const uint8_t zero_page[1 << PAGE_SHIFT] __attribute__((aligned(1 << PAGE_SHIFT))) = {0};

static void page_revoke(struct pmap *map, uint64_t ppn)
{
    if (map->revoke == NULL)
        return;
    atomic_fetch_add_explicit(&map->revocations, 1, memory_order_relaxed);
    map->revoke(map->revoke_context, ppn);
}

enum page_state pmap_state(const struct pmap *map, uint64_t ppn)
{
    const page_entry *entry = pmap_entry(map, ppn);
    if (entry == NULL)
        return PAGE_NONE;
    return atomic_load_explicit(entry, memory_order_acquire) & ENTRY_PRIVATE ? PAGE_PRIVATE
                                                                             : PAGE_ZERO;
}

const uint8_t *pmap_page_read(struct pmap *map, uint64_t ppn, bool *writable)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (unlikely(entry == NULL))
        return NULL;
    uint64_t value = atomic_load(entry);
    while (!(value & ENTRY_PRIVATE)) {
        /* The flag goes up before the address goes out: see above. */
        if (value & ENTRY_LENT || atomic_compare_exchange_weak(entry, &value, value | ENTRY_LENT)) {
            *writable = false;
            return zero_page;
        }
    }
    *writable = !(value & (ENTRY_SETTLING | ENTRY_CODE));
    return pmap_private_page(map, ppn);
}

static void count_private(struct pmap *map)
{
    atomic_fetch_add_explicit(&map->private_pages, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&map->faults_zero, 1, memory_order_relaxed);
}

const uint8_t *pmap_page_claim(struct pmap *map, uint64_t ppn, bool *writable)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (unlikely(entry == NULL))
        return NULL;
    uint64_t value = atomic_load(entry);
    while (!(value & ENTRY_PRIVATE)) {
        if (value & ENTRY_LENT) {
            *writable = false;
            return zero_page;
        }
        if (atomic_compare_exchange_weak(entry, &value, value | ENTRY_PRIVATE)) {
            value |= ENTRY_PRIVATE;
            count_private(map);
        }
    }
    *writable = !(value & (ENTRY_SETTLING | ENTRY_CODE));
    return pmap_private_page(map, ppn);
}

static void page_wait_settled(struct pmap *map, page_entry *entry)
{
    pthread_mutex_lock(&map->settle_lock);
    while (atomic_load(entry) & ENTRY_SETTLING)
        pthread_cond_wait(&map->settled, &map->settle_lock);
    pthread_mutex_unlock(&map->settle_lock);
}

uint8_t *page_make_private(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = &map->entries[ppn];
    uint64_t value = atomic_load(entry), wanted;
    do {
        if (value & ENTRY_PRIVATE) {
            if (unlikely(value & ENTRY_SETTLING))
                page_wait_settled(map, entry);
            return pmap_private_page(map, ppn);
        }
        wanted = (value & ~(uint64_t)ENTRY_LENT) | ENTRY_PRIVATE;
        if (value & ENTRY_LENT)
            wanted |= ENTRY_SETTLING;
    } while (!atomic_compare_exchange_weak(entry, &value, wanted));

    count_private(map);
    if (wanted & ENTRY_SETTLING) {
        page_revoke(map, ppn);
        pthread_mutex_lock(&map->settle_lock);
        atomic_fetch_and(entry, ~(uint64_t)ENTRY_SETTLING);
        pthread_cond_broadcast(&map->settled);
        pthread_mutex_unlock(&map->settle_lock);
    }
    return pmap_private_page(map, ppn);
}

uint8_t *pmap_page_write(struct pmap *map, uint64_t ppn)
{
    return pmap_entry(map, ppn) == NULL ? NULL : page_make_private(map, ppn);
}

bool page_add_pin(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = &map->entries[ppn];
    uint64_t value = atomic_load(entry);
    do {
        if (value >> ENTRY_PIN_SHIFT >= ENTRY_PINS_MAX)
            return false;
    } while (!atomic_compare_exchange_weak(entry, &value, value + ENTRY_PIN));
    atomic_fetch_add_explicit(&map->pinned_pages, 1, memory_order_relaxed);
    return true;
}

void page_remove_pin(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = &map->entries[ppn];
    uint64_t value = atomic_load(entry);
    do {
        if (value >> ENTRY_PIN_SHIFT == 0)
            return; /* a caller's mistake must not wrap the count */
    } while (!atomic_compare_exchange_weak(entry, &value, value - ENTRY_PIN));
    atomic_fetch_sub_explicit(&map->pinned_pages, 1, memory_order_relaxed);
}

bool pmap_code_mark(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (entry == NULL)
        return false;
    return !(atomic_fetch_or(entry, ENTRY_CODE) & ENTRY_GUARDED);
}

void pmap_code_guard(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (entry == NULL)
        return;
    uint64_t value = atomic_load(entry);
    while (value & ENTRY_CODE &&
           !atomic_compare_exchange_weak(entry, &value, value | ENTRY_GUARDED))
        ;
}

bool pmap_code_is_guarded(const struct pmap *map, uint64_t ppn)
{
    const page_entry *entry = pmap_entry(map, ppn);
    return entry != NULL && atomic_load(entry) & ENTRY_GUARDED;
}

bool pmap_has_code(const struct pmap *map, uint64_t ppn)
{
    const page_entry *entry = pmap_entry(map, ppn);
    return entry != NULL && atomic_load(entry) & ENTRY_CODE;
}

void pmap_code_clear(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (entry != NULL)
        atomic_fetch_and(entry, ~(uint64_t)(ENTRY_CODE | ENTRY_GUARDED));
}

void page_drop_code(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = &map->entries[ppn];
    /* Orders the bytes just written before the look at the mark; the other side sets the mark, then
     * reads the bytes. One of the two sees the other. */
    atomic_thread_fence(memory_order_seq_cst);
    if (likely(!(atomic_load(entry) & ENTRY_CODE)))
        return;
    if (atomic_fetch_and(entry, ~(uint64_t)(ENTRY_CODE | ENTRY_GUARDED)) & ENTRY_CODE)
        page_revoke(map, ppn);
}
