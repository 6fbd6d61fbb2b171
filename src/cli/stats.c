/* aerostat stats [VM]: its counters, or the manager's of all VMs; for people or as JSON. */

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/format.h"
#include "cli/manager.h"
#include "util/bits.h"
#include "vm/exit_status.h"

static const char help[] =
    "usage: aerostat stats [--json] [VM]\n"
    "\n"
    "Shows what the VM counts; docs/statistics.md explains the names. Counters\n"
    "are since the last reset of the guest, and the groups at the end list only\n"
    "what is not 0. Without a VM: what the manager counts, of the host's memory\n"
    "and of each VM.\n"
    "\n"
    "  --json   one JSON object, sizes in bytes\n"
    "  --help   this text\n";

#define NAME_WIDTH 24

static bool is_size(const char *name)
{
    static const char *const sizes[] = {"memory",
                                        "host_memory",
                                        "host_free",
                                        "used",
                                        "pool",
                                        "metadata",
                                        "min",
                                        "charged",
                                        "max",
                                        "resident",
                                        "target",
                                        "active",
                                        "active_slow",
                                        "active_fast",
                                        "active_now",
                                        "balloon",
                                        "balloon_target",
                                        "balloon_taken",
                                        "balloon_given",
                                        "free_reported",
                                        "swap_in",
                                        "swap_out",
                                        "free",
                                        "total",
                                        "available",
                                        "caches",
                                        "async_scan",
                                        "async_reclaim",
                                        "direct_scan",
                                        "direct_reclaim",
                                        "zero",
                                        "shared",
                                        "shared_saved",
                                        "compressed",
                                        "compressed_size",
                                        "disk_backed",
                                        "swapped",
                                        "overhead",
                                        "code_cache",
                                        "code_cache_max",
                                        "swap_read",
                                        "swap_written",
                                        "bytes_in",
                                        "bytes_out"};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (strcmp(name, sizes[i]) == 0)
            return true;
    }
    return false;
}

/* A name or text from the VM, without what a terminal would obey. */
static void print_text(const char *text, int width)
{
    int length = 0;
    for (; *text != '\0'; text++, length++)
        putchar(isprint((unsigned char)*text) ? *text : '?');
    for (; length < width; length++)
        putchar(' ');
}

