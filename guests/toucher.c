/*
 * toucher: uses a known amount of memory, which changes in steps.
 *
 *   toucher SECONDS MIB...
 *
 * For each MIB in turn, as long as said, every page of so many MiB is written over and over,
 * without a pause. What is beyond stays allocated, and is left alone. A line "toucher: MIB" begins
 * each step, "toucher: end" follows the last.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "measure.h"

#define PAGE_BYTES 4096u
#define MIB_PAGES  256u

static void touch(volatile uint64_t *area, uint64_t pages, uint64_t until)
{
    for (uint64_t turn = 0; now_ns() < until; turn++)
        for (uint64_t page = 0; page < pages; page++)
            area[page * (PAGE_BYTES / sizeof *area)] = turn ^ page << 32;
}

int main(int argc, char **argv)
{
    uint64_t most = 0, seconds = argc > 2 ? strtoull(argv[1], NULL, 10) : 0;
    for (int i = 2; i < argc; i++) {
        uint64_t pages = strtoull(argv[i], NULL, 10) * MIB_PAGES;
        most = pages > most ? pages : most;
    }
    if (seconds == 0 || most == 0) {
        fprintf(stderr, "usage: toucher SECONDS MIB...\n");
        return 2;
    }
    void *area =
        mmap(NULL, most * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) {
        perror("toucher");
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 2; i < argc; i++) {
        uint64_t mib = strtoull(argv[i], NULL, 10);
        printf("toucher: %u\n", (unsigned)mib);
        touch(area, mib * MIB_PAGES, now_ns() + seconds * 1000000000u);
    }
    printf("toucher: end\n");
    return 0;
}
