/*
 * MMUs over pages that are taken away: what a walk and an access do when a table or a page is
 * elsewhere, what happens when it is lost, and, under threads, that no byte that anybody wrote is
 * ever missing, whatever is taken, moved, shared, sampled, ballooned and released meanwhile.
 */

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../mem/memory_store.h"
#include "fixture.h"
#include "mem/page_share.h"

#define ROOT       0x100000u
#define ROOT_PPN   (ROOT >> PAGE_SHIFT)
#define TABLES     4u
#define LINEAR     ((uint64_t)0x7f0000200000)
#define DATA       0x200000u
#define DATA_PPN   (DATA >> PAGE_SHIFT)
#define STRICT     16u /* pages that keep what is written to them, ... */
#define LOOSE      8u  /* ... and after them those that are ballooned and released */
#define DATA_PAGES (STRICT + LOOSE)

struct paging {
    struct machine *machine;
    struct memory_store *store;
};

static void make(struct paging *paging, unsigned cpus)
{
    paging->machine = machine_create(cpus);
    paging->store = memory_store_create();
    pmap_set_store(paging->machine->map, &memory_store_ops, paging->store);
    for (unsigned i = 0; i < cpus; i++)
        mmu_park(&paging->machine->cpus[i].mmu);
    for (uint64_t i = 0; i < DATA_PAGES; i++)
        machine_map(paging->machine, ROOT, LINEAR + i * PAGE_SIZE,
                    (DATA + i * PAGE_SIZE) | PTE_P | PTE_W | PTE_U);
    for (unsigned i = 0; i < cpus; i++) {
        mmu_unpark(&paging->machine->cpus[i].mmu);
        machine_long_mode(&paging->machine->cpus[i].mmu, ROOT);
    }
}

static void unmake(struct paging *paging)
{
    assert_int_equal(paging->store->misused, 0);
    machine_destroy(paging->machine);
    memory_store_destroy(paging->store);
}

/* Any thread that is no running vCPU. Sends what may go of the batch to the store. */
static void send_away(struct paging *paging, struct page_batch *batch, enum page_state to)
{
    struct pmap *map = paging->machine->map;
    page_leave_begin(map, batch, PAGE_LEAVE_ACTIVE | PAGE_LEAVE_KEEP_CODE);
    page_leave_code(map, batch);
    for (unsigned i = 0; i < batch->count; i++) {
        uint8_t bytes[1 << PAGE_SHIFT];
        uint64_t payload = UINT64_MAX;
        if (page_leave_copy(map, batch->ppn[i], bytes))
            payload = memory_store_put(paging->store, to, bytes);
        if (payload == UINT64_MAX)
            page_leave_cancel(map, batch, i);
        else if (!page_leave_end(map, batch, i, to, payload))
            memory_store_drop(paging->store, to, payload);
    }
}

/* ------------------------------------------------------------------------- one by one */

static void evict(struct paging *paging, struct mmu *mmu, uint64_t ppn)
{
    struct page_batch batch = {.count = 1, .ppn = {ppn}};
    mmu_park(mmu);
    send_away(paging, &batch, PAGE_SWAPPED);
    page_punch(paging->machine->map, &ppn, 1);
    mmu_unpark(mmu);
    assert_int_equal(pmap_state(paging->machine->map, ppn), PAGE_SWAPPED);
}

static enum mmu_outcome go(struct mmu *mmu, enum mmu_access access, struct mmu_target *target)
{
    struct mmu_fault fault;
    return mmu_resolve(mmu, LINEAR + 8, access, MMU_SUPERVISOR, target, &fault);
}

/* What generated code asks in the middle of a block: it is told what can be said at once, and
 * otherwise nothing has happened. */
