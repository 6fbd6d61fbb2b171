/*
 * Work in a guest that is hard on the MMU, in one way each: VMware's micro-benchmarks of 2009 and
 * some more.
 *
 *     mmu-work NAME SECONDS            segv, fault, pcd, nps, fork, mix
 *     mmu-work heap SECONDS MIB large|small
 *
 * It prints `mmu: NAME ready` when it has warmed up, and waits for a line, or the end of its input;
 * then `mmu: NAME begin`, and in the end `mmu: NAME units=N ns=T` and, for a heap, what part of it
 * the kernel has put into large pages: `large=PERCENT`. It is idle for a moment after either, for
 * who wants to know what the machine has used until then. `mmu: NAME failed` if something went
 * wrong, with a status of 1.
 *
 *     segv   a store to a read-only page; the signal's handler makes the page writable
 *     fault  first touches of fresh anonymous memory, 4 MiB at a time
 *     pcd    a process is created, executes this program, ends: fork, exec, wait
 *     nps    a switch to another process: a byte goes round in a ring of eight
 *     fork   fork and wait, nothing else
 *     mix    a request to one of 24 processes, at random: it works on some of its 2 MiB, one in
 * eight maps and unmaps memory, one in 32 has a child do it heap   a load of a pointer chase that
 * goes through all pages at random
 */

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "measure.h"

#define HEAP_AT ((uintptr_t)1 << 44)

enum { PAUSE_US = 100000 };
enum { PAGE = 4096, LARGE = 2 << 20, RING = 8, WORKERS = 24, WORKER_BYTES = 2 << 20, LINE = 64 };

static void *map_fresh(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmu-work: mmap");
        exit(1);
    }
    return memory;
}

static bool child_ended(pid_t pid, int status)
{
    int got;
    return pid > 0 && waitpid(pid, &got, 0) == pid && WIFEXITED(got) && WEXITSTATUS(got) == status;
}

/* ------------------------------------------------------------------------- micro-benchmarks */

enum { SEGV_PAGES = 256 };
static volatile unsigned segv_count;

static void segv_handle(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    segv_count++;
    void *page = (void *)((uintptr_t)info->si_addr & ~(uintptr_t)(PAGE - 1));
    if (mprotect(page, PAGE, PROT_READ | PROT_WRITE) != 0)
        _exit(1);
}

static uint64_t segv_run(void)
{
    static volatile uint8_t *memory;
    if (memory == NULL) {
        struct sigaction action = {.sa_sigaction = segv_handle, .sa_flags = SA_SIGINFO};
        sigaction(SIGSEGV, &action, NULL);
        memory = map_fresh(SEGV_PAGES * PAGE);
    }
    segv_count = 0;
    if (mprotect((void *)memory, SEGV_PAGES * PAGE, PROT_READ) != 0)
        return 0;
    for (unsigned i = 0; i < SEGV_PAGES; i++)
        memory[i * PAGE] = (uint8_t)i;
    return segv_count == SEGV_PAGES ? SEGV_PAGES : 0;
}

static uint64_t fault_run(void)
{
    const size_t size = 4 << 20;
    uint8_t *memory = map_fresh(size);
    madvise(memory, size, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < size; i += PAGE)
        memory[i] = 1;
    return munmap(memory, size) == 0 ? size / PAGE : 0;
}

static uint64_t pcd_run(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        char *const arguments[] = {"mmu-work", "end", NULL};
        execv("/proc/self/exe", arguments);
        _exit(1);
    }
    return child_ended(pid, 5);
}

static uint64_t fork_run(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(7);
    return child_ended(pid, 7);
}

