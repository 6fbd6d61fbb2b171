#ifndef AEROSTAT_MEM_CHAOS_H
#define AEROSTAT_MEM_CHAOS_H

/*
 * For tests (`--chaos SEED`): a thread that takes random pages away from a guest and brings pages
 * back, in every way there is and in random order, so that all that can meet does meet. What the
 * guest sees must not depend on it.
 *
 * Random pages are zeroed (if they are zero), compressed and swapped; left half way out, so that
 * others want them back just then; sampled; brought back, read and written as devices do. Now and
 * then the balloon gets another target, and the whole map is recounted while the guest stands
 * still.
 */

#include "mem/pager.h"
#include "mem/pmap.h"
#include "util/status.h"

struct chaos;

/* What it needs from whoever has the guest; each may be NULL. Called by the chaos thread. */
struct chaos_ops {
    void (*balloon)(void *context, uint64_t pages);        /* a new target */
    bool (*stand_still)(void *context);                    /* nobody but devices uses the map now */
    void (*go_on)(void *context);                          /* after stand_still said true */
    void (*wrong)(void *context, const struct error *err); /* the map's books are wrong */
};

struct chaos_stats {
    uint64_t taken;    /* pages that went */
    uint64_t brought;  /* pages that it brought back itself */
    uint64_t sampled;  /* pages */
    uint64_t balloons; /* targets set */
    uint64_t checks;   /* of the map */
};

/* ops are copied. Random numbers are of the seed; when threads meet is not. */
enum status chaos_create(struct chaos **chaos, struct pmap *map, struct pager *pager,
                         const struct chaos_ops *ops, void *context, uint64_t seed,
                         struct error *err);
/* Ends the thread. While vCPUs and devices are still there. Idempotent. */
void chaos_stop(struct chaos *chaos);
void chaos_destroy(struct chaos *chaos); /* stops it first; NULL is fine */

void chaos_get_stats(const struct chaos *chaos, struct chaos_stats *stats);

#endif
