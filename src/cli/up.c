/*
 * aerostat up: the VMs of a file, all or none as far as that can be known before: every VM that
 * does not run yet is admitted by the manager before the first is started.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/format.h"
#include "cli/manager.h"
#include "cli/program.h"
#include "cli/vm_file.h"
#include "util/clock.h"
#include "vm/exit_status.h"

static const char help[] =
    "usage: aerostat up [-f FILE]\n"
    "\n"
    "Starts the VMs of a file, in the background, and a manager where none runs. VMs that run\n"
    "already are left alone. All others are admitted before the first is started: one that does\n"
    "not fit into the host's memory or swap space is refused, and then none is started.\n"
    "\n"
    "  -f FILE   the file of VMs, default aerostat.yaml; docs/commands.md has its keys\n"
    "  --help    this text\n"
    "\n"
    "Exit status: 0; 2 for a mistake in the file, or VMs that do not fit; else that of the VM\n"
    "that could not be started (aerostat run).\n";

#define RENEW_NS (10 * NS_PER_SECOND) /* the manager keeps memory for 30 s */

struct up {
    struct control_folder folder;
    struct vm_file file;
    bool *runs; /* already, for each VM of the file */
    bool started_manager;
    uint64_t admitted_ns;
};

/* An argument list for a VM; its strings are the list's or the file's. */
#define ARGUMENTS_MOST (2 * 16 + 2 * VM_FILE_DISKS_MOST)

struct argument_list {
    char *argv[ARGUMENTS_MOST + 1];
    char *owned[ARGUMENTS_MOST];
    unsigned argc, owned_count;
    bool failed;
};

static void add(struct argument_list *list, const char *option, const char *value)
{
    list->argv[list->argc++] = (char *)option;
    if (value != NULL)
        list->argv[list->argc++] = (char *)value;
}

static void add_formatted(struct argument_list *list, const char *option, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void add_formatted(struct argument_list *list, const char *option, const char *format, ...)
{
    char *value;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&value, format, arguments);
    va_end(arguments);
    if (length < 0) {
        list->failed = true;
        return;
    }
    list->owned[list->owned_count++] = value;
    add(list, option, value);
}

static uint64_t swap_of(const struct up *up, const struct vm_spec *vm)
{
    /* Where all swap space is limited, each has what it was admitted for, and no more. */
    return up->file.swap_size != UINT64_MAX ? vm->max - vm->min : vm->max;
}

static void list_arguments(const struct up *up, const struct vm_spec *vm,
                           struct argument_list *list)
{
    *list = (struct argument_list){0};
    add(list, "aerostat-vm", NULL); /* the name that ps and top show */
    add(list, "--detach", NULL);
    add(list, "--name", vm->name);
    add(list, "--kernel", vm->kernel);
    if (vm->initrd != NULL)
        add(list, "--initrd", vm->initrd);
    if (vm->append != NULL)
        add(list, "--append", vm->append);
    if (vm->net != NULL)
        add(list, "--net", vm->net);
    if (vm->group != NULL)
        add(list, "--group", vm->group);
    if (vm->min != 0)
        add_formatted(list, "--min", "%" PRIu64, vm->min);
    if (vm->shares != 0)
        add_formatted(list, "--shares", "%" PRIu64, vm->shares);
    add_formatted(list, "--memory", "%" PRIu64, vm->max);
    add_formatted(list, "--cpus", "%u", vm->cpus);
    add_formatted(list, "--code-cache", "%" PRIu64, vm->code_cache);
    if (up->file.swap_dir != NULL)
        add(list, "--swap-dir", up->file.swap_dir);
    add_formatted(list, "--swap-size", "%" PRIu64, swap_of(up, vm));
    for (unsigned i = 0; i < vm->disk_count; i++) {
        const struct vm_disk *disk = &vm->disks[i];
        add_formatted(list, "--disk", "%s%s", disk->path,
                      disk->read_only ? ",ro"
                      : disk->overlay ? ",overlay"
                                      : "");
    }
}

/* The VM says itself why it cannot start; gives the exit status. */
static int start_vm(const struct up *up, const struct vm_spec *vm)
{
    struct argument_list list;
    struct error err = {0};
    pid_t pid;
    int how = 0, output = open("/dev/null", O_WRONLY | O_CLOEXEC);
    list_arguments(up, vm, &list);
    enum status status = list.failed || output < 0
                             ? error_set(&err, STATUS_NO_MEMORY, "out of memory")
                             : program_start("aerostat-vm", list.argv, output, -1, &pid, &err);
    for (unsigned i = 0; i < list.owned_count; i++)
        free(list.owned[i]);
    if (output >= 0)
        close(output);
    if (status != STATUS_OK)
        return client_failed(&err);
    while (waitpid(pid, &how, 0) < 0) {
        if (errno != EINTR)
            return EXIT_STATUS_FAILURE;
    }
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
}

