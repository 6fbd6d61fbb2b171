/*
 * aerostat console VM: the serial port of a VM in the background, on this terminal.
 *
 * Signals that end this program are taken through a descriptor, so that the terminal is put back.
 */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/command.h"
#include "util/signals.h"
#include "util/terminal.h"
#include "vm/exit_status.h"

static const char help[] =
    "usage: aerostat console VM\n"
    "\n"
    "Attaches to the serial port of a VM that was started with --detach: first comes what the "
    "guest\n"
    "printed last (up to 64 KiB), then what it prints; keys go to the guest. Ctrl-] q detaches, "
    "and\n"
    "Ctrl-] Ctrl-] sends one Ctrl-]. Several may be attached to a VM at a time.\n"
    "\n"
    "Where standard input is no terminal, all of it is sent, and the command ends when the guest "
    "has\n"
    "taken it and what it has printed by then is shown: aerostat console VM </dev/null shows the\n"
    "last output.\n"
    "\n"
    "  --help   this text\n";

struct console {
    int fd, signals;
    struct terminal terminal;
    bool detached;      /* the user has had enough */
    bool input_ended;   /* nothing more will be typed */
    uint8_t keys[1024]; /* read and not yet sent */
    size_t length, sent;
};

static void on_quit(void *context)
{
    ((struct console *)context)->detached = true;
}

/* False: the VM has hung up. */
static bool print_output(struct console *console, struct error *err)
{
    char bytes[4096];
    ssize_t count = recv(console->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (count <= 0)
        return false;
    for (ssize_t done = 0; done < count;) {
        ssize_t written = write(STDOUT_FILENO, bytes + done, (size_t)(count - done));
        if (written < 0 && errno != EINTR && errno != EAGAIN) {
            error_set(err, STATUS_IO, "cannot write the output: %s", strerror(errno));
            return false;
        }
        done += written < 0 ? 0 : written;
    }
    return true;
}

static void read_keys(struct console *console)
{
    ssize_t count = read(STDIN_FILENO, console->keys, sizeof console->keys);
    if (count < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (count <= 0) {
        console->input_ended = true;
        shutdown(console->fd, SHUT_WR); /* all before it has been sent */
        return;
    }
    console->length = terminal_filter(&console->terminal, console->keys, (size_t)count);
    console->sent = 0;
}

static void send_keys(struct console *console)
{
    ssize_t count = send(console->fd, console->keys + console->sent,
                         console->length - console->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count > 0)
        console->sent += (size_t)count;
    else if (count < 0 && errno != EAGAIN && errno != EINTR)
        console->sent = console->length; /* hung up: reading says so */
}

/* Until one side has had enough, or a signal comes: its number, else 0. */
static int relay(struct console *console, struct error *err)
{
    while (!console->detached) {
        bool has_keys = console->sent < console->length;
        bool reads = !has_keys && !console->input_ended;
        struct pollfd ready[] = {
            {.fd = console->fd, .events = (short)(POLLIN | (has_keys ? POLLOUT : 0))},
            {.fd = reads ? STDIN_FILENO : -1, .events = POLLIN},
            {.fd = console->signals, .events = POLLIN},
        };
        if (poll(ready, 3, -1) < 0)
            continue;
        struct signalfd_siginfo info;
        if (ready[2].revents != 0 &&
            read(console->signals, &info, sizeof info) == (ssize_t)sizeof info)
            return (int)info.ssi_signo;
        if ((ready[0].revents & ~POLLOUT) != 0 && !print_output(console, err))
            return 0;
        if ((ready[0].revents & POLLOUT) != 0)
            send_keys(console);
        if (ready[1].revents != 0)
            read_keys(console);
    }
    return 0;
}

static int watch_signals(void)
{
    sigset_t watched;
    signals_that_end(&watched);
    sigprocmask(SIG_BLOCK, &watched, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
}

static int attach(struct console *console, const char *vm)
{
    struct error err = {0};
    console->signals = watch_signals();
    terminal_open(&console->terminal, "detaches", on_quit, console);
    bool on_terminal = console->terminal.is_raw;
    int signal_number = relay(console, &err);
    terminal_close(&console->terminal);
    if (console->signals >= 0)
        close(console->signals);
    if (err.status != STATUS_OK)
        return client_failed(&err);
    if (signal_number != 0)
        return 128 + signal_number;
    if (on_terminal)
        fprintf(stderr, "\naerostat: %s %s\n", console->detached ? "detached from" : "the end of",
                vm);
    return EXIT_STATUS_OK;
}

int console_command(int argc, char **argv)
{
    static const struct arguments arguments = {
        .command = "console", .help = help, .operands = {"VM"}};
    const char *operands[1];
    int exit_status;
    if (!arguments_parse(&arguments, argc, argv, operands, &exit_status))
        return exit_status;

    struct control_folder folder;
    struct error err = {0};
    json_t *reply;
    struct console console = {.fd = -1};
    enum status status = control_folder_open(&folder, &err);
    if (status != STATUS_OK)
        return client_failed(&err);
    status = client_send(&folder, operands[0], json_pack("{s:s}", "request", "console"),
                         CLIENT_SECONDS, &console.fd, &err);
    control_folder_close(&folder);
    if (status == STATUS_OK)
        status = client_receive(console.fd, operands[0], &reply, &err);
    if (status == STATUS_OK) {
        json_decref(reply);
        exit_status = attach(&console, operands[0]);
    } else {
        exit_status = client_failed(&err);
    }
    if (console.fd >= 0)
        close(console.fd);
    return exit_status;
}
