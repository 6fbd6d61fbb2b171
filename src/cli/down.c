/* aerostat down: the end of what `up` has started. */

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/manager.h"
#include "cli/stop.h"
#include "cli/vm_file.h"
#include "util/clock.h"
#include "util/size.h"
#include "vm/exit_status.h"

#define WAIT_DEFAULT 60u
#define BATCH        256u /* VMs that are on their way down together: a descriptor each */

static const char help[] =
    "usage: aerostat down [-f FILE] [--wait SECONDS | --force]\n"
    "\n"
    "Shuts the VMs of a file down: presses all power buttons, and ends those that still run when\n"
    "the time is over. Then ends the manager, if aerostat up has started it and no VM is left.\n"
    "\n"
    "  -f FILE          the file of VMs, default aerostat.yaml\n"
    "  --wait SECONDS   how long the guests have, 0 to 86400, default 60\n"
    "  --force          end all at once, as if their power failed\n"
    "  --help           this text\n"
    "\n"
    "Exit status: 0; 1 where a VM had to be ended after its time; 2 for a mistake in the file.\n";

struct down {
    struct control_folder folder;
    struct vm_file file;
    bool force;
    uint64_t seconds;
    bool late;       /* a guest was */
    int exit_status; /* of what could not be done */
};

static void say(const char *name, const char *what)
{
    printf("%s: %s\n", name, what);
    fflush(stdout);
}

static void force(struct down *down, const char *vm, const char *what)
{
    struct error err = {0};
    enum status status = stop_force(&down->folder, vm, &err);
    if (status == STATUS_OK)
        say(vm, what);
    else if (status != STATUS_NOT_FOUND)
        down->exit_status = client_failed(&err);
}

static void press(struct down *down, const char *vm, int *fd)
{
    struct error err = {0};
    enum status status = stop_press(&down->folder, vm, fd, &err);
    if (status != STATUS_OK && status != STATUS_NOT_FOUND)
        force(down, vm, "ended: it did not answer");
}

static void stop_batch(struct down *down, const struct vm_spec *vms, size_t count)
{
    int fds[BATCH];
    for (size_t i = 0; i < count; i++) {
        fds[i] = -1;
        if (down->force)
            force(down, vms[i].name, "ended");
        else
            press(down, vms[i].name, &fds[i]);
    }
    uint64_t deadline = clock_monotonic_ns() + down->seconds * NS_PER_SECOND;
    for (size_t i = 0; i < count; i++) {
        if (fds[i] < 0)
            continue;
        bool ended = stop_wait(fds[i], deadline);
        close(fds[i]);
        if (ended) {
            control_folder_tidy(&down->folder, vms[i].name);
            say(vms[i].name, "shut down");
        } else {
            down->late = true;
            force(down, vms[i].name, "ended: it had not shut down in time");
        }
    }
}

static bool any_vm_runs(struct control_folder *folder)
{
    struct error err;
    char **names;
    size_t count;
    bool any = false;
    if (control_folder_list(folder, &names, &count, &err) != STATUS_OK)
        return true;
    for (size_t i = 0; i < count; i++) {
        int fd;
        enum status status =
            any ? STATUS_NOT_FOUND : control_folder_connect(folder, names[i], 0, &fd, &err);
        any |= status != STATUS_NOT_FOUND;
        if (status == STATUS_OK)
            close(fd);
        free(names[i]);
    }
    free(names);
    return any;
}

static void stop_manager(struct down *down)
{
    struct error err = {0};
    if (!manager_is_ours(&down->folder) || any_vm_runs(&down->folder))
        return;
    enum status status = manager_quit(&down->folder, &err);
    if (status == STATUS_OK)
        say("manager", "stopped");
    else if (status != STATUS_NOT_FOUND)
        down->exit_status = client_failed(&err);
}

static int down_run(struct down *down, const char *path)
{
    struct error err = {0};
    enum status status = control_folder_open(&down->folder, &err);
    if (status == STATUS_OK)
        status = vm_file_read(&down->file, path, &err);
    if (status != STATUS_OK)
        return client_failed(&err);
    for (size_t first = 0; first < down->file.count; first += BATCH) {
        size_t rest = down->file.count - first;
        stop_batch(down, down->file.vms + first, rest < BATCH ? rest : BATCH);
    }
    stop_manager(down);
    if (down->exit_status != EXIT_STATUS_OK)
        return down->exit_status;
    return down->late ? EXIT_STATUS_NOT_YET : EXIT_STATUS_OK;
}

int down_command(int argc, char **argv)
{
    const char *path = VM_FILE_DEFAULT, *wait = NULL;
    struct down down = {.folder.fd = -1, .seconds = WAIT_DEFAULT};
    const struct argument_option options[] = {
        {"file", NULL, &path}, {"wait", NULL, &wait}, {"force", &down.force, NULL}, {0}};
    const struct arguments arguments = {.command = "down", .help = help, .options = options};
    int exit_status;
    if (!arguments_parse(&arguments, argc, argv, NULL, &exit_status))
        return exit_status;
    if (wait != NULL && (down.force || number_parse(wait, 0, 86400, &down.seconds) != STATUS_OK)) {
        fprintf(stderr, down.force ? "aerostat: --wait and --force exclude each other\n"
                                   : "aerostat: --wait needs a number of seconds from 0 to "
                                     "86400\n");
        return EXIT_STATUS_USAGE;
    }
    exit_status = down_run(&down, path);
    vm_file_close(&down.file);
    control_folder_close(&down.folder);
    return exit_status;
}
