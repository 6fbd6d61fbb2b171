#ifndef AEROSTAT_MEM_SAMPLE_H
#define AEROSTAT_MEM_SAMPLE_H

/*
 * How much of its memory a VM uses, by sampling (Waldspurger, OSDI 2002, section 5.3): in each
 * period of the VM's own time some pages are picked at random and taken out of the TLBs; the part
 * of them that is touched again is an estimate of the part that is in use.
 *
 * Of three averages the greatest counts, so that the estimate rises at once and falls slowly: a
 * slow one, a fast one, and the fast one as it would be if the period ended now.
 *
 * Time is CPU time of the vCPUs; but one that does next to nothing would keep for ever the estimate
 * of its busiest time, or have none. So a period ends after some of the host's time as well, a few
 * times as long.
 */

#include <stdint.h>

#include "mem/pmap.h"
#include "util/io_loop.h"

#define SAMPLE_PAGES_MOST 256u

struct sample;

struct sample_config {
    struct pmap *map;
    unsigned pages;     /* in a sample; at most SAMPLE_PAGES_MOST */
    uint64_t period_ns; /* of VM time */
    uint64_t idle_ns;   /* of the host's, which ends a period as well; at least period_ns */
    unsigned cpus;      /* VM time passes at most so many times as fast as the host's */
    uint64_t (*vm_time_ns)(void *context);
    uint64_t (*host_time_ns)(void *context); /* NULL: clock_monotonic_ns */
    void *context;
    struct io_loop *loop; /* does the work, in the time between; NULL: only sample_step does */
    uint64_t seed;        /* not 0 */
};

struct sample_info {
    uint64_t active_pages;  /* the estimate */
    double slow, fast, now; /* averages, parts of 1; now: the fast one if the period ended now */
    uint64_t periods;       /* that have ended */
};

enum status sample_create(struct sample **sample, const struct sample_config *config,
                          struct error *err);
/* From any thread but the loop's; NULL is fine. */
void sample_destroy(struct sample *sample);

/* Looks at the VM's time, and ends a period if it is over. Returns for how long, in ns, there will
 * be nothing to do. The loop calls it; tests may, without a loop. */
uint64_t sample_step(struct sample *sample);

/* From any thread. Before the first period has ended it is what the period has shown so far. */
void sample_get(struct sample *sample, struct sample_info *info);

#endif
