/*
 * Copying and filling: libc's memcpy and memset, which choose their instructions by what CPUID says
 * as they do in every program, and the string instructions by themselves.
 *
 * Each call copies a source that differs from the last one at both ends, and looks at both ends of
 * the destination; the rest is compared after each sample.
 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

struct copy {
    size_t size;
    uint8_t *source, *target;
    uint8_t turn;
};

static void copy_teardown(void *state)
{
    struct copy *copy = state;
    buffer_free(copy->source, copy->size);
    buffer_free(copy->target, copy->size);
    free(copy);
}

static void *copy_setup(const struct bench_env *env, uint64_t size)
{
    struct copy *copy = state_alloc(sizeof(*copy));
    uint64_t random = RANDOM_SEED;
    copy->size = size;
    copy->source = buffer_alloc(size);
    copy->target = buffer_alloc(size);
    if (!copy->source || !copy->target) {
        copy_teardown(copy);
        return NULL;
    }
    for (size_t i = 0; i < size; i += 8) {
        uint64_t word = random_next(&random);
        memcpy(copy->source + i, &word, sizeof(word));
    }
    return copy;
}

static void *fill_setup(const struct bench_env *env, uint64_t size)
{
    struct copy *copy = state_alloc(sizeof(*copy));
    copy->size = size;
    copy->target = buffer_alloc(size);
    if (!copy->target) {
        copy_teardown(copy);
        return NULL;
    }
    return copy;
}

/* Sets the source's ends apart from what they were at the last call. */
static void source_change(struct copy *copy)
{
    copy->turn++;
    copy->source[0] = copy->source[copy->size - 1] = copy->turn;
    memory_barrier();
}

static bool ends_match(const struct copy *copy)
{
    memory_barrier();
    return copy->target[0] == copy->turn && copy->target[copy->size - 1] == copy->turn;
}

static bool memcpy_run(void *state)
{
    struct copy *copy = state;
    source_change(copy);
    memcpy(copy->target, copy->source, copy->size);
    return ends_match(copy);
}

static bool memset_run(void *state)
{
    struct copy *copy = state;
    copy->turn++;
    memset(copy->target, copy->turn, copy->size);
    return ends_match(copy);
}

static bool rep_movsb_run(void *state)
{
    struct copy *copy = state;
    source_change(copy);
    uint8_t *source = copy->source, *target = copy->target;
    size_t count = copy->size;
    __asm__ volatile("rep movsb" : "+S"(source), "+D"(target), "+c"(count) : : "memory");
    return ends_match(copy);
}

static bool rep_stosq_run(void *state)
{
    struct copy *copy = state;
    copy->turn++;
    uint8_t *target = copy->target;
    size_t count = copy->size / 8;
    __asm__ volatile("rep stosq"
                     : "+D"(target), "+c"(count)
                     : "a"(copy->turn * 0x0101010101010101u)
                     : "memory");
    return ends_match(copy);
}

/* Spoils the target afterwards: the next sample must write it all again. */
static bool copy_check(void *state)
{
    struct copy *copy = state;
    bool right = memcmp(copy->source, copy->target, copy->size) == 0;
    memset(copy->target, 0x5a, copy->size);
    return right;
}

static bool fill_check(void *state)
{
    struct copy *copy = state;
    bool right = true;
    for (size_t i = 0; i < copy->size; i++)
        right &= copy->target[i] == copy->turn;
    memset(copy->target, 0x5a, copy->size);
    return right;
}

enum { KIB = 1 << 10, MIB = 1 << 20 };

const struct bench copy_benches[] = {
    {"memcpy-4k", "call", 1, 4 * KIB, copy_setup, memcpy_run, copy_check, copy_teardown},
    {"memcpy-64k", "call", 1, 64 * KIB, copy_setup, memcpy_run, copy_check, copy_teardown},
    {"memcpy-1m", "call", 1, MIB, copy_setup, memcpy_run, copy_check, copy_teardown},
    {"memcpy-16m", "call", 1, 16 * MIB, copy_setup, memcpy_run, copy_check, copy_teardown},
    {"memset-4k", "call", 1, 4 * KIB, fill_setup, memset_run, fill_check, copy_teardown},
    {"memset-64k", "call", 1, 64 * KIB, fill_setup, memset_run, fill_check, copy_teardown},
    {"memset-1m", "call", 1, MIB, fill_setup, memset_run, fill_check, copy_teardown},
    {"memset-16m", "call", 1, 16 * MIB, fill_setup, memset_run, fill_check, copy_teardown},
    {"rep-movsb-1m", "call", 1, MIB, copy_setup, rep_movsb_run, copy_check, copy_teardown},
    {"rep-stosq-1m", "call", 1, MIB, fill_setup, rep_stosq_run, fill_check, copy_teardown},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
