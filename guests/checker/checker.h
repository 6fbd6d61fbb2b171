#ifndef AEROSTAT_CHECKER_H
#define AEROSTAT_CHECKER_H

/*
 * The checker fills memory and files with patterns (pattern.h) and looks whether they are still
 * there. See main.c for what it is for and how it is used.
 *
 * A worker is a process with objects of its own; each round, every object is stepped once: it
 * verifies what it wrote in earlier rounds, then writes a part of its pages anew. So most pages
 * lie untouched for a round, as pages that are taken from a guest do.
 *
 * Any fault ends the process with one line, through check_fail: a checker that goes on after wrong
 * memory proves nothing.
 */

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "pattern.h"

#define WORKERS_MOST        32u
#define OBJECTS_OF_A_WORKER 32u
_Static_assert(WORKERS_MOST *OBJECTS_OF_A_WORKER == OBJECT_MOST, "object numbers");

enum sabotage {
    SABOTAGE_NONE,
    SABOTAGE_FLIP,  /* one byte */
    SABOTAGE_ZERO,  /* a page of zeros */
    SABOTAGE_STALE, /* the page's content before the last write */
    SABOTAGE_OTHER, /* another page's content */
    SABOTAGE_TORN,  /* the second half as it was before the last write */
};

/* What all processes of one checker share. */
struct checker_shared {
    _Atomic uint64_t verified; /* pages */
    _Atomic uint64_t rounds[WORKERS_MOST];
    _Atomic bool sabotaged;
};

struct worker {
    unsigned number;
    uint64_t seed;
    uint64_t bytes;            /* of all its objects */
    const char *tmp, *disk;    /* folders; disk may be NULL */
    bool drop_caches;          /* this worker is to drop the page cache now and then */
    enum sabotage sabotage;    /* for tests of the checker itself */
    const char *sabotage_what; /* the object it is done to */
    struct checker_shared *shared;
};

/* One kind of object. `start` takes its share of the worker's bytes and keeps its state behind the
 * pointer that it gives. */
struct object_kind {
    const char *name;
    const char *help;
    unsigned share; /* in percent of the worker's bytes */
    bool on_disk;   /* only with a disk folder */
    void *(*start)(struct worker *worker, unsigned number, uint64_t bytes);
    void (*step)(void *object, uint32_t round);
    void (*finish)(void *object, uint32_t last_round); /* verifies for the last time */
};

extern const struct object_kind kind_anonymous, kind_small, kind_shared, kind_fork, kind_churn;
extern const struct object_kind kind_tmpfs, kind_disk, kind_direct, kind_mapped;
extern const struct object_kind kind_counters;

/* All kinds, ended by NULL. An object's number is that of its worker times OBJECTS_OF_A_WORKER,
 * plus 3 times its place here: the two numbers after it are for the processes it forks. */
extern const struct object_kind *const object_kinds[];
const char *object_name(uint32_t number, unsigned *worker);

/* Prints "checker: FAILED: ..." and ends the process with status 1. */
_Noreturn void check_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same for a system call that failed, with errno. */
_Noreturn void check_fail_call(const char *what);
/* Memory that is not verified, for the checker itself; never NULL. */
void *check_allocate(uint64_t bytes);
/* `length` bytes of anonymous memory, MAP_SHARED or MAP_PRIVATE; never fails. */
uint8_t *check_map(uint64_t length, int flags);
/* Runs work(context) in a child, which ends with status 0 unless work fails. */
int check_fork(void (*work)(void *), void *context);
/* Waits for it; ends this process too if it failed. */
void check_join(int pid);
/* Drops clean caches if this worker was told to. */
void check_drop_caches(const struct worker *worker);

#endif
