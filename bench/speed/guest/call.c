/*
 * Calls: plain ones with their returns (Fibonacci's numbers, recursively), calls through pointers
 * (a table of functions), and libc's qsort with a comparison function.
 */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum {
    FIBONACCI = 15,
    FIBONACCI_RESULT = 610,
    FIBONACCI_CALLS = 1973, /* 2 * fibonacci(16) - 1 */
    INDIRECT_CALLS = 8192,
    ELEMENTS = 4096,
};

/* A result that the compiler cannot follow, so that a call stays a call. */
__attribute__((noinline)) static uint64_t fibonacci(uint64_t n)
{
    if (n < 2)
        return n;
    uint64_t first = opaque(fibonacci(n - 1));
    return opaque(first + opaque(fibonacci(n - 2)));
}

static bool call_run(void *state)
{
    return fibonacci(opaque(FIBONACCI)) == FIBONACCI_RESULT;
}

typedef uint64_t step_function(uint64_t x);

__attribute__((noinline)) static uint64_t step_add(uint64_t x)
{
    return x + 0x9e3779b97f4a7c15;
}

__attribute__((noinline)) static uint64_t step_multiply(uint64_t x)
{
    return x * 5;
}

__attribute__((noinline)) static uint64_t step_xor(uint64_t x)
{
    return x ^ 0x5555555555555555;
}

__attribute__((noinline)) static uint64_t step_rotate(uint64_t x)
{
    return x << 9 | x >> 55;
}

__attribute__((noinline)) static uint64_t step_negate(uint64_t x)
{
    return ~x;
}

__attribute__((noinline)) static uint64_t step_shift(uint64_t x)
{
    return x ^ x >> 3;
}

__attribute__((noinline)) static uint64_t step_triple(uint64_t x)
{
    return x * 3;
}

__attribute__((noinline)) static uint64_t step_subtract(uint64_t x)
{
    return x - 12345;
}

static step_function *const steps[8] = {step_add,    step_multiply, step_xor,    step_rotate,
                                        step_negate, step_shift,    step_triple, step_subtract};

/* One call site, eight targets in an order that repeats after 64 calls. */
static bool indirect_run(void *state)
{
    uint64_t x = opaque(RANDOM_SEED);
    for (unsigned i = 0; i < INDIRECT_CALLS; i++)
        x = steps[(i * 5 + (i >> 3)) & 7](x);
    return x == 0x360cd19fe5b13e69;
}

struct sort {
    uint32_t master[ELEMENTS], work[ELEMENTS];
    uint64_t sum;
};

static void *sort_setup(const struct bench_env *env, uint64_t argument)
{
    struct sort *sort = state_alloc(sizeof(*sort));
    uint64_t random = RANDOM_SEED;
    for (unsigned i = 0; i < ELEMENTS; i++) {
        sort->master[i] = (uint32_t)random_next(&random);
        sort->sum += sort->master[i];
    }
    return sort;
}

static int compare(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static bool sort_run(void *state)
{
    struct sort *sort = state;
    memcpy(sort->work, sort->master, sizeof(sort->work));
    qsort(sort->work, ELEMENTS, sizeof(sort->work[0]), compare);
    uint64_t sum = sort->work[0];
    bool right = true;
    for (unsigned i = 1; i < ELEMENTS; i++) {
        right &= sort->work[i - 1] <= sort->work[i];
        sum += sort->work[i];
    }
    return right && sum == sort->sum;
}

const struct bench call_benches[] = {
    {"call", "call", FIBONACCI_CALLS, 0, NULL, call_run, NULL, NULL},
    {"call-indirect", "call", INDIRECT_CALLS, 0, NULL, indirect_run, NULL, NULL},
    {"qsort", "element", ELEMENTS, 0, sort_setup, sort_run, NULL, free},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