static void test_find(void **state)
{
    struct paging paging;
    make(&paging, 1);
    struct mmu *mmu = &paging.machine->cpus[0].mmu;
    struct mmu_target target;
    const uint64_t pages[] = {LINEAR, LINEAR + PAGE_SIZE};
    machine_put(paging.machine, DATA, 1);
    for (unsigned access = MMU_READ; access <= MMU_WRITE; access++) {
        uint64_t misses = mmu->stats.tlb_misses;
        uint8_t *host = mmu_find(mmu, pages[access] + 8, access, MMU_USER);
        assert_non_null(host);
        assert_ptr_equal(mmu_find(mmu, pages[access] + 8, access, MMU_USER), host);
        assert_ptr_equal(mmu_probe(mmu, access, MMU_USER, pages[access] + 8, 8), host);
        assert_int_equal(mmu->stats.tlb_misses, misses + 1);
        uint64_t entry = ROOT + (TABLES - 1) * PAGE_SIZE + (pages[access] >> PAGE_SHIFT & 511) * 8;
        uint64_t bits = machine_get(paging.machine, entry);
        assert_int_equal(bits & (PTE_A | PTE_D), access == MMU_WRITE ? PTE_A | PTE_D : PTE_A);
    }
    assert_null(mmu_find(mmu, (uint64_t)1 << 47, MMU_READ, MMU_SUPERVISOR));
    assert_null(mmu_find(mmu, LINEAR + DATA_PAGES * PAGE_SIZE, MMU_READ, MMU_USER));
    mmu_watch(mmu, &pages[0], 1);
    assert_null(mmu_find(mmu, pages[0], MMU_READ, MMU_USER));
    mmu_watch(mmu, NULL, 0);
    assert_non_null(mmu_find(mmu, pages[0], MMU_READ, MMU_USER));

    /* A write to a page with code has to drop that first. */
    mmu_mark_code(mmu, DATA_PPN);
    assert_null(mmu_find(mmu, LINEAR, MMU_WRITE, MMU_USER));
    assert_true(pmap_code_is_guarded(paging.machine->map, DATA_PPN));
    assert_non_null(mmu_find(mmu, LINEAR, MMU_READ, MMU_USER));

    /* What is away stays away: the page, and a table. */
    const uint64_t ppns[] = {DATA_PPN, ROOT_PPN + TABLES - 1};
    for (unsigned i = 0; i < ARRAY_LENGTH(ppns); i++) {
        evict(&paging, mmu, ppns[i]);
        mmu_flush(mmu, false);
        struct mmu_stats before = mmu->stats;
        assert_null(mmu_find(mmu, LINEAR, MMU_READ, MMU_USER));
        assert_int_equal(pmap_state(paging.machine->map, ppns[i]), PAGE_SWAPPED);
        assert_int_equal(mmu->stats.away, before.away);
        assert_int_equal(mmu->stats.tlb_misses, before.tlb_misses);
        assert_int_equal(go(mmu, MMU_READ, &target), MMU_OK);
        assert_ptr_equal(mmu_find(mmu, LINEAR + 8, MMU_READ, MMU_SUPERVISOR), target.host);
    }
    assert_int_equal(mmu->stats.page_faults, 0);
    unmake(&paging);
}

static void test_away(void **state)
{
    struct paging paging;
    make(&paging, 1);
    struct mmu *mmu = &paging.machine->cpus[0].mmu;
    struct mmu_target target;
    uint64_t away = 0;
    machine_put(paging.machine, DATA + 8, 0x1122334455667788);

    for (unsigned access = MMU_READ; access <= MMU_EXECUTE; access++) {
        assert_int_equal(go(mmu, (enum mmu_access)access, &target), MMU_OK);
        /* The page itself: it is in no TLB any more, and comes back with its bytes. */
        evict(&paging, mmu, DATA_PPN);
        assert_null(mmu_probe_read(mmu, MMU_SUPERVISOR, LINEAR, 8));
        assert_int_equal(go(mmu, (enum mmu_access)access, &target), MMU_OK);
        assert_int_equal(*(uint64_t *)(void *)target.host, 0x1122334455667788);
        assert_int_equal(mmu->stats.away, ++away);
        /* Each table on the way, and all together. */
        for (uint64_t level = 0; level < TABLES; level++) {
            evict(&paging, mmu, ROOT_PPN + level);
            mmu_flush(mmu, false);
            assert_int_equal(go(mmu, (enum mmu_access)access, &target), MMU_OK);
            assert_int_equal(mmu->stats.away, ++away);
        }
        for (uint64_t level = 0; level < TABLES; level++)
            evict(&paging, mmu, ROOT_PPN + level);
        evict(&paging, mmu, DATA_PPN);
        mmu_flush(mmu, false);
        assert_int_equal(go(mmu, (enum mmu_access)access, &target), MMU_OK);
        assert_int_equal(mmu->stats.away, away += TABLES + 1);
    }
    unmake(&paging);
}

