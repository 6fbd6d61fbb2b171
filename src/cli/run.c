/*
 * aerostat run: becomes aerostat-vm, the program beside it that is the VM; the manager, where one
 * runs, is asked before.
 *
 * On a terminal it stays as the parent instead, for one purpose: whatever ends the VM, even
 * SIGKILL, the terminal is put back as it was found.
 */

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/command.h"
#include "cli/program.h"
#include "util/signals.h"
#include "vm/exit_status.h"

/* What `ps` and `top` show is the program's name, not the subcommand's. */
static int execute(char *path, char **argv)
{
    argv[0] = path;
    execv(path, argv);
    fprintf(stderr, "aerostat: cannot start %s: %s\n", path, strerror(errno));
    return EXIT_STATUS_FAILURE;
}

/* Waits for the child, handing on the signals that are meant to end it. */
static int supervise(pid_t child, const sigset_t *watched)
{
    for (;;) {
        int signal_number;
        if (sigwait(watched, &signal_number) != 0)
            continue;
        if (signal_number != SIGCHLD) {
            kill(child, signal_number);
            continue;
        }
        int status;
        if (waitpid(child, &status, WNOHANG) != child)
            continue;
        if (WIFEXITED(status))
            return WEXITSTATUS(status);
        if (WIFSIGNALED(status)) {
            int number = WTERMSIG(status);
            const char *guess =
                number == SIGKILL ? ": perhaps the host, or the VM's cgroup, is out of memory" : "";
            fprintf(stderr, "aerostat: the VM was killed by signal %d (%s)%s\n", number,
                    strsignal(number), guess);
            return 128 + number;
        }
    }
}

static int run_on_terminal(char *path, char **argv, const struct termios *terminal)
{
    sigset_t watched, before;
    signals_that_end(&watched);
    sigaddset(&watched, SIGCHLD);
    sigprocmask(SIG_BLOCK, &watched, &before);

    pid_t child = fork();
    if (child < 0) {
        fprintf(stderr, "aerostat: cannot start a process: %s\n", strerror(errno));
        return EXIT_STATUS_FAILURE;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        sigprocmask(SIG_SETMASK, &before, NULL);
        _exit(execute(path, argv));
    }
    int status = supervise(child, &watched);
    /* From the background the VM has left it alone, and we would be stopped for touching it. */
    if (tcgetpgrp(STDIN_FILENO) == getpgrp())
        tcsetattr(STDIN_FILENO, TCSADRAIN, terminal);
    return status;
}

static int start(char *path, char **argv)
{
    struct termios terminal;
    if (tcgetattr(STDIN_FILENO, &terminal) == 0)
        return run_on_terminal(path, argv, &terminal);
    return execute(path, argv);
}

int run_command(int argc, char **argv)
{
    (void)argc;
    char path[PATH_MAX];
    struct error err = {0};
    if (program_find("aerostat-vm", path, sizeof path, &err) != STATUS_OK)
        return client_failed(&err);
    return start(path, argv);
}
