#ifndef AEROSTAT_MEM_SWAP_RING_H
#define AEROSTAT_MEM_SWAP_RING_H

/*
 * An io_uring that can write to one file, and do nothing else.
 *
 * A program that may use io_uring can do with it nearly all that system calls can, past any filter
 * of those. So this ring is restricted for good before it is enabled; the sandbox, entered later,
 * lets io_uring_enter pass and refuses to make other rings.
 */

#include <liburing.h>
#include <stdbool.h>

/* Makes a ring of `depth` entries for the file, as the fixed file 0, which requests have to name it
 * as. False: the host forbids io_uring, or does not know restrictions (Linux before 5.10). The
 * caller ends it with io_uring_queue_exit. */
bool swap_ring_open(struct io_uring *ring, unsigned depth, int fd);

#endif
