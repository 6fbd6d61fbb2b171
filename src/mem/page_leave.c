/*
 * Pages on their way out of layer 0, and from one store to another. See page_leave.h for the order
 * of things and pmap_private.h for why no write is lost.
 */

#include "mem/page_leave.h"

#include <string.h>

#include "mem/pmap_private.h"

void pmap_set_store(struct pmap *map, const struct page_store_ops *ops, void *context)
{
    map->store = ops;
    map->store_context = context;
}

void pmap_set_pressure(struct pmap *map, const struct page_pressure_ops *ops, void *context)
{
    map->pressure = ops;
    map->pressure_context = context;
}

void pmap_set_limits(struct pmap *map, uint64_t tell_above, uint64_t wait_above)
{
    atomic_store(&map->tell_above, tell_above);
    atomic_store(&map->wait_above, wait_above);
}

uint64_t pmap_private_pages(const struct pmap *map)
{
    return atomic_load(&map->pages[PAGE_PRIVATE]);
}

uint64_t ticket_take(struct pmap *map)
{
    /* Not 0; and 2^48 are enough for ever. */
    return atomic_fetch_add(&map->next_ticket, 1) + 1;
}

/* What may be set of a page that is leaving. */
#define LEAVING_MARKS (ENTRY_KEPT | ENTRY_CLEAN)

static uint64_t leaving_with(uint64_t ticket)
{
    return PAGE_PRIVATE | ENTRY_LEAVING | ticket << ENTRY_PAYLOAD_SHIFT;
}

bool page_try_leave(struct pmap *map, uint64_t ppn, uint64_t ticket, bool takes_over,
                    struct revoke_list *list)
{
    page_entry *entry = &map->entries[ppn];
    uint64_t value = atomic_load(entry);
    for (;;) {
        if (entry_state(value) != PAGE_PRIVATE || value & ENTRY_SETTLING)
            return false;
        bool is_another = value & ENTRY_LEAVING;
        if (is_another ? !takes_over : entry_payload(value) != 0)
            return false;
        uint64_t wanted =
            PAGE_PRIVATE | ENTRY_LEAVING | ticket << ENTRY_PAYLOAD_SHIFT | (value & LEAVING_MARKS);
        if (entry_change(map, entry, &value, wanted)) {
            revoke_list_add(list, ppn, value);
            return true;
        }
    }
}

/* Passes over an active page, once. */
static bool pass_over(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = &map->entries[ppn];
    return atomic_load(entry) & ENTRY_ACTIVE &&
           atomic_fetch_and(entry, ~(uint64_t)ENTRY_ACTIVE) & ENTRY_ACTIVE;
}

void page_leave_begin(struct pmap *map, struct page_batch *batch, unsigned flags)
{
    unsigned count = batch->count < PAGE_BATCH_MAX ? batch->count : PAGE_BATCH_MAX;
    struct revoke_list list;
    list.count = list.code_count = 0;
    list.keeps_code = flags & PAGE_LEAVE_KEEP_CODE;
    batch->ticket = ticket_take(map);
    batch->count = 0;
    for (unsigned i = 0; i < count; i++) {
        uint64_t ppn = batch->ppn[i];
        if (pmap_entry(map, ppn) == NULL || (!(flags & PAGE_LEAVE_ACTIVE) && pass_over(map, ppn)))
            continue;
        if (page_try_leave(map, ppn, batch->ticket, false, &list))
            batch->ppn[batch->count++] = ppn;
    }
    revoke_list_finish(map, &list);
}

void page_leave_code(struct pmap *map, const struct page_batch *batch)
{
    uint64_t ppns[PAGE_BATCH_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < batch->count; i++) {
        uint64_t value = atomic_load(&map->entries[batch->ppn[i]]);
        if ((value & ~LEAVING_MARKS) == leaving_with(batch->ticket) && value & ENTRY_CODE)
            ppns[count++] = batch->ppn[i];
    }
    pages_revoke(map, &(struct pmap_revocation){.code_ppns = ppns, .code_count = count});
}

bool page_leave_copy(const struct pmap *map, uint64_t ppn, uint8_t *to)
{
    return layer_copy(&map->ram, ppn, to);
}

bool page_try_end(struct pmap *map, uint64_t ppn, uint64_t ticket, enum page_state to,
                  uint64_t payload, uint64_t flags)
{
    page_entry *entry = &map->entries[ppn];
    const uint64_t leaving = leaving_with(ticket);
    uint64_t value = atomic_load(entry);
    for (;;) {
        uint64_t clean = value & ENTRY_CLEAN, marks = value & ENTRY_KEPT;
        bool has_code = marks & (ENTRY_CODE | ENTRY_GUARDED);
        bool may_end = (!has_code || to == PAGE_SHARED) && (clean || to != PAGE_DISK);
        if ((value & ~(marks | clean)) != leaving)
            return false;
        if (may_end) {
            uint64_t wanted = (uint64_t)to | flags | payload << ENTRY_PAYLOAD_SHIFT | marks;
            if (to == PAGE_DISK)
                wanted |= clean;
            if (entry_change(map, entry, &value, wanted))
                return true;
        } else {
            /* Somebody is going to decode from it, or its block has changed: wanted, as it were. */
            if (entry_change(map, entry, &value, PAGE_PRIVATE | marks | clean))
                return false;
        }
    }
}

