#ifndef AEROSTAT_MEM_LAYER_H
#define AEROSTAT_MEM_LAYER_H

/* Layer 0: the sparse memfd that a VM's private pages live in, mapped once and for good. */

#include <stdbool.h>
#include <stdint.h>

#include "util/status.h"

struct layer {
    int fd;
    uint8_t *base; /* `size` bytes; page p at base + p * PAGE_SIZE */
    uint64_t size;
};

/* size: bytes, a multiple of PAGE_SIZE, not 0. Takes address space, and memory only for pages that
 * are touched; even reading one takes it, so nobody reads a page that is not private. */
enum status layer_create(struct layer *layer, uint64_t size, struct error *err);
/* All of it is holes again. IO: the host would not. */
enum status layer_clear(const struct layer *layer, struct error *err);
void layer_destroy(struct layer *layer); /* a zeroed one, or one that failed to be made, is fine */

/* Gives page `ppn` memory, zeros, if it has none, so that a touch cannot fail. False: the host has
 * none to give (errno). A host that cannot be asked (Linux before 5.14) is taken at its word: there
 * a touch may be answered by SIGBUS. */
bool layer_populate(const struct layer *layer, uint64_t ppn);

/* Copies page `ppn`, PAGE_SIZE bytes, without giving it memory if it has none. False: failed. */
bool layer_copy(const struct layer *layer, uint64_t ppn, uint8_t *to);

/* Gives the memory of `count` pages from `first` on back to the host; they read as zero then.
 * False: the host would not. */
bool layer_punch(const struct layer *layer, uint64_t first, uint64_t count);

/* Takes `count` pages from `first` on out of this process's page tables; their bytes stay, and a
 * touch maps them again. A hint, as it were: a host that would not has done no harm. */
void layer_unmap(const struct layer *layer, uint64_t first, uint64_t count);

/* Calls visit(context, ppn) for every page that has memory, ascending, until it returns false.
 * STATUS_UNSUPPORTED where the host gives this file huge pages, so that single pages say nothing.
 */
enum status layer_for_each_page(const struct layer *layer,
                                bool (*visit)(void *context, uint64_t ppn), void *context,
                                struct error *err);

#endif
