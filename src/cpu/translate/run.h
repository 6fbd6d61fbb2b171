#ifndef AEROSTAT_CPU_TRANSLATE_RUN_H
#define AEROSTAT_CPU_TRANSLATE_RUN_H

/* Runs: several memory accesses with one TLB probe. See run.c. */

#include "cpu/translate/translate.h"

#define RUN_SPAN  256 /* bytes from the first to the last of a run, at most */
#define RUN_SLOTS 4   /* of the frame: runs at the same time */
#define RUNS_MAX  32
#define RUN_NONE  0xff

struct run {
    uint8_t first, last; /* instructions */
    uint8_t slot;
    bool writes;
    uint16_t span;
};

struct runs {
    struct run runs[RUNS_MAX];
    /* Of each instruction: the run that its access belongs to, or RUN_NONE; where in its span; and
     * the last instruction of all runs that overlap here: who leaves the code for C has that do
     * everything up to there. */
    uint8_t run[BLOCK_MAX_INSNS], at[BLOCK_MAX_INSNS], end[BLOCK_MAX_INSNS];
};

/* Finds the runs of so many instructions of t, none of them in those before `first`. */
void runs_find(struct runs *runs, const struct translate *translate, const struct translation *t,
               const struct insn *insns, unsigned count, unsigned first);

#endif
