#ifndef AEROSTAT_TESTS_TRANSLATE_COMPARE_H
#define AEROSTAT_TESTS_TRANSLATE_COMPARE_H

/*
 * Random programs on the host and on guests, whose ends must be equal: registers, flags, vector
 * state, memory, vector number, error code and address of the exception. Only what the manual
 * leaves undefined may differ. A program that fails is made smaller and printed.
 */

#include "guest.h"
#include "random_program.h"

#define COMPARE_GUESTS 4

struct comparison {
    struct guest *guests[COMPARE_GUESTS];
    unsigned guest_count;
    uint64_t programs, endless, vectors[32];
};

/* Runs the program of a seed. False: there was a difference, and it has been reported. native_open
 * is in force. */
bool compare_seed(struct comparison *comparison, uint64_t seed);

#endif
