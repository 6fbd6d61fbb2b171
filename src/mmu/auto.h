#ifndef AEROSTAT_MMU_AUTO_H
#define AEROSTAT_MMU_AUTO_H

/*
 * --mmu auto: one vCPU chooses between the nested walk and the shadow by what they cost it.
 *
 * All that differs between the two is spent in TLB misses: walks, hidden faults, comparisons of
 * nodes with their tables, and the misses that writes to traced tables are. So the clock cycles of
 * a miss, of which one in AUTO_SAMPLE is measured, are the whole cost; they are shared out over
 * those misses that there would be in either mode, which is all but the writes to traced tables.
 *
 * Misses are counted off in windows. Now and then the other mode is *tried*, in short windows of
 * which every miss is measured, in turns with windows of the one in use: a host that is busy with
 * other things makes misses twice as dear for some time, whatever the mode. It stays once it has
 * been cheaper by more than a sixteenth than the window beside it four times in a row. A trial may
 * be dear, since a shadow has to be built first, and where page tables change it is never done
 * with. So what a trial may cost more than the misses would otherwise is bounded: a 32nd of what
 * they have cost since the trial before. When that is spent the trial is over. If it went into a
 * shadow that is *growing* (many of its misses built something, and little of it was lost again),
 * that is kept, and the next trial, as long after, goes on with it: so a large one is built piece
 * by piece. Else the next is after twice as long; from some length on they cost no more, so the
 * longer a load lasts the less its trials take. What changes the cost of a miss to twice or half in
 * the mode that is in use is another load: it begins anew.
 *
 * The two are not alike in what they may cost: a nested walk is seldom much dearer than a shadow's,
 * but where tables change all the time a shadow is several times as dear as nested walks. And there
 * is nothing to be built for these. So a vCPU with a shadow tries them often, but briefly, and at
 * once when its misses become dear.
 *
 *      nested n n n n n n n n | sn: dearer | n n n n n n n n n n n n n n n | snsnsnsn: cheaper | s
 *                               trial                                        trial
 *
 * While nested walks are tried the shadow is kept. It goes when they take over, and when a trial
 * has shown it to be no cheaper.
 *
 * A window is of misses, not of time: a vCPU that misses seldom loses nothing by not choosing, and
 * what it did in one window is the same sort of work as in the next.
 *
 * This file's structure is of one vCPU, and owned as its TLB is. It decides from numbers alone, so
 * that a test can play any load.
 */

#include <stdbool.h>
#include <stdint.h>

#include "mmu/shadow.h"
#include "util/bits.h"

#define AUTO_WINDOW         2048u  /* misses */
#define AUTO_TRIAL_WINDOW   128u   /* of a trial */
#define AUTO_PAIRS          4u     /* in a row, in which the mode that is tried must be cheaper */
#define AUTO_SAMPLE         8u     /* one in so many is measured; in a trial all */
#define AUTO_CYCLES_MOST    65536u /* where a miss takes more, the vCPU had to wait */
#define AUTO_PART           32u    /* of the cost of misses, that trials may take */
#define AUTO_INTERVAL_LEAST 64u    /* windows between trials, ... */
#define AUTO_INTERVAL_MOST  16384u /* ... at most, while it has nested walks, ... */
#define AUTO_SHADOW_MOST    256u   /* ... and while it has a shadow */
#define AUTO_SETTLING       16u    /* windows until the cost of another load is known ... */
#define AUTO_SHADOW_SETTLES 2u     /* ... if it has a shadow */
#define AUTO_PRICE_MOST     32u    /* windows, whose cost a trial of a shadow may take, ... */
#define AUTO_NESTED_PRICE   1u     /* ... and one of nested walks */
#define AUTO_TRIAL_MOST     2u     /* times the misses of those: then it is as good as the other */

struct mmu;

enum mmu_mode {
    MMU_NESTED,
    MMU_SHADOW,
    MMU_AUTO, /* one or the other */
};

/* Why the mode is what it is. */
enum auto_reason {
    AUTO_START,  /* it is what it began with */
    AUTO_MISSES, /* the misses themselves are cheaper so */
    AUTO_TABLES, /* page tables change too often for a shadow */
};

struct auto_window {
    uint64_t misses;
    uint64_t traced_writes; /* of the misses */
    uint64_t built;         /* of the misses: the shadow had nothing, and has it now */
    uint64_t changes;       /* what the shadow lost: leaves, and traces */
    uint64_t samples, cycles;
};

struct auto_choice {
    enum mmu_mode mode; /* in use */
    enum auto_reason reason;
    uint64_t trials, switches; /* trials begun; those after which the other mode stayed */
    uint64_t cost[2];          /* of a miss, by mode, in 16ths of cycles; 0: not known yet */

    bool trying;
    bool keeps; /* the shadow, while it is not in use */
    enum mmu_mode tried;
    unsigned cheaper;  /* pairs of the trial, the last ones, in which that was so */
    bool tables;       /* the shadow's last window had many changes of tables */
    unsigned windows;  /* of the trial, or since one */
    unsigned interval; /* from trial to trial */
    int64_t excess;   /* of the trial: cost of a miss less what it is otherwise, summed by window */
    uint64_t decided; /* cost of the mode when it was chosen, or became another load's */
    struct auto_window sums;     /* of the trial, the windows of the mode that is tried */
    struct shadow_stats started; /* when the window began: the caller's */
    struct auto_window window;
};

void auto_init(struct auto_choice *choice);

/* Ends choice->window, which is full, and begins the next. Returns the mode for it. */
enum mmu_mode auto_decide(struct auto_choice *choice);

/* Whether the next miss is to be measured. */
static inline bool auto_samples(const struct auto_choice *choice)
{
    return (uint32_t)choice->window.misses * 0x9e3779b1u >> 29 == 0 || unlikely(choice->trying);
}

static inline void auto_missed(struct auto_choice *choice)
{
    choice->window.misses++;
}

static inline void auto_measured(struct auto_choice *choice, uint64_t cycles)
{
    if (unlikely(cycles > AUTO_CYCLES_MOST))
        return;
    choice->window.samples++;
    choice->window.cycles += cycles;
}

static inline bool auto_is_full(const struct auto_choice *choice)
{
    return unlikely(choice->window.misses >= AUTO_TRIAL_WINDOW) &&
           (choice->trying || choice->window.misses >= AUTO_WINDOW);
}

/* The MMU takes the mode it is told. Nested walks: the shadow is kept, to be used again, or is gone
 * with all its memory. Running, outside of a walk. */
void auto_use(struct mmu *mmu, enum mmu_mode mode, bool keep);

/* A window is full: decides, and uses what was decided. */
void auto_end_window(struct mmu *mmu);

#endif
