#include "area.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A prime above any number of pages: steps of it meet every page of an area once. */
#define STRIDE 1299709u

uint32_t area_pages_of(uint64_t bytes)
{
    uint64_t pages = bytes / PAGE_BYTES / AREA_CHUNK * AREA_CHUNK;
    return pages < AREA_CHUNK ? AREA_CHUNK : pages < PAGE_MOST ? (uint32_t)pages : PAGE_MOST;
}

uint8_t *area_address(const struct area *area, uint32_t page)
{
    uint64_t gaps = area->piece ? page / area->piece : 0;
    return area->memory + (page + gaps) * PAGE_BYTES;
}

static uint64_t chance(const struct area *area, uint32_t page, uint32_t round)
{
    return mix64(mix64(mix64(area->worker->seed ^ area->object) + page) + round);
}

uint32_t area_generation(const struct area *area, uint32_t page, uint32_t round)
{
    while (round > 1 && (chance(area, page, round) & 1) == 0)
        round--;
    return round;
}

static struct page_identity identity_of(const struct area *area, uint32_t page, uint32_t round)
{
    return (struct page_identity){area->object, page,
                                  area_generation(area, page, round) & GENERATION_MASK};
}

/* The i-th page to be visited: in order in odd rounds, here and there in even ones. */
static uint32_t visit(const struct area *area, uint32_t i, uint32_t round)
{
    return round & 1 ? i : (uint32_t)((uint64_t)i * STRIDE % area->pages);
}

/* Where the guest has the page: what the VMM needs to know. 0 where the kernel does not tell. */
static uint64_t physical_page(const void *address)
{
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    if (pread(fd, &entry, sizeof entry, (off_t)((uintptr_t)address / PAGE_BYTES * 8)) != 8)
        entry = 0;
    close(fd);
    return entry >> 63 ? entry & ((1ull << 55) - 1) : 0;
}

static void file_read(const struct area *area, uint32_t page, void *buffer, uint32_t pages)
{
    size_t length = (size_t)pages * PAGE_BYTES;
    ssize_t got = pread(area->file, buffer, length, (off_t)page * PAGE_BYTES);
    if (got < 0)
        check_fail_call("pread");
    if ((size_t)got != length)
        check_fail("%s: the file ends at page %u", area->place, page + (unsigned)got / PAGE_BYTES);
}

static void file_write(const struct area *area, uint32_t page, const void *buffer, uint32_t pages)
{
    size_t length = (size_t)pages * PAGE_BYTES;
    ssize_t put = pwrite(area->file, buffer, length, (off_t)page * PAGE_BYTES);
    if (put < 0)
        check_fail_call("pwrite");
    if ((size_t)put != length)
        check_fail("%s: short write at page %u", area->place, page);
}

/* Which bytes differ, and what is there instead. */
static void describe(char *text, size_t size, const struct page_identity *expected,
                     const struct difference *difference)
{
    int used = 0;
    if (expected)
        used = snprintf(text, size, "generation %u", expected->generation);
    else
        used = snprintf(text, size, "zeros");
    used += snprintf(text + used, size - (size_t)used, ", but %u bytes differ, %u to %u, and are ",
                     difference->bytes, difference->first, difference->last);
    text += used;
    size -= (size_t)used;
    const struct page_identity *source = &difference->source;
    if (difference->zero)
        snprintf(text, size, "zero");
    else if (!difference->known)
        snprintf(text, size, "no pattern of this checker");
    else if (expected && source->object == expected->object && source->page == expected->page)
        snprintf(text, size, "its own of generation %u (%s)", source->generation,
                 source->generation < expected->generation ? "stale" : "not written yet");
    else {
        unsigned worker = 0;
        const char *name = object_name(source->object, &worker);
        snprintf(text, size, "those of page %u, generation %u, of object %s of worker %u",
                 source->page, source->generation, name, worker);
    }
}

