#ifndef AEROSTAT_MEM_PMAP_PRIVATE_H
#define AEROSTAT_MEM_PMAP_PRIVATE_H

/*
 * The page map's insides, for the files of src/mem alone.
 *
 * An entry: state in bits 0-3, flags in bits 4-15, payload above. An entry of 0 is a zero page that
 * nobody has touched, so that a fresh map is a fresh mapping. Holes have entries that nobody looks
 * at: whether a PPN is RAM is decided by the ranges. The payload is
 *     the number of pins                 private, not leaving
 *     the ticket of who takes it away    private, leaving (then it has no pins)
 *     the frame's number                 shared
 *     what its store gave                away
 *     0                                  zero, ballooned
 *
 * Which flags a page may have, and who waits for whom:
 *
 *   flag      state          meaning                                     who waits
 *   LENT      zero, balloon  some TLB may hold the common zero page      -
 *             shared         some TLB may hold the frame                 -
 *   SETTLING  private        some TLB still does: not to be written      writers
 *   LEAVING   private        being taken away; any look-up cancels it    -
 *   HOLLOW    not private    its bytes are still in layer 0 and good     -
 *   PUNCHING  not private    its memory is being given back              who wants it private
 *   COMING    away           its bytes are being read into layer 0       who wants it at all
 *             shared         its frame is being read, not by a vCPU      who wants it private
 *   MOVING    away           the payload is a mover's to drop            -
 *   CODE, GUARDED  all       code may have been decoded (page_code.c)    -
 *   ACTIVE, SAMPLED  all     for reclaim and the sample (page_sample.c)  -
 *   CLEAN     private, disk  equal to a disk's block (page_clean.c)       -
 *
 * Invariants
 *   - A page that is not private, and has no HOLLOW, PUNCHING or COMING, has no memory in layer 0,
 *     or memory that is all zero: where the host would not take it, or where two raced to make a
 * zero page private or balloon it, until its next use (early_memory counts these).
 *   - A page has memory before it is private: so touching it cannot fail, and a host that has none
 *     is met where the change can still be left undone (page_refused).
 *   - Each of SETTLING, PUNCHING and COMING is set by one thread's compare-and-swap, which owns the
 *     page's bytes until it clears the flag; only then are waiters woken.
 *   - A private page's bytes are only written through a TLB or under a pin. So when LEAVING
 *     has been set (no pins) and the TLBs have been revoked, they do not change before somebody
 *     looks the page up; and that cancels.
 *   - Handles, slots and blocks are dropped by whoever changes the entry that names them, or by the
 *     mover if that entry says MOVING.
 *   - A frame's bytes are read through a TLB, which LENT speaks of, or under COMING, and by nobody
 *     else. So whoever ends SHARED, which takes that nobody has COMING, and then revokes what was
 *     lent, may drop the reference: no one reads the frame any more. Not earlier: whoever gave the
 *     frame may put other bytes there as soon as it hears of it.
 *
 * No write is lost. Between the end of the revocation and the compare-and-swap of page_leave_end,
 * whoever wants the page clears LEAVING and its ticket first. That compare-and-swap then fails,
 * even if another thread has begun to take the page away meanwhile: tickets are unique. It is also
 * why no lock is held while a page is compressed or written to disk.
 *
 * No deadlock. Running vCPUs never wait for a page: their look-ups return NULL, and they park. A
 * revocation waits for running vCPUs only. SETTLING lasts for one revocation. PUNCHING lasts for a
 * system call or some, and COMING for one read from a store; neither is held over a revocation or a
 * wait for another page, and the stores' locks are leaves. Nobody waits for a pin. The wait lock
 * guards nothing: it makes waking up reliable.
 *
 * A page's life: zero (entry 0). A vCPU reads it: ZERO|LENT. It writes it: parked,
 * PRIVATE|SETTLING, revoke, PRIVATE. The disk reads into it: a pin, and none again. It lies idle;
 * reclaim begins to take it: PRIVATE|LEAVING. The vCPU reads it: PRIVATE again, and that was all.
 * Next time nobody comes: the bytes are compressed, COMPRESSED|HOLLOW; |PUNCHING; COMPRESSED. The
 * cache is full: COMPRESSED|MOVING, SWAPPED. A vCPU reads it: its look-up returns NULL, it parks,
 * SWAPPED|COMING, the file is read, PRIVATE|ACTIVE, the slot is free, the vCPU walks again. At last
 * the guest frees it and reports that: LEAVING, revoke, ZERO|PUNCHING, ZERO.
 *
 * Shared pages. A page that may be equal to a frame is LEAVING, as if it went to a store; when it
 * is found equal it is SHARED|HOLLOW, |PUNCHING, SHARED. Its code stays: the bytes are the same. A
 * vCPU that reads it has the frame itself, and never waits: LENT. One that writes parks, wins
 * COMING, copies the frame to layer 0; PRIVATE|SETTLING; it revokes the frame from all TLBs, as it
 * would the zero page; PRIVATE; and drops the reference. Who copies bytes out of the frame, and is
 * no running vCPU, has COMING meanwhile, so that nobody drops it.
 *
 *   page_state.c    look-ups, zero to private, pins, waiting
 *   page_leave.c    leaving, punching, moving between stores
 *   page_bring.c    away to private
 *   page_balloon.c  ballooned and released pages
 *   page_share.c    to shared and back to private
 *   page_code.c     code marks
 *   page_sample.c   sampling and activity
 *   page_clean.c    marks of pages that are equal to a block of a disk
 */