/* Code marks: a page that leaves loses its mark and its code, one that is away can be marked. */
static void test_code(void **state)
{
    struct paging paging;
    make(&paging, 1);
    struct cpu *cpu = &paging.machine->cpus[0];
    struct mmu_target target;
    assert_int_equal(go(&cpu->mmu, MMU_WRITE, &target), MMU_OK);
    mmu_mark_code(&cpu->mmu, DATA_PPN);
    cpu->drops = 0;
    evict(&paging, &cpu->mmu, DATA_PPN);
    assert_int_equal(cpu->drops, 1);
    assert_int_equal(cpu->last_drop, DATA_PPN);
    assert_false(pmap_has_code(paging.machine->map, DATA_PPN));
    mmu_mark_code(&cpu->mmu, DATA_PPN);
    assert_int_equal(go(&cpu->mmu, MMU_EXECUTE, &target), MMU_OK);
    assert_true(pmap_code_is_guarded(paging.machine->map, DATA_PPN));
    assert_int_equal(go(&cpu->mmu, MMU_WRITE, &target), MMU_OK);
    assert_false(pmap_has_code(paging.machine->map, DATA_PPN));
    assert_int_equal(cpu->drops, 2);
    unmake(&paging);
}

static void on_trouble(void *context, const struct error *err)
{
    assert_int_equal(err->status, STATUS_IO);
    ++*(unsigned *)context;
}

/* What cannot be read is never something else; and it is there again when it can be read. */
static void test_lost(void **state)
{
    struct paging paging;
    unsigned troubles = 0;
    make(&paging, 1);
    struct mmu *mmu = &paging.machine->cpus[0].mmu;
    struct pmap *map = paging.machine->map;
    struct mmu_target target;
    machine_put(paging.machine, DATA + 8, 77);
    pmap_set_trouble_hook(map, on_trouble, &troubles);
    for (uint64_t ppn = DATA_PPN; ppn != 0;
         ppn = ppn == DATA_PPN ? ROOT_PPN + TABLES - 1 : (ppn - 1) * (ppn > ROOT_PPN)) {
        assert_int_equal(go(mmu, MMU_WRITE, &target), MMU_OK);
        evict(&paging, mmu, ppn);
        mmu_flush(mmu, false);
        paging.store->is_broken = true;
        for (unsigned access = MMU_READ; access <= MMU_EXECUTE; access++)
            assert_int_equal(go(mmu, (enum mmu_access)access, &target), MMU_LOST);
        uint64_t value = 5;
        struct iovec iov;
        unsigned count = 0;
        assert_int_equal(pmap_read(map, (ppn << PAGE_SHIFT) + 8, &value, 8), STATUS_IO);
        assert_int_equal(pmap_write(map, (ppn << PAGE_SHIFT) + 8, &value, 8), STATUS_IO);
        assert_int_equal(
            pmap_pin(map, (ppn - 1) << PAGE_SHIFT, 2 * PAGE_SIZE, PIN_READ, &iov, &count, 1),
            STATUS_IO);
        assert_int_equal(count, 0);
        assert_null(pmap_page_write(map, ppn));
        assert_int_equal(pmap_state(map, ppn), PAGE_SWAPPED);
        assert_int_equal(pmap_check(map, NULL), STATUS_OK); /* no pin left, no memory */
        paging.store->is_broken = false;
        assert_int_equal(go(mmu, MMU_WRITE, &target), MMU_OK);
        assert_int_equal(*(uint64_t *)(void *)target.host, 77);
    }
    assert_int_equal(troubles, 1);
    unmake(&paging);
}

