#ifndef AEROSTAT_UTIL_SPARSE_H
#define AEROSTAT_UTIL_SPARSE_H

/* Large arrays of which a part is used: zeros that take memory as they are touched, a page each. */

#include <stddef.h>
#include <sys/mman.h>

/* NULL, and errno: the host refuses. */
static inline void *sparse_map(size_t bytes)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return base == MAP_FAILED ? NULL : base;
}

/* `bytes` as it was mapped; NULL is fine. */
static inline void sparse_unmap(void *base, size_t bytes)
{
    if (base != NULL)
        munmap(base, bytes);
}

/* All zeros again, and the memory of whole pages the host's. */
static inline void sparse_clear(void *base, size_t bytes)
{
    madvise(base, bytes, MADV_DONTNEED);
}

#endif
