#include "vm/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/name.h"
#include "vm/exit_status.h"

/* The child has ended without having started. */
static int failure_of(pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR)
            return EXIT_STATUS_FAILURE;
    }
    if (WIFEXITED(status))
        return WEXITSTATUS(status) != 0 ? WEXITSTATUS(status) : EXIT_STATUS_FAILURE;
    fprintf(stderr, "aerostat: the VM was killed by signal %d (%s) while it started\n",
            WTERMSIG(status), strsignal(WTERMSIG(status)));
    return 128 + WTERMSIG(status);
}

static int wait_for_start(pid_t child, int started)
{
    char line[CONTROL_NAME_MOST + 2];
    size_t length = 0;
    ssize_t count;
    while (length < sizeof line &&
           ((count = read(started, line + length, sizeof line - length)) > 0 ||
            (count < 0 && errno == EINTR)))
        length += count > 0 ? (size_t)count : 0;
    if (length == 0 || line[length - 1] != '\n')
        return failure_of(child);
    if (fwrite(line, 1, length, stdout) != length || fflush(stdout) != 0) {
        fprintf(stderr, "aerostat: the VM runs, but its name cannot be written: %s\n",
                strerror(errno));
        return EXIT_STATUS_FAILURE;
    }
    return EXIT_STATUS_OK;
}

bool detach_fork(struct detach *detach, int *exit_status)
{
    int ends[2];
    *detach = DETACH_NONE;
    *exit_status = EXIT_STATUS_FAILURE;
    if (pipe2(ends, O_CLOEXEC) != 0) {
        fprintf(stderr, "aerostat: cannot make a pipe: %s\n", strerror(errno));
        return false;
    }
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        detach->started = ends[1];
        setsid();
        return true;
    }
    close(ends[1]);
    if (child < 0)
        fprintf(stderr, "aerostat: cannot start a process: %s\n", strerror(errno));
    else
        *exit_status = wait_for_start(child, ends[0]);
    close(ends[0]);
    return false;
}

enum status detach_redirect(struct detach *detach, int log, struct error *err)
{
    detach->log = log;
    detach->user_errors = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    bool done = detach->user_errors >= 0 && nothing >= 0 && dup2(nothing, STDIN_FILENO) >= 0 &&
                dup2(nothing, STDOUT_FILENO) >= 0 && dup2(log, STDERR_FILENO) >= 0;
    if (!done)
        error_set(err, STATUS_IO, "cannot go to the background: %s", strerror(errno));
    if (nothing >= 0)
        close(nothing);
    return done ? STATUS_OK : STATUS_IO;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

enum status detach_started(struct detach *detach, const char *name, struct error *err)
{
    char line[CONTROL_NAME_MOST + 2];
    if (detach->started < 0)
        return STATUS_OK;
    int length = snprintf(line, sizeof line, "%s\n", name);
    if (write(detach->started, line, (size_t)length) != length)
        return error_set(err, STATUS_NOT_FOUND, "nobody waits for the VM any more");
    close_fd(&detach->started);
    close_fd(&detach->user_errors);
    close_fd(&detach->log);
    return STATUS_OK;
}

void detach_close(struct detach *detach)
{
    char text[1024];
    ssize_t count;
    if (detach->started >= 0 && detach->user_errors >= 0) {
        for (off_t at = 0; (count = pread(detach->log, text, sizeof text, at)) > 0; at += count) {
            if (write(detach->user_errors, text, (size_t)count) != count)
                break;
        }
    }
    close_fd(&detach->user_errors);
    close_fd(&detach->log);
    close_fd(&detach->started); /* last: what the parent waits for */
}
