/* The helpers of bench.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "bench.h"

enum { LARGE = 2 << 20 };

uint64_t clock_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void *buffer_alloc(size_t size)
{
    size_t extra = size >= LARGE ? LARGE : 0;
    char *start =
        mmap(NULL, size + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) {
        perror("speed: mmap");
        return NULL;
    }
    size_t before = extra ? LARGE - (uintptr_t)start % LARGE : 0;
    if (before)
        munmap(start, before);
    if (extra > before)
        munmap(start + before + size, extra - before);
    memset(start + before, 0, size);
    memory_barrier();
    return start + before;
}

void buffer_free(void *buffer, size_t size)
{
    if (buffer)
        munmap(buffer, size);
}

void *state_alloc(size_t size)
{
    void *state = calloc(1, size);
    if (!state) {
        fprintf(stderr, "speed: out of memory\n");
        exit(1);
    }
    return state;
}

int child_wait(int pid)
{
    int status;
    if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}
