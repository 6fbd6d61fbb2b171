/*
 * aerostat stop VM: asks, and waits until the VM is gone: until it hangs up, and its process, where
 * that is known, has ended.
 *
 * With --force, a VM that does not even answer is killed: the process that listens at the socket is
 * known from the socket itself, so it is the right one as long as the connection stands.
 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/stop.h"
#include "util/clock.h"
#include "util/size.h"
#include "vm/exit_status.h"

#define WAIT_DEFAULT  60u
#define FORCE_SECONDS 5u

static const char help[] =
    "usage: aerostat stop [--wait SECONDS] VM\n"
    "       aerostat stop --force VM\n"
    "\n"
    "Presses the VM's power button and waits until its guest has shut down. A guest that has no\n"
    "driver for the button is ended at once, in good order but without its knowledge.\n"
    "\n"
    "  --wait SECONDS   how long the guest has, 0 to 86400, default 60; after that the exit "
    "status\n"
    "                   is 1 and the VM still runs, perhaps on its way down\n"
    "  --force          end the VM at once, as if its power failed; kill it if it hangs\n"
    "  --help           this text\n";

static bool has_hung_up(int fd)
{
    for (;;) {
        char bytes[256];
        ssize_t count = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR))
            return true;
        if (count < 0 && errno == EAGAIN)
            return false;
    }
}

/* The process that listens, as a descriptor for the caller to close; -1 if it is not known, or not
 * there any more to hold the connection, when its number may be another's. */
static int open_peer(int fd)
{
    pid_t pid;
    uid_t uid;
    int process = control_peer(fd, &pid, &uid) ? pidfd_open(pid, 0) : -1;
    if (process >= 0 && has_hung_up(fd)) {
        close(process);
        process = -1;
    }
    return process;
}

/* False: the time is over. True: look again. */
static bool wait_for_event(int fd, uint64_t deadline_ns)
{
    uint64_t now = clock_monotonic_ns();
    if (now >= deadline_ns)
        return false;
    struct pollfd event = {.fd = fd, .events = POLLIN};
    poll(&event, 1, (int)((deadline_ns - now) / 1000000) + 1);
    return true;
}

bool stop_wait(int fd, uint64_t deadline_ns)
{
    /* It hangs up before its memory is the host's again: where it is known, its end counts. */
    int process = open_peer(fd);
    bool waits = true;
    while (waits && !has_hung_up(fd))
        waits = wait_for_event(fd, deadline_ns);
    struct pollfd ended = {.fd = process, .events = POLLIN};
    while (waits && process >= 0 && poll(&ended, 1, 0) <= 0)
        waits = wait_for_event(process, deadline_ns);
    if (process >= 0)
        close(process);
    return waits;
}

static uint64_t seconds_from_now(uint64_t seconds)
{
    return clock_monotonic_ns() + seconds * NS_PER_SECOND;
}

/* Kills the process that listens, if it is still there to hold the connection. */
static bool kill_peer(int fd)
{
    int process = open_peer(fd);
    if (process < 0)
        return has_hung_up(fd);
    bool killed = pidfd_send_signal(process, SIGKILL, NULL, 0) == 0;
    close(process);
    return killed;
}

enum status stop_force(struct control_folder *folder, const char *vm, struct error *err)
{
    json_t *reply;
    int fd;
    enum status status =
        client_send(folder, vm, json_pack("{s:s, s:b}", "request", "stop", "force", 1),
                    FORCE_SECONDS, &fd, err);
    if (status != STATUS_OK)
        return status;
    struct error refusal;
    if (client_receive(fd, vm, &reply, &refusal) == STATUS_OK)
        json_decref(reply);
    bool ended = stop_wait(fd, seconds_from_now(FORCE_SECONDS)) ||
                 (kill_peer(fd) && stop_wait(fd, seconds_from_now(FORCE_SECONDS)));
    close(fd);
    control_folder_tidy(folder, vm);
    return ended ? STATUS_OK : error_set(err, STATUS_IO, "%s cannot be killed", vm);
}

enum status stop_press(struct control_folder *folder, const char *vm, int *fd, struct error *err)
{
    json_t *reply;
    enum status status =
        client_send(folder, vm, json_pack("{s:s}", "request", "stop"), CLIENT_SECONDS, fd, err);
    if (status != STATUS_OK)
        return status;
    status = client_receive(*fd, vm, &reply, err);
    json_decref(reply);
    if (status == STATUS_OK)
        return STATUS_OK;
    close(*fd);
    *fd = -1;
    return status;
}

static int stop_in_order(struct control_folder *folder, const char *vm, uint64_t seconds)
{
    struct error err;
    int fd;
    if (stop_press(folder, vm, &fd, &err) != STATUS_OK)
        return client_failed(&err);
    bool ended = stop_wait(fd, seconds_from_now(seconds));
    close(fd);
    if (ended) {
        control_folder_tidy(folder, vm);
        return EXIT_STATUS_OK;
    }
    fprintf(stderr,
            "aerostat: the guest of %s has not shut down yet; aerostat stop --force %s ends it\n",
            vm, vm);
    return EXIT_STATUS_NOT_YET;
}

int stop_command(int argc, char **argv)
{
    bool force = false;
    const char *wait = NULL;
    const struct argument_option options[] = {{"force", &force, NULL}, {"wait", NULL, &wait}, {0}};
    const struct arguments arguments = {
        .command = "stop", .help = help, .options = options, .operands = {"VM"}};
    const char *operands[1];
    int exit_status;
    uint64_t seconds = WAIT_DEFAULT;
    if (!arguments_parse(&arguments, argc, argv, operands, &exit_status))
        return exit_status;
    if (wait != NULL && (force || number_parse(wait, 0, 86400, &seconds) != STATUS_OK)) {
        fprintf(stderr, force ? "aerostat: --wait and --force exclude each other\n"
                              : "aerostat: --wait needs a number of seconds from 0 to 86400\n");
        return EXIT_STATUS_USAGE;
    }
    struct control_folder folder;
    struct error err = {0};
    if (control_folder_open(&folder, &err) != STATUS_OK)
        return client_failed(&err);
    exit_status = EXIT_STATUS_OK;
    if (!force)
        exit_status = stop_in_order(&folder, operands[0], seconds);
    else if (stop_force(&folder, operands[0], &err) != STATUS_OK)
        exit_status = client_failed(&err);
    control_folder_close(&folder);
    return exit_status;
}