/* `seen` is where it was found: in the area itself, or a buffer that it was read into. */
static _Noreturn void report(const struct area *area, uint32_t page,
                             const struct page_identity *identity, const uint64_t *expected,
                             const volatile uint64_t *seen)
{
    uint64_t found[PAGE_WORDS], again[PAGE_WORDS];
    struct difference difference;
    char words[256], where[96];

    for (unsigned i = 0; i < PAGE_WORDS; i++)
        found[i] = seen[i];
    uint64_t ppn = physical_page((const void *)seen);
    bool differs = pattern_compare(area->worker->seed, expected, found, &difference);
    if (area->memory)
        memcpy(again, area_address(area, page), PAGE_BYTES);
    else if (area->chunk)
        memcpy(again, found, PAGE_BYTES);
    else
        file_read(area, page, again, 1);
    const char *then = memcmp(again, expected, PAGE_BYTES) == 0 ? "right"
                       : memcmp(again, found, PAGE_BYTES) == 0  ? "the same"
                                                                : "something else";
    unsigned worker = 0;
    const char *name = object_name(area->object, &worker);
    snprintf(where, sizeof where, "%s %s, page %u of %u, worker %u, address %p, ppn 0x%llx", name,
             area->place, page, area->pages, worker, (const void *)seen, (unsigned long long)ppn);
    if (!differs)
        check_fail("%s: wrong, and right a moment later", where);
    describe(words, sizeof words, identity, &difference);
    unsigned word = difference.first / 8;
    check_fail("%s: expected %s; word %u is 0x%016llx, not 0x%016llx; read again it is %s", where,
               words, word, (unsigned long long)found[word], (unsigned long long)expected[word],
               then);
}

static void verify_bytes(const struct area *area, uint32_t page, struct page_identity identity,
                         const void *bytes)
{
    uint64_t expected[PAGE_WORDS];
    pattern_fill(area->worker->seed, identity, expected);
    if (memcmp(bytes, expected, PAGE_BYTES) != 0)
        report(area, page, &identity, expected, bytes);
    atomic_fetch_add_explicit(&area->worker->shared->verified, 1, memory_order_relaxed);
}

void area_verify_page(const struct area *area, uint32_t page, struct page_identity identity)
{
    uint64_t buffer[PAGE_WORDS];
    if (area->memory) {
        verify_bytes(area, page, identity, area_address(area, page));
        return;
    }
    file_read(area, page, buffer, 1);
    verify_bytes(area, page, identity, buffer);
}

void area_verify_zero(const struct area *area, uint32_t page)
{
    static const uint64_t zeros[PAGE_WORDS];
    if (memcmp(area_address(area, page), zeros, PAGE_BYTES) != 0)
        report(area, page, NULL, zeros, (const uint64_t *)area_address(area, page));
    atomic_fetch_add_explicit(&area->worker->shared->verified, 1, memory_order_relaxed);
}

void area_verify(const struct area *area, uint32_t round)
{
    if (round == 0)
        return;
    if (area->chunk) {
        for (uint32_t i = 0; i < area->pages / AREA_CHUNK; i++) {
            uint32_t first = i * AREA_CHUNK;
            file_read(area, first, area->chunk, AREA_CHUNK);
            for (uint32_t page = first; page < first + AREA_CHUNK; page++)
                verify_bytes(area, page, identity_of(area, page, round),
                             area->chunk + (page - first) * PAGE_BYTES);
        }
        return;
    }
    for (uint32_t i = 0; i < area->pages; i++) {
        uint32_t page = visit(area, i, round);
        area_verify_page(area, page, identity_of(area, page, round));
    }
}

/* Into memory, in one of several ways: what a VMM may get wrong depends on how a page is written.
 */
