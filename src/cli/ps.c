/*
 * aerostat ps: the VMs of this user.
 *
 * All of a batch are asked before the first answer is waited for, and all have the same time, so
 * that one that hangs holds nobody up; it is listed as such, with the process that the kernel
 * knows.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/format.h"
#include "cli/manager.h"
#include "util/clock.h"
#include "vm/exit_status.h"

#define BATCH        64u
#define WAIT_SECONDS 2u
#define NAME_LEAST   8

static const char help[] =
    "usage: aerostat ps [--json]\n"
    "\n"
    "Lists the VMs of this user: name, state (running, paused, or hangs: it does not answer), "
    "CPUs,\n"
    "memory, how much of it is resident in host memory, CPU time used, time since the start, and\n"
    "the process. Where a manager runs, also what it gives the VM (target), its shares and group.\n"
    "\n"
    "  --json   an array of objects with the same\n"
    "  --help   this text\n";

struct row {
    const char *name;
    const json_t *managed; /* what the manager says of it, or NULL */
    int fd;
    pid_t pid;
    json_t *reply; /* NULL: it has not answered */
    bool is_there;
};

static void ask(struct control_folder *folder, struct row *row)
{
    struct error err;
    uid_t uid;
    enum status status = client_send(folder, row->name, json_pack("{s:s}", "request", "stats"),
                                     WAIT_SECONDS, &row->fd, &err);
    row->is_there = status != STATUS_NOT_FOUND;
    if (row->fd >= 0)
        control_peer(row->fd, &row->pid, &uid);
}

static void hear(struct row *row, uint64_t deadline)
{
    struct error err;
    if (row->fd < 0)
        return;
    uint64_t now = clock_monotonic_ns();
    uint64_t left = now < deadline ? (deadline - now) / 1000 : 0;
    struct timeval limit = {.tv_sec = (time_t)(left / 1000000), .tv_usec = (long)(left % 1000000)};
    if (left == 0)
        limit.tv_usec = 1; /* 0 would wait for ever */
    setsockopt(row->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    client_receive(row->fd, row->name, &row->reply, &err);
    close(row->fd);
    row->fd = -1;
}

static const char *state_of(const struct row *row, const json_t *stats)
{
    const char *state = json_string_value(json_object_get(stats, "state"));
    if (row->reply == NULL)
        return "hangs";
    return state != NULL && strcmp(state, "running") == 0  ? "running"
           : state != NULL && strcmp(state, "paused") == 0 ? "paused"
                                                           : "?";
}

static json_t *row_object(const struct row *row)
{
    const json_t *stats = json_object_get(row->reply, "stats");
    json_t *object = json_pack("{s:s, s:s}", "name", row->name, "state", state_of(row, stats));
    static const char *const copied[] = {"cpus",        "max",          "resident",
                                         "cpu_seconds", "wall_seconds", "balloon"};
    for (size_t i = 0; i < sizeof copied / sizeof copied[0]; i++) {
        json_t *value = json_object_get(stats, copied[i]);
        if (json_is_number(value))
            json_object_set(object, copied[i], value);
    }
    static const char *const of_manager[] = {"target", "charged", "min", "shares", "group"};
    for (size_t i = 0; i < sizeof of_manager / sizeof of_manager[0]; i++) {
        json_t *value = json_object_get(row->managed, of_manager[i]);
        if (value != NULL)
            json_object_set(object, of_manager[i], value);
    }
    json_object_set_new(object, "pid", json_integer(row->pid));
    return object;
}

static const char *cell_bytes(char text[FORMAT_SIZE], const json_t *stats, const char *name)
{
    const json_t *value = json_object_get(stats, name);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return "-";
    return format_bytes(text, (uint64_t)json_integer_value(value));
}

static const char *cell_seconds(char text[FORMAT_SIZE], const json_t *stats, const char *name)
{
    const json_t *value = json_object_get(stats, name);
    return json_is_number(value) ? format_seconds(text, json_number_value(value)) : "-";
}

static void print_managed(const json_t *managed)
{
    char target[FORMAT_SIZE];
    const char *group = json_string_value(json_object_get(managed, "group"));
    printf("  %7s  %10lld  %s", cell_bytes(target, managed, "target"),
           (long long)json_integer_value(json_object_get(managed, "shares")),
           group == NULL || *group == '\0' || control_name_check(group, NULL) != STATUS_OK ? "-"
                                                                                           : group);
}

static void print_row(const struct row *row, int width, bool is_managed)
{
    const json_t *stats = json_object_get(row->reply, "stats");
    char cpus[FORMAT_SIZE] = "-", memory[FORMAT_SIZE], resident[FORMAT_SIZE], cpu[FORMAT_SIZE],
         up[FORMAT_SIZE];
    if (json_is_integer(json_object_get(stats, "cpus")))
        snprintf(cpus, sizeof cpus, "%lld",
                 (long long)json_integer_value(json_object_get(stats, "cpus")));
    printf("%-*.*s  %-7s  %4.4s  %6s  %8s  %7s  %7s  %7ld", width, width, row->name,
           state_of(row, stats), cpus, cell_bytes(memory, stats, "max"),
           cell_bytes(resident, stats, "resident"), cell_seconds(cpu, stats, "cpu_seconds"),
           cell_seconds(up, stats, "wall_seconds"), (long)row->pid);
    if (is_managed)
        print_managed(row->managed);
    putchar('\n');
}

/* The longest name, but on a terminal no more than lets the rest of the line fit. */
static int name_width(char *const *names, size_t count, bool is_managed)
{
    const int of_manager = 2 + 7 + 2 + 10 + 2 + 8;
    const int others = 2 + 7 + 2 + 4 + 2 + 6 + 2 + 8 + 2 + 7 + 2 + 7 + 2 + 7;
    int width = NAME_LEAST;
    for (size_t i = 0; i < count; i++) {
        if ((int)strlen(names[i]) > width)
            width = (int)strlen(names[i]);
    }
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col != 0) {
        int room = size.ws_col - others - (is_managed ? of_manager : 0);
        if (width > room)
            width = room > NAME_LEAST ? room : NAME_LEAST;
    }
    return width;
}

