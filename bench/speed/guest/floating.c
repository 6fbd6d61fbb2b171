/*
 * Arithmetic in vector registers, as SSE2 has it: double numbers one at a time, two at a time, and
 * bytes sixteen at a time. IEEE arithmetic is exact about every bit, and the scalar loop is
 * chaotic: one bit rounded wrongly anywhere changes all of the result.
 */
#include <emmintrin.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum {
    ITERATIONS = 10000,
    DOUBLES = 512, /* 4 KiB, two arrays: in the first-level cache */
    BYTES = 4096,
    PASSES = 32,
};

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* The logistic map, and a sum with a division. */
static bool scalar_run(void *state)
{
    double x = (double)opaque(1) / 3, sum = 0;
    for (unsigned i = 0; i < ITERATIONS; i++) {
        x = 3.9375 * x * (1 - x);
        sum += x / (1 + x);
    }
    return (bits_of(x) ^ bits_of(sum)) == 0x7f45ab1967ba75af;
}

struct doubles {
    double x[DOUBLES], y[DOUBLES];
};

static void *doubles_setup(const struct bench_env *env, uint64_t argument)
{
    struct doubles *data = aligned_alloc(64, sizeof(*data));
    if (!data)
        return NULL;
    for (unsigned i = 0; i < DOUBLES; i++) {
        data->x[i] = i * 0.25 - 17;
        data->y[i] = 0;
    }
    return data;
}

/* y = y * c + x, over and over. */
static bool doubles_run(void *state)
{
    struct doubles *data = state;
    const __m128d factor = _mm_set1_pd(0.75);
    for (unsigned i = 0; i < DOUBLES; i++)
        data->y[i] = i;
    for (unsigned pass = 0; pass < PASSES; pass++) {
        for (unsigned i = 0; i < DOUBLES; i += 2) {
            __m128d y = _mm_mul_pd(_mm_load_pd(data->y + i), factor);
            _mm_store_pd(data->y + i, _mm_add_pd(y, _mm_load_pd(data->x + i)));
        }
        memory_barrier();
    }
    double sum = 0;
    for (unsigned i = 0; i < DOUBLES; i++)
        sum += data->y[i];
    return bits_of(sum) == 0x40f77037f5270200;
}

struct bytes {
    uint8_t x[BYTES], y[BYTES];
};

static void *bytes_setup(const struct bench_env *env, uint64_t argument)
{
    struct bytes *data = aligned_alloc(64, sizeof(*data));
    if (!data)
        return NULL;
    uint64_t random = RANDOM_SEED;
    for (unsigned i = 0; i < BYTES; i++) {
        data->x[i] = (uint8_t)random_next(&random);
        data->y[i] = (uint8_t)random_next(&random);
    }
    return data;
}

/* The sum of absolute differences, of y less a number that changes. */
static bool bytes_run(void *state)
{
    const struct bytes *data = state;
    __m128i sum = _mm_setzero_si128(), shift = _mm_setzero_si128();
    const __m128i one = _mm_set1_epi8(1);
    for (unsigned pass = 0; pass < PASSES; pass++) {
        for (unsigned i = 0; i < BYTES; i += 16) {
            __m128i x = _mm_load_si128((const __m128i *)(data->x + i));
            __m128i y = _mm_load_si128((const __m128i *)(data->y + i));
            sum = _mm_add_epi64(sum, _mm_sad_epu8(x, _mm_sub_epi8(y, shift)));
        }
        shift = _mm_add_epi8(shift, one);
        memory_barrier();
    }
    uint64_t halves[2];
    _mm_storeu_si128((__m128i *)halves, sum);
    return halves[0] + halves[1] == 0xaa4202;
}

const struct bench floating_benches[] = {
    {"double-scalar", "iteration", ITERATIONS, 0, NULL, scalar_run, NULL, NULL},
    {"vector-double", "vector", PASSES *DOUBLES / 2, 0, doubles_setup, doubles_run, NULL, free},
    {"vector-bytes", "vector", PASSES *BYTES / 16, 0, bytes_setup, bytes_run, NULL, free},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