/* Each passes on what it reads; the first is this process. */
static uint64_t nps_run(void)
{
    enum { ROUNDS = 64 };
    static int pipes[RING][2];
    if (pipes[0][1] == 0) {
        for (unsigned i = 0; i < RING; i++) {
            if (pipe(pipes[i]) != 0)
                return 0;
        }
        for (unsigned i = 1; i < RING; i++) {
            if (fork() != 0)
                continue;
            for (unsigned j = 0; j < RING; j++) {
                if (j != (i + 1) % RING)
                    close(pipes[j][1]); /* so that the ring ends with its first process */
            }
            uint8_t byte;
            while (read(pipes[i][0], &byte, 1) == 1) {
                byte++;
                if (write(pipes[(i + 1) % RING][1], &byte, 1) != 1)
                    break;
            }
            _exit(0);
        }
    }
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint8_t byte = (uint8_t)i;
        if (write(pipes[1][1], &byte, 1) != 1 || read(pipes[0][0], &byte, 1) != 1 ||
            byte != (uint8_t)(i + RING - 1))
            return 0;
    }
    return (uint64_t)ROUNDS * RING;
}

/* ------------------------------------------------------------------------- many processes */

static void map_and_unmap(void)
{
    enum { BYTES = 128 << 10 };
    uint8_t *memory = map_fresh(BYTES);
    for (unsigned i = 0; i < BYTES; i += PAGE)
        memory[i] = 1;
    munmap(memory, BYTES);
}

_Noreturn static void worker(int requests, int answers, uint64_t seed)
{
    uint8_t *memory = map_fresh(WORKER_BYTES);
    madvise(memory, WORKER_BYTES, MADV_NOHUGEPAGE);
    uint32_t request;
    while (read(requests, &request, sizeof(request)) == sizeof(request)) {
        for (unsigned i = 0; i < 64; i++)
            memory[random_next(&seed) % WORKER_BYTES]++;
        if (request % 8 == 0)
            map_and_unmap();
        if (request % 32 == 1) {
            pid_t pid = fork();
            if (pid == 0) {
                map_and_unmap();
                _exit(3);
            }
            request = child_ended(pid, 3) ? request : ~request;
        }
        if (write(answers, &request, sizeof(request)) != sizeof(request))
            break;
    }
    _exit(0);
}

static uint64_t mix_run(void)
{
    static int requests[WORKERS], answers;
    static uint64_t seed = 88172645;
    if (answers == 0) {
        int back[2];
        if (pipe(back) != 0)
            return 0;
        answers = back[0];
        for (unsigned i = 0; i < WORKERS; i++) {
            int there[2];
            if (pipe(there) != 0)
                return 0;
            if (fork() == 0) {
                close(there[1]);
                for (unsigned j = 0; j < i; j++)
                    close(requests[j]);
                worker(there[0], back[1], seed + i);
            }
            close(there[0]);
            requests[i] = there[1];
        }
    }
    /* Several are under way at once. */
    enum { AT_ONCE = 4 };
    uint32_t sum = 0;
    for (unsigned i = 0; i < AT_ONCE; i++) {
        uint32_t request = (uint32_t)random_next(&seed);
        sum += request;
        if (write(requests[request / 64 % WORKERS], &request, sizeof(request)) != sizeof(request))
            return 0;
    }
    for (unsigned i = 0; i < AT_ONCE; i++) {
        uint32_t answer;
        if (read(answers, &answer, sizeof(answer)) != sizeof(answer))
            return 0;
        sum -= answer;
    }
    return sum == 0 ? AT_ONCE : 0;
}

/* ------------------------------------------------------------------------- heap */

struct heap {
    uint8_t *memory;
    size_t pages;
    uint8_t *at;
};
static struct heap heap;

