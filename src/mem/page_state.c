/*
 * Look-ups, pins, and pages becoming private. The essay on entries is in pmap_private.h.
 *
 * Zero to private. The common zero page may be in TLBs (LENT), and nobody may write the private
 * page while a TLB still shows the other: a reader would see its own write missing. So the thread
 * that wins the compare-and-swap makes the page private *and settling*, from where on every look-up
 * gives the private page, still all zero and not writable; then it revokes the zero page from the
 * TLBs, without a lock; then it clears the settling flag. Threads that want to write meanwhile wait
 * for that. They are parked, and a revocation waits for running vCPUs only, so the wait always
 * ends. A page that was never lent skips all this.
 */

#include <errno.h>
#include <string.h>

#include "mem/pmap_private.h"
#include "util/clock.h"

/* In the read-only segment: a write through a stale pointer is a crash, not a corruption. */
static const uint8_t zero_page[1 << PAGE_SHIFT] __attribute__((aligned(1 << PAGE_SHIFT))) = {0};

/* ------------------------------------------------------------------------- waiting */

void pages_revoke(struct pmap *map, const struct pmap_revocation *what)
{
    if ((what->count == 0 && what->code_count == 0) || map->revoke == NULL)
        return;
    count_event(&map->revocations, 1);
    map->revoke(map->revoke_context, what);
}

void revoke_list_finish(struct pmap *map, const struct revoke_list *list)
{
    struct pmap_revocation what = {.ppns = list->ppns,
                                   .code_ppns = list->code_ppns,
                                   .count = list->count,
                                   .code_count = list->code_count,
                                   .keeps_code = list->keeps_code};
    pages_revoke(map, &what);
}

void page_wait(struct pmap *map, page_entry *entry, uint64_t flags)
{
    uint64_t from = clock_monotonic_ns();
    pthread_mutex_lock(&map->wait_lock);
    while (atomic_load(entry) & flags)
        pthread_cond_wait(&map->waited, &map->wait_lock);
    pthread_mutex_unlock(&map->wait_lock);
    if (!(flags & ENTRY_SETTLING))
        count_event(&map->stall_ns, clock_monotonic_ns() - from);
}

void page_wake(struct pmap *map, const uint64_t *ppns, unsigned count, uint64_t flags)
{
    pthread_mutex_lock(&map->wait_lock);
    for (unsigned i = 0; i < count; i++)
        atomic_fetch_and(&map->entries[ppns[i]], ~flags);
    pthread_cond_broadcast(&map->waited);
    pthread_mutex_unlock(&map->wait_lock);
}

bool page_refused(struct pmap *map)
{
    struct error err;
    error_set(&err, STATUS_NO_MEMORY, "the host has no memory for the guest: %s", strerror(errno));
    if (map->pressure != NULL && map->pressure->refused(map->pressure_context))
        return true;
    if (map->trouble != NULL)
        map->trouble(map->trouble_context, &err);
    return false;
}

/* ------------------------------------------------------------------------- look-ups */

enum page_state pmap_state(const struct pmap *map, uint64_t ppn)
{
    const page_entry *entry = pmap_entry(map, ppn);
    if (entry == NULL)
        return PAGE_NONE;
    return entry_state(atomic_load_explicit(entry, memory_order_acquire));
}

bool pmap_is_away(const struct pmap *map, uint64_t ppn)
{
    const page_entry *entry = pmap_entry(map, ppn);
    return entry != NULL && entry_is_away(atomic_load_explicit(entry, memory_order_relaxed));
}

bool pmap_has_away(const struct pmap *map)
{
    uint64_t pages = 0;
    for (unsigned state = PAGE_COMPRESSED; state < PAGE_STATES; state++)
        pages |= atomic_load_explicit(&map->pages[state], memory_order_relaxed);
    return pages != 0;
}

/* Private, and nothing to be done about it before it is looked at. */
static inline bool is_plain_private(uint64_t value)
{
    return (value & (ENTRY_STATE | ENTRY_LEAVING | ENTRY_SAMPLED)) == PAGE_PRIVATE;
}

/* A private page as it is after a touch: nobody takes it away any more. */
static inline uint64_t private_touched(uint64_t value)
{
    if (value & ENTRY_LEAVING) /* the payload is a ticket */
        return PAGE_PRIVATE | entry_touched(value) | (value & ENTRY_CLEAN);
    return (value & ~ENTRY_KEPT) | entry_touched(value);
}

static inline bool is_writable(uint64_t value)
{
    return !(value & (ENTRY_SETTLING | ENTRY_CODE | ENTRY_CLEAN));
}

