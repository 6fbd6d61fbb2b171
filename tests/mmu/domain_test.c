/*
 * Revocation between vCPUs: first the rules one by one on one thread, then threads that do what
 * vCPUs do (probe, resolve, safepoints, decode) and watch that nobody ever sees stale data.
 */

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fixture.h"
#include "mem/page_leave.h"

static uint8_t *must_resolve(struct mmu *mmu, uint64_t linear, enum mmu_access access)
{
    struct mmu_target target;
    struct mmu_fault fault;
    assert_int_equal(mmu_resolve(mmu, linear, access, MMU_SUPERVISOR, &target, &fault), MMU_OK);
    return target.host;
}

static void test_members(void **state)
{
    enum { MEMBERS = 64 };
    static struct mmu mmus[MEMBERS + 1];
    struct machine *machine = machine_create(0);
    _Atomic uint32_t attention = 0;
    struct error err = {0};
    for (unsigned i = 0; i < MEMBERS; i++)
        assert_int_equal(
            mmu_init(&mmus[i], machine->domain, machine->bus, &attention, 1, NULL, NULL, &err),
            STATUS_OK);
    assert_int_equal(
        mmu_init(&mmus[MEMBERS], machine->domain, machine->bus, &attention, 1, NULL, NULL, &err),
        STATUS_NO_SPACE);
    assert_int_not_equal(err.text[0], '\0');
    /* One leaves, one may join; who has left is not waited for. */
    mmu_destroy(&mmus[10]);
    mmus[10].parked = false;
    assert_int_equal(
        mmu_init(&mmus[MEMBERS], machine->domain, machine->bus, &attention, 1, NULL, NULL, &err),
        STATUS_OK);
    machine_revoke(machine, 5);
    for (unsigned i = 0; i <= MEMBERS; i++) {
        if (i != 10)
            mmu_destroy(&mmus[i]);
    }
    machine_destroy(machine);
}

/* Just the pages named are dropped, in whatever order they are named. */
static void test_many_pages(void **state)
{
    enum { PAGES = 128, EVERY = 3 };
    struct machine *machine = machine_create(1);
    struct mmu *mmu = &machine->cpus[0].mmu;
    for (unsigned order = 0; order < 3; order++) {
        uint64_t ppns[PAGES];
        unsigned count = 0;
        for (uint64_t ppn = 0; ppn < PAGES; ppn++) {
            must_resolve(mmu, ppn << PAGE_SHIFT, MMU_READ);
            if (ppn % EVERY == 0)
                ppns[count++] = ppn;
        }
        for (unsigned i = 0; order == 1 && i < count / 2; i++) { /* descending */
            uint64_t first = ppns[i];
            ppns[i] = ppns[count - 1 - i];
            ppns[count - 1 - i] = first;
        }
        if (order == 2) { /* ascending but for the last */
            ppns[count - 1] = 0;
            ppns[0] = PAGES / EVERY * EVERY;
        }
        mmu_park(mmu);
        mmu_domain_revoke(machine->domain, &(struct pmap_revocation){.ppns = ppns, .count = count});
        for (uint64_t ppn = 0; ppn < PAGES; ppn++) {
            const void *entry = mmu_probe_read(mmu, MMU_SUPERVISOR, ppn << PAGE_SHIFT, 1);
            assert_int_equal(entry == NULL, ppn % EVERY == 0);
        }
        mmu_unpark(mmu);
    }
    machine_destroy(machine);
}

