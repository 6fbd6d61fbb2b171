/*
 * The aerostat-vm program: one process that is one virtual machine.
 *
 * It makes what outlives a machine, gives up what it will not need (sandbox.h), builds the machine
 * and runs it; after a guest reset it builds the machine anew. Signals are taken by a small event
 * loop, so that no handler runs anywhere.
 */

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cpu/thunk/thunk.h"
#include "cpu/translate/code_pool.h"
#include "util/clock.h"
#include "util/io_loop.h"
#include "util/log.h"
#include "vm/exit_status.h"
#include "vm/machine.h"
#include "vm/sandbox.h"
#include "vm/stats.h"
#include "vm/terminal.h"

/* stop_value of a machine that the user ended from the terminal; else it is a signal's number. */
#define STOP_BY_USER 0u

struct program {
    struct vm_options options;
    struct machine_host host;
    struct terminal terminal;
    struct io_loop *loop; /* signals */
    struct io_source *signals;
    int signal_fd, stats_fd, console_fd;
    uint64_t started_ns;
    unsigned resets;

    pthread_mutex_t lock; /* guards the fields below */
    struct machine *machine;
    bool stop_wanted;
    uint32_t stop_value;
};

static void program_stop(struct program *program, uint32_t value)
{
    pthread_mutex_lock(&program->lock);
    if (!program->stop_wanted) {
        program->stop_wanted = true;
        program->stop_value = value;
    }
    if (program->machine != NULL)
        machine_stop(program->machine, program->stop_value);
    pthread_mutex_unlock(&program->lock);
}