static void write_memory(uint8_t *page, const uint64_t *words, unsigned way)
{
    _Atomic uint64_t *target = (_Atomic uint64_t *)page;
    if (way == 0) { /* locked */
        for (unsigned i = 0; i < PAGE_WORDS; i++)
            atomic_exchange_explicit(&target[i], words[i], memory_order_relaxed);
    } else if (way < 4) { /* from the end */
        for (unsigned i = PAGE_WORDS; i-- > 0;)
            atomic_store_explicit(&target[i], words[i], memory_order_relaxed);
    } else if (way < 7) { /* cleared as a whole first, as the kernel does */
        void *to = page;
        uint64_t count = PAGE_WORDS;
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(0ul) : "memory");
        memcpy(page, words, PAGE_BYTES);
    } else if (way < 10) { /* with others at work between the halves */
        memcpy(page, words, PAGE_BYTES / 2);
        sched_yield();
        memcpy(page + PAGE_BYTES / 2, words + PAGE_WORDS / 2, PAGE_BYTES / 2);
    } else if (way < 13) { /* copied by one instruction */
        void *to = page;
        uint64_t count = PAGE_WORDS;
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(words), "+c"(count) : : "memory");
    } else {
        memcpy(page, words, PAGE_BYTES);
    }
}

void area_write_page(const struct area *area, uint32_t page, struct page_identity identity)
{
    uint64_t words[PAGE_WORDS];
    pattern_fill(area->worker->seed, identity, words);
    unsigned way = mix64(chance(area, page, identity.generation)) & 15;
    if (area->memory) {
        write_memory(area_address(area, page), words, way);
    } else if (area->chunk) {
        memcpy(area->chunk, words, PAGE_BYTES);
        file_write(area, page, area->chunk, 1);
    } else if (way < 8) {
        file_write(area, page, words, 1);
    } else { /* in two pieces */
        size_t cut = way * 256u;
        off_t at = (off_t)page * PAGE_BYTES;
        const uint8_t *bytes = (const uint8_t *)words;
        if (pwrite(area->file, bytes + cut, PAGE_BYTES - cut, at + (off_t)cut) < 0 ||
            pwrite(area->file, bytes, cut, at) < 0)
            check_fail_call("pwrite");
    }
}

void area_write_all(const struct area *area, uint32_t round)
{
    for (uint32_t i = 0; i < area->pages; i++) {
        uint32_t page = visit(area, i, round);
        area_write_page(area, page, identity_of(area, page, round));
    }
}

void area_write(const struct area *area, uint32_t round)
{
    for (uint32_t i = 0; i < area->pages; i++) {
        uint32_t page = visit(area, i, round);
        if (area_generation(area, page, round) == round)
            area_write_page(area, page, identity_of(area, page, round));
    }
}

void area_sabotage(const struct area *area, uint32_t round)
{
    const struct worker *worker = area->worker;
    unsigned number = 0;
    if (worker->sabotage == SABOTAGE_NONE || round < 2 ||
        strcmp(object_name(area->object, &number), worker->sabotage_what) != 0 ||
        atomic_exchange(&worker->shared->sabotaged, true))
        return;

    /* A page that was written just now, and that is no zero page, nor was one. */
    uint64_t words[PAGE_WORDS] = {0}, others[PAGE_WORDS] = {0};
    uint32_t page = 0;
    for (; words[0] == 0 || words[1] == 0 || others[0] == 0 || others[1] == 0; page++) {
        while (area_generation(area, page, round) != round)
            page++;
        struct page_identity other = worker->sabotage == SABOTAGE_OTHER
                                         ? identity_of(area, page + 1, round)
                                         : identity_of(area, page, round - 1);
        pattern_fill(worker->seed, identity_of(area, page, round), words);
        pattern_fill(worker->seed, other, others);
    }
    page--;
    switch (worker->sabotage) {
    case SABOTAGE_FLIP:
        words[PAGE_WORDS / 3] ^= 0x40;
        break;
    case SABOTAGE_ZERO:
        memset(words, 0, PAGE_BYTES);
        break;
    case SABOTAGE_TORN:
        memcpy(words + PAGE_WORDS / 2, others + PAGE_WORDS / 2, PAGE_BYTES / 2);
        break;
    default:
        memcpy(words, others, PAGE_BYTES);
        break;
    }
    if (area->memory) {
        memcpy(area_address(area, page), words, PAGE_BYTES);
    } else if (area->chunk) {
        memcpy(area->chunk, words, PAGE_BYTES);
        file_write(area, page, area->chunk, 1);
    } else {
        file_write(area, page, words, 1);
    }
}