/* A parked vCPU's TLB is changed for it. */
static void test_parked(void **state)
{
    struct machine *machine = machine_create(2);
    struct mmu *writer = &machine->cpus[0].mmu, *parked = &machine->cpus[1].mmu;
    const uint8_t *zero = must_resolve(parked, 0x5000, MMU_READ);
    must_resolve(parked, 0x5000, MMU_EXECUTE);
    must_resolve(parked, 0x6000, MMU_READ);
    mmu_park(parked);
    uint8_t *page = must_resolve(writer, 0x5000, MMU_WRITE);
    assert_ptr_not_equal(page, zero);
    assert_null(mmu_probe_read(parked, MMU_SUPERVISOR, 0x5000, 1));
    assert_non_null(mmu_probe_read(parked, MMU_SUPERVISOR, 0x6000, 1));
    assert_int_equal(machine->cpus[1].attention, 0);
    assert_int_equal(machine->cpus[1].drops, 0); /* its bytes are what they were */
    mmu_unpark(parked);
    assert_ptr_equal(must_resolve(parked, 0x5000, MMU_READ), page);
    assert_ptr_equal(must_resolve(parked, 0x5000, MMU_EXECUTE), page);

    /* Marks and drops of code likewise. */
    must_resolve(parked, 0x5000, MMU_WRITE);
    mmu_park(parked);
    mmu_mark_code(writer, 5);
    assert_null(mmu_probe_write(parked, MMU_SUPERVISOR, 0x5000, 1));
    assert_non_null(mmu_probe_read(parked, MMU_SUPERVISOR, 0x5000, 1));
    assert_int_equal(machine->cpus[1].drops, 0); /* nothing was decoded yet */
    must_resolve(writer, 0x5000, MMU_WRITE);
    assert_int_equal(machine->cpus[1].drops, 1);
    assert_int_equal(machine->cpus[1].last_drop, 5);
    assert_int_equal(machine->cpus[0].drops, 1);
    mmu_unpark(parked);
    machine_destroy(machine);
}

static void write_by_cpu(struct machine *machine)
{
    mmu_unpark(&machine->cpus[0].mmu);
    must_resolve(&machine->cpus[0].mmu, 0x5000, MMU_WRITE);
}

static void write_by_device(struct machine *machine)
{
    assert_int_equal(pmap_write(machine->map, 0x5000, "x", 1), STATUS_OK);
}

static void pin_and_unpin(struct machine *machine)
{
    struct iovec iov;
    unsigned count = 0;
    assert_int_equal(pmap_pin(machine->map, 0x5000, 1, PIN_WRITE, &iov, &count, 1), STATUS_OK);
    pmap_unpin(machine->map, 0x5000, 1, true);
}

static void leave_at_once(struct machine *machine)
{
    struct page_batch batch = {.count = 1, .ppn = {5}};
    page_leave_begin(machine->map, &batch, PAGE_LEAVE_ACTIVE);
    page_leave_cancel(machine->map, &batch, 0);
}

static void leave_slowly(struct machine *machine)
{
    struct page_batch batch = {.count = 1, .ppn = {5}};
    page_leave_begin(machine->map, &batch, PAGE_LEAVE_ACTIVE | PAGE_LEAVE_KEEP_CODE);
    page_leave_code(machine->map, &batch);
    page_leave_cancel(machine->map, &batch, 0);
}

static void release(struct machine *machine)
{
    assert_int_equal(pmap_release(machine->map, 5, 1), 1);
}

struct dropped {
    struct machine *machine;
    unsigned drops, guarded, unmarked;
};

static void note_marks(void *context, uint64_t ppn)
{
    struct dropped *dropped = context;
    dropped->drops++;
    dropped->guarded += pmap_code_is_guarded(dropped->machine->map, ppn);
    dropped->unmarked += !pmap_has_code(dropped->machine->map, ppn);
}

/* Whatever takes a page's code: while it is dropped nobody may decode the page anew, and nobody may
 * write it who has not heard; and then the mark is gone. */
static void test_marks_while_code_is_dropped(void **state)
{
    void (*const ways[])(struct machine *) = {write_by_cpu,  write_by_device, pin_and_unpin,
                                              leave_at_once, leave_slowly,    release};
    for (unsigned i = 0; i < ARRAY_LENGTH(ways); i++) {
        struct machine *machine = machine_create(2);
        struct mmu *other = &machine->cpus[1].mmu;
        struct dropped dropped = {.machine = machine};
        other->code_drop = note_marks;
        other->code_context = &dropped;
        must_resolve(&machine->cpus[0].mmu, 0x5000, MMU_WRITE);
        mmu_park(&machine->cpus[0].mmu);
        mmu_mark_code(other, 5);
        mmu_park(other);
        ways[i](machine);
        assert_int_equal(dropped.drops, 1);
        assert_int_equal(dropped.guarded, 0);
        assert_int_equal(dropped.unmarked, 0);
        assert_false(pmap_has_code(machine->map, 5));
        machine_destroy(machine);
    }
}

struct revoker {
    struct machine *machine;
    _Atomic bool done;
};

static void *revoke_page(void *argument)
{
    struct revoker *revoker = argument;
    machine_revoke(revoker->machine, 7);
    atomic_store(&revoker->done, true);
    return NULL;
}