bool page_leave_end(struct pmap *map, const struct page_batch *batch, unsigned i,
                    enum page_state to, uint64_t payload)
{
    if (to == PAGE_ZERO)
        payload = 0;
    return page_try_end(map, batch->ppn[i], batch->ticket, to, payload, ENTRY_HOLLOW);
}

void page_try_cancel(struct pmap *map, uint64_t ppn, uint64_t ticket)
{
    /* As page_try_end for a page that was wanted. */
    page_entry *entry = &map->entries[ppn];
    const uint64_t leaving = leaving_with(ticket);
    uint64_t value = atomic_load(entry);
    while ((value & ~LEAVING_MARKS) == leaving &&
           !entry_change(map, entry, &value, PAGE_PRIVATE | (value & LEAVING_MARKS)))
        ;
}

void page_leave_cancel(struct pmap *map, const struct page_batch *batch, unsigned i)
{
    page_try_cancel(map, batch->ppn[i], batch->ticket);
}

/* ------------------------------------------------------------------------- punching */

/* Pages between two that go, at most, that are unmapped with them. */
#define UNMAP_GAP 8u

/*
 * A hole that is made in what is mapped has the host flush every other CPU's TLB, and wait for
 * that: ten times what it takes to map a page again. So holes that lie close together are unmapped
 * first, in one piece with what is between them.
 */
static void unmap_close_ones(const struct pmap *map, const uint64_t *ppns, unsigned count)
{
    for (unsigned i = 0, end; i < count; i = end) {
        bool is_one_piece = true;
        for (end = i + 1;
             end < count && ppns[end] > ppns[end - 1] && ppns[end] - ppns[end - 1] <= UNMAP_GAP + 1;
             end++)
            is_one_piece = is_one_piece && ppns[end] == ppns[end - 1] + 1;
        if (!is_one_piece)
            layer_unmap(&map->ram, ppns[i], ppns[end - 1] - ppns[i] + 1);
    }
}

void pages_punch(struct pmap *map, const uint64_t *ppns, unsigned count)
{
    if (count == 0)
        return;
    pthread_rwlock_rdlock(&map->punching);
    unmap_close_ones(map, ppns, count);
    for (unsigned i = 0, run; i < count; i += run) {
        for (run = 1; i + run < count && ppns[i + run] == ppns[i] + run;)
            run++;
        /* A host that would not take the memory: at least nobody finds old bytes in it. */
        if (!layer_punch(&map->ram, ppns[i], run))
            memset(pmap_private_page(map, ppns[i]), 0, run * PAGE_SIZE);
    }
    pthread_rwlock_unlock(&map->punching);
    page_wake(map, ppns, count, ENTRY_PUNCHING);
}

/* False: not hollow, or wanted just now. */
static bool try_punching(struct pmap *map, uint64_t ppn)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (entry == NULL)
        return false;
    uint64_t value = atomic_load(entry);
    while (value & ENTRY_HOLLOW) {
        uint64_t wanted = (value & ~(uint64_t)ENTRY_HOLLOW) | ENTRY_PUNCHING;
        if (entry_change(map, entry, &value, wanted))
            return true;
    }
    return false;
}

void page_punch(struct pmap *map, const uint64_t *ppns, unsigned count)
{
    while (count != 0) {
        uint64_t punching[PAGE_BATCH_MAX];
        unsigned now = count < PAGE_BATCH_MAX ? count : PAGE_BATCH_MAX, found = 0;
        for (unsigned i = 0; i < now; i++) {
            if (try_punching(map, ppns[i]))
                punching[found++] = ppns[i];
        }
        pages_punch(map, punching, found);
        ppns += now;
        count -= now;
    }
}

/* ------------------------------------------------------------------------- moving */

bool page_move_begin(struct pmap *map, uint64_t ppn, enum page_state state, uint64_t payload)
{
    page_entry *entry = pmap_entry(map, ppn);
    if (entry == NULL)
        return false;
    uint64_t value = atomic_load(entry);
    while (entry_is_away(value) && entry_state(value) == state && entry_payload(value) == payload &&
           !(value & (ENTRY_COMING | ENTRY_MOVING))) {
        if (entry_change(map, entry, &value, value | ENTRY_MOVING))
            return true;
    }
    return false;
}

bool page_move_end(struct pmap *map, uint64_t ppn, enum page_state state, uint64_t payload,
                   enum page_state to, uint64_t next)
{
    page_entry *entry = &map->entries[ppn];
    uint64_t value = atomic_load(entry);
    /* Nobody else can name this payload before it is dropped, and that is the caller's to do. */
    while (entry_state(value) == state && entry_payload(value) == payload && value & ENTRY_MOVING) {
        if (value & ENTRY_COMING) {
            /* It is being read: dropped it must not be before that is over. */
            page_wait(map, entry, ENTRY_COMING);
            value = atomic_load(entry);
            continue;
        }
        uint64_t flags = value & ENTRY_FLAGS & ~(uint64_t)ENTRY_MOVING;
        if (entry_change(map, entry, &value, (uint64_t)to | flags | next << ENTRY_PAYLOAD_SHIFT))
            return true;
    }
    return false;
}
