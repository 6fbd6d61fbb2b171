#ifndef AEROSTAT_TESTS_MEM_FAULTY_SWAP_H
#define AEROSTAT_TESTS_MEM_FAULTY_SWAP_H

/* A swap file that does wrong what a test asks for. */

#include "mem/swap.h"

/* Stands before the real file. */
struct faulty {
    struct swap_file real;
    struct swap_file_ops ops;
    _Atomic int write_error, read_error; /* an errno for every call, 0: none */
    size_t write_most;                   /* bytes that one call does at most, 0: any */
    _Atomic bool read_short, read_flips; /* half a page; a wrong bit in each piece */
    int64_t lost_offset;                 /* a write there is said to be done and is not; -1: none */
    unsigned submitted, reaped;
    _Atomic unsigned reads; /* calls */
    bool no_discard;        /* the file system cannot */
    uint64_t discarded;     /* bytes */
};

/* Of `pages` slots; ends the test where it cannot. swap_destroy closes the file; *faulty stays. */
struct swap *faulty_swap_create(struct faulty *faulty, uint64_t pages, enum swap_queue queue);

/* A folder for temporary files. */
const char *faulty_swap_dir(void);

#endif
