#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "area.h"

/*
 * Threads that all the time add to counters spread over pages: a write that is lost at whatever
 * moment a page is taken shows in the sums. Each page has a word that all threads add to with
 * locked instructions, and a word of each thread's own, without. What each thread added is also
 * kept in sums of the round, which are verified against the counters and then forgotten.
 */

#define THREADS        2u
#define TOUCHES_A_PAGE 32u

struct counters {
    struct worker *worker;
    unsigned number;
    uint32_t pages;
    uint64_t *memory;
    uint32_t *own[THREADS]; /* by page: how often, and the total */
    uint32_t *total[THREADS];
    uint32_t round;
    pthread_barrier_t barrier;
};

struct adder {
    struct counters *counters;
    unsigned number;
};

static void *counters_start(struct worker *worker, unsigned number, uint64_t bytes)
{
    struct counters *counters = check_allocate(sizeof *counters);
    *counters =
        (struct counters){.worker = worker, .number = number, .pages = area_pages_of(bytes)};
    counters->memory = (uint64_t *)check_map((uint64_t)counters->pages * PAGE_BYTES, MAP_PRIVATE);
    for (unsigned i = 0; i < THREADS; i++) {
        counters->own[i] = check_allocate(counters->pages * sizeof *counters->own[i]);
        counters->total[i] = check_allocate(counters->pages * sizeof *counters->total[i]);
    }
    return counters;
}

/* The counters of a page are in places of its own, so that pages mistaken for others show. */
static uint64_t *page_counters(const struct counters *counters, uint32_t page)
{
    uint64_t place = mix64(page ^ counters->worker->seed) % (PAGE_WORDS - 1 - THREADS);
    return counters->memory + (uint64_t)page * PAGE_WORDS + place;
}

static void *add(void *context)
{
    const struct adder *adder = context;
    struct counters *counters = adder->counters;
    uint64_t chance = mix64(counters->worker->seed + counters->round * THREADS + adder->number);
    pthread_barrier_wait(&counters->barrier);
    for (uint32_t i = 0; i < counters->pages * TOUCHES_A_PAGE; i++) {
        chance = mix64(chance + 1);
        uint32_t page = (uint32_t)(chance >> 32) % counters->pages, amount = chance & 255;
        uint64_t *words = page_counters(counters, page);
        __atomic_fetch_add(&words[0], amount, __ATOMIC_RELAXED);
        ((volatile uint64_t *)words)[1 + adder->number]++;
        counters->own[adder->number][page]++;
        counters->total[adder->number][page] += amount;
    }
    return NULL;
}

static void verify(const struct counters *counters, uint32_t page, unsigned which, uint64_t found,
                   uint64_t expected)
{
    if (found == expected)
        return;
    check_fail("counters, page %u of %u, worker %u, counter %u, address %p: off by"
               " %lld (0x%llx, not 0x%llx)",
               page, counters->pages, counters->worker->number, which,
               (void *)page_counters(counters, page), (long long)(found - expected),
               (unsigned long long)found, (unsigned long long)expected);
}

static void counters_verify(struct counters *counters)
{
    for (uint32_t page = 0; page < counters->pages; page++) {
        const uint64_t *words = page_counters(counters, page);
        uint64_t total = 0;
        for (unsigned i = 0; i < THREADS; i++) {
            verify(counters, page, i + 1, words[i + 1], counters->own[i][page]);
            total += counters->total[i][page];
        }
        verify(counters, page, 0, words[0], total);
        for (unsigned i = 0; i < PAGE_WORDS; i++) {
            const uint64_t *word = counters->memory + (uint64_t)page * PAGE_WORDS + i;
            if ((word < words || word > words + THREADS) && *word != 0)
                check_fail("counters, page %u, byte %u, worker %u: 0x%llx, not zero", page, i * 8,
                           counters->worker->number, (unsigned long long)*word);
        }
    }
    atomic_fetch_add(&counters->worker->shared->verified, counters->pages);
}

static void counters_step(void *object, uint32_t round)
{
    struct counters *counters = object;
    pthread_t threads[THREADS];
    struct adder adders[THREADS];
    counters->round = round;
    pthread_barrier_init(&counters->barrier, NULL, THREADS);
    for (unsigned i = 0; i < THREADS; i++) {
        adders[i] = (struct adder){counters, i};
        if (pthread_create(&threads[i], NULL, add, &adders[i]) != 0)
            check_fail("cannot make a thread");
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&counters->barrier);
    const struct worker *worker = counters->worker;
    unsigned number = 0;
    if (worker->sabotage != SABOTAGE_NONE && round >= 2 &&
        strcmp(object_name(counters->number, &number), worker->sabotage_what) == 0 &&
        !atomic_exchange(&worker->shared->sabotaged, true))
        page_counters(counters, 1)[worker->sabotage == SABOTAGE_FLIP ? 0 : 1]--;
    counters_verify(counters);
}

static void counters_finish(void *object, uint32_t last_round)
{
    (void)last_round;
    counters_verify(object);
}

const struct object_kind kind_counters = {
    .name = "counters",
    .help = "counters all over some pages that threads add to",
    .share = 5,
    .start = counters_start,
    .step = counters_step,
    .finish = counters_finish,
};