static void test_pdptes(void **state)
{
    struct paging paging;
    make(&paging, 1);
    struct mmu *mmu = &paging.machine->cpus[0].mmu;
    machine_put(paging.machine, DATA, 0x3001);
    evict(&paging, mmu, DATA_PPN);
    assert_int_equal(mmu_load_pdptes(mmu, DATA), MMU_OK);
    assert_int_equal(mmu->pdpte[0], 0x3001);
    evict(&paging, mmu, DATA_PPN);
    paging.store->is_broken = true;
    mmu->pdpte[0] = 9;
    assert_int_equal(mmu_load_pdptes(mmu, DATA), MMU_LOST);
    assert_int_equal(mmu->pdpte[0], 9);
    unmake(&paging);
}

/* ------------------------------------------------------------------------- all at once */

#define CPUS    3u
#define OWNERS  (CPUS + 2) /* and a device that pins, and one that copies */
#define BATCHES 1200u      /* of each helper, on average; so long everybody goes on */
#define HELPERS 4u
#define FRAMES  12u /* fewer than pages; number 0 is none */

/* Each owner has a word of its own in each page, which nobody else writes. */
struct storm {
    struct paging paging;
    pthread_barrier_t start;
    _Atomic unsigned batches; /* by all helpers */
    _Atomic bool stop;
    _Atomic unsigned failures;
    _Atomic uint64_t gone[PAGE_STATES]; /* pages that went into each state */
    uint64_t last[OWNERS][DATA_PAGES];  /* what its owner put there */

    /* What the manager of a pool does, who has no mercy: a frame is overwritten as soon as its
     * reference is dropped. */
    _Alignas(1 << PAGE_SHIFT) uint64_t pool[FRAMES][PAGE_SIZE / 8];
    _Atomic bool taken[FRAMES];
};

struct owner {
    struct storm *storm;
    unsigned index;
    uint64_t seed, next;
    bool dropped; /* its code, since it looked last */
};

static void storm_fail(struct storm *storm)
{
    atomic_fetch_add(&storm->failures, 1);
}

/* It was a storm: everything has happened often. */
static bool has_stormed(struct storm *storm)
{
    struct pmap_stats stats;
    pmap_get_stats(storm->paging.machine->map, &stats);
    return storm->gone[PAGE_COMPRESSED] > 100 && storm->gone[PAGE_SWAPPED] > 100 &&
           storm->gone[PAGE_BALLOONED] > 10 && storm->gone[PAGE_SHARED] > 100 &&
           stats.cow_breaks > 10 && stats.faults_compressed > 10 && stats.faults_swap_in > 10 &&
           stats.second_chances > 0 && stats.sample_touches > 0;
}

/* So many batches, and more while too few pages have gone: threads are scheduled as it comes. */
static bool is_stormy(struct storm *storm)
{
    uint64_t batches = atomic_load_explicit(&storm->batches, memory_order_relaxed);
    return batches < HELPERS * BATCHES ||
           (batches < 100 * HELPERS * BATCHES && !has_stormed(storm));
}

/* What is read there must be what was written last; in a loose page it may be gone, for good. */
static void check_word(struct owner *owner, unsigned page, uint64_t value)
{
    uint64_t *last = &owner->storm->last[owner->index][page];
    if (value == 0 && page >= STRICT)
        *last = 0;
    if (value != *last)
        storm_fail(owner->storm);
}

static uint64_t new_word(struct owner *owner, unsigned page)
{
    uint64_t value = ++owner->next << 8 | (owner->index + 1);
    owner->storm->last[owner->index][page] = value;
    return value;
}

static void use_word(struct owner *owner, unsigned page, uint64_t *word, bool write)
{
    check_word(owner, page, __atomic_load_n(word, __ATOMIC_RELAXED));
    if (write)
        __atomic_store_n(word, new_word(owner, page), __ATOMIC_RELAXED);
}

static void storm_drop(void *context, uint64_t ppn)
{
    (void)ppn;
    ((struct owner *)context)->dropped = true;
}

/* As an engine decodes: from a page that is guarded and has been fetched. */
static void decode(struct owner *owner, struct mmu *mmu, unsigned page)
{
    uint64_t linear = LINEAR + page * PAGE_SIZE + 8 * owner->index;
    struct mmu_target target;
    struct mmu_fault fault;
    do {
        mmu_mark_code(mmu, DATA_PPN + page);
        if (mmu_resolve(mmu, linear, MMU_EXECUTE, MMU_SUPERVISOR, &target, &fault) != MMU_OK) {
            storm_fail(owner->storm);
            return;
        }
    } while (!pmap_code_is_guarded(mmu->map, DATA_PPN + page));
    use_word(owner, page, (uint64_t *)(void *)target.host, false);
}

