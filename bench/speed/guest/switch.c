/*
 * Two processes on one CPU that wake each other: by a futex, which is little more than the context
 * switch, and by a byte through a pipe. The partner is a child that lives as long as the benchmark.
 */
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench.h"

enum { ROUNDS = 100, PAGE = 4096 };

/* Who is to act, and what the partner did: in a page that both share. */
enum turn { TURN_MAIN, TURN_PARTNER, TURN_END };

struct shared {
    atomic_uint turn;
    atomic_ullong acts;
};

struct partner {
    int pid;
    int to, from; /* pipes, where it has them */
    struct shared *shared;
};

static void turn_wait(struct shared *shared, enum turn turn)
{
    while (atomic_load(&shared->turn) == (unsigned)turn)
        syscall(SYS_futex, &shared->turn, FUTEX_WAIT, turn, NULL, NULL, 0);
}

static void turn_give(struct shared *shared, enum turn turn)
{
    atomic_store(&shared->turn, turn);
    syscall(SYS_futex, &shared->turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}

_Noreturn static void futex_partner(struct shared *shared)
{
    for (;;) {
        turn_wait(shared, TURN_MAIN);
        if (atomic_load(&shared->turn) == TURN_END)
            _exit(0);
        atomic_fetch_add(&shared->acts, 1);
        turn_give(shared, TURN_MAIN);
    }
}

static void *futex_setup(const struct bench_env *env, uint64_t argument)
{
    struct partner *partner = state_alloc(sizeof(*partner));
    partner->shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (partner->shared == MAP_FAILED)
        goto out_free;
    partner->pid = fork();
    if (partner->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        futex_partner(partner->shared);
    }
    if (partner->pid > 0)
        return partner;
    munmap(partner->shared, PAGE);
out_free:
    free(partner);
    return NULL;
}

static bool futex_run(void *state)
{
    const struct partner *partner = state;
    unsigned long long before = atomic_load(&partner->shared->acts);
    for (unsigned i = 0; i < ROUNDS; i++) {
        turn_give(partner->shared, TURN_PARTNER);
        turn_wait(partner->shared, TURN_PARTNER);
    }
    return atomic_load(&partner->shared->acts) - before == ROUNDS;
}

static void futex_teardown(void *state)
{
    struct partner *partner = state;
    turn_give(partner->shared, TURN_END);
    child_wait(partner->pid);
    munmap(partner->shared, PAGE);
    free(partner);
}

/* Sends back each byte plus one, until the pipe ends. */
_Noreturn static void pipe_partner(int in, int out)
{
    uint8_t byte;
    while (read(in, &byte, 1) == 1) {
        byte++;
        if (write(out, &byte, 1) != 1)
            break;
    }
    _exit(0);
}

static void *pipe_setup(const struct bench_env *env, uint64_t argument)
{
    struct partner *partner = state_alloc(sizeof(*partner));
    int there[2], back[2];
    if (pipe(there) != 0)
        goto out_free;
    if (pipe(back) != 0)
        goto out_there;
    partner->pid = fork();
    if (partner->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(there[1]);
        close(back[0]);
        pipe_partner(there[0], back[1]);
    }
    if (partner->pid < 0)
        goto out_back;
    close(there[0]);
    close(back[1]);
    partner->to = there[1];
    partner->from = back[0];
    return partner;

out_back:
    close(back[0]);
    close(back[1]);
out_there:
    close(there[0]);
    close(there[1]);
out_free:
    free(partner);
    return NULL;
}

static bool pipe_run(void *state)
{
    const struct partner *partner = state;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint8_t byte = (uint8_t)i;
        if (write(partner->to, &byte, 1) != 1 || read(partner->from, &byte, 1) != 1 ||
            byte != (uint8_t)(i + 1))
            return false;
    }
    return true;
}

static void pipe_teardown(void *state)
{
    struct partner *partner = state;
    close(partner->to);
    close(partner->from);
    child_wait(partner->pid);
    free(partner);
}

const struct bench switch_benches[] = {
    {"switch-futex", "switch", 2 * ROUNDS, 0, futex_setup, futex_run, NULL, futex_teardown},
    {"pipe-pingpong", "round", ROUNDS, 0, pipe_setup, pipe_run, NULL, pipe_teardown},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
