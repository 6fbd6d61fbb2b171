#ifndef AEROSTAT_TESTS_MEM_MARKS_H
#define AEROSTAT_TESTS_MEM_MARKS_H

/* What every revoke hook does beside making others forget: it takes the marks off pages whose code
 * is dropped. Here nobody has any code. */

#include "mem/pmap.h"

static inline void marks_take_off(struct pmap *map, const struct pmap_revocation *what)
{
    for (unsigned i = 0; !what->keeps_code && i < what->code_count; i++) {
        pmap_code_unguard(map, what->code_ppns[i]);
        pmap_code_clear(map, what->code_ppns[i]);
    }
}

#endif
