/*
 * The integer loop that `make bench` runs inside guests: what an engine does per second where
 * nothing but it matters. Built by bench/run as a static program and put into the initramfs.
 *
 *     loop ITERATIONS
 *
 * The loop is in assembly, so that the count of instructions does not depend on a compiler: a
 * xorshift generator (9 instructions), a table that it reads and writes (3), and two branches, one
 * of them taken irregularly (4 and, half of the time, 1 more). That is 16.5 on average, the number
 * that bench/run reckons with. Prints how long it took by the guest's own clock.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t table[256];

static uint64_t run(uint64_t iterations)
{
    uint64_t state = 88172645463325252ull, sum = 0, scratch, index;
    __asm__ volatile("1:\n\t"
                     "mov %[state], %[scratch]\n\t"
                     "shl $13, %[scratch]\n\t"
                     "xor %[scratch], %[state]\n\t"
                     "mov %[state], %[scratch]\n\t"
                     "shr $7, %[scratch]\n\t"
                     "xor %[scratch], %[state]\n\t"
                     "mov %[state], %[scratch]\n\t"
                     "shl $17, %[scratch]\n\t"
                     "xor %[scratch], %[state]\n\t"
                     "movzbl %b[state], %k[index]\n\t"
                     "mov (%[table], %[index], 8), %[scratch]\n\t"
                     "mov %[state], (%[table], %[index], 8)\n\t"
                     "test $1, %b[scratch]\n\t"
                     "jz 2f\n\t"
                     "add %[scratch], %[sum]\n\t"
                     "2:\n\t"
                     "dec %[iterations]\n\t"
                     "jnz 1b\n\t"
                     : [state] "+q"(state), [sum] "+r"(sum), [iterations] "+r"(iterations),
                       [scratch] "=&q"(scratch), [index] "=&r"(index)
                     : [table] "r"(table)
                     : "memory", "cc");
    return sum;
}

int main(int argc, char **argv)
{
    uint64_t iterations = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000;
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    uint64_t sum = run(iterations);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds =
        (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9;
    printf("loop: %llu iterations %.6f seconds sum %llx\n", (unsigned long long)iterations, seconds,
           (unsigned long long)sum);
    return 0;
}
