/*
 * A pointer chase: loads each of which needs the one before it, through all cache lines of 64 KiB
 * (in the caches) and of 16 MiB (beyond them, and beyond a TLB's reach) in random order. The lines
 * form one cycle, so a whole round must end where it began.
 */
#include <stdlib.h>

#include "bench.h"

enum { LINE = 64 };

/* Loads by one call of run: whole rounds of either size. */
#define LOADS (16ull * 1024 * 1024 / LINE)

struct line {
    struct line *next;
    uint8_t padding[LINE - sizeof(struct line *)];
};

struct chase {
    size_t size;
    struct line *lines;
};

static void chase_teardown(void *state)
{
    struct chase *chase = state;
    buffer_free(chase->lines, chase->size);
    free(chase);
}

/* Sattolo's algorithm: a random permutation that is a single cycle. */
static void *chase_setup(const struct bench_env *env, uint64_t size)
{
    struct chase *chase = state_alloc(sizeof(*chase));
    uint64_t random = RANDOM_SEED, count = size / LINE;
    chase->size = size;
    chase->lines = buffer_alloc(size);
    if (!chase->lines) {
        chase_teardown(chase);
        return NULL;
    }
    for (uint64_t i = 0; i < count; i++)
        chase->lines[i].next = &chase->lines[i];
    for (uint64_t i = count - 1; i > 0; i--) {
        uint64_t j = random_next(&random) % i;
        struct line *next = chase->lines[i].next;
        chase->lines[i].next = chase->lines[j].next;
        chase->lines[j].next = next;
    }
    return chase;
}

static bool chase_run(void *state)
{
    const struct chase *chase = state;
    const struct line *line = chase->lines;
    uint64_t half = LOADS / 2 + 1;
    for (uint64_t i = 0; i < half; i++)
        line = line->next;
    /* Half a round and a step more is elsewhere: so the loads are not all of one line. */
    bool away = line != chase->lines;
    for (uint64_t i = half; i < LOADS; i++)
        line = line->next;
    return away && line == chase->lines;
}

const struct bench chase_benches[] = {
    {"chase-64k", "load", LOADS, 64 << 10, chase_setup, chase_run, NULL, chase_teardown},
    {"chase-16m", "load", LOADS, 16 << 20, chase_setup, chase_run, NULL, chase_teardown},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