static void *cpu_main(void *argument)
{
    struct owner *owner = argument;
    struct storm *storm = owner->storm;
    struct cpu *cpu = &storm->paging.machine->cpus[owner->index];
    struct mmu *mmu = &cpu->mmu;
    pthread_barrier_wait(&storm->start);
    mmu_unpark(mmu);
    while (is_stormy(storm)) {
        if (atomic_load_explicit(&cpu->attention, memory_order_relaxed) != 0)
            mmu_service(mmu);
        uint64_t random = test_random(&owner->seed);
        unsigned page = (unsigned)(random >> 8) % DATA_PAGES;
        bool write = random & 1;
        if ((random >> 32 & 63) == 0) {
            decode(owner, mmu, page);
            continue;
        }
        uint64_t linear = LINEAR + page * PAGE_SIZE + 8 * owner->index;
        uint8_t *host = write ? mmu_probe_write(mmu, MMU_SUPERVISOR, linear, 8)
                              : mmu_probe_read(mmu, MMU_SUPERVISOR, linear, 8);
        if (host == NULL) {
            struct mmu_target target;
            struct mmu_fault fault;
            if (mmu_resolve(mmu, linear, write ? MMU_WRITE : MMU_READ, MMU_SUPERVISOR, &target,
                            &fault) != MMU_OK) {
                storm_fail(storm);
                break;
            }
            host = target.host;
        }
        use_word(owner, page, (uint64_t *)(void *)host, write);
        if ((random >> 40 & 255) == 0)
            mmu_flush(mmu, false);
        if ((random >> 48 & 255) == 0) {
            mmu_park(mmu);
            mmu_unpark(mmu);
        }
    }
    mmu_park(mmu);
    return NULL;
}

/* As a device reads a page that is shared. */
static bool peek_word(struct owner *owner, unsigned page)
{
    _Alignas(1 << PAGE_SHIFT) uint64_t bytes[PAGE_SIZE / 8];
    struct pmap *map = owner->storm->paging.machine->map;
    if (!pmap_is_shared(map, DATA_PPN + page) ||
        pmap_peek(map, DATA_PPN + page, (uint8_t *)bytes) != STATUS_OK)
        return false;
    check_word(owner, page, bytes[owner->index]);
    return true;
}

static void *device_main(void *argument)
{
    struct owner *owner = argument;
    struct storm *storm = owner->storm;
    struct pmap *map = storm->paging.machine->map;
    pthread_barrier_wait(&storm->start);
    while (is_stormy(storm)) {
        uint64_t random = test_random(&owner->seed);
        unsigned page = (unsigned)(random >> 8) % DATA_PAGES;
        bool write = random & 1;
        uint64_t gpa = DATA + page * PAGE_SIZE + 8 * owner->index, value;
        if (!write && random & 2 && peek_word(owner, page))
            continue;
        if (owner->index == CPUS) {
            struct iovec iov;
            unsigned count = 0;
            if (pmap_pin(map, gpa, 8, write ? PIN_WRITE : PIN_READ, &iov, &count, 1) != STATUS_OK) {
                storm_fail(storm);
                continue;
            }
            use_word(owner, page, iov.iov_base, write);
            use_word(owner, page, iov.iov_base, write);
            pmap_unpin(map, gpa, 8, write);
        } else {
            if (pmap_read(map, gpa, &value, 8) != STATUS_OK)
                storm_fail(storm);
            check_word(owner, page, value);
            value = write ? new_word(owner, page) : value;
            if (write && pmap_write(map, gpa, &value, 8) != STATUS_OK)
                storm_fail(storm);
        }
    }
    return NULL;
}

/* ---- those who take away ---- */