static void on_signal(void *context, uint32_t events)
{
    (void)events;
    struct program *program = context;
    struct signalfd_siginfo info;
    if (read(program->signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        program_stop(program, info.ssi_signo);
}

static void on_quit(void *context)
{
    program_stop(context, STOP_BY_USER);
}

static enum status watch_signals(struct program *program, struct error *err)
{
    sigset_t watched;
    sigemptyset(&watched);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGTERM);
    sigaddset(&watched, SIGHUP);
    sigaddset(&watched, SIGQUIT);
    sigprocmask(SIG_BLOCK, &watched, NULL);
    signal(SIGPIPE, SIG_IGN); /* a closed console, a lost connection: EPIPE says it */
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes: EFBIG says it */
    program->signal_fd = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    if (program->signal_fd < 0)
        return error_set(err, STATUS_IO, "cannot watch signals: %s", strerror(errno));

    enum status status = io_loop_create(&program->loop, "aerostat-ctl", err);
    if (status == STATUS_OK)
        status = io_source_create(&program->signals, program->loop, program->signal_fd, EPOLLIN,
                                  on_signal, program, err);
    if (status == STATUS_OK)
        status = io_loop_start(program->loop, err);
    return status;
}

/* Descriptors 0 to 2 must be taken before anything else is opened, or a disk image could become the
 * standard output. False: standard output was closed. */
static bool standard_descriptors_hold(void)
{
    bool has_output = fcntl(STDOUT_FILENO, F_GETFD) >= 0;
    int fd;
    do
        fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
    return has_output;
}

static enum status open_files(struct program *program, bool has_stdout, struct error *err)
{
    const struct vm_options *options = &program->options;
    struct machine_host *host = &program->host;
    if (options->console != NULL) {
        program->console_fd =
            open(options->console, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
        if (program->console_fd < 0)
            return error_set(err, STATUS_INVALID, "cannot open --console %s: %s", options->console,
                             strerror(errno));
        host->console_out = program->console_fd;
        host->console_in = -1;
    } else {
        if (!has_stdout)
            return error_set(err, STATUS_INVALID, "standard output is closed; give --console FILE");
        host->console_out = STDOUT_FILENO;
        host->console_in = STDIN_FILENO;
    }
    if (options->stats != NULL) {
        program->stats_fd = open(options->stats, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (program->stats_fd < 0)
            return error_set(err, STATUS_INVALID, "cannot open --stats %s: %s", options->stats,
                             strerror(errno));
    }
    return STATUS_OK;
}

static enum status build_machine(struct program *program, struct error *err)
{
    struct machine *machine;
    enum status status = machine_create(&machine, &program->host, err);
    if (status != STATUS_OK)
        return status;
    pthread_mutex_lock(&program->lock);
    program->machine = machine;
    if (program->stop_wanted)
        machine_stop(machine, program->stop_value);
    pthread_mutex_unlock(&program->lock);
    return STATUS_OK;
}

static void drop_machine(struct program *program)
{
    pthread_mutex_lock(&program->lock);
    struct machine *machine = program->machine;
    program->machine = NULL;
    pthread_mutex_unlock(&program->lock);
    machine_destroy(machine);
}

/* Failures before the first guest instruction come from options and files, unless the host is out
 * of something. */
static int startup_exit_status(enum status status)
{
    switch (status) {
    case STATUS_NO_MEMORY:
    case STATUS_INTERNAL:
        return EXIT_STATUS_FAILURE;
    default:
        return EXIT_STATUS_USAGE;
    }
}

static int end_exit_status(struct program *program, enum machine_end end, uint32_t value)
{
    switch (end) {
    case MACHINE_DEBUG_EXIT:
        return (int)((value << 1 | 1) & 0xff);
    case MACHINE_SHUTDOWN:
        fprintf(stderr, "aerostat: the guest shut down by a triple fault\n%s",
                machine_report(program->machine));
        return EXIT_STATUS_SHUTDOWN;
    case MACHINE_STOPPED:
        if (value == STOP_BY_USER)
            return EXIT_STATUS_OK;
        fprintf(stderr, "aerostat: stopped by signal %u (%s)\n", value, strsignal((int)value));
        return 128 + (int)value;
    case MACHINE_FAILED:
        return EXIT_STATUS_FAILURE;
    case MACHINE_POWER_OFF:
    case MACHINE_RESET:
    case MACHINE_RUNNING:
        break;
    }
    return EXIT_STATUS_OK;
}

/* Runs machines until one does not end by a reset. */
static int run_machines(struct program *program)
{
    struct error err = {0};
    enum machine_end end = MACHINE_RUNNING;
    uint32_t value = 0;
    int exit_status;
    for (;;) {
        enum status status = build_machine(program, &err);
        if (status != STATUS_OK) {
            log_error("%s", err.text);
            return program->resets == 0 ? startup_exit_status(status) : EXIT_STATUS_FAILURE;
        }
        if (program->resets == 0)
            terminal_open(&program->terminal, on_quit, program);
        status = machine_run(program->machine, &end, &value, &err);
        if (status != STATUS_OK) {
            terminal_close(&program->terminal);
            log_error("%s", err.text);
            exit_status = EXIT_STATUS_FAILURE;
            break;
        }
        if (end != MACHINE_RESET || program->options.no_reboot) {
            terminal_close(&program->terminal);
            exit_status = end_exit_status(program, end, value);
            break;
        }
        drop_machine(program);
        program->resets++;
        /* Its successors would give the first machine's warnings again at every reset: that is, as
         * often as the guest likes. */
        log_set_level(LOG_ERROR);
    }
    if (program->stats_fd >= 0 &&
        stats_write(program->stats_fd, program->options.stats, machine_stats(program->machine),
                    program->started_ns, program->resets, exit_status, &err) != STATUS_OK)
        log_error("%s", err.text);
    drop_machine(program);
    return exit_status;
}

static int program_run(struct program *program, bool has_stdout)
{
    struct error err = {0};
    enum status status = open_files(program, has_stdout, &err);
    if (status == STATUS_OK)
        status = features_detect(&program->host.features, &err);
    if (status == STATUS_OK)
        status = thunk_set_create(&program->host.thunks, &err);
    if (status == STATUS_OK && program->options.engine != &interp_engine)
        status = code_pool_create(&program->host.code_pool, program->options.code_cache,
                                  program->options.cpus, &err);
    if (status == STATUS_OK)
        status = watch_signals(program, &err);
    if (status != STATUS_OK) {
        log_error("%s", err.text);
        return startup_exit_status(status);
    }
    if (sandbox_enter(&err) != STATUS_OK) {
        log_error("%s", err.text);
        return EXIT_STATUS_FAILURE;
    }
    program->host.options = &program->options;
    program->host.terminal = &program->terminal;
    return run_machines(program);
}

static void program_close(struct program *program)
{
    terminal_close(&program->terminal);
    if (program->loop != NULL)
        io_loop_destroy(program->loop);
    if (program->host.thunks != NULL)
        thunk_set_destroy(program->host.thunks);
    code_pool_destroy(program->host.code_pool);
    if (program->signal_fd >= 0)
        close(program->signal_fd);
    if (program->stats_fd >= 0)
        close(program->stats_fd);
    if (program->console_fd >= 0)
        close(program->console_fd);
    options_free(&program->options);
    pthread_mutex_destroy(&program->lock);
}

int main(int argc, char **argv)
{
    struct program program = {
        .signal_fd = -1,
        .stats_fd = -1,
        .console_fd = -1,
        .started_ns = clock_monotonic_ns(),
    };
    bool has_stdout = standard_descriptors_hold();
    mallopt(M_ARENA_MAX, 1); /* few allocations while running: arenas a thread only cost memory */

    struct error err = {0};
    if (options_parse(argc, argv, &program.options, &err) != STATUS_OK) {
        log_error("%s", err.text);
        return EXIT_STATUS_USAGE;
    }
    if (program.options.help) {
        fputs(options_help, stdout);
        return EXIT_STATUS_OK;
    }
    prctl(PR_SET_NAME, program.options.name);
    pthread_mutex_init(&program.lock, NULL);
    int exit_status = program_run(&program, has_stdout);
    program_close(&program);
    return exit_status;
}
