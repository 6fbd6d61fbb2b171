#include "cli/program.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "vm/exit_status.h"

enum status program_find(const char *name, char *path, size_t size, struct error *err)
{
    ssize_t length = readlink("/proc/self/exe", path, size - 1);
    char *slash = NULL;
    if (length > 0) {
        path[length] = '\0';
        slash = strrchr(path, '/');
    }
    if (slash == NULL || (size_t)(slash + 1 - path) + strlen(name) >= size)
        return error_set(err, STATUS_INTERNAL, "cannot find %s beside this program", name);
    strcpy(slash + 1, name);
    if (access(path, X_OK) != 0)
        return error_set(err, STATUS_INTERNAL, "cannot start %s: %s", path, strerror(errno));
    return STATUS_OK;
}

/* Descriptors 0 to 2 may be closed, and the three may be any. */
static void redirect(int output, int errors)
{
    int input = open("/dev/null", O_RDONLY);
    int from[3] = {fcntl(input, F_DUPFD_CLOEXEC, 3), fcntl(output, F_DUPFD_CLOEXEC, 3),
                   errors < 0 ? -1 : fcntl(errors, F_DUPFD_CLOEXEC, 3)};
    for (int i = 0; i < 3; i++) {
        if (from[i] >= 0)
            dup2(from[i], i);
    }
}

enum status program_start(const char *name, char *const *argv, int output, int errors, pid_t *pid,
                          struct error *err)
{
    char path[PATH_MAX];
    enum status status = program_find(name, path, sizeof path, err);
    if (status != STATUS_OK)
        return status;
    *pid = fork();
    if (*pid < 0)
        return error_set(err, STATUS_INTERNAL, "cannot start a process: %s", strerror(errno));
    if (*pid > 0)
        return STATUS_OK;
    setsid();
    redirect(output, errors);
    execv(path, argv);
    fprintf(stderr, "aerostat: cannot start %s: %s\n", path, strerror(errno));
    _exit(EXIT_STATUS_FAILURE);
}