static const uint8_t *look_up_slow(struct pmap *map, uint64_t ppn, page_entry *entry,
                                   uint64_t value, bool *writable)
{
    for (;;) {
        if (is_plain_private(value))
            break;
        if (entry_state(value) == PAGE_PRIVATE) {
            if (entry_touch(map, entry, &value, private_touched(value))) {
                value = private_touched(value);
                break;
            }
            continue;
        }
        if (entry_is_away(value))
            return NULL;
        if (entry_state(value) == PAGE_SHARED) {
            uint64_t lent = (value & ~ENTRY_KEPT) | ENTRY_LENT | entry_touched(value);
            if (value == lent || entry_touch(map, entry, &value, lent)) {
                *writable = false;
                return pmap_frame(map, value);
            }
            continue;
        }
        /* The flag goes up before the address goes out: see above. */
        uint64_t wanted = PAGE_ZERO | ENTRY_LENT | entry_touched(value) |
                          (value & (ENTRY_HOLLOW | ENTRY_PUNCHING));
        if (value == wanted || entry_touch(map, entry, &value, wanted)) {
            *writable = false;
            return zero_page;
        }
    }
    *writable = is_writable(value);
    return pmap_private_page(map, ppn);
}

const uint8_t *pmap_page_read(struct pmap *map, uint64_t ppn, bool *writable)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (unlikely(entry == NULL))
        return NULL;
    uint64_t value = atomic_load(entry);
    if (unlikely(!is_plain_private(value)))
        return look_up_slow(map, ppn, entry, value, writable);
    *writable = is_writable(value);
    return pmap_private_page(map, ppn);
}

/* Before a zero page becomes private. False: refused. */
static bool zero_has_memory(struct pmap *map, uint64_t ppn, uint64_t value)
{
    return value & ENTRY_HOLLOW || likely(layer_populate(&map->ram, ppn));
}

/* A page has been given memory, and somebody else was faster to change it, to what its entry says.
 */
static void count_early_memory(struct pmap *map, uint64_t value)
{
    if (entry_state(value) != PAGE_PRIVATE)
        count_event(&map->early_memory, 1);
}

const uint8_t *pmap_page_claim(struct pmap *map, uint64_t ppn, bool *writable)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (unlikely(entry == NULL))
        return NULL;
    uint64_t value = atomic_load(entry);
    while (entry_state(value) == PAGE_ZERO || entry_state(value) == PAGE_BALLOONED) {
        if (value & ENTRY_LENT)
            break;
        if (value & ENTRY_PUNCHING)
            return NULL;
        /* Else it is not writable: the caller parks, and waits in pmap_page_write. */
        if (unlikely(pmap_is_tight(map)) || !zero_has_memory(map, ppn, value))
            break;
        /* If it is hollow, its bytes are zero. */
        if (entry_touch(map, entry, &value, PAGE_PRIVATE | entry_touched(value))) {
            count_event(&map->faults_zero, 1);
            value = PAGE_PRIVATE | entry_touched(value);
        } else {
            count_early_memory(map, value);
        }
    }
    if (unlikely(!is_plain_private(value)))
        return look_up_slow(map, ppn, entry, value, writable);
    *writable = is_writable(value);
    return pmap_private_page(map, ppn);
}

enum status pmap_page_bring(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (entry == NULL)
        return STATUS_INVALID;
    if (entry_is_away(atomic_load(entry)))
        pmap_wait_for_room(map);
    for (;;) {
        uint64_t value = atomic_load(entry);
        enum status status = STATUS_OK;
        if (entry_is_away(value))
            status = page_come(map, ppn, value, BYTES_KEPT, NULL);
        else if (value & ENTRY_PUNCHING)
            page_wait(map, entry, ENTRY_PUNCHING);
        else
            return STATUS_OK;
        if (status != STATUS_OK)
            return status;
    }
}

/* ------------------------------------------------------------------------- to private */

/* One step from zero or ballooned. */
static enum status zero_step(struct pmap *map, uint64_t ppn, uint64_t value)
{
    page_entry *entry = &map->entries[ppn];
    if (value & ENTRY_PUNCHING) {
        page_wait(map, entry, ENTRY_PUNCHING);
        return STATUS_OK;
    }
    if (!zero_has_memory(map, ppn, value))
        return page_refused(map) ? STATUS_OK : STATUS_NO_MEMORY;
    uint64_t settling = value & ENTRY_LENT ? ENTRY_SETTLING : 0;
    if (!entry_touch(map, entry, &value, PAGE_PRIVATE | entry_touched(value) | settling)) {
        count_early_memory(map, value);
        return STATUS_OK;
    }
    count_event(&map->faults_zero, 1);
    if (settling) {
        /* Code decoded from it stays: the bytes are the same. */
        pages_revoke(map, &(struct pmap_revocation){.ppns = &ppn, .count = 1});
        page_wake(map, &ppn, 1, ENTRY_SETTLING);
    }
    return STATUS_OK;
}

