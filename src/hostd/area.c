#include "hostd/area.h"

#include <stdint.h>
#include <sys/mman.h>

#include "util/bits.h"

#define LEAST_RESERVED ((size_t)64 * KIB)
#define WORTH_TRIMMING ((size_t)64 * KIB)

enum status area_reach(struct area *area, size_t bytes)
{
    if (bytes > area->reserved) {
        size_t wanted = area->reserved == 0 ? LEAST_RESERVED : 2 * area->reserved;
        while (wanted < bytes)
            wanted *= 2;
        void *base = area->base == NULL
                         ? mmap(NULL, wanted, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                         : mremap(area->base, area->reserved, wanted, MREMAP_MAYMOVE);
        if (base == MAP_FAILED)
            return STATUS_NO_MEMORY;
        madvise(base, wanted, MADV_NOHUGEPAGE); /* or the first byte would cost 2 MiB */
        area->base = base;
        area->reserved = wanted;
    }
    if (bytes > area->reached)
        area->reached = align_up(bytes, PAGE_SIZE);
    return STATUS_OK;
}

void area_trim(struct area *area, size_t bytes)
{
    size_t kept = align_up(bytes, PAGE_SIZE);
    if (area->reached < kept + WORTH_TRIMMING && (bytes != 0 || area->reached == 0))
        return;
    if (madvise((char *)area->base + kept, area->reached - kept, MADV_DONTNEED) == 0)
        area->reached = kept;
}

void area_free(struct area *area)
{
    if (area->base != NULL)
        munmap(area->base, area->reserved);
    *area = (struct area){0};
}
