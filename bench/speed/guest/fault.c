/*
 * Faults that the kernel handles (the copy of a page on the first write after a fork) and that it
 * hands to the program (SIGSEGV).
 */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "bench.h"

enum { PAGE = 4096, COPIED_PAGES = 1024, SIGNALS = 64 };

static void *copy_setup(const struct bench_env *env, uint64_t size)
{
    uint8_t *memory = buffer_alloc(size);
    for (size_t i = 0; memory && i < size; i += PAGE)
        memory[i] = (uint8_t)(i / PAGE);
    return memory;
}

/*
 * A child writes to every page of its parent's, which must keep what it had. The time of the fork
 * is in it, shared by all the pages.
 */
static bool copy_run(void *state)
{
    volatile uint8_t *memory = state;
    size_t size = (size_t)COPIED_PAGES * PAGE;
    int pid = fork();
    if (pid == 0) {
        bool right = true;
        for (size_t i = 0; i < size; i += PAGE) {
            memory[i + 1] = 1;
            right &= memory[i] == (uint8_t)(i / PAGE);
        }
        _exit(right ? 7 : 1);
    }
    if (pid < 0 || child_wait(pid) != 7)
        return false;
    bool right = true;
    for (size_t i = 0; i < size; i += PAGE)
        right &= memory[i] == (uint8_t)(i / PAGE) && memory[i + 1] == 0;
    return right;
}

static void copy_teardown(void *state)
{
    buffer_free(state, (size_t)COPIED_PAGES * PAGE);
}

/* A signal handler is given nothing of ours, so what it works with is static. */
static volatile uint64_t signals_seen;
static const void *volatile signal_address;

/* Goes on where the faulting code said in rbx. */
static void segv_handle(int number, siginfo_t *info, void *context)
{
    ucontext_t *user = context;
    if (info->si_addr == signal_address)
        signals_seen++;
    user->uc_mcontext.gregs[REG_RIP] = user->uc_mcontext.gregs[REG_RBX];
}

struct signals {
    void *page;
    struct sigaction before;
};

static void *signal_setup(const struct bench_env *env, uint64_t argument)
{
    struct signals *signals = state_alloc(sizeof(*signals));
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = segv_handle;
    action.sa_flags = SA_SIGINFO;
    signals->page = buffer_alloc(PAGE);
    if (!signals->page || mprotect(signals->page, PAGE, PROT_READ) != 0 ||
        sigaction(SIGSEGV, &action, &signals->before) != 0) {
        buffer_free(signals->page, PAGE);
        free(signals);
        return NULL;
    }
    return signals;
}

static void signal_teardown(void *state)
{
    struct signals *signals = state;
    sigaction(SIGSEGV, &signals->before, NULL);
    buffer_free(signals->page, PAGE);
    free(signals);
}

/* Writes to a read-only page: to another word of it each time, and none may change. */
static bool signal_run(void *state)
{
    const struct signals *signals = state;
    uint64_t *words = signals->page;
    uint64_t sum = 0;
    signals_seen = 0;
    for (unsigned i = 0; i < SIGNALS; i++) {
        signal_address = &words[i];
        __asm__ volatile("lea 1f(%%rip), %%rbx\n\t"
                         "movq $1, (%[word])\n\t"
                         "1:"
                         :
                         : [word] "r"(&words[i])
                         : "rbx", "memory");
        sum += words[i];
    }
    return signals_seen == SIGNALS && sum == 0;
}

const struct bench fault_benches[] = {
    {"cow-fault", "page", COPIED_PAGES, COPIED_PAGES *PAGE, copy_setup, copy_run, NULL,
     copy_teardown},
    {"sigsegv", "signal", SIGNALS, 0, signal_setup, signal_run, NULL, signal_teardown},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