/* Makes the page private and settled, and adds `pins` to it. */
static enum status make_private(struct pmap *map, uint64_t ppn, uint64_t pins,
                                enum page_bytes bytes, const void *whole)
{
    page_entry *entry = &map->entries[ppn];
    if (entry_state(atomic_load(entry)) != PAGE_PRIVATE)
        pmap_wait_for_room(map);
    for (;;) {
        uint64_t value = atomic_load(entry);
        if (entry_state(value) != PAGE_PRIVATE) {
            enum status status;
            if (entry_is_away(value))
                status = page_come(map, ppn, value, bytes, whole);
            else if (entry_state(value) == PAGE_SHARED)
                status = page_unshare(map, ppn, value);
            else
                status = zero_step(map, ppn, value);
            if (status != STATUS_OK)
                return status;
        } else if (value & ENTRY_SETTLING) {
            page_wait(map, entry, ENTRY_SETTLING);
        } else {
            uint64_t wanted = private_touched(value);
            if (pins != 0 && entry_payload(wanted) >= ENTRY_PINS_MAX)
                return STATUS_NO_SPACE;
            wanted += pins * ENTRY_PIN;
            if (wanted == value || entry_touch(map, entry, &value, wanted))
                return STATUS_OK;
        }
    }
}

uint8_t *pmap_page_write(struct pmap *map, uint64_t ppn)
{
    if (pmap_entry(map, ppn) == NULL || make_private(map, ppn, 0, BYTES_KEPT, NULL) != STATUS_OK)
        return NULL;
    page_spoil(map, ppn);
    return pmap_private_page(map, ppn);
}

enum status page_pin(struct pmap *map, uint64_t ppn, enum page_bytes bytes, const void *whole)
{
    enum status status = make_private(map, ppn, 1, bytes, whole);
    if (status == STATUS_OK)
        count_event(&map->pinned_pages, 1);
    return status;
}

enum status page_borrow(struct pmap *map, uint64_t ppn, const uint8_t **bytes)
{
    page_entry *entry = &map->entries[ppn];
    for (;;) {
        uint64_t value = atomic_load(entry);
        if (entry_is_away(value)) {
            enum status status = page_come(map, ppn, value, BYTES_KEPT, NULL);
            if (status != STATUS_OK)
                return status;
        } else if (entry_state(value) == PAGE_PRIVATE) {
            /* Also while it is settling: it is zero, here and there. */
            uint64_t wanted = private_touched(value);
            if (entry_payload(wanted) >= ENTRY_PINS_MAX)
                return STATUS_NO_SPACE;
            if (entry_touch(map, entry, &value, wanted + ENTRY_PIN)) {
                count_event(&map->pinned_pages, 1);
                *bytes = pmap_private_page(map, ppn);
                return STATUS_OK;
            }
        } else if (entry_state(value) == PAGE_SHARED) {
            if (page_borrow_frame(map, ppn, bytes))
                return STATUS_OK;
        } else {
            /* The address of the zero page goes nowhere: it does not count as lent. */
            uint64_t rest = value & (ENTRY_LENT | ENTRY_HOLLOW | ENTRY_PUNCHING);
            uint64_t wanted = PAGE_ZERO | rest | entry_touched(value);
            if (wanted == value || entry_touch(map, entry, &value, wanted)) {
                *bytes = NULL;
                return STATUS_OK;
            }
        }
    }
}

void page_give_back(struct pmap *map, uint64_t ppn, const uint8_t *bytes)
{
    if (bytes == pmap_private_page(map, ppn))
        page_unpin(map, ppn);
    else if (bytes != NULL)
        page_wake(map, &ppn, 1, ENTRY_COMING);
}

void page_unpin(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = &map->entries[ppn];
    uint64_t value = atomic_load(entry);
    do {
        /* A caller's mistake must not wrap the count. */
        if (entry_state(value) != PAGE_PRIVATE || value & ENTRY_LEAVING ||
            entry_payload(value) == 0)
            return;
    } while (!atomic_compare_exchange_weak(entry, &value, value - ENTRY_PIN));
    count_event(&map->pinned_pages, (uint64_t)-1);
}
