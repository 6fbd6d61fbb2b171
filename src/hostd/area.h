#ifndef AEROSTAT_HOSTD_AREA_H
#define AEROSTAT_HOSTD_AREA_H

/* Memory for an array that grows and shrinks at its end: zeros at first, never more of it touched
 * than is asked for, in pages of 4 KiB, and given back to the host when it is no longer used. */

#include <stddef.h>
#include <stdint.h>

#include "util/status.h"

struct area {
    void *base;      /* moves when it grows */
    size_t reserved; /* bytes of address space */
    size_t reached;  /* bytes that may have been touched, a multiple of the page size */
};

/* Makes the first `bytes` usable. An area of zeros is empty. */
enum status area_reach(struct area *area, size_t bytes);

/* Gives back what is beyond the first `bytes`, where that is worth a system call; it reads as zeros
 * afterwards or as it was. */
void area_trim(struct area *area, size_t bytes);

void area_free(struct area *area);

#endif
