/*
 * The aerostat-vm program: one process that is one virtual machine.
 *
 * It takes its name, makes what outlives a machine, gives up what it will not need (sandbox.h),
 * builds the machine and runs it; after a guest reset it builds the machine anew. A thread waits
 * for signals, so that no handler runs anywhere; the control socket has an event loop, so that a
 * signal ends the VM whatever the control socket is waiting for.
 */

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "control/admit.h"
#include "control/folder.h"
#include "control/server.h"
#include "cpu/thunk/thunk.h"
#include "cpu/translate/code_pool.h"
#include "mem/layer.h"
#include "util/clock.h"
#include "util/io_loop.h"
#include "util/log.h"
#include "util/signals.h"
#include "util/terminal.h"
#include "vm/bus_error.h"
#include "vm/console_relay.h"
#include "vm/control_answer.h"
#include "vm/detach.h"
#include "vm/exit_status.h"
#include "vm/link_report.h"
#include "vm/machine.h"
#include "vm/manager_link.h"
#include "vm/sandbox.h"
#include "vm/stats.h"
#include "vm/vm_slot.h"

struct program {
    struct vm_options options;
    struct machine_host host;
    struct terminal terminal;
    struct vm_slot slot;
    struct detach detach;
    struct signal_watch *signals;
    int stats_fd, console_fd;
    struct layer ram;
    int ram_fd; /* of it, for reading alone; -1: this host cannot give one */
    struct manager_link *link;

    char name[CONTROL_NAME_MOST + 1];
    int listener;
    struct io_loop *control_loop;
    struct control_server *control;
    struct console_relay *relay; /* in the background, without --console */
    struct control_answerer answerer;
};

static void on_signal(void *context, int number)
{
    struct program *program = context;
    vm_slot_stop(&program->slot, (uint32_t)number);
}

static void on_quit(void *context)
{
    struct program *program = context;
    vm_slot_stop(&program->slot, STOP_BY_USER);
}

/* Before there are other threads. */
static enum status watch_signals(struct program *program, struct error *err)
{
    sigset_t watched;
    signals_that_end(&watched);
    signal(SIGPIPE, SIG_IGN); /* a closed console, a lost connection: EPIPE says it */
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes: EFBIG says it */
    return signal_watch_start(&program->signals, &watched, on_signal, program, err);
}

/* Where a manager runs, it has a say in whether there is memory for the VM. It may have found us
 * already; we answer when it has agreed. */
static enum status be_admitted(const struct program *program, struct control_folder *folder,
                               struct error *err)
{
    const struct vm_options *options = &program->options;
    bool is_limited = options->swap_size != OPTIONS_SWAP_DEFAULT;
    struct control_wish wish = {
        .name = program->name,
        .group = options->group,
        .max = options->memory,
        .min = options->min,
        .shares = options->shares,
        .swap = is_limited ? options->swap_size : options->memory,
        .overhead = link_report_overhead(options),
    };
    enum status status = control_admit(folder, program->name, &wish, err);
    if (status == STATUS_NOT_FOUND)
        return STATUS_OK;
    /* More than the manager has is for the user to see to, unlike no memory for this program. */
    return status == STATUS_NO_MEMORY ? STATUS_NO_SPACE : status;
}

/* Takes the VM's name, and with it its control socket. In the background, messages go to the log
 * from here on. */
static enum status take_name(struct program *program, struct error *err)
{
    struct control_folder folder;
    int log;
    enum status status = control_folder_open(&folder, err);
    if (status != STATUS_OK)
        return status;
    status = control_folder_claim(&folder, program->options.name, program->name, &program->listener,
                                  err);
    if (status == STATUS_OK && program->options.detach) {
        status = control_folder_open_log(&folder, program->name, &log, err);
        if (status == STATUS_OK)
            status = detach_redirect(&program->detach, log, err);
    }
    if (status == STATUS_OK)
        status = be_admitted(program, &folder, err);
    control_folder_close(&folder);
    program->options.name = program->name;
    prctl(PR_SET_NAME, program->name);
    return status;
}