static void print_value(const char *name, const json_t *value)
{
    char text[FORMAT_SIZE];
    if (json_is_string(value)) {
        print_text(json_string_value(value), 0);
    } else if (json_is_integer(value)) {
        long long number = json_integer_value(value);
        printf("%lld", number);
        if (is_size(name) && number >= 1024)
            printf("  (%s)", format_bytes(text, (uint64_t)number));
    } else if (json_is_real(value)) {
        printf("%.3f", json_real_value(value));
    } else {
        printf("%s", json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-");
    }
}

/* An object in the object: its members that are not 0, under its name. */
static void print_group(const char *group, json_t *object)
{
    const char *name;
    json_t *value;
    bool any = false;
    json_object_foreach(object, name, value)
    {
        if (json_is_object(value) || json_is_array(value) ||
            (json_is_integer(value) && json_integer_value(value) == 0))
            continue;
        if (!any) {
            print_text(group, 0);
            printf(":\n");
        }
        any = true;
        printf("  ");
        print_text(name, NAME_WIDTH - 2);
        print_value(name, value);
        putchar('\n');
    }
}

static void print_groups(const char *name, json_t *value)
{
    json_t *element;
    size_t i;
    if (json_is_object(value))
        print_group(name, value);
    json_array_foreach(value, i, element)
    {
        char group[64];
        const char *device = json_string_value(json_object_get(element, "device"));
        snprintf(group, sizeof group, "%s %zu%s%s", name, i, device == NULL ? "" : ", ",
                 device == NULL ? "" : device);
        print_group(group, element);
    }
}

static void print_stats(json_t *stats)
{
    static const char *const first[] = {"name", "state", "pid", NULL};
    const char *name;
    json_t *value;
    for (unsigned i = 0; first[i] != NULL; i++) {
        print_text(first[i], NAME_WIDTH);
        print_value(first[i], json_object_get(stats, first[i]));
        putchar('\n');
        json_object_del(stats, first[i]);
    }
    json_object_foreach(stats, name, value)
    {
        if (json_is_object(value) || json_is_array(value))
            continue;
        print_text(name, NAME_WIDTH);
        print_value(name, value);
        putchar('\n');
    }
    json_object_foreach(stats, name, value) print_groups(name, value);
}

static void print_manager(json_t *host, const json_t *vms)
{
    static const struct column {
        const char *head, *name;
    } columns[] = {
        {"MAX", "max"},
        {"MIN", "min"},
        {"TARGET", "target"},
        {"CHARGED", "charged"},
        {"ACTIVE", "active"},
        {"BALLOON", "balloon"},
        {"SHARED", "shared"},
        {"SAVED", "shared_saved"},
        {"COMPRESSED", "compressed"},
        {"SWAPPED", "swapped"},
    };
    size_t i;
    const char *name;
    json_t *value, *vm;
    int width = 4;
    json_object_foreach(host, name, value)
    {
        print_text(name, NAME_WIDTH);
        print_value(name, value);
        putchar('\n');
    }
    json_array_foreach(vms, i, vm)
    {
        const char *text = json_string_value(json_object_get(vm, "name"));
        if (text != NULL && (int)strlen(text) > width)
            width = (int)strlen(text);
    }
    printf("\n%-*s", width, "NAME");
    for (size_t column = 0; column < ARRAY_LENGTH(columns); column++)
        printf("  %10s", columns[column].head);
    putchar('\n');
    json_array_foreach(vms, i, vm)
    {
        const char *text = json_string_value(json_object_get(vm, "name"));
        print_text(text != NULL ? text : "?", (unsigned)width);
        for (size_t column = 0; column < ARRAY_LENGTH(columns); column++) {
            char cell[FORMAT_SIZE];
            long long number = json_integer_value(json_object_get(vm, columns[column].name));
            printf("  %10s", format_bytes(cell, number < 0 ? 0 : (uint64_t)number));
        }
        putchar('\n');
    }
}

static enum status show_manager(bool as_json, struct error *err)
{
    struct control_folder folder;
    json_t *reply = NULL;
    enum status status = control_folder_open(&folder, err);
    if (status != STATUS_OK)
        return status;
    status = manager_ask(&folder, json_pack("{s:s}", "request", "status"), &reply, err);
    control_folder_close(&folder);
    json_t *host = json_object_get(reply, "host"), *vms = json_object_get(reply, "vms");
    if (status == STATUS_OK && (!json_is_object(host) || !json_is_array(vms)))
        status = error_set(err, STATUS_IO, "the manager: no status in the answer");
    if (status == STATUS_OK && as_json) {
        json_t *both = json_pack("{s:O, s:O}", "host", host, "vms", vms);
        json_dumpf(both, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
        putchar('\n');
        json_decref(both);
    } else if (status == STATUS_OK) {
        print_manager(host, vms);
    }
    json_decref(reply);
    return status;
}

/* What the manager knows that matters to the VM, where there is one. */
static void add_host(json_t *stats, const char *vm)
{
    static const struct {
        const char *name, *in_host;
    } of_host[] = {{"host_memory", "memory"},
                   {"host_free", "free"},
                   {"host_state", "state"},
                   {"frames", "frames"},
                   {"hints", "hints"}};
    static const char *const of_vm[] = {"min", "shares", "group", "charged"};
    struct control_folder folder;
    struct error err;
    json_t *reply = NULL, *its;
    size_t i;
    if (control_folder_open(&folder, &err) != STATUS_OK)
        return;
    manager_ask(&folder, json_pack("{s:s}", "request", "status"), &reply, &err);
    control_folder_close(&folder);
    for (i = 0; i < ARRAY_LENGTH(of_host); i++) {
        json_t *value = json_object_get(json_object_get(reply, "host"), of_host[i].in_host);
        if (value != NULL)
            json_object_set(stats, of_host[i].name, value);
    }
    json_array_foreach(json_object_get(reply, "vms"), i, its)
    {
        const char *name = json_string_value(json_object_get(its, "name"));
        for (size_t member = 0;
             name != NULL && strcmp(name, vm) == 0 && member < ARRAY_LENGTH(of_vm); member++) {
            json_t *value = json_object_get(its, of_vm[member]);
            if (value != NULL)
                json_object_set(stats, of_vm[member], value);
        }
    }
    json_decref(reply);
}

static enum status show_vm(const char *vm, bool as_json, struct error *err)
{
    json_t *reply;
    enum status status = client_ask(vm, json_pack("{s:s}", "request", "stats"), &reply, err);
    json_t *stats = json_object_get(reply, "stats");
    if (status == STATUS_OK && !json_is_object(stats))
        status = error_set(err, STATUS_IO, "%s: no statistics in the answer", vm);
    if (status == STATUS_OK)
        add_host(stats, vm);
    if (status == STATUS_OK && as_json) {
        json_dumpf(stats, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII);
        putchar('\n');
    } else if (status == STATUS_OK) {
        print_stats(stats);
    }
    json_decref(reply);
    return status;
}

int stats_command(int argc, char **argv)
{
    bool as_json = false;
    int rest, exit_status;
    const struct argument_option options[] = {{"json", &as_json, NULL}, {0}};
    const struct arguments arguments = {
        .command = "stats", .help = help, .options = options, .rest = &rest};
    if (!arguments_parse(&arguments, argc, argv, NULL, &exit_status))
        return exit_status;
    if (argc - rest > 1) {
        fprintf(stderr, "aerostat: %s: unexpected argument; see aerostat stats --help\n",
                argv[rest + 1]);
        return EXIT_STATUS_USAGE;
    }
    struct error err = {0};
    enum status status =
        argc > rest ? show_vm(argv[rest], as_json, &err) : show_manager(as_json, &err);
    return status == STATUS_OK ? EXIT_STATUS_OK : client_failed(&err);
}
