/* System calls of one process: the cheapest there is, and those that change its address space. */
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"

enum { PAGE = 4096, CALLS = 1000, PAGES = 64, REPEATS = 16 };

/* The instruction itself, since a libc may remember what it returned. */
static bool getpid_run(void *state)
{
    bool right = true;
    long expected = getpid();
    for (unsigned i = 0; i < CALLS; i++) {
        long result;
        __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_getpid) : "rcx", "r11", "memory");
        right &= result == expected;
    }
    return right;
}

/* Maps pages, writes to each, finds the rest of it zero, and gives them back. */
static bool map_run(void *state)
{
    size_t size = PAGES * PAGE;
    volatile uint8_t *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return false;
    unsigned sum = 0;
    for (size_t i = 0; i < size; i += PAGE) {
        memory[i] = 1;
        sum += memory[i] + memory[i + PAGE - 1];
    }
    return sum == PAGES && munmap((void *)memory, size) == 0;
}

static void *protect_setup(const struct bench_env *env, uint64_t argument)
{
    return buffer_alloc(PAGE);
}

static void protect_teardown(void *state)
{
    buffer_free(state, PAGE);
}

/* Makes a page read-only, reads it, makes it writable, writes it. */
static bool protect_run(void *state)
{
    volatile uint64_t *word = state;
    bool right = true;
    for (uint64_t i = 0; i < REPEATS; i++) {
        right &= mprotect(state, PAGE, PROT_READ) == 0;
        uint64_t before = *word;
        right &= mprotect(state, PAGE, PROT_READ | PROT_WRITE) == 0;
        *word = before + 1;
        right &= *word == before + 1;
    }
    return right;
}

const struct bench syscall_benches[] = {
    {"getpid", "call", CALLS, 0, NULL, getpid_run, NULL, NULL},
    {"mmap-touch-munmap", "page", PAGES, 0, NULL, map_run, NULL, NULL},
    {"mprotect", "pair", REPEATS, 0, protect_setup, protect_run, NULL, protect_teardown},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
