/* aerostat set VM NAME=VALUE..., aerostat memory SIZE: what the manager can change while VMs run.
 */

#include <stdio.h>
#include <string.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/command.h"
#include "cli/manager.h"
#include "util/size.h"
#include "vm/exit_status.h"

static const char help[] =
    "usage: aerostat set VM [shares=N] [min=SIZE] [group=NAME]\n"
    "\n"
    "Changes, while the VM runs, how the manager divides memory:\n"
    "\n"
    "  shares=N     its part of what is left when all have their min; 0: in proportion to max\n"
    "  min=SIZE     host memory that it has in any case\n"
    "  group=NAME   shares equal pages with the VMs of this group from now on; group=: with none\n"
    "  --help       this text\n";

static enum status set_member(json_t *request, const char *text, struct error *err)
{
    const char *value = strchr(text, '=');
    size_t length = value != NULL ? (size_t)(value - text) : 0;
    uint64_t number;
    if (length == strlen("shares") && strncmp(text, "shares", length) == 0) {
        if (number_parse(value + 1, 0, UINT32_MAX, &number) != STATUS_OK)
            return error_set(err, STATUS_INVALID, "%s: give a number from 0 to %u", text,
                             UINT32_MAX);
        json_object_set_new(request, "shares", json_integer((json_int_t)number));
    } else if (length == strlen("min") && strncmp(text, "min", length) == 0) {
        if (size_parse(value + 1, &number) != STATUS_OK || number > INT64_MAX)
            return error_set(err, STATUS_INVALID, "%s: give a size like 64M or 1G", text);
        json_object_set_new(request, "min", json_integer((json_int_t)number));
    } else if (length == strlen("group") && strncmp(text, "group", length) == 0) {
        if (value[1] != '\0' && control_name_check(value + 1, NULL) != STATUS_OK)
            return error_set(err, STATUS_INVALID,
                             "%s: a group's name is 1 to %u letters, digits, '-', '_' or '.', the "
                             "first a letter or digit",
                             text, CONTROL_NAME_MOST);
        json_object_set_new(request, "group", json_string(value + 1));
    } else {
        return error_set(err, STATUS_INVALID, "%s: give shares=N, min=SIZE or group=NAME", text);
    }
    return STATUS_OK;
}

/* Takes the request over. */
static enum status order(json_t *request, struct error *err)
{
    struct control_folder folder;
    json_t *reply = NULL;
    enum status status = control_folder_open(&folder, err);
    if (status != STATUS_OK) {
        json_decref(request);
        return status;
    }
    status = manager_ask(&folder, request, &reply, err);
    json_decref(reply);
    control_folder_close(&folder);
    return status;
}

int set_command(int argc, char **argv)
{
    int rest, exit_status;
    const struct arguments arguments = {
        .command = "set", .help = help, .operands = {"VM", "shares=N"}, .rest = &rest};
    const char *operands[2];
    if (!arguments_parse(&arguments, argc, argv, operands, &exit_status))
        return exit_status;

    struct error err = {0};
    json_t *request = json_pack("{s:s, s:s}", "request", "set", "name", operands[0]);
    enum status status = control_name_check(operands[0], &err);
    if (status == STATUS_OK)
        status = set_member(request, operands[1], &err);
    for (; status == STATUS_OK && rest < argc; rest++)
        status = set_member(request, argv[rest], &err);
    if (status == STATUS_OK)
        status = order(json_incref(request), &err);
    json_decref(request);
    return status == STATUS_OK ? EXIT_STATUS_OK : client_failed(&err);
}

int memory_command(int argc, char **argv)
{
    static const struct arguments arguments = {
        .command = "memory",
        .help = "usage: aerostat memory SIZE\n"
                "\n"
                "Sets how much of the host's memory all VMs of the manager together may use from "
                "now on.\n"
                "\n"
                "  --help   this text\n",
        .operands = {"SIZE"},
    };
    const char *operands[1];
    int exit_status;
    uint64_t size;
    if (!arguments_parse(&arguments, argc, argv, operands, &exit_status))
        return exit_status;
    if (size_parse(operands[0], &size) != STATUS_OK || size > INT64_MAX) {
        fprintf(stderr, "aerostat: %s is not a size; write it like 64M or 1G\n", operands[0]);
        return EXIT_STATUS_USAGE;
    }
    struct error err = {0};
    enum status status =
        order(json_pack("{s:s, s:I}", "request", "memory", "size", (json_int_t)size), &err);
    return status == STATUS_OK ? EXIT_STATUS_OK : client_failed(&err);
}