/* A running one is asked, and nothing ends before it has answered: by service or by parking. */
static void test_running(void **state)
{
    for (unsigned by_parking = 0; by_parking < 2; by_parking++) {
        struct machine *machine = machine_create(1);
        struct cpu *cpu = &machine->cpus[0];
        struct revoker revoker = {.machine = machine};
        pthread_t thread;
        must_resolve(&cpu->mmu, 0x7000, MMU_READ);
        assert_int_equal(pthread_create(&thread, NULL, revoke_page, &revoker), 0);
        while (atomic_load(&cpu->attention) == 0) {
            assert_non_null(mmu_probe_read(&cpu->mmu, MMU_SUPERVISOR, 0x7000, 1));
            assert_false(atomic_load(&revoker.done));
        }
        assert_false(atomic_load(&revoker.done));
        assert_int_equal(cpu->drops, 0);
        if (by_parking) {
            mmu_park(&cpu->mmu);
            mmu_unpark(&cpu->mmu);
        } else {
            mmu_service(&cpu->mmu);
        }
        assert_int_equal(cpu->attention, 0);
        assert_null(mmu_probe_read(&cpu->mmu, MMU_SUPERVISOR, 0x7000, 1));
        assert_int_equal(cpu->drops, 1);
        assert_int_equal(cpu->last_drop, 7);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_true(revoker.done);
        machine_destroy(machine);
    }
}

static void *clear_once_then_serve(void *argument)
{
    struct revoker *revoker = argument;
    struct cpu *cpu = &revoker->machine->cpus[1];
    for (unsigned request = 0; request < 2; request++) {
        while (atomic_load(&cpu->attention) == 0)
            ;
        if (request == 0)
            pmap_code_clear(revoker->machine->map, 7);
        mmu_service(&cpu->mmu);
    }
    atomic_store(&revoker->done, true);
    return NULL;
}

/* A mark that somebody clears while it is being made is made again: two sweeps are served. */
static void test_mark_is_repeated(void **state)
{
    struct machine *machine = machine_create(2);
    struct revoker revoker = {.machine = machine};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, clear_once_then_serve, &revoker), 0);
    mmu_mark_code(&machine->cpus[0].mmu, 7);
    assert_true(pmap_code_is_guarded(machine->map, 7));
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(revoker.done);
    machine_destroy(machine);
}

/* ---- Threads ------------------------------------------------------------------------------- */

#define THREADS CPUS_MAX

/* cmocka's assertions belong to the main thread: the others count what they find wrong. */
struct stress {
    struct machine *machine;
    pthread_barrier_t start;
    _Atomic unsigned failures;
    _Atomic uint64_t published[RAM_LOW_END >> PAGE_SHIFT]; /* per page: a value it has at least */
};

struct worker {
    struct stress *stress;
    unsigned index;
    uint64_t rounds, seed;

    /* The "engine": a block of each page, that is a copy of the page's first word. */
    struct {
        bool valid;
        uint64_t value;
    } blocks[64];
    uint64_t drops, executed, decoded;
};

static void safepoint(struct mmu *mmu)
{
    if (atomic_load_explicit(mmu->attention, memory_order_relaxed) != 0)
        mmu_service(mmu);
}

static uint8_t *reach(struct worker *worker, struct mmu *mmu, uint64_t linear,
                      enum mmu_access access)
{
    uint8_t *host = access == MMU_WRITE  ? mmu_probe_write(mmu, MMU_SUPERVISOR, linear, 8)
                    : access == MMU_READ ? mmu_probe_read(mmu, MMU_SUPERVISOR, linear, 8)
                                         : NULL;
    if (host != NULL)
        return host;
    struct mmu_target target;
    struct mmu_fault fault;
    if (mmu_resolve(mmu, linear, access, MMU_SUPERVISOR, &target, &fault) == MMU_OK)
        return target.host;
    atomic_fetch_add(&worker->stress->failures, 1);
    return NULL;
}

static uint64_t load(struct worker *worker, struct mmu *mmu, uint64_t linear,
                     enum mmu_access access)
{
    uint8_t *host = reach(worker, mmu, linear, access);
    return host == NULL ? 0 : __atomic_load_n((uint64_t *)(void *)host, __ATOMIC_ACQUIRE);
}

