#ifndef AEROSTAT_CPU_TRANSLATE_CROSSING_H
#define AEROSTAT_CPU_TRANSLATE_CROSSING_H

/* Translations of instructions that cross into the next page. See crossing.c. */

#include "cpu/translate/translate.h"

struct crossing {
    struct translation t; /* is_crossing */
    uint64_t next_ppn;    /* guest-physical page of the second part */
    struct crossing *next, **back;
    struct insn insn; /* for its slow path */
};

/* The current one among those at RIP, of which t is the first; NULL where there is none, or where
 * the instruction TLB does not have the second page. */
struct translation *crossing_current(struct vcpu *vcpu, struct translation *t);
/* The same, made if need be. The instruction at RIP has just been decoded by itself. NULL: it
 * cannot be kept now. Raises what fetching raises. */
struct translation *crossing_find(struct vcpu *vcpu, struct translate *translate);
void crossing_unlist(struct translation *t);
/* Drops those whose second page is ppn. */
void crossing_drop(struct translate *translate, uint64_t ppn);

#endif