/* Ready to serve; nothing is served before the loop is started. */
static enum status make_control(struct program *program, struct error *err)
{
    struct machine_host *host = &program->host;
    enum status status = io_loop_create(&program->control_loop, "aerostat-ctl", err);
    if (status == STATUS_OK && program->options.detach && program->options.console == NULL) {
        status =
            console_relay_create(&program->relay, program->control_loop, &host->console_out, err);
        host->console_in = host->console_out;
    }
    program->answerer.slot = &program->slot;
    program->answerer.relay = program->relay;
    program->answerer.options = &program->options;
    struct control_server_config config = {
        .loop = program->control_loop,
        .listener = program->listener,
        .language = &control_vm_language,
        .answer = control_answer,
        .take = control_take,
        .context = &program->answerer,
    };
    if (status == STATUS_OK)
        status = control_server_create(&program->control, &config, err);
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
    } else if (!options->detach) {
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

static int end_exit_status(const struct machine *machine, enum machine_end end, uint32_t value)
{
    switch (end) {
    case MACHINE_DEBUG_EXIT:
        return (int)((value << 1 | 1) & 0xff);
    case MACHINE_SHUTDOWN:
        fprintf(stderr, "aerostat: the guest shut down by a triple fault\n%s",
                machine_report(machine));
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

/* Says that the VM has started, and serves whoever asks. */
static enum status open_to_users(struct program *program, struct error *err)
{
    enum status status = io_loop_start(program->control_loop, err);
    if (status == STATUS_OK)
        status = detach_started(&program->detach, program->name, err);
    if (status == STATUS_OK && !program->options.detach)
        terminal_open(&program->terminal, "ends the VM", on_quit, program);
    return status;
}

static void write_stats(struct program *program, const struct machine *machine, int exit_status)
{
    struct error err = {0};
    json_t *stats = machine_stats(machine);
    if (stats != NULL) {
        stats_add_run(stats, program->answerer.started_ns, vm_slot_resets(&program->slot));
        json_object_set_new(stats, "exit_status", json_integer(exit_status));
    }
    if (stats_write(program->stats_fd, program->options.stats, stats, &err) != STATUS_OK)
        log_error("%s", err.text);
}

/* Runs machines until one does not end by a reset. */
static int run_machines(struct program *program)
{
    struct error err = {0};
    struct machine *machine;
    enum machine_end end = MACHINE_RUNNING;
    uint32_t value = 0;
    int exit_status;
    for (bool first = true;; first = false) {
        enum status status = machine_create(&machine, &program->host, &err);
        if (status != STATUS_OK) {
            log_error("%s", err.text);
            vm_slot_close(&program->slot);
            return first ? startup_exit_status(status) : EXIT_STATUS_FAILURE;
        }
        vm_slot_put(&program->slot, machine);
        if (first)
            status = open_to_users(program, &err);
        if (status == STATUS_OK)
            status = machine_run(machine, &end, &value, &err);
        if (status != STATUS_OK) {
            terminal_close(&program->terminal);
            log_error("%s", err.text);
            exit_status = EXIT_STATUS_FAILURE;
            break;
        }
        if (end != MACHINE_RESET || program->options.no_reboot) {
            terminal_close(&program->terminal);
            exit_status = end_exit_status(machine, end, value);
            break;
        }
        vm_slot_take(&program->slot);
        program->host.balloon_target = machine_balloon_target(machine);
        program->host.resident = machine_resident(machine);
        machine_destroy(machine);
        /* Its successors would give the first machine's warnings again at every reset: that is, as
         * often as the guest likes. */
        log_set_level(LOG_ERROR);
    }
    vm_slot_close(&program->slot);
    if (program->stats_fd >= 0)
        write_stats(program, machine, exit_status);
    machine_destroy(vm_slot_take(&program->slot));
    return exit_status;
}

/* The guest's memory, and whom it may be shared with. */
static enum status make_memory(struct program *program, struct error *err)
{
    const struct vm_options *options = &program->options;
    char path[64];
    enum status status = layer_create(&program->ram, machine_span_pages(options) * PAGE_SIZE, err);
    if (status != STATUS_OK)
        return status;
    program->host.ram = &program->ram;
    snprintf(path, sizeof path, "/proc/self/fd/%d", program->ram.fd);
    program->ram_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (program->ram_fd < 0)
        return STATUS_OK;
    struct manager_link_config config = {
        .options = options, .slot = &program->slot, .ram = program->ram_fd};
    status = manager_link_create(&program->link, &config, err);
    if (status != STATUS_OK)
        return status;
    program->answerer.link = program->link;
    program->host.sharing = manager_link_sharing(program->link);
    return STATUS_OK;
}

static int program_run(struct program *program, bool has_stdout)
{
    struct error err = {0};
    enum status status = take_name(program, &err);
    if (status == STATUS_OK)
        status = open_files(program, has_stdout, &err);
    if (status == STATUS_OK)
        status = make_control(program, &err);
    if (status == STATUS_OK)
        status = features_detect(&program->host.features, &err);
    bus_error_watch();
    if (status == STATUS_OK)
        status = thunk_set_create(&program->host.thunks, &err);
    if (status == STATUS_OK)
        status = paging_open_swap(&program->host.swap, &program->options, &err);
    if (status == STATUS_OK)
        status = overlays_open(&program->host.overlays, &program->options, &err);
    if (status == STATUS_OK)
        status = make_memory(program, &err);
    if (status == STATUS_OK && program->options.engine != &interp_engine)
        status = code_pool_create(&program->host.code_pool, program->options.code_cache,
                                  program->options.cpus, &err);
    if (status != STATUS_OK) {
        log_error("%s", err.text);
        return startup_exit_status(status);
    }
    /* From here on there are other threads. */
    if (sandbox_enter(&err) != STATUS_OK || watch_signals(program, &err) != STATUS_OK) {
        log_error("%s", err.text);
        return EXIT_STATUS_FAILURE;
    }
    program->host.options = &program->options;
    program->host.balloon_target = program->options.balloon;
    program->host.resident = program->options.resident;
    program->host.terminal = &program->terminal;
    return run_machines(program);
}

static void program_close(struct program *program)
{
    terminal_close(&program->terminal);
    /* The name first, then those who wait for the end: when they see it, the name is free. */
    if (program->control_loop != NULL)
        io_loop_stop(program->control_loop);
    if (program->listener >= 0)
        close(program->listener);
    control_server_destroy(program->control);
    console_relay_destroy(program->relay);
    manager_link_destroy(program->link);
    layer_destroy(&program->ram);
    if (program->ram_fd >= 0)
        close(program->ram_fd);
    io_loop_destroy(program->control_loop);
    signal_watch_stop(program->signals);
    if (program->host.thunks != NULL)
        thunk_set_destroy(program->host.thunks);
    code_pool_destroy(program->host.code_pool);
    swap_destroy(program->host.swap);
    overlays_close(program->host.overlays);
    if (program->stats_fd >= 0)
        close(program->stats_fd);
    if (program->console_fd >= 0)
        close(program->console_fd);
    detach_close(&program->detach);
    options_free(&program->options);
    vm_slot_destroy(&program->slot);
}

int main(int argc, char **argv)
{
    struct program program = {
        .stats_fd = -1,
        .console_fd = -1,
        .ram_fd = -1,
        .listener = -1,
        .detach = DETACH_NONE,
        .answerer.started_ns = clock_monotonic_ns(),
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
    int exit_status;
    if (program.options.detach && !detach_fork(&program.detach, &exit_status)) {
        options_free(&program.options);
        return exit_status;
    }
    vm_slot_init(&program.slot);
    exit_status = program_run(&program, has_stdout);
    program_close(&program);
    return exit_status;
}