static const json_t *managed_of(const json_t *manager, const char *name)
{
    size_t i;
    json_t *vm;
    json_array_foreach(json_object_get(manager, "vms"), i, vm)
    {
        const char *its_name = json_string_value(json_object_get(vm, "name"));
        if (its_name != NULL && strcmp(its_name, name) == 0)
            return vm;
    }
    return NULL;
}

/* `manager`: its status, or NULL where there is none. */
static void list_batch(struct control_folder *folder, char *const *names, size_t count, int width,
                       const json_t *manager, json_t *array)
{
    struct row rows[BATCH] = {0};
    for (size_t i = 0; i < count; i++) {
        rows[i] =
            (struct row){.name = names[i], .managed = managed_of(manager, names[i]), .fd = -1};
        ask(folder, &rows[i]);
    }
    uint64_t deadline = clock_monotonic_ns() + WAIT_SECONDS * NS_PER_SECOND;
    for (size_t i = 0; i < count; i++) {
        hear(&rows[i], deadline);
        if (rows[i].is_there && array != NULL)
            json_array_append_new(array, row_object(&rows[i]));
        else if (rows[i].is_there)
            print_row(&rows[i], width, manager != NULL);
        json_decref(rows[i].reply);
    }
}

int ps_command(int argc, char **argv)
{
    bool as_json = false;
    const struct argument_option options[] = {{"json", &as_json, NULL}, {0}};
    const struct arguments arguments = {.command = "ps", .help = help, .options = options};
    int exit_status;
    if (!arguments_parse(&arguments, argc, argv, NULL, &exit_status))
        return exit_status;

    struct control_folder folder;
    struct error err = {0};
    char **names = NULL;
    size_t count = 0;
    enum status status = control_folder_open(&folder, &err);
    if (status == STATUS_OK)
        status = control_folder_list(&folder, &names, &count, &err);
    json_t *array = as_json ? json_array() : NULL;
    json_t *manager = NULL;
    struct error no_manager;
    if (status == STATUS_OK)
        manager_ask(&folder, json_pack("{s:s}", "request", "status"), &manager, &no_manager);
    int width = name_width(names, count, manager != NULL);
    if (status == STATUS_OK && !as_json)
        printf("%-*s  %-7s  %4s  %6s  %8s  %7s  %7s  %7s%s\n", width, "NAME", "STATE", "CPUS",
               "MEMORY", "RESIDENT", "CPUTIME", "UP", "PID",
               manager != NULL ? "   TARGET      SHARES  GROUP" : "");
    for (size_t first = 0; status == STATUS_OK && first < count; first += BATCH) {
        size_t some = count - first < BATCH ? count - first : BATCH;
        list_batch(&folder, names + first, some, width, manager, array);
    }
    if (status == STATUS_OK && as_json) {
        json_dumpf(array, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
        putchar('\n');
    }
    json_decref(array);
    json_decref(manager);
    for (size_t i = 0; i < count; i++)
        free(names[i]);
    free(names);
    control_folder_close(&folder);
    return status == STATUS_OK ? EXIT_STATUS_OK : client_failed(&err);
}