static void store(struct worker *worker, struct mmu *mmu, uint64_t linear, uint64_t value)
{
    uint8_t *host = reach(worker, mmu, linear, MMU_WRITE);
    if (host != NULL)
        __atomic_store_n((uint64_t *)(void *)host, value, __ATOMIC_RELEASE);
}

static void run_stress(struct stress *stress, struct worker *workers, unsigned cpus,
                       unsigned devices, void *(*cpu)(void *), void *(*device)(void *))
{
    pthread_t threads[2 * THREADS];
    assert_int_equal(pthread_barrier_init(&stress->start, NULL, cpus + devices), 0);
    for (unsigned i = 0; i < cpus + devices; i++) {
        workers[i].stress = stress;
        workers[i].index = i;
        workers[i].seed = i + 1;
        assert_int_equal(pthread_create(&threads[i], NULL, i < cpus ? cpu : device, &workers[i]),
                         0);
    }
    for (unsigned i = 0; i < cpus + devices; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    pthread_barrier_destroy(&stress->start);
    assert_int_equal(stress->failures, 0);
}

/*
 * Zero pages become private under readers. All vCPUs go through all pages in the same direction, so
 * that they meet; each reads the page first (the zero page gets into its TLB), then one of them
 * writes and publishes. Whoever has seen a value published must see it in memory, through whatever
 * its TLB holds, without a flush of its own.
 */
#define ZERO_PAGES 1024u

static void *zero_cpu(void *argument)
{
    struct worker *worker = argument;
    struct stress *stress = worker->stress;
    struct mmu *mmu = &stress->machine->cpus[worker->index].mmu;
    pthread_barrier_wait(&stress->start);
    mmu_unpark(mmu);
    for (uint64_t page = 1; page < ZERO_PAGES; page++) {
        for (unsigned turn = 0; turn < 8; turn++) {
            safepoint(mmu);
            /* A window of pages around where this thread is. */
            uint64_t at = page - test_random(&worker->seed) % (page < 8 ? page : 8);
            uint64_t linear = (at << PAGE_SHIFT) + 8 * (worker->index % 2);
            uint64_t least = atomic_load_explicit(&stress->published[at], memory_order_acquire);
            if (load(worker, mmu, at << PAGE_SHIFT, MMU_READ) < least)
                atomic_fetch_add(&stress->failures, 1);
            if (turn == 3 && at % THREADS == worker->index) {
                store(worker, mmu, at << PAGE_SHIFT, least + 1);
                atomic_store_explicit(&stress->published[at], least + 1, memory_order_release);
            } else if (turn == 5) {
                /* Others make the same page private at once, each writing its own word. */
                uint64_t own = linear + 64 + 64 * worker->index;
                store(worker, mmu, own, page);
                if (load(worker, mmu, own, MMU_READ) != page)
                    atomic_fetch_add(&stress->failures, 1);
            }
        }
    }
    mmu_park(mmu);
    return NULL;
}

static void test_zero_pages_under_threads(void **state)
{
    for (unsigned round = 0; round < 40; round++) {
        static struct stress stress;
        static struct worker workers[THREADS];
        memset(&stress, 0, sizeof(stress));
        memset(workers, 0, sizeof(workers));
        stress.machine = machine_create(THREADS);
        for (unsigned i = 0; i < THREADS; i++)
            mmu_park(&stress.machine->cpus[i].mmu);
        run_stress(&stress, workers, THREADS, 0, zero_cpu, NULL);
        struct pmap_stats stats;
        pmap_get_stats(stress.machine->map, &stats);
        assert_true(stats.revocations > 100); /* or nothing was tested */
        machine_destroy(stress.machine);
    }
}

/*
 * Code. Each page has one writer, a vCPU or a device, which stores increasing values and publishes
 * each after the store. Every vCPU "executes" all pages: it decodes a page (marks it, reads it by
 * MMU_EXECUTE, keeps the value) and later runs the kept value without looking at memory. A value
 * that is run may never be older than what was published before its run.
 */
#define CODE_PAGES 16u

static void code_drop(void *context, uint64_t ppn)
{
    struct worker *worker = context;
    worker->drops++;
    for (uint64_t i = 0; i < CODE_PAGES; i++) {
        if (ppn == MMU_ALL_PAGES || ppn == i)
            worker->blocks[i].valid = false;
    }
}

static void execute(struct worker *worker, struct mmu *mmu, uint64_t page)
{
    uint64_t least = atomic_load_explicit(&worker->stress->published[page], memory_order_acquire);
    while (!worker->blocks[page].valid) {
        uint64_t drops = worker->drops;
        mmu_mark_code(mmu, page);
        if (drops % 4 == 0) /* others have their turn between the mark and the look-up */
            sched_yield();
        uint64_t value = load(worker, mmu, page << PAGE_SHIFT, MMU_EXECUTE);
        if (drops != worker->drops)
            continue;
        worker->blocks[page].value = value;
        worker->blocks[page].valid = true;
        worker->decoded++;
    }
    worker->executed++;
    if (worker->blocks[page].value < least)
        atomic_fetch_add(&worker->stress->failures, 1);
}

static void *code_cpu(void *argument)
{
    struct worker *worker = argument;
    struct stress *stress = worker->stress;
    struct mmu *mmu = &stress->machine->cpus[worker->index].mmu;
    pthread_barrier_wait(&stress->start);
    mmu_unpark(mmu);
    for (uint64_t round = 0; round < worker->rounds; round++) {
        safepoint(mmu);
        uint64_t random = test_random(&worker->seed), page = random % CODE_PAGES;
        if ((random >> 8) % 16 == 0) {
            /* Half of the pages belong to vCPUs. */
            page = (random >> 16) % (CODE_PAGES / 2 / THREADS) * THREADS + worker->index;
            uint64_t value = load(worker, mmu, page << PAGE_SHIFT, MMU_READ) + 1;
            store(worker, mmu, page << PAGE_SHIFT, value);
            atomic_store_explicit(&stress->published[page], value, memory_order_release);
        } else {
            execute(worker, mmu, page);
        }
    }
    mmu_park(mmu);
    return NULL;
}

/* The page leaves, in one of two ways, and stays after all. */
static void take_code(struct stress *stress, uint64_t page, bool keeps_code)
{
    struct pmap *map = stress->machine->map;
    struct page_batch batch = {.count = 1, .ppn = {page}};
    page_leave_begin(map, &batch, PAGE_LEAVE_ACTIVE | (keeps_code ? PAGE_LEAVE_KEEP_CODE : 0));
    page_leave_code(map, &batch);
    for (unsigned i = 0; i < batch.count; i++)
        page_leave_cancel(map, &batch, i);
}

static void *code_device(void *argument)
{
    struct worker *worker = argument;
    struct stress *stress = worker->stress;
    pthread_barrier_wait(&stress->start);
    uint64_t values[CODE_PAGES] = {0};
    for (uint64_t round = 0; round < worker->rounds; round++) {
        uint64_t random = test_random(&worker->seed);
        uint64_t page = CODE_PAGES / 2 + random % (CODE_PAGES / 2), gpa = page << PAGE_SHIFT;
        uint64_t value = ++values[page];
        if (random >> 33 & 1)
            take_code(stress, random >> 40 & (CODE_PAGES - 1), random >> 34 & 1);
        if (random >> 32 & 1) {
            if (pmap_write(stress->machine->map, gpa, &value, 8) != STATUS_OK)
                atomic_fetch_add(&stress->failures, 1);
        } else {
            struct iovec iov;
            unsigned count = 0;
            if (pmap_pin(stress->machine->map, gpa, 8, true, &iov, &count, 1) == STATUS_OK) {
                __atomic_store_n((uint64_t *)iov.iov_base, value, __ATOMIC_RELEASE);
                pmap_unpin(stress->machine->map, gpa, 8, true);
            } else {
                atomic_fetch_add(&stress->failures, 1);
            }
        }
        atomic_store_explicit(&stress->published[page], value, memory_order_release);
    }
    return NULL;
}

static void test_code_under_threads(void **state)
{
    static struct stress stress;
    static struct worker workers[THREADS + 1];
    memset(&stress, 0, sizeof(stress));
    memset(workers, 0, sizeof(workers));
    stress.machine = machine_create(THREADS);
    for (unsigned i = 0; i < THREADS; i++) {
        struct mmu *mmu = &stress.machine->cpus[i].mmu;
        mmu->code_drop = code_drop;
        mmu->code_context = &workers[i];
        mmu_park(mmu);
        workers[i].rounds = 200000;
    }
    workers[THREADS].rounds = 20000;
    run_stress(&stress, workers, THREADS, 1, code_cpu, code_device);
    for (unsigned i = 0; i < THREADS; i++) {
        assert_true(workers[i].decoded > 100); /* dropped and decoded again, many times */
        assert_true(workers[i].executed > workers[i].decoded);
    }
    machine_destroy(stress.machine);
}

/*
 * Accessed and dirty bits under races: all vCPUs walk through the same entry while one of them also
 * clears its bits, as a kernel that looks for dirty pages does. What the clearing one sets by its
 * own accesses is there afterwards, D never stands without A, and no other bit ever changes.
 */
#define ROOT       0x100000u
#define LINEAR     ((uint64_t)0x7f0000200000)
#define DIRTY_PAGE 0x200000u
#define WINDOW     (LINEAR + PAGE_SIZE) /* where the guest sees its table */

static void check_entry(struct stress *stress, uint64_t entry, uint64_t least)
{
    uint64_t flags = entry & (PTE_A | PTE_D);
    if (entry - flags != (DIRTY_PAGE | PTE_P | PTE_W | PTE_U) || flags == PTE_D ||
        (flags & least) != least)
        atomic_fetch_add(&stress->failures, 1);
}

static void *dirty_cpu(void *argument)
{
    struct worker *worker = argument;
    struct stress *stress = worker->stress;
    struct mmu *mmu = &stress->machine->cpus[worker->index].mmu;
    uint64_t *entry = machine_at(stress->machine, ROOT + 3 * PAGE_SIZE);
    pthread_barrier_wait(&stress->start);
    mmu_unpark(mmu);
    for (uint64_t round = 0; round < worker->rounds; round++) {
        safepoint(mmu);
        if (worker->index == 0) {
            uint64_t *seen = (uint64_t *)(void *)must_resolve(mmu, WINDOW, MMU_WRITE);
            uint64_t old = __atomic_fetch_and(seen, ~(PTE_A | PTE_D), __ATOMIC_SEQ_CST);
            check_entry(stress, old, 0);
        }
        mmu_flush_page(mmu, LINEAR);
        bool write = test_random(&worker->seed) % 2;
        reach(worker, mmu, LINEAR + 8 * worker->index, write ? MMU_WRITE : MMU_READ);
        if (worker->index == 0)
            check_entry(stress, __atomic_load_n(entry, __ATOMIC_SEQ_CST),
                        write ? PTE_A | PTE_D : PTE_A);
        if (write && mmu_probe_write(mmu, MMU_SUPERVISOR, LINEAR, 8) == NULL)
            atomic_fetch_add(&stress->failures, 1);
    }
    mmu_park(mmu);
    return NULL;
}

static void test_dirty_bits_under_threads(void **state)
{
    static struct stress stress;
    static struct worker workers[THREADS];
    memset(&stress, 0, sizeof(stress));
    memset(workers, 0, sizeof(workers));
    stress.machine = machine_create(THREADS);
    machine_at(stress.machine, DIRTY_PAGE);
    for (unsigned i = 0; i < THREADS; i++)
        mmu_park(&stress.machine->cpus[i].mmu);
    machine_map(stress.machine, ROOT, LINEAR, DIRTY_PAGE | PTE_P | PTE_W | PTE_U);
    machine_map(stress.machine, ROOT, WINDOW,
                (ROOT + 3 * PAGE_SIZE) | PTE_P | PTE_W | PTE_A | PTE_D);
    for (unsigned i = 0; i < THREADS; i++) {
        machine_long_mode(&stress.machine->cpus[i].mmu, ROOT);
        workers[i].rounds = 200000;
    }
    run_stress(&stress, workers, THREADS, 0, dirty_cpu, NULL);
    machine_destroy(stress.machine);
}

/* ------------------------------------------------------------------------- stopping */

#define STOP_ROUNDS 150u
#define STOPPERS    2u

struct stop_race {
    struct machine *machine;
    _Atomic bool running[CPUS_MAX]; /* between two safepoints, as the vCPU knows */
    _Atomic unsigned next, done, caught;
    pthread_barrier_t start;
    uint64_t counter; /* of who has stopped the others */
};

static void stop_safepoint(struct stop_race *race, unsigned self)
{
    struct cpu *cpu = &race->machine->cpus[self];
    if (atomic_load(&cpu->attention) == 0)
        return;
    atomic_store(&race->running[self], false);
    mmu_service(&cpu->mmu);
    atomic_store(&race->running[self], true);
}

/* Everybody else stands still for as long as it takes, two of those who want this included. */
static void stop_and_count(struct stop_race *race, unsigned self)
{
    struct mmu *mmu = &race->machine->cpus[self].mmu;
    atomic_store(&race->running[self], false);
    mmu_stop_others(mmu);
    uint64_t counter = race->counter;
    for (unsigned i = 0; i < 4 * CPUS_MAX; i++) {
        if (atomic_load(&race->running[i % CPUS_MAX]))
            atomic_fetch_add(&race->caught, 1);
        sched_yield();
    }
    race->counter = counter + 1;
    mmu_resume_others(mmu);
    atomic_store(&race->running[self], true);
}

static void halt_for_a_moment(struct stop_race *race, unsigned self)
{
    struct mmu *mmu = &race->machine->cpus[self].mmu;
    atomic_store(&race->running[self], false);
    mmu_park(mmu);
    sched_yield();
    mmu_unpark(mmu);
    atomic_store(&race->running[self], true);
}

static void *stop_as_cpu(void *argument)
{
    struct stop_race *race = argument;
    unsigned self = atomic_fetch_add(&race->next, 1);
    struct mmu *mmu = &race->machine->cpus[self].mmu;
    pthread_barrier_wait(&race->start);
    mmu_unpark(mmu);
    atomic_store(&race->running[self], true);
    for (unsigned i = 0; self < STOPPERS ? i < STOP_ROUNDS : race->done < STOPPERS; i++) {
        stop_safepoint(race, self);
        if (self < STOPPERS)
            stop_and_count(race, self);
        else if (self % 2 == 0 && i % 64 == 0)
            halt_for_a_moment(race, self);
        else
            must_resolve(mmu, i % 16 * PAGE_SIZE, i % 2 ? MMU_WRITE : MMU_READ);
    }
    atomic_fetch_add(&race->done, self < STOPPERS);
    atomic_store(&race->running[self], false);
    mmu_park(mmu); /* a vCPU that is paused */
    return NULL;
}

static void *revoke_all_the_time(void *argument)
{
    struct stop_race *race = argument;
    for (uint64_t ppn = 0; race->done < STOPPERS; ppn++) {
        machine_revoke(race->machine, ppn % 16);
        sched_yield();
    }
    return NULL;
}

/* Two vCPUs stop the others again and again; these halt, wake and are paused meanwhile, and pages
 * are revoked. Nobody runs who is stopped, and nobody waits for ever. */
static void test_stops_under_threads(void **state)
{
    struct stop_race race = {.machine = machine_create(CPUS_MAX)};
    pthread_t cpus[CPUS_MAX], revoker;
    pthread_barrier_init(&race.start, NULL, CPUS_MAX);
    for (unsigned i = 0; i < CPUS_MAX; i++)
        mmu_park(&race.machine->cpus[i].mmu);
    for (unsigned i = 0; i < CPUS_MAX; i++)
        assert_int_equal(pthread_create(&cpus[i], NULL, stop_as_cpu, &race), 0);
    assert_int_equal(pthread_create(&revoker, NULL, revoke_all_the_time, &race), 0);
    for (unsigned i = 0; i < CPUS_MAX; i++)
        assert_int_equal(pthread_join(cpus[i], NULL), 0);
    assert_int_equal(pthread_join(revoker, NULL), 0);
    pthread_barrier_destroy(&race.start);
    assert_int_equal(race.caught, 0);
    assert_int_equal(race.counter, STOPPERS * STOP_ROUNDS);
    machine_destroy(race.machine);
}

/* Any argument: with the software MMU. */
int main(int count, char **arguments)
{
    (void)arguments;
    if (count > 1)
        machine_mode = MMU_SHADOW;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_many_pages),
        cmocka_unit_test(test_parked),
        cmocka_unit_test(test_marks_while_code_is_dropped),
        cmocka_unit_test(test_running),
        cmocka_unit_test(test_mark_is_repeated),
        cmocka_unit_test(test_zero_pages_under_threads),
        cmocka_unit_test(test_code_under_threads),
        cmocka_unit_test(test_dirty_bits_under_threads),
        cmocka_unit_test(test_stops_under_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
