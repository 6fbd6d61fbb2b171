#ifndef AEROSTAT_HOSTD_MIRROR_H
#define AEROSTAT_HOSTD_MIRROR_H

/*
 * What the manager knows of one VM's pages: for each PPN the frame that it holds, the hint that it
 * is, or nothing. 4 bytes a PPN, of which only those memory pages exist that say something of some
 * page: a VM is charged for them (mirror_bytes), so that it cannot make the manager grow for free.
 */

#include <stdint.h>

#include "hostd/share_table.h"
#include "util/status.h"

struct mirror {
    share_ref *entries;
    uint64_t span;          /* PPNs are below this */
    uint16_t *used;         /* of each chunk, how many of its entries are not SHARE_NONE */
    uint64_t chunks;        /* with any */
    uint64_t frames, hints; /* entries of either kind */
};

/* span is at most LINK_PPN_MOST, and not 0. */
enum status mirror_init(struct mirror *mirror, uint64_t span);
void mirror_free(struct mirror *mirror); /* also of zeros */

/* ppn is below the span. */
share_ref mirror_get(const struct mirror *mirror, uint32_t ppn);
void mirror_set(struct mirror *mirror, uint32_t ppn, share_ref ref);

/* The first PPN from `ppn` on with an entry, or the span. */
uint64_t mirror_next(const struct mirror *mirror, uint64_t ppn);

uint64_t mirror_bytes(const struct mirror *mirror);

#endif
