#include "cli/arguments.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "vm/exit_status.h"

#define OPTIONS_MOST 8

enum { ID_HELP = 1, ID_FIRST };

/* The number of --file, or 0. */
static int options_fill(const struct arguments *arguments, struct option *options)
{
    unsigned count = 0;
    int file_id = 0;
    options[count++] = (struct option){"help", no_argument, NULL, ID_HELP};
    const struct argument_option *option = arguments->options;
    for (; option != NULL && option->name != NULL && count < OPTIONS_MOST; option++, count++) {
        int id = ID_FIRST + (int)count - 1;
        int argument = option->value != NULL ? required_argument : no_argument;
        options[count] = (struct option){option->name, argument, NULL, id};
        if (strcmp(option->name, "file") == 0)
            file_id = id;
    }
    return file_id;
}

static int mistake(const struct arguments *arguments, const char *what, const char *said)
{
    fprintf(stderr, "aerostat: %s%s; see aerostat %s --help\n", said, what, arguments->command);
    return EXIT_STATUS_USAGE;
}

bool arguments_parse(const struct arguments *arguments, int argc, char **argv,
                     const char *operands[], int *exit_status)
{
    struct option options[OPTIONS_MOST + 1] = {0};
    int file_id = options_fill(arguments, options);
    const char *short_options = file_id == 0 ? ":" : ":f:";
    *exit_status = EXIT_STATUS_USAGE;
    opterr = 0;
    optind = 1;
    for (int id; (id = getopt_long(argc, argv, short_options, options, NULL)) != -1;) {
        const char *given = argv[optind - 1];
        if (id == ID_HELP) {
            fputs(arguments->help, stdout);
            *exit_status = EXIT_STATUS_OK;
            return false;
        }
        if (id == ':' || id == '?') {
            mistake(arguments, id == ':' ? " needs a value" : " is not an option", given);
            return false;
        }
        const struct argument_option *option =
            &arguments->options[(id == 'f' ? file_id : id) - ID_FIRST];
        if (option->value != NULL)
            *option->value = optarg;
        else
            *option->given = true;
    }
    unsigned count = 0;
    for (; count < 3 && arguments->operands[count] != NULL; count++) {
        if (optind + (int)count >= argc) {
            mistake(arguments, " is missing", arguments->operands[count]);
            return false;
        }
        operands[count] = argv[optind + (int)count];
    }
    if (arguments->rest != NULL) {
        *arguments->rest = optind + (int)count;
    } else if (optind + (int)count < argc) {
        mistake(arguments, ": unexpected argument", argv[optind + (int)count]);
        return false;
    }
    return true;
}