#include <pthread.h>
#include <stdatomic.h>

#include "mem/layer.h"
#include "mem/page_clean.h"
#include "mem/page_leave.h"
#include "mem/page_share.h"
#include "mem/pmap.h"

#define ENTRY_STATE ((uint64_t)0xf) /* enum page_state */

enum page_entry {
    ENTRY_LENT = 1 << 4,
    ENTRY_SETTLING = 1 << 5,
    ENTRY_LEAVING = 1 << 6,
    ENTRY_HOLLOW = 1 << 7,
    ENTRY_PUNCHING = 1 << 8,
    ENTRY_COMING = 1 << 9,
    ENTRY_MOVING = 1 << 10,
    ENTRY_CODE = 1 << 11,    /* code may have been decoded from it */
    ENTRY_GUARDED = 1 << 12, /* ... and no TLB lets it be written without a slow path */
    ENTRY_ACTIVE = 1 << 13,
    ENTRY_SAMPLED = 1 << 14,
    ENTRY_CLEAN = 1 << 15, /* equal to its block; no TLB lets it be written without a slow path */
};
#define ENTRY_FLAGS ((uint64_t)0xfff0)
/* What a page keeps whatever its state becomes. */
#define ENTRY_KEPT          ((uint64_t)(ENTRY_CODE | ENTRY_GUARDED | ENTRY_ACTIVE | ENTRY_SAMPLED))
#define ENTRY_PAYLOAD_SHIFT 16
#define ENTRY_PIN           ((uint64_t)1 << ENTRY_PAYLOAD_SHIFT)
#define ENTRY_PINS_MAX      ((uint64_t)0x7fffffff)

typedef _Atomic uint64_t page_entry;

struct pmap {
    page_entry *entries; /* one for each page of the span, holes included; sparse */
    uint64_t span_pages;
    struct layer ram;
    bool has_own_ram; /* to be destroyed with it */

    struct ram_range *ranges;
    unsigned range_count;
    uint64_t max_pages;

    pmap_revoke_fn *revoke;
    void *revoke_context;
    pmap_trouble_fn *trouble;
    void *trouble_context;
    atomic_flag in_trouble;
    const struct page_store_ops *store;
    void *store_context;

    const struct page_pressure_ops *pressure;
    void *pressure_context;
    _Atomic uint64_t tell_above, wait_above; /* private pages */

    const struct page_share_ops *share;
    void *share_context;
    const uint8_t *pool;          /* changes while nobody holds a frame */
    uint64_t pool_frames;         /* 0: there is no pool */
    _Atomic uint64_t frames_held; /* references that have not been dropped yet */
    _Atomic uint64_t pages_shared, cow_breaks;

    /* Held by who gives memory back, together, or by one who reads private pages in layer 0 without
     * a pin (page_hash). A leaf. */
    pthread_rwlock_t punching;

    /* Only for waiting until SETTLING, PUNCHING or COMING are cleared. */
    pthread_mutex_t wait_lock;
    pthread_cond_t waited;

    _Atomic uint64_t next_ticket;
    _Atomic bool is_peeking_off;

    _Atomic uint64_t pages[PAGE_STATES]; /* in each state; that of PAGE_ZERO is not kept */
    _Atomic uint64_t pinned_pages, faults_zero, faults_away[PAGE_STATES], second_chances,
        overwritten, balloon_popped, double_paging_seen, double_paging_avoided, sample_touches,
        stall_ns, revocations, early_memory;
};

static inline enum page_state entry_state(uint64_t value)
{
    return (enum page_state)(value & ENTRY_STATE);
}

