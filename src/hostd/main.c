/*
 * The aerostatd program: the manager of a user's VMs (manager.h).
 *
 * It takes the manager's name in the folder, and with it the control socket; makes what it needs,
 * gives up what it does not (sandbox.h), and leaves the rest to one event loop. The first thread
 * waits for a signal or for somebody who asks it to quit.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/folder.h"
#include "control/server.h"
#include "hostd/manager.h"
#include "hostd/options.h"
#include "hostd/sandbox.h"
#include "util/log.h"
#include "util/signals.h"
#include "vm/exit_status.h"

struct program {
    struct hostd_options options;
    struct control_folder folder;
    struct io_loop *loop;
    struct manager *manager;
    int listener, second_listener;
    struct control_server *server, *second_server;
    int signal_fd, quit_fd;
};

static void on_quit(void *context)
{
    struct program *program = context;
    uint64_t one = 1;
    ssize_t ignored = write(program->quit_fd, &one, sizeof one);
    (void)ignored; /* cannot fail: the counter is small */
}

/* Descriptors 0 to 2 must be taken, or something else would become the standard error. */
static void hold_standard_descriptors(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

static enum status watch_signals(struct program *program, struct error *err)
{
    sigset_t watched;
    signals_that_end(&watched);
    sigprocmask(SIG_BLOCK, &watched, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    program->signal_fd = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    program->quit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return program->signal_fd >= 0 && program->quit_fd >= 0
               ? STATUS_OK
               : error_set(err, STATUS_IO, "cannot watch signals: %s", strerror(errno));
}

/* A VM takes five descriptors. */
static void allow_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* At a path of the user's choice, for this user alone. What an earlier manager has left there is
 * replaced. */
static enum status listen_at(const char *path, int *listener, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat info;
    if (strlen(path) >= sizeof address.sun_path)
        return error_set(err, STATUS_INVALID, "--socket %s: the path is too long", path);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && lstat(path, &info) == 0 && S_ISSOCK(info.st_mode) &&
        connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno == ECONNREFUSED)
        unlink(path);
    if (fd >= 0)
        close(fd);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mode_t mask = umask(0177);
    bool done = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
                listen(fd, 16) == 0;
    int failure = errno;
    umask(mask);
    if (done) {
        *listener = fd;
        return STATUS_OK;
    }
    if (fd >= 0)
        close(fd);
    return error_set(err, STATUS_INVALID, "cannot listen at %s: %s", path, strerror(failure));
}

static enum status serve(struct program *program, int listener, struct control_server **server,
                         struct error *err)
{
    struct control_server_config config = {
        .loop = program->loop,
        .listener = listener,
        .language = &control_manager_language,
        .answer = answer_request,
        .context = program->manager,
    };
    return control_server_create(server, &config, err);
}

static enum status program_open(struct program *program, struct error *err)
{
    char taken[CONTROL_NAME_MOST + 1];
    const struct hostd_options *options = &program->options;
    enum status status = control_folder_open(&program->folder, err);
    if (status == STATUS_OK)
        status =
            control_folder_claim(&program->folder, CONTROL_MANAGER, taken, &program->listener, err);
    if (status == STATUS_OK && options->socket != NULL)
        status = listen_at(options->socket, &program->second_listener, err);
    if (status == STATUS_OK)
        status = watch_signals(program, err);
    if (status == STATUS_OK)
        status = io_loop_create(&program->loop, "aerostatd", err);
    struct manager_config config = {
        .folder = &program->folder,
        .loop = program->loop,
        .memory = options->memory,
        .swap = options->swap,
        .swap_dir = options->swap_dir,
        .tax = options->tax,
        .scan_ppm = options->scan_ppm,
        .scan_always = options->scan_always,
        .quit = on_quit,
        .quit_context = program,
    };
    if (status == STATUS_OK)
        status = manager_create(&program->manager, &config, err);
    if (status == STATUS_OK)
        status = serve(program, program->listener, &program->server, err);
    if (status == STATUS_OK && program->second_listener >= 0)
        status = serve(program, program->second_listener, &program->second_server, err);
    return status;
}

static void program_close(struct program *program)
{
    if (program->loop != NULL)
        io_loop_stop(program->loop);
    manager_destroy(program->manager);
    /* Before anybody is hung up on: who has asked for the end takes that for it, and must not find
     * this manager again. */
    if (program->listener >= 0)
        control_folder_leave(&program->folder, CONTROL_MANAGER);
    if (program->second_listener >= 0)
        unlinkat(AT_FDCWD, program->options.socket, 0); /* which the sandbox lets it */
    control_server_destroy(program->server);
    control_server_destroy(program->second_server);
    io_loop_destroy(program->loop);
    if (program->second_listener >= 0)
        close(program->second_listener);
    if (program->listener >= 0)
        close(program->listener);
    control_folder_close(&program->folder);
    if (program->signal_fd >= 0)
        close(program->signal_fd);
    if (program->quit_fd >= 0)
        close(program->quit_fd);
}

static void wait_for_the_end(const struct program *program)
{
    struct pollfd waits[] = {{.fd = program->signal_fd, .events = POLLIN},
                             {.fd = program->quit_fd, .events = POLLIN}};
    while (poll(waits, 2, -1) < 0 && errno == EINTR)
        continue;
}

int main(int argc, char **argv)
{
    struct program program = {
        .folder.fd = -1,
        .listener = -1,
        .second_listener = -1,
        .signal_fd = -1,
        .quit_fd = -1,
    };
    struct error err = {0};
    hold_standard_descriptors();
    log_set_program("aerostatd");
    if (hostd_options_parse(argc, argv, &program.options, &err) != STATUS_OK) {
        log_error("%s", err.text);
        return EXIT_STATUS_USAGE;
    }
    if (program.options.help) {
        fputs(hostd_options_help, stdout);
        return EXIT_STATUS_OK;
    }
    allow_descriptors();
    enum status status = program_open(&program, &err);
    int exit_status = status == STATUS_INVALID || status == STATUS_BUSY || status == STATUS_IO
                          ? EXIT_STATUS_USAGE
                          : EXIT_STATUS_FAILURE;
    if (status == STATUS_OK)
        status = hostd_sandbox_enter(&err);
    if (status == STATUS_OK)
        status = io_loop_start(program.loop, &err);
    if (status == STATUS_OK) {
        wait_for_the_end(&program);
        exit_status = EXIT_STATUS_OK;
    } else {
        log_error("%s", err.text);
    }
    program_close(&program);
    return exit_status;
}
