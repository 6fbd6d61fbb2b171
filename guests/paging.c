/*
 * paging: measures a guest's memory from inside, where a part of it is not in the host's memory.
 *
 *   paging SIZE_MIB TOUCHES [SEED]
 *
 * Three phases over an area of that size, in pages of which half do not compress:
 *
 *   fill      every page is written once, in order; what does not fit must go out meanwhile
 *   random    pages are read at random; each is timed
 *   keys      values of 256 bytes are read and written by keys of which few are asked for often, as
 *             in a cache or a data base: nine in ten of the operations go to a tenth of the area
 *
 * A line each, of name=value pairs, in bytes, nanoseconds and counts. Every page read is verified.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "measure.h"

#define PAGE_BYTES  4096u
#define PAGE_WORDS  512u
#define VALUE_BYTES 256u
#define SLOW_NS     20000u /* longer than that, a page was not there */
#define OPS_A_TOUCH 8u
#define HOT_PART    10u /* one in so many pages ... */
#define HOT_OPS     9u  /* ... gets so many of ten operations */

static uint64_t word_of(uint64_t page, unsigned i)
{
    uint64_t base = (page + 1) * 0xd6e8feb86659fd93u;
    return page % 2 ? base + i * 0x9e3779b97f4a7c15u : base;
}

static int compare(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void fill(uint64_t *area, uint64_t pages)
{
    uint64_t start = now_ns();
    for (uint64_t page = 0; page < pages; page++)
        for (unsigned i = 0; i < PAGE_WORDS; i++)
            area[page * PAGE_WORDS + i] = word_of(page, i);
    printf("paging: fill bytes=%" PRIu64 " ns=%" PRIu64 "\n", pages * PAGE_BYTES, now_ns() - start);
}

static int touch(const uint64_t *area, uint64_t pages, uint64_t touches, uint64_t seed)
{
    uint32_t *times = calloc(touches, sizeof *times);
    uint64_t slow = 0, start = now_ns();
    if (times == NULL)
        return 1;
    for (uint64_t n = 0; n < touches; n++) {
        uint64_t page = random_next(&seed) % pages;
        unsigned word = (unsigned)(seed >> 40) % PAGE_WORDS;
        uint64_t before = now_ns();
        uint64_t value = *(const volatile uint64_t *)&area[page * PAGE_WORDS + word];
        uint64_t took = now_ns() - before;
        if (value != word_of(page, word)) {
            printf("paging: page %" PRIu64 " is wrong\n", page);
            free(times);
            return 1;
        }
        if (took >= SLOW_NS)
            times[slow++] = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
    }
    uint64_t all = now_ns() - start;
    qsort(times, slow, sizeof *times, compare);
    printf("paging: random touches=%" PRIu64 " ns=%" PRIu64 " slow=%" PRIu64
           " p50_ns=%u p99_ns=%u\n",
           touches, all, slow, slow ? times[slow / 2] : 0, slow ? times[slow * 99 / 100] : 0);
    free(times);
    return 0;
}

static void keys(uint8_t *area, uint64_t pages, uint64_t operations, uint64_t seed)
{
    uint64_t per_page = PAGE_BYTES / VALUE_BYTES, sum = 0;
    uint64_t hot = pages / HOT_PART + 1, start = now_ns();
    for (uint64_t n = 0; n < operations; n++) {
        uint64_t chance = random_next(&seed), page = (chance >> 8) % pages;
        if (chance % 10 < HOT_OPS)
            page = (chance >> 8) % hot * HOT_PART % pages;
        uint8_t *value = area + page * PAGE_BYTES + (chance >> 56) % per_page * VALUE_BYTES;
        if (chance & 128)
            memset(value, (int)chance, VALUE_BYTES);
        else
            for (unsigned i = 0; i < VALUE_BYTES; i += 8)
                sum += value[i];
    }
    printf("paging: keys operations=%" PRIu64 " ns=%" PRIu64 " sum=%" PRIu64 "\n", operations,
           now_ns() - start, sum);
}

int main(int argc, char **argv)
{
    uint64_t pages = argc > 2 ? strtoull(argv[1], NULL, 10) * 256 : 0;
    uint64_t touches = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    uint64_t seed = (argc > 3 ? strtoull(argv[3], NULL, 10) : 1) * 2 + 1;
    if (pages == 0 || touches == 0) {
        fprintf(stderr, "usage: paging SIZE_MIB TOUCHES [SEED]\n");
        return 2;
    }
    void *area =
        mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (area == MAP_FAILED) {
        perror("paging");
        return 1;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    fill(area, pages);
    if (touch(area, pages, touches, seed) != 0)
        return 1;
    keys(area, pages, touches * OPS_A_TOUCH, seed);
    return 0;
}
