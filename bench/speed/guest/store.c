/*
 * Byte and word stores all over 1 MiB: the sieve of Eratosthenes on an array of bytes and on one of
 * 8-byte words. Right if the primes are as many as is known.
 */
#include "bench.h"

enum {
    SIZE = 1 << 20,
    WORDS = SIZE / 8,
    PRIMES_BELOW_SIZE = 82025,
    PRIMES_BELOW_WORDS = 12251,
};

static void *sieve_setup(const struct bench_env *env, uint64_t argument)
{
    return buffer_alloc(SIZE);
}

static void sieve_teardown(void *state)
{
    buffer_free(state, SIZE);
}

static bool sieve_bytes_run(void *state)
{
    uint8_t *composite = state;
    unsigned primes = 0;
    for (unsigned i = 0; i < SIZE; i++)
        ((volatile uint8_t *)composite)[i] = 0;
    for (unsigned i = 2; i < SIZE; i++) {
        if (composite[i])
            continue;
        primes++;
        for (unsigned j = 2 * i; j < SIZE; j += i)
            composite[j] = 1;
    }
    return primes == PRIMES_BELOW_SIZE;
}

static bool sieve_words_run(void *state)
{
    uint64_t *composite = state;
    unsigned primes = 0;
    for (unsigned i = 0; i < WORDS; i++)
        ((volatile uint64_t *)composite)[i] = 0;
    for (unsigned i = 2; i < WORDS; i++) {
        if (composite[i])
            continue;
        primes++;
        for (unsigned j = 2 * i; j < WORDS; j += i)
            composite[j] = 1;
    }
    return primes == PRIMES_BELOW_WORDS;
}

const struct bench store_benches[] = {
    {"sieve-bytes", "sieve", 1, 0, sieve_setup, sieve_bytes_run, NULL, sieve_teardown},
    {"sieve-words", "sieve", 1, 0, sieve_setup, sieve_words_run, NULL, sieve_teardown},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