/* One line of each page has the address of the next; lines differ, so that caches count too. */
static void heap_make(size_t size, bool large)
{
    /* Always there: which pages share a slot of a TLB is not to differ from life to life. */
    heap.memory = mmap((void *)HEAP_AT, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (heap.memory != (uint8_t *)HEAP_AT)
        exit(1);
    heap.pages = size / PAGE;
    madvise(heap.memory, size, large ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    memset(heap.memory, 1, size); /* all of it is there, and is not zero */
    uint32_t *order = malloc(heap.pages * sizeof(*order));
    if (order == NULL)
        exit(1);
    uint64_t seed = 88172645;
    for (size_t i = 0; i < heap.pages; i++)
        order[i] = (uint32_t)i;
    for (size_t i = heap.pages - 1; i > 0; i--) { /* one cycle: Sattolo */
        size_t j = random_next(&seed) % i;
        uint32_t other = order[i];
        order[i] = order[j];
        order[j] = other;
    }
    for (size_t i = 0; i < heap.pages; i++) {
        uint8_t *from = heap.memory + (size_t)order[i] * PAGE;
        uint8_t *to = heap.memory + (size_t)order[(i + 1) % heap.pages] * PAGE;
        from += order[i] % (PAGE / LINE) * LINE;
        to += order[(i + 1) % heap.pages] % (PAGE / LINE) * LINE;
        *(uint8_t **)(void *)from = to;
        if (i == 0)
            heap.at = from;
    }
    free(order);
}

static unsigned heap_large_percent(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    char line[128];
    unsigned long kib = 0;
    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        sscanf(line, "AnonHugePages: %lu kB", &kib);
    if (file != NULL)
        fclose(file);
    return (unsigned)(kib * 100 / (heap.pages * PAGE / 1024));
}

static uint64_t heap_run(void)
{
    uint8_t *at = heap.at;
    for (size_t i = 0; i < heap.pages; i++)
        at = *(uint8_t *volatile *)(void *)at;
    return at == heap.at ? heap.pages : 0;
}

/* ------------------------------------------------------------------------- */

static const struct {
    const char *name;
    uint64_t (*run)(void); /* gives the units of work done; 0: failed */
} works[] = {
    {"segv", segv_run}, {"fault", fault_run}, {"pcd", pcd_run},   {"nps", nps_run},
    {"fork", fork_run}, {"mix", mix_run},     {"heap", heap_run},
};

/* As much as fits into the time, after a fifth of it to warm up. */
static bool measure(const char *name, uint64_t (*run)(void), double seconds)
{
    uint64_t units = 0, limit = (uint64_t)(seconds * 1e9), begin = now_ns(), end;
    do {
        if (run() == 0)
            return false;
    } while (now_ns() - begin < limit / 5);
    printf("mmu: %s ready\n", name);
    fflush(stdout);
    for (int byte = 0; byte != '\n' && byte != EOF;)
        byte = getchar();
    printf("mmu: %s begin\n", name);
    fflush(stdout);
    usleep(PAUSE_US);
    begin = now_ns();
    do {
        uint64_t done = run();
        if (done == 0)
            return false;
        units += done;
        end = now_ns();
    } while (end - begin < limit);
    printf("mmu: %s units=%llu ns=%llu", name, (unsigned long long)units,
           (unsigned long long)(end - begin));
    return true;
}

int main(int count, char **arguments)
{
    if (count == 2 && strcmp(arguments[1], "end") == 0)
        return 5;
    bool is_heap = count == 5 && strcmp(arguments[1], "heap") == 0;
    double seconds = count > 2 ? atof(arguments[2]) : 0;
    for (size_t i = 0; seconds > 0 && (is_heap || count == 3) && i < sizeof(works) / sizeof(*works);
         i++) {
        if (strcmp(arguments[1], works[i].name) != 0)
            continue;
        if (is_heap)
            heap_make((size_t)atoi(arguments[3]) << 20, strcmp(arguments[4], "large") == 0);
        else if (works[i].run == heap_run)
            break;
        if (!measure(works[i].name, works[i].run, seconds)) {
            printf("mmu: %s failed\n", works[i].name);
            return 1;
        }
        if (is_heap)
            printf(" large=%u", heap_large_percent());
        printf("\n");
        fflush(stdout);
        usleep(PAUSE_US);
        return 0;
    }
    fprintf(stderr, "usage: mmu-work segv|fault|pcd|nps|fork|mix SECONDS\n"
                    "       mmu-work heap SECONDS MIB large|small\n");
    return 2;
}
