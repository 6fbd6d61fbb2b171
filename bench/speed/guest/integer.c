/*
 * Integer work that stays in registers: arithmetic, branches that a CPU predicts, and branches that
 * it cannot. The branches are in assembly, since a compiler would make conditional moves of them.
 */
#include "bench.h"

enum {
    ITERATIONS = 10000,
    RANDOM_ITERATIONS = 1 << 17, /* too many for a branch predictor to learn by heart */
};

static bool arithmetic_run(void *state)
{
    uint64_t x = opaque(RANDOM_SEED), sum = 0;
    for (unsigned i = 0; i < ITERATIONS; i++) {
        random_next(&x);
        sum = sum * 31 + (x & 0xffff);
    }
    return sum == 0x1f562bb60e696eec;
}

/* Four branches an iteration; their pattern repeats after eight iterations. */
static bool predictable_run(void *state)
{
    uint64_t sum = 0, i = ITERATIONS;
    __asm__ volatile("1:\n\t"
                     "test $1, %b[i]\n\t"
                     "jz 2f\n\t"
                     "add %[i], %[sum]\n\t"
                     "2:\n\t"
                     "test $2, %b[i]\n\t"
                     "jnz 3f\n\t"
                     "lea 7(%[sum]), %[sum]\n\t"
                     "3:\n\t"
                     "test $7, %b[i]\n\t"
                     "jnz 4f\n\t"
                     "rol $1, %[sum]\n\t"
                     "4:\n\t"
                     "dec %[i]\n\t"
                     "jnz 1b\n\t"
                     : [sum] "+r"(sum), [i] "+q"(i)
                     :
                     : "cc");
    return sum == 0x270500000000d;
}

/* One branch an iteration goes by a bit of a random number, one closes the loop. */
static bool random_run(void *state)
{
    uint64_t x = opaque(RANDOM_SEED), sum = 0, i = RANDOM_ITERATIONS, scratch;
    __asm__ volatile("1:\n\t"
                     "mov %[x], %[scratch]\n\t"
                     "shl $13, %[scratch]\n\t"
                     "xor %[scratch], %[x]\n\t"
                     "mov %[x], %[scratch]\n\t"
                     "shr $7, %[scratch]\n\t"
                     "xor %[scratch], %[x]\n\t"
                     "mov %[x], %[scratch]\n\t"
                     "shl $17, %[scratch]\n\t"
                     "xor %[scratch], %[x]\n\t"
                     "test $16, %b[x]\n\t"
                     "jz 2f\n\t"
                     "add %[x], %[sum]\n\t"
                     "jmp 3f\n\t"
                     "2:\n\t"
                     "lea 1(%[sum], %[sum], 2), %[sum]\n\t"
                     "3:\n\t"
                     "dec %[i]\n\t"
                     "jnz 1b\n\t"
                     : [x] "+q"(x), [sum] "+r"(sum), [i] "+r"(i), [scratch] "=&r"(scratch)
                     :
                     : "cc");
    return sum == 0x3282879cc413b321;
}

const struct bench integer_benches[] = {
    {"int-registers", "iteration", ITERATIONS, 0, NULL, arithmetic_run, NULL, NULL},
    {"branch-predictable", "iteration", ITERATIONS, 0, NULL, predictable_run, NULL, NULL},
    {"branch-random", "iteration", RANDOM_ITERATIONS, 0, NULL, random_run, NULL, NULL},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
