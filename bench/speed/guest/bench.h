/*
 * What the files of this program share: how a benchmark is described, and the helpers that several
 * of them use. main.c has the list of all, measure.c the timing.
 *
 * A benchmark is a row of a table that its file exports:
 *
 *     {"getpid", "call", CALLS, 0, NULL, getpid_run, NULL, NULL}
 *
 * run() does the work of `units` units and says whether its result was right; it is called as often
 * as fills a sample. So no benchmark can be optimised away or go wrong unseen: its result is
 * compared with a constant that was worked out elsewhere, or with what it must be by construction.
 * What would take too long to check each time is checked by check() after each sample, untimed.
 */
#ifndef SPEED_BENCH_H
#define SPEED_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bench_env {
    const char *busybox; /* path of busybox */
    const char *folder;  /* of the data files and of python, see programs.c */
    const char *scratch; /* a folder for files, in memory (tmpfs) */
};

struct bench {
    const char *name;
    const char *unit;  /* what one unit is: "iteration", "call" */
    uint64_t units;    /* done by one call of run, at least 1 */
    uint64_t argument; /* handed to setup: a size in bytes, a choice */

    /* Makes what run works on. NULL: could not, and has said why on stderr. */
    void *(*setup)(const struct bench_env *env, uint64_t argument);
    bool (*run)(void *state);
    bool (*check)(void *state);
    void (*teardown)(void *state);
};

/* The tables, each ended by a row without a name. */
extern const struct bench integer_benches[];
extern const struct bench floating_benches[];
extern const struct bench store_benches[];
extern const struct bench copy_benches[];
extern const struct bench chase_benches[];
extern const struct bench call_benches[];
extern const struct bench bytecode_benches[];
extern const struct bench hash_benches[];
extern const struct bench syscall_benches[];
extern const struct bench fault_benches[];
extern const struct bench process_benches[];
extern const struct bench switch_benches[];
extern const struct bench program_benches[];

/*
 * Measures one benchmark and prints `bench NAME VALUE ns/UNIT`, the median of the samples, or
 * `bench NAME wrong` for a false result and `bench NAME failed` for a setup that failed.
 * False for the latter two.
 */
bool bench_measure(const struct bench *bench, const struct bench_env *env);

/* CLOCK_MONOTONIC, in nanoseconds. */
uint64_t clock_now(void);

/* The value, as something that the compiler knows nothing about. */
static inline uint64_t opaque(uint64_t value)
{
    __asm__ volatile("" : "+r"(value));
    return value;
}

/* Everything that memory holds may be read or written here, as far as the compiler knows. */
static inline void memory_barrier(void)
{
    __asm__ volatile("" ::: "memory");
}

/* The next number of Marsaglia's xorshift generator (13, 7, 17); *state is never 0. */
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

enum { RANDOM_SEED = 88172645 };

/*
 * Zeroed memory, all of it touched, on a 2 MiB boundary if it is that large, so that the luck of an
 * address decides nothing. NULL when there is none. Ended by buffer_free with the same size.
 */
void *buffer_alloc(size_t size);
void buffer_free(void *buffer, size_t size);

/* Memory for a benchmark's state, zeroed; ended by free(). A program without memory ends. */
void *state_alloc(size_t size);

/* Waits for a child. Its exit status, or -1 if a signal ended it. */
int child_wait(int pid);

#endif
