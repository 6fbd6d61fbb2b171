/* aerostat top: the memory of the host and of all VMs, again and again. */

#include "cli/top.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "cli/arguments.h"
#include "cli/client.h"
#include "cli/command.h"
#include "util/clock.h"
#include "util/size.h"
#include "vm/exit_status.h"

#define WAIT_SECONDS  2u
#define SECONDS_LEAST 0.1
#define SECONDS_MOST  3600.0

static const char help[] =
    "usage: aerostat top [--interval SECONDS] [--plain] [--count N]\n"
    "\n"
    "Shows how the manager divides host memory among the VMs, every second. Keys\n"
    "are explained on the screen. Where standard input or output is no terminal,\n"
    "plain tables.\n"
    "\n"
    "  --interval SECONDS  between two looks, 0.1 to 3600\n"
    "  --plain             tables one after the other, with all columns\n"
    "  --count N           so many of them, then end; includes --plain\n"
    "  --help              this text\n";

enum status top_ask(struct control_folder *folder, struct top_sample *sample, struct error *err)
{
    int fd;
    json_t *reply;
    *sample = (struct top_sample){0};
    enum status status = client_send(
        folder, CONTROL_MANAGER, json_pack("{s:s}", "request", "status"), WAIT_SECONDS, &fd, err);
    if (status != STATUS_OK)
        return status;
    status = client_receive(fd, "the manager", &reply, err);
    close(fd);
    if (status == STATUS_OK)
        status = top_sample_read(sample, reply, clock_monotonic_ns(), err);
    json_decref(reply);
    return status;
}

const char *top_time(char text[TOP_TIME_SIZE])
{
    time_t now = time(NULL);
    struct tm local;
    if (localtime_r(&now, &local) == NULL || strftime(text, TOP_TIME_SIZE, "%H:%M:%S", &local) == 0)
        text[0] = '\0';
    return text;
}

static void print_line(void *context, const struct top_line *line)
{
    (void)context;
    puts(line->text);
}

static void sleep_until(uint64_t when_ns)
{
    struct timespec until = {.tv_sec = (time_t)(when_ns / NS_PER_SECOND),
                             .tv_nsec = (long)(when_ns % NS_PER_SECOND)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

/* A table; `last` becomes what it shows. */
static enum status show(struct control_folder *folder, struct top_sample *last, struct error *err)
{
    char text[TOP_TIME_SIZE];
    struct top_sample now;
    enum status status = top_ask(folder, &now, err);
    if (status != STATUS_OK)
        return status;
    struct top_view view = {.width = TOP_WIDTH_MOST, .sort = TOP_SORT_NAME, .time = top_time(text)};
    top_layout(&view, &now, last, print_line, NULL);
    top_sample_close(last);
    *last = now;
    return STATUS_OK;
}

/* `count` tables, or until the manager has ended: 0. A look that fails (a manager that has much to
 * do, or just ends) is a line in place of a table; but the first one has to succeed. */
static enum status top_plain(struct control_folder *folder, uint64_t interval_ns, uint64_t count,
                             struct error *err)
{
    struct top_sample last = {0};
    uint64_t next = clock_monotonic_ns();
    enum status status = show(folder, &last, err);
    for (uint64_t i = 1; status == STATUS_OK && (count == 0 || i < count); i++) {
        sleep_until(next += interval_ns);
        putchar('\n');
        status = show(folder, &last, err);
        if (status == STATUS_NOT_FOUND) {
            puts("The manager has ended.");
            status = STATUS_OK;
            break;
        }
        if (status != STATUS_OK)
            puts(err->text);
        status = STATUS_OK;
        if (fflush(stdout) != 0)
            status = error_set(err, STATUS_IO, "standard output takes no more");
    }
    top_sample_close(&last);
    return status;
}

static bool interval_parse(const char *text, uint64_t *interval_ns)
{
    char *end;
    double seconds = text == NULL ? 1 : strtod(text, &end);
    if (text != NULL && (end == text || *end != '\0'))
        return false;
    if (!(seconds >= SECONDS_LEAST && seconds <= SECONDS_MOST))
        return false;
    *interval_ns = (uint64_t)(seconds * (double)NS_PER_SECOND);
    return true;
}

int top_command(int argc, char **argv)
{
    bool is_plain = false;
    const char *interval = NULL, *count_text = NULL;
    const struct argument_option options[] = {{"plain", &is_plain, NULL},
                                              {"interval", NULL, &interval},
                                              {"count", NULL, &count_text},
                                              {0}};
    const struct arguments arguments = {.command = "top", .help = help, .options = options};
    int exit_status;
    if (!arguments_parse(&arguments, argc, argv, NULL, &exit_status))
        return exit_status;

    struct error err = {0};
    struct control_folder folder;
    uint64_t interval_ns, count = 0;
    if (!interval_parse(interval, &interval_ns)) {
        error_set(&err, STATUS_INVALID, "--interval %s: 0.1 to 3600 seconds", interval);
        return client_failed(&err);
    }
    if (count_text != NULL && number_parse(count_text, 1, UINT32_MAX, &count) != STATUS_OK) {
        error_set(&err, STATUS_INVALID, "--count %s: a number from 1 on", count_text);
        return client_failed(&err);
    }
    is_plain = is_plain || count != 0 || !isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO);
    enum status status = control_folder_open(&folder, &err);
    if (status != STATUS_OK)
        return client_failed(&err);
    status = is_plain ? top_plain(&folder, interval_ns, count, &err)
                      : top_screen(&folder, interval_ns, &err);
    control_folder_close(&folder);
    return status == STATUS_OK ? EXIT_STATUS_OK : client_failed(&err);
}
