#ifndef AEROSTAT_VM_CHAOS_H
#define AEROSTAT_VM_CHAOS_H

/* --chaos SEED: a thread that samples, compresses, swaps and brings back random pages as fast as it
 * goes, and moves the balloon about. What the guest then does right it does right under any
 * reclaim. The seed fixes what is done in which order; what it meets depends on the guest. */

#include "mem/pager.h"
#include "mem/pmap.h"
#include "util/status.h"

struct chaos;

/* Starts the thread. set_balloon may be NULL. */
enum status chaos_create(struct chaos **chaos, struct pmap *map, struct pager *pager, uint64_t seed,
                         void (*set_balloon)(void *context, uint64_t bytes), void *context,
                         struct error *err);
void chaos_destroy(struct chaos *chaos); /* waits for it; NULL is fine */

#endif
