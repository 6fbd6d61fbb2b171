#ifndef AEROSTAT_TESTS_MEM_REFUSING_HOST_H
#define AEROSTAT_TESTS_MEM_REFUSING_HOST_H

/* A host that has no memory for a guest when a test says so. The program that has this linked in
 * calls its madvise in place of the C library's. */

#include <stdbool.h>

/* Whether the page that is about to be populated is refused; NULL: none is. */
extern bool (*volatile host_refuses)(void);

bool host_refuses_all(void);

#endif