static inline bool entry_is_away(uint64_t value)
{
    return entry_state(value) >= PAGE_COMPRESSED;
}

/* Hollow, and nobody is at it. */
static inline bool entry_is_hollow(uint64_t value)
{
    return (value & (ENTRY_HOLLOW | ENTRY_COMING | ENTRY_PUNCHING)) == ENTRY_HOLLOW;
}

static inline uint64_t entry_payload(uint64_t value)
{
    return value >> ENTRY_PAYLOAD_SHIFT;
}

/* NULL where the PPN is not RAM. */
static inline page_entry *pmap_entry(const struct pmap *map, uint64_t ppn)
{
    for (unsigned i = 0; i < map->range_count; i++) {
        if (ppn - (map->ranges[i].base >> PAGE_SHIFT) < map->ranges[i].size >> PAGE_SHIFT)
            return &map->entries[ppn];
    }
    return NULL;
}

/* The part of range i that lies in [first, first + count): PPNs from *from to before *end. */
static inline bool range_part(const struct pmap *map, unsigned i, uint64_t first, uint64_t count,
                              uint64_t *from, uint64_t *end)
{
    uint64_t wanted_end = count > UINT64_MAX - first ? UINT64_MAX : first + count;
    *from = map->ranges[i].base >> PAGE_SHIFT;
    *end = *from + (map->ranges[i].size >> PAGE_SHIFT);
    if (*from < first)
        *from = first;
    if (*end > wanted_end)
        *end = wanted_end;
    return *from < *end;
}

static inline uint8_t *pmap_private_page(const struct pmap *map, uint64_t ppn)
{
    return map->ram.base + (ppn << PAGE_SHIFT);
}

static inline const uint8_t *pmap_frame(const struct pmap *map, uint64_t value)
{
    return map->pool + (entry_payload(value) << PAGE_SHIFT);
}

