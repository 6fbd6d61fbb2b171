/* The commands that are one request: balloon, resident, pause, resume. */

#include <inttypes.h>
#include <stdio.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/command.h"
#include "util/size.h"
#include "vm/exit_status.h"

static int order(const char *vm, json_t *request)
{
    struct error err = {0};
    json_t *reply;
    enum status status = client_ask(vm, request, &reply, &err);
    json_decref(reply);
    return status == STATUS_OK ? EXIT_STATUS_OK : client_failed(&err);
}

static int order_plain(const struct arguments *arguments, int argc, char **argv)
{
    const char *operands[1];
    int exit_status;
    if (!arguments_parse(arguments, argc, argv, operands, &exit_status))
        return exit_status;
    return order(operands[0], json_pack("{s:s}", "request", arguments->command));
}

static int order_size(const struct arguments *arguments, int argc, char **argv)
{
    const char *operands[2];
    int exit_status;
    uint64_t size;
    if (!arguments_parse(arguments, argc, argv, operands, &exit_status))
        return exit_status;
    if (size_parse(operands[1], &size) != STATUS_OK || size > INT64_MAX) {
        fprintf(stderr, "aerostat: %s is not a size; write it like 64M or 1G\n", operands[1]);
        return EXIT_STATUS_USAGE;
    }
    return order(operands[0],
                 json_pack("{s:s, s:I}", "request", arguments->command, "size", (json_int_t)size));
}

int balloon_command(int argc, char **argv)
{
    static const struct arguments arguments = {
        .command = "balloon",
        .help =
            "usage: aerostat balloon VM SIZE\n"
            "\n"
            "Tells the balloon driver in the guest to give up SIZE of its memory (64M, 1G, 0),\n"
            "or to take back what it has given up over that. It takes its time: aerostat stats\n"
            "shows how far it is.\n"
            "\n"
            "  --help   this text\n",
        .operands = {"VM", "SIZE"},
    };
    return order_size(&arguments, argc, argv);
}

int resident_command(int argc, char **argv)
{
    static const struct arguments arguments = {
        .command = "resident",
        .help =
            "usage: aerostat resident VM SIZE\n"
            "\n"
            "Sets how much host memory the guest's memory may take, from 1M to all of it. What\n"
            "is over SIZE is compressed or swapped.\n"
            "\n"
            "  --help   this text\n",
        .operands = {"VM", "SIZE"},
    };
    return order_size(&arguments, argc, argv);
}

int pause_command(int argc, char **argv)
{
    static const struct arguments arguments = {
        .command = "pause",
        .help = "usage: aerostat pause VM\n"
                "\n"
                "Stops the VM's CPUs. Its clocks and timers stand still until aerostat resume VM;\n"
                "only the date in the guest is late afterwards.\n"
                "\n"
                "  --help   this text\n",
        .operands = {"VM"},
    };
    return order_plain(&arguments, argc, argv);
}

int resume_command(int argc, char **argv)
{
    static const struct arguments arguments = {
        .command = "resume",
        .help = "usage: aerostat resume VM\n"
                "\n"
                "Lets a paused VM go on from where it was.\n"
                "\n"
                "  --help   this text\n",
        .operands = {"VM"},
    };
    return order_plain(&arguments, argc, argv);
}