static void say(const char *name, const char *what)
{
    printf("%s: %s\n", name, what);
    fflush(stdout);
}

static enum status see_who_runs(struct up *up, struct error *err)
{
    enum status status = STATUS_OK;
    up->runs = calloc(up->file.count, sizeof *up->runs);
    if (up->runs == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    for (size_t i = 0; status == STATUS_OK && i < up->file.count; i++) {
        struct error why = {0};
        int fd;
        status =
            control_folder_connect(&up->folder, up->file.vms[i].name, CLIENT_SECONDS, &fd, &why);
        up->runs[i] = status == STATUS_OK;
        if (status == STATUS_OK)
            close(fd);
        else if (status == STATUS_NOT_FOUND)
            status = STATUS_OK;
        else
            *err = why;
    }
    return status;
}

static enum status see_to_manager(struct up *up, struct error *err)
{
    json_t *reply;
    char text[FORMAT_SIZE], line[64];
    enum status status =
        manager_ask(&up->folder, json_pack("{s:s}", "request", "status"), &reply, err);
    json_decref(reply);
    if (status != STATUS_NOT_FOUND)
        return status;
    status = manager_start(&up->folder, &up->file, err);
    if (status != STATUS_OK)
        return status;
    up->started_manager = true;
    snprintf(line, sizeof line, "started%s%s", up->file.memory != 0 ? " with " : "",
             up->file.memory != 0 ? format_bytes(text, up->file.memory) : "");
    say("manager", line);
    return STATUS_OK;
}

/* No memory for a VM is for the user to see to, unlike no memory for this program. */
static int admission_failed(const struct error *err)
{
    int exit_status = client_failed(err);
    return err->status == STATUS_NO_MEMORY ? EXIT_STATUS_USAGE : exit_status;
}

/* VMs from the given one on. */
static enum status admit_from(struct up *up, size_t first, struct error *err)
{
    enum status status = STATUS_OK;
    up->admitted_ns = clock_monotonic_ns();
    for (size_t i = first; status == STATUS_OK && i < up->file.count; i++) {
        const struct vm_spec *vm = &up->file.vms[i];
        char label[PATH_MAX + CONTROL_NAME_MOST + 32];
        snprintf(label, sizeof label, "%s:%u: %s", up->file.path, vm->line, vm->name);
        if (!up->runs[i])
            status = manager_admit(&up->folder, label, vm, swap_of(up, vm), err);
    }
    return status;
}

static int start_all(struct up *up)
{
    int exit_status = EXIT_STATUS_OK;
    for (size_t i = 0; exit_status == EXIT_STATUS_OK && i < up->file.count; i++) {
        struct error err;
        /* The manager keeps memory for those that start soon: let it know who still will. */
        if (clock_monotonic_ns() - up->admitted_ns > RENEW_NS &&
            admit_from(up, i, &err) != STATUS_OK)
            return admission_failed(&err);
        if (!up->runs[i])
            exit_status = start_vm(up, &up->file.vms[i]);
        if (exit_status == EXIT_STATUS_OK)
            say(up->file.vms[i].name, up->runs[i] ? "runs already" : "started");
    }
    return exit_status;
}

static int up_run(struct up *up, const char *path)
{
    struct error err = {0};
    enum status status = control_folder_open(&up->folder, &err);
    if (status == STATUS_OK)
        status = vm_file_read(&up->file, path, &err);
    if (status == STATUS_OK)
        status = vm_file_check_files(&up->file, &err);
    if (status == STATUS_OK)
        status = see_who_runs(up, &err);
    if (status == STATUS_OK)
        status = see_to_manager(up, &err);
    if (status == STATUS_OK)
        status = admit_from(up, 0, &err);
    if (status == STATUS_OK)
        return start_all(up);
    struct error ignored;
    if (up->started_manager && manager_quit(&up->folder, &ignored) == STATUS_OK)
        say("manager", "stopped");
    return up->runs != NULL ? admission_failed(&err) : client_failed(&err);
}

int up_command(int argc, char **argv)
{
    const char *path = VM_FILE_DEFAULT;
    const struct argument_option options[] = {{"file", NULL, &path}, {0}};
    const struct arguments arguments = {.command = "up", .help = help, .options = options};
    int exit_status;
    if (!arguments_parse(&arguments, argc, argv, NULL, &exit_status))
        return exit_status;
    struct up up = {.folder.fd = -1};
    exit_status = up_run(&up, path);
    free(up.runs);
    vm_file_close(&up.file);
    control_folder_close(&up.folder);
    return exit_status;
}
