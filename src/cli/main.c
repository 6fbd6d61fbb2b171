/* The `aerostat` program: picks the subcommand. */

#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "util/bits.h"
#include "vm/exit_status.h"

static const struct command commands[] = {
    {"run", "boot a virtual machine", run_command},
    {"up", "start the virtual machines of a file", up_command},
    {"down", "shut them down", down_command},
    {"plan", "show what memory the VMs of a file would get", plan_command},
    {"ps", "list the virtual machines that run", ps_command},
    {"stats", "show what one counts", stats_command},
    {"top", "watch how host memory is divided", top_command},
    {"memory", "set how much of the host's all may use", memory_command},
    {"set", "change its share of the host's memory", set_command},
    {"balloon", "have its guest give up memory, or take it back", balloon_command},
    {"resident", "limit the host memory that it takes", resident_command},
    {"pause", "stop its CPUs and clocks", pause_command},
    {"resume", "let it go on", resume_command},
    {"stop", "shut it down", stop_command},
    {"console", "attach to the serial port of one in the background", console_command},
};

static void print_usage(FILE *stream)
{
    fprintf(stream,
            "usage: aerostat COMMAND [OPTION]...\n"
            "\n"
            "Runs unmodified x86-64 Linux in virtual machines, without KVM and without root.\n"
            "\n");
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++)
        fprintf(stream, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fprintf(stream, "\n"
                    "aerostat COMMAND --help tells more; aerostat --version tells the version.\n");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_STATUS_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_usage(stdout);
        return EXIT_STATUS_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        puts("aerostat " AEROSTAT_VERSION);
        return EXIT_STATUS_OK;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++) {
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "aerostat: %s is not a command; see aerostat --help\n", argv[1]);
    return EXIT_STATUS_USAGE;
}
