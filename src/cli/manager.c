#include "cli/manager.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/plan.h"
#include "cli/program.h"
#include "cli/stop.h"
#include "control/admit.h"
#include "util/clock.h"

#define START_SECONDS 20u
#define QUIT_SECONDS  20u

/* Holds the process of a manager that manager_start has started. */
static const char mark_name[] = "manager.up";

enum status manager_ask(struct control_folder *folder, json_t *request, json_t **reply,
                        struct error *err)
{
    int fd;
    *reply = NULL;
    enum status status = client_send(folder, CONTROL_MANAGER, request, CLIENT_SECONDS, &fd, err);
    if (status != STATUS_OK)
        return status;
    status = client_receive(fd, "the manager", reply, err);
    close(fd);
    return status;
}

enum status manager_admit(struct control_folder *folder, const char *label,
                          const struct vm_spec *vm, uint64_t swap, struct error *err)
{
    struct control_wish wish = {
        .name = vm->name,
        .group = vm->group,
        .max = vm->max,
        .min = vm->min,
        .shares = vm->shares,
        .swap = swap,
        .overhead = plan_overhead(vm),
    };
    return control_admit(folder, label, &wish, err);
}

static void put_mark(struct control_folder *folder, pid_t pid)
{
    int fd =
        openat(folder->fd, mark_name, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return; /* `down` will leave the manager running */
    dprintf(fd, "%ld\n", (long)pid);
    close(fd);
}

bool manager_is_ours(struct control_folder *folder)
{
    char text[32] = "";
    pid_t pid;
    uid_t uid;
    struct error err;
    int fd = openat(folder->fd, mark_name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0 ||
        control_folder_connect(folder, CONTROL_MANAGER, CLIENT_SECONDS, &fd, &err) != STATUS_OK)
        return false;
    bool is_known = control_peer(fd, &pid, &uid);
    close(fd);
    return is_known && pid == (pid_t)strtol(text, NULL, 10);
}

/* The last line that it has written, which should say why. */
static enum status start_failed(int log, struct error *err)
{
    char text[ERROR_TEXT_SIZE] = "";
    off_t end = lseek(log, 0, SEEK_END);
    off_t from = end > (off_t)sizeof text - 1 ? end - (off_t)sizeof text + 1 : 0;
    ssize_t length = pread(log, text, sizeof text - 1, from);
    while (length > 0 && text[length - 1] == '\n')
        text[--length] = '\0';
    const char *line = strrchr(text, '\n');
    line = line != NULL ? line + 1 : text;
    static const char own_name[] = "aerostatd: ";
    if (strncmp(line, own_name, strlen(own_name)) == 0)
        line += strlen(own_name);
    return error_set(err, STATUS_INVALID, "the manager has not started: %s",
                     length > 0 ? line : "it says nothing");
}

static enum status wait_until_it_answers(struct control_folder *folder, pid_t pid, int log,
                                         struct error *err)
{
    uint64_t deadline = clock_monotonic_ns() + START_SECONDS * NS_PER_SECOND;
    const struct timespec pause = {.tv_nsec = 10000000};
    for (;;) {
        json_t *reply;
        int how;
        enum status status =
            manager_ask(folder, json_pack("{s:s}", "request", "status"), &reply, err);
        json_decref(reply);
        if (status != STATUS_NOT_FOUND)
            return status;
        if (waitpid(pid, &how, WNOHANG) == pid)
            return start_failed(log, err);
        if (clock_monotonic_ns() >= deadline) {
            kill(pid, SIGKILL);
            waitpid(pid, &how, 0);
            return error_set(err, STATUS_IO, "the manager does not answer after %u seconds",
                             START_SECONDS);
        }
        nanosleep(&pause, NULL);
    }
}

enum status manager_start(struct control_folder *folder, const struct vm_file *file,
                          struct error *err)
{
    char memory[32], swap[32];
    char *argv[10] = {(char *)"aerostatd"};
    unsigned argc = 1;
    pid_t pid;
    int log;
    if (file->memory != 0) {
        snprintf(memory, sizeof memory, "%" PRIu64, file->memory);
        argv[argc++] = (char *)"--memory";
        argv[argc++] = memory;
    }
    if (file->swap_size != UINT64_MAX) {
        snprintf(swap, sizeof swap, "%" PRIu64, file->swap_size);
        argv[argc++] = (char *)"--swap-size";
        argv[argc++] = swap;
    }
    if (file->swap_dir != NULL) {
        argv[argc++] = (char *)"--swap-dir";
        argv[argc++] = (char *)file->swap_dir;
    }
    enum status status = control_folder_open_log(folder, CONTROL_MANAGER, &log, err);
    if (status != STATUS_OK)
        return status;
    status = program_start("aerostatd", argv, log, log, &pid, err);
    if (status == STATUS_OK)
        status = wait_until_it_answers(folder, pid, log, err);
    if (status == STATUS_OK)
        put_mark(folder, pid);
    close(log);
    return status;
}

enum status manager_quit(struct control_folder *folder, struct error *err)
{
    json_t *reply;
    int fd;
    enum status status = client_send(folder, CONTROL_MANAGER, json_pack("{s:s}", "request", "quit"),
                                     CLIENT_SECONDS, &fd, err);
    if (status != STATUS_OK)
        return status;
    status = client_receive(fd, "the manager", &reply, err);
    json_decref(reply);
    if (status == STATUS_OK && !stop_wait(fd, clock_monotonic_ns() + QUIT_SECONDS * NS_PER_SECOND))
        status = error_set(err, STATUS_IO, "the manager has not ended yet");
    close(fd);
    if (status == STATUS_OK) {
        unlinkat(folder->fd, mark_name, 0);
        control_folder_tidy(folder, CONTROL_MANAGER);
    }
    return status;
}
