#ifndef AEROSTAT_TESTS_MMU_WINDOW_PROBE_H
#define AEROSTAT_TESTS_MMU_WINDOW_PROBE_H

/* What this process may do at places of the window: asked of the kernel, which copies a byte and
 * says EFAULT where an instruction would raise a signal. */

#include "mmu/window.h"

enum window_reach { HIDDEN, READABLE, WRITABLE };

/* False: there is no pipe for it. */
bool window_probe_open(void);
uint8_t *window_place(uint64_t linear);
/* What is written is the byte that was read. */
enum window_reach window_reach_of(uint64_t linear);

#endif