static inline void count_event(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* The compare-and-swap that every change of a state goes by; keeps the counts of pages. False, and
 * *value is what is there now: somebody else was quicker. */
static inline bool entry_change(struct pmap *map, page_entry *entry, uint64_t *value,
                                uint64_t wanted)
{
    if (!atomic_compare_exchange_strong(entry, value, wanted))
        return false;
    enum page_state from = entry_state(*value), to = entry_state(wanted);
    if (from != to) {
        count_event(&map->pages[from], (uint64_t)-1);
        uint64_t before = atomic_fetch_add(&map->pages[to], 1);
        if (to == PAGE_PRIVATE && unlikely(before >= atomic_load(&map->tell_above)))
            map->pressure->over(map->pressure_context);
    }
    return true;
}

/* So many pages are private that one more had better wait. */
static inline bool pmap_is_tight(const struct pmap *map)
{
    return atomic_load_explicit(&map->pages[PAGE_PRIVATE], memory_order_relaxed) >
           atomic_load_explicit(&map->wait_above, memory_order_relaxed);
}

/* Before a page becomes private, by whoever may wait. */
static inline void pmap_wait_for_room(struct pmap *map)
{
    if (unlikely(pmap_is_tight(map)))
        map->pressure->wait(map->pressure_context);
}

/* The flags of ENTRY_KEPT as they are after a touch: to be stored by entry_touch. */
static inline uint64_t entry_touched(uint64_t value)
{
    uint64_t kept = value & ENTRY_KEPT;
    return kept & ENTRY_SAMPLED ? (kept & ~(uint64_t)ENTRY_SAMPLED) | ENTRY_ACTIVE : kept;
}

/* entry_change by somebody who touches the page: `wanted` has entry_touched(*value). */
static inline bool entry_touch(struct pmap *map, page_entry *entry, uint64_t *value,
                               uint64_t wanted)
{
    if (!entry_change(map, entry, value, wanted))
        return false;
    if (*value & ENTRY_SAMPLED)
        count_event(&map->sample_touches, 1);
    if (entry_state(*value) == PAGE_BALLOONED)
        count_event(&map->balloon_popped, 1);
    return true;
}

/* True when every byte of [gpa, gpa + length) is RAM. */
bool pmap_covers(const struct pmap *map, uint64_t gpa, uint64_t length);

/* Below, PPNs are RAM, and the callers no running vCPUs. */

/* Pages to be revoked together. Those that code was decoded from are noted as they are found.
 * Begins with counts of 0. */
#define REVOKE_MAX 256u
struct revoke_list {
    unsigned count, code_count;
    bool keeps_code;
    uint64_t ppns[REVOKE_MAX], code_ppns[REVOKE_MAX];
};

/* `value`: the page's entry, with its marks. */
static inline void revoke_list_add(struct revoke_list *list, uint64_t ppn, uint64_t value)
{
    list->ppns[list->count++] = ppn;
    if (value & ENTRY_CODE)
        list->code_ppns[list->code_count++] = ppn;
}

/* Calls the revoke hook, if there is anything to revoke. */
void pages_revoke(struct pmap *map, const struct pmap_revocation *what);
void revoke_list_finish(struct pmap *map, const struct revoke_list *list);

/* Waits until none of the flags is set. */
void page_wait(struct pmap *map, page_entry *entry, uint64_t flags);
/* Clears flags and wakes who waits for that. */
void page_wake(struct pmap *map, const uint64_t *ppns, unsigned count, uint64_t flags);

/* The host has refused memory for a page. True: there may be some now, try again. False: the map's
 * owner has been told. Waits as for room. */
bool page_refused(struct pmap *map);

/* How a page's old bytes are wanted. */
enum page_bytes {
    BYTES_KEPT,     /* they count */
    BYTES_REPLACED, /* all of them are replaced, by those given, at once */
    BYTES_USELESS,  /* they need not survive: zero will do */
};

/* Makes the page private and pins it. `whole`: the bytes for BYTES_REPLACED, put there unless the
 * page is at hand; then the caller stores them as ever. NO_SPACE: too many pins. IO: lost.
 * NO_MEMORY: the host has none for it. */
enum status page_pin(struct pmap *map, uint64_t ppn, enum page_bytes bytes, const void *whole);
void page_unpin(struct pmap *map, uint64_t ppn);

/* The page's bytes for reading, for as long as a copy takes: then page_give_back. *bytes is NULL
 * where they are all zero. Blocks where the page is away, or shared and just being read. NO_SPACE:
 * too many pins. IO, NO_MEMORY: as above. */
enum status page_borrow(struct pmap *map, uint64_t ppn, const uint8_t **bytes);
void page_give_back(struct pmap *map, uint64_t ppn, const uint8_t *bytes);

/* A frame of the pool, and not number 0. */
bool page_is_frame(const struct pmap *map, uint64_t frame);
/* The same for a shared page alone. False: it is not shared. */
bool page_borrow_frame(struct pmap *map, uint64_t ppn, const uint8_t **bytes);
/* One step towards a shared page, whose entry was `value`, being private; as page_come. Its old
 * bytes are copied even where they need not survive. */
enum status page_unshare(struct pmap *map, uint64_t ppn, uint64_t value);
/* The page is no longer shared, and no TLB has the frame that its entry `value` named. */
void frame_drop(struct pmap *map, uint64_t ppn, uint64_t value);

/* One step towards an away page, whose entry was `value`, being private: does it, or waits for who
 * does it. OK: look again. IO, NO_MEMORY: as above. */
enum status page_come(struct pmap *map, uint64_t ppn, uint64_t value, enum page_bytes bytes,
                      const void *whole);

/* For those two: waits for who is at it, or wins COMING and gives the page memory. True: that is
 * done, and the bytes are the caller's. False: *status is for the caller to return. */
bool page_begin_coming(struct pmap *map, uint64_t ppn, uint64_t value, enum status *status);

/* The store no longer needs to keep what `value` named, unless that is a mover's. */
void payload_drop(struct pmap *map, uint64_t value);

/* Sets LEAVING with the ticket, and adds the page to the list. False: not private, pinned,
 * settling, or another's (unless that is taken over). */
bool page_try_leave(struct pmap *map, uint64_t ppn, uint64_t ticket, bool takes_over,
                    struct revoke_list *list);
/* Takes that back, where it holds still. */
void page_try_cancel(struct pmap *map, uint64_t ppn, uint64_t ticket);
/* Ends LEAVING with the ticket in state `to`, with `flags` (HOLLOW or PUNCHING). False: cancelled.
 */
bool page_try_end(struct pmap *map, uint64_t ppn, uint64_t ticket, enum page_state to,
                  uint64_t payload, uint64_t flags);
uint64_t ticket_take(struct pmap *map);
/* Gives back the memory of pages that the caller has set PUNCHING; clears that. */
void pages_punch(struct pmap *map, const uint64_t *ppns, unsigned count);

/* Somebody is about to write the page: it is equal to no block any more. */
void page_spoil(struct pmap *map, uint64_t ppn);

/* Somebody who is no vCPU has written the page, or is about to: its decoded code goes. */
void page_drop_code(struct pmap *map, uint64_t ppn);

#endif