static void random_batch(struct owner *owner, struct page_batch *batch)
{
    batch->count = 0;
    for (unsigned i = 0; i < 6; i++) {
        uint64_t n = test_random(&owner->seed) % (DATA_PAGES + TABLES);
        batch->ppn[batch->count++] = n < TABLES ? ROOT_PPN + n : DATA_PPN + n - TABLES;
    }
}

/* Moves what it can find out to be in one state to another. */
static void move_some(struct storm *storm, uint64_t ppn, enum page_state from, enum page_state to)
{
    struct memory_store *store = storm->paging.store;
    for (uint64_t slot = 0; slot < STORE_SLOTS; slot++) {
        uint64_t payload = memory_store_payload(slot);
        _Alignas(1 << PAGE_SHIFT) uint8_t bytes[1 << PAGE_SHIFT];
        struct error err;
        if (!page_move_begin(storm->paging.machine->map, ppn, from, payload))
            continue;
        if (memory_store_ops.get(store, from, payload, ppn, bytes, &err) != STATUS_OK)
            storm_fail(storm);
        uint64_t next = memory_store_put(store, to, bytes);
        if (page_move_end(storm->paging.machine->map, ppn, from, payload, to, next))
            atomic_fetch_add(&storm->gone[to], 1);
        else
            memory_store_drop(store, to, next);
        memory_store_drop(store, from, payload);
        return;
    }
}

static void *reclaim_main(void *argument)
{
    struct owner *owner = argument;
    struct storm *storm = owner->storm;
    struct pmap *map = storm->paging.machine->map;
    pthread_barrier_wait(&storm->start);
    while (!atomic_load(&storm->stop)) {
        struct page_batch batch;
        uint64_t random = test_random(&owner->seed);
        enum page_state to = random & 1 ? PAGE_COMPRESSED : PAGE_SWAPPED;
        random_batch(owner, &batch);
        send_away(&storm->paging, &batch, to);
        for (unsigned i = 0; i < batch.count; i++) {
            if (pmap_state(map, batch.ppn[i]) == to)
                atomic_fetch_add(&storm->gone[to], 1);
        }
        if (random & 2)
            move_some(storm, batch.ppn[0], to, to == PAGE_SWAPPED ? PAGE_COMPRESSED : PAGE_SWAPPED);
        if (random & 12) /* else another thread punches them, or nobody */
            page_punch(map, batch.ppn, batch.count);
        atomic_fetch_add(&storm->batches, 1);
        sched_yield();
    }
    return NULL;
}

/* ---- he who shares ---- */

static void frame_give_up(struct storm *storm, uint32_t frame)
{
    memset(storm->pool[frame], 0xdd, PAGE_SIZE);
    atomic_store(&storm->taken[frame], false);
}

static void on_drop(void *context, uint64_t ppn, uint32_t frame)
{
    frame_give_up(context, frame);
}

static const struct page_share_ops share_ops = {.drop = on_drop};

static void *share_main(void *argument)
{
    struct owner *owner = argument;
    struct storm *storm = owner->storm;
    struct pmap *map = storm->paging.machine->map;
    pthread_barrier_wait(&storm->start);
    while (!atomic_load(&storm->stop)) {
        struct page_batch batch;
        struct page_ref refs[PAGE_BATCH_MAX];
        struct page_look_at looks[PAGE_BATCH_MAX];
        bool shared[PAGE_BATCH_MAX];
        unsigned count = 0;
        random_batch(owner, &batch);
        for (uint32_t frame = 1; frame < FRAMES && count < batch.count; frame++) {
            uint64_t ppn = batch.ppn[count];
            if (atomic_exchange(&storm->taken[frame], true))
                continue;
            if (pmap_read(map, ppn << PAGE_SHIFT, storm->pool[frame], PAGE_SIZE) != STATUS_OK)
                storm_fail(storm);
            looks[count].ppn = ppn;
            refs[count++] = (struct page_ref){ppn, frame};
        }
        page_look(map, looks, count, 1);
        page_share(map, refs, count, shared);
        for (unsigned i = 0; i < count; i++) {
            if (shared[i])
                atomic_fetch_add(&storm->gone[PAGE_SHARED], 1);
            else
                frame_give_up(storm, refs[i].frame);
        }
        atomic_fetch_add(&storm->batches, 1);
        sched_yield();
    }
    return NULL;
}

