/* Processes: fork and wait; fork, execute this very program, and wait. */
#include <unistd.h>

#include "bench.h"

static bool fork_run(void *state)
{
    int pid = fork();
    if (pid == 0)
        _exit(7);
    return pid > 0 && child_wait(pid) == 7;
}

/* main ends at once with the status it is given. */
static bool exec_run(void *state)
{
    int pid = fork();
    if (pid == 0) {
        char *const arguments[] = {"speed", "--exit", "5", NULL};
        char *const environment[] = {NULL};
        execve("/proc/self/exe", arguments, environment);
        _exit(1);
    }
    return pid > 0 && child_wait(pid) == 5;
}

const struct bench process_benches[] = {
    {"fork-wait", "process", 1, 0, NULL, fork_run, NULL, NULL},
    {"fork-exec-wait", "process", 1, 0, NULL, exec_run, NULL, NULL},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