static void *discard_main(void *argument)
{
    struct owner *owner = argument;
    struct storm *storm = owner->storm;
    struct pmap *map = storm->paging.machine->map;
    pthread_barrier_wait(&storm->start);
    while (!atomic_load(&storm->stop)) {
        uint64_t random = test_random(&owner->seed);
        uint64_t first = DATA_PPN + STRICT + (random >> 8) % LOOSE;
        uint64_t count = 1 + (random >> 16) % (DATA_PPN + DATA_PAGES - first);
        struct page_batch batch;
        switch (random % 8) {
        case 0:
            atomic_fetch_add(&storm->gone[PAGE_BALLOONED], pmap_balloon_take(map, first, count));
            break;
        case 1:
            pmap_balloon_give(map, first, count);
            break;
        case 2:
            atomic_fetch_add(&storm->gone[PAGE_ZERO], pmap_release(map, first, count));
            break;
        case 3:
            pmap_balloon_reset(map);
            break;
        default:
            random_batch(owner, &batch);
            page_sample_begin(map, &batch);
            sched_yield();
            page_sample_end(map, &batch);
            break;
        }
        atomic_fetch_add(&storm->batches, 1);
        sched_yield();
    }
    return NULL;
}

static void test_storm(void **state)
{
    static struct storm storm;
    static struct owner owners[OWNERS + HELPERS];
    pthread_t threads[OWNERS + HELPERS];
    memset(&storm, 0, sizeof(storm));
    make(&storm.paging, CPUS);
    pmap_set_share(storm.paging.machine->map, &share_ops, &storm);
    assert_true(pmap_set_pool(storm.paging.machine->map, (uint8_t *)storm.pool, FRAMES));
    for (unsigned i = 0; i < CPUS; i++) {
        struct mmu *mmu = &storm.paging.machine->cpus[i].mmu;
        mmu->code_drop = storm_drop;
        mmu->code_context = &owners[i];
        mmu_park(mmu);
    }
    assert_int_equal(pthread_barrier_init(&storm.start, NULL, OWNERS + HELPERS), 0);
    for (unsigned i = 0; i < OWNERS + HELPERS; i++) {
        owners[i] = (struct owner){.storm = &storm, .index = i, .seed = i};
        void *(*function)(void *) = i < CPUS                   ? cpu_main
                                    : i < OWNERS               ? device_main
                                    : i < OWNERS + HELPERS - 2 ? reclaim_main
                                    : i < OWNERS + HELPERS - 1 ? share_main
                                                               : discard_main;
        assert_int_equal(pthread_create(&threads[i], NULL, function, &owners[i]), 0);
    }
    for (unsigned i = 0; i < OWNERS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&storm.stop, true);
    for (unsigned i = OWNERS; i < OWNERS + HELPERS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&storm.start);

    assert_int_equal(storm.failures, 0);
    for (unsigned page = 0; page < DATA_PAGES; page++) {
        uint64_t words[PAGE_SIZE / 8];
        assert_int_equal(
            pmap_read(storm.paging.machine->map, DATA + page * PAGE_SIZE, words, sizeof(words)),
            STATUS_OK);
        for (unsigned i = 0; i < PAGE_SIZE / 8; i++) {
            uint64_t last = i < OWNERS ? storm.last[i][page] : 0;
            if (page < STRICT || words[i] != 0)
                assert_int_equal(words[i], last);
        }
    }
    assert_true(has_stormed(&storm));
    assert_int_equal(pmap_check(storm.paging.machine->map, NULL), STATUS_OK);
    page_share_end(storm.paging.machine->map);
    for (unsigned i = 0; i < FRAMES; i++)
        assert_false(storm.taken[i]);
    unmake(&storm.paging);
}

/* Any argument: with the software MMU. */
int main(int count, char **arguments)
{
    (void)arguments;
    if (count > 1)
        machine_mode = MMU_SHADOW;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find), cmocka_unit_test(test_away),   cmocka_unit_test(test_code),
        cmocka_unit_test(test_lost), cmocka_unit_test(test_pdptes), cmocka_unit_test(test_storm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
