/*
 * checker: looks whether a machine keeps what is written to its memory.
 *
 * It fills memory of all kinds and files with patterns that say where they belong, and verifies
 * them, for a time or a number of rounds, with several processes at once. It is made to be run in a
 * guest whose VMM takes memory away from it meanwhile, and finds lost writes, pages with another
 * page's content, old content, zeroed and torn pages, wrong DMA. It ends with one line,
 *
 *   checker: ok, 123456 pages verified in 12 rounds
 *   checker: FAILED: fork memory, page 7 of 600, ...: expected generation 3, but ...
 *
 * and status 0 or 1 (2: wrong options). It runs on any Linux, and needs no privileges but for
 * --drop-caches. --sabotage damages one page behind its own back, for tests of itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "checker.h"

struct options {
    unsigned workers;
    uint64_t bytes;
    uint32_t rounds;  /* 0: no limit */
    unsigned seconds; /* 0: no limit */
    const char *only; /* comma-separated, or NULL */
    struct worker worker;
};

const struct object_kind *const object_kinds[] = {
    &kind_anonymous, &kind_small,  &kind_shared, &kind_fork,     &kind_churn, &kind_tmpfs,
    &kind_disk,      &kind_direct, &kind_mapped, &kind_counters, NULL,
};

#define KINDS 10u
_Static_assert(sizeof object_kinds == (KINDS + 1) * sizeof *object_kinds, "all kinds");
#define NUMBERS_A_KIND 3u
_Static_assert(KINDS *NUMBERS_A_KIND <= OBJECTS_OF_A_WORKER, "object numbers");

const char *object_name(uint32_t number, unsigned *worker)
{
    unsigned kind = number % OBJECTS_OF_A_WORKER / NUMBERS_A_KIND;
    *worker = number / OBJECTS_OF_A_WORKER;
    return kind < KINDS ? object_kinds[kind]->name : "?";
}

/* One write, so that lines of several processes do not mix. */
static void say(const char *line, size_t length)
{
    ssize_t written = write(STDOUT_FILENO, line, length);
    (void)written;
}

void check_fail(const char *format, ...)
{
    char line[1024] = "checker: FAILED: ";
    size_t used = strlen(line);
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line + used, sizeof line - used - 1, format, arguments);
    va_end(arguments);
    used += length < 0 ? 0 : (size_t)length;
    if (used > sizeof line - 2)
        used = sizeof line - 2;
    line[used++] = '\n';
    say(line, used);
    _exit(1);
}

void check_fail_call(const char *what)
{
    check_fail("%s: %s", what, strerror(errno));
}

void *check_allocate(uint64_t bytes)
{
    void *memory = calloc(1, bytes);
    if (memory == NULL)
        check_fail("no memory for the checker itself");
    return memory;
}

uint8_t *check_map(uint64_t length, int flags)
{
    void *memory =
        mmap(NULL, length, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        check_fail_call("mmap");
    return memory;
}

int check_fork(void (*work)(void *), void *context)
{
    int pid = fork();
    if (pid < 0)
        check_fail_call("fork");
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        work(context);
        _exit(0);
    }
    return pid;
}

/* False if a process that ended failed; tells what ended by a signal, which said nothing. */
static bool is_well(int status)
{
    char line[96];
    if (WIFSIGNALED(status)) {
        int length = snprintf(line, sizeof line, "checker: FAILED: a process ended by signal %d\n",
                              WTERMSIG(status));
        say(line, (size_t)length);
    }
    return status == 0;
}

void check_join(int pid)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            check_fail_call("waitpid");
    if (!is_well(status))
        _exit(1);
}

void check_drop_caches(const struct worker *worker)
{
    if (!worker->drop_caches)
        return;
    int file = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);
    if (file < 0 || write(file, "1", 1) != 1)
        check_fail_call("/proc/sys/vm/drop_caches");
    close(file);
}

static uint64_t seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec;
}

/* Whether a comma-separated list has the name; no list has all. */
static bool is_in(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, length) == 0 && (at[length] == 0 || at[length] == ','))
            return true;
    }
    return list == NULL;
}

static bool is_wanted(const struct options *options, const struct object_kind *kind)
{
    return is_in(options->only, kind->name) && (options->worker.disk || !kind->on_disk);
}

struct job {
    const struct options *options;
    struct worker worker;
    uint64_t end; /* in seconds_now()'s time */
};

static void work(void *context)
{
    struct job *job = context;
    void *objects[KINDS] = {NULL};
    unsigned shares = 0;
    for (unsigned i = 0; i < KINDS; i++)
        if (is_wanted(job->options, object_kinds[i]))
            shares += object_kinds[i]->share;
    for (unsigned i = 0; i < KINDS; i++)
        if (is_wanted(job->options, object_kinds[i]))
            objects[i] = object_kinds[i]->start(
                &job->worker, job->worker.number * OBJECTS_OF_A_WORKER + i * NUMBERS_A_KIND,
                job->worker.bytes * object_kinds[i]->share / shares);

    uint32_t round = 0;
    do {
        round++;
        for (unsigned i = 0; i < KINDS; i++)
            if (objects[i])
                object_kinds[i]->step(objects[i], round);
        atomic_store(&job->worker.shared->rounds[job->worker.number], round);
    } while (round != job->options->rounds &&
             (job->options->seconds == 0 || seconds_now() < job->end));
    for (unsigned i = 0; i < KINDS; i++)
        if (objects[i])
            object_kinds[i]->finish(objects[i], round);
}

/* Runs all workers; the status of the program. */
static int run(const struct options *options)
{
    struct checker_shared *shared = (void *)check_map(sizeof *shared, MAP_SHARED);
    struct job job = {
        .options = options, .worker = options->worker, .end = seconds_now() + options->seconds};
    int pids[WORKERS_MOST];
    job.worker.shared = shared;
    job.worker.bytes = options->bytes / options->workers;
    for (unsigned i = 0; i < options->workers; i++) {
        job.worker.number = i;
        job.worker.drop_caches = options->worker.drop_caches && i == 0;
        pids[i] = check_fork(work, &job);
    }

    bool well = true;
    for (unsigned left = options->workers; left > 0; left--) {
        int status = 0, pid = 0;
        while ((pid = waitpid(-1, &status, 0)) < 0)
            if (errno != EINTR)
                check_fail_call("waitpid");
        for (unsigned i = 0; i < options->workers; i++)
            if (pids[i] == pid)
                pids[i] = 0;
        if (!well)
            continue;
        well = is_well(status);
        for (unsigned i = 0; i < options->workers && !well; i++)
            if (pids[i] != 0)
                kill(pids[i], SIGKILL);
    }
    if (!well)
        return 1;
    uint64_t rounds = shared->rounds[0];
    for (unsigned i = 1; i < options->workers; i++)
        if (shared->rounds[i] < rounds)
            rounds = shared->rounds[i];
    printf("checker: ok, %llu pages verified in %llu rounds\n",
           (unsigned long long)shared->verified, (unsigned long long)rounds);
    return 0;
}

static void print_help(void)
{
    printf("usage: checker [OPTION]...\n\n"
           "Writes patterns into memory and files, and verifies them.\n\n"
           "  --seed N          of all patterns and choices; default 1\n"
           "  --rounds N        end after so many rounds; default 10 without --seconds\n"
           "  --seconds N       end after the first round that ends later than that\n"
           "  --size MIB        of all memory and files together; default 64\n"
           "  --workers N       processes, 1 to %u; default 2\n"
           "  --tmp FOLDER      for files in memory; default /tmp\n"
           "  --disk FOLDER     for files on a disk; without it there are none\n"
           "  --drop-caches     drop the kernel's caches now and then; needs root\n"
           "  --only A,B        only these kinds of objects:\n",
           WORKERS_MOST);
    for (unsigned i = 0; i < KINDS; i++)
        printf("                      %-10s  %s\n", object_kinds[i]->name, object_kinds[i]->help);
    printf(
        "  --sabotage A:B    damage one page of an object of kind B behind its back: A is flip,\n"
        "                    zero, stale, other or torn\n");
}

static _Noreturn void usage(const char *what)
{
    fprintf(stderr, "checker: %s (--help says more)\n", what);
    exit(2);
}

static uint64_t number_of(const char *text, uint64_t least, uint64_t most)
{
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 0);
    if (errno || end == text || *end || *text == '-' || number < least || number > most)
        usage("a number is malformed or out of range");
    return number;
}

static void parse_sabotage(char *text, struct worker *worker)
{
    static const char *const names[] = {"", "flip", "zero", "stale", "other", "torn"};
    char *colon = strchr(text, ':');
    if (colon == NULL)
        usage("--sabotage wants WHAT:OBJECT");
    *colon = 0;
    worker->sabotage_what = colon + 1;
    for (unsigned i = 1; i < sizeof names / sizeof *names; i++)
        if (strcmp(text, names[i]) == 0)
            worker->sabotage = (enum sabotage)i;
    if (worker->sabotage == SABOTAGE_NONE)
        usage("no such sabotage");
}

static void check_names(const struct options *options)
{
    unsigned wanted = 0, sabotaged = 0;
    for (unsigned i = 0; i < KINDS; i++) {
        bool is = is_wanted(options, object_kinds[i]);
        wanted += is;
        if (options->worker.sabotage_what)
            sabotaged += is && strcmp(object_kinds[i]->name, options->worker.sabotage_what) == 0;
    }
    unsigned names = options->only ? 1 : wanted;
    for (const char *at = options->only; at && *at; at++)
        names += *at == ',';
    if (wanted == 0 || wanted != names)
        usage("--only names an object that there is not, or not without --disk");
    if (options->worker.sabotage_what && sabotaged == 0)
        usage("--sabotage names an object that is not there");
}

static void parse(int argc, char **argv, struct options *options)
{
    enum { SEED = 1, ROUNDS, SECONDS, SIZE, WORKERS, TMP, DISK, DROP, ONLY, SABOTAGE, HELP };
    static const struct option long_options[] = {
        {"seed", required_argument, NULL, SEED},
        {"rounds", required_argument, NULL, ROUNDS},
        {"seconds", required_argument, NULL, SECONDS},
        {"size", required_argument, NULL, SIZE},
        {"workers", required_argument, NULL, WORKERS},
        {"tmp", required_argument, NULL, TMP},
        {"disk", required_argument, NULL, DISK},
        {"drop-caches", no_argument, NULL, DROP},
        {"only", required_argument, NULL, ONLY},
        {"sabotage", required_argument, NULL, SABOTAGE},
        {"help", no_argument, NULL, HELP},
        {0},
    };
    for (int option = 0; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
        switch (option) {
        case SEED:
            options->worker.seed = number_of(optarg, 0, UINT64_MAX);
            break;
        case ROUNDS:
            options->rounds = (uint32_t)number_of(optarg, 1, GENERATION_MASK - 1);
            break;
        case SECONDS:
            options->seconds = (unsigned)number_of(optarg, 1, 1000000);
            break;
        case SIZE:
            options->bytes = number_of(optarg, 1, 1u << 20) << 20;
            break;
        case WORKERS:
            options->workers = (unsigned)number_of(optarg, 1, WORKERS_MOST);
            break;
        case TMP:
            options->worker.tmp = optarg;
            break;
        case DISK:
            options->worker.disk = optarg;
            break;
        case DROP:
            options->worker.drop_caches = true;
            break;
        case ONLY:
            options->only = optarg;
            break;
        case SABOTAGE:
            parse_sabotage(optarg, &options->worker);
            break;
        case HELP:
            print_help();
            exit(0);
        default:
            exit(2);
        }
    }
    if (optind != argc)
        usage("there is a word too many");
    check_names(options);
    if (options->rounds == 0)
        options->rounds = options->seconds ? GENERATION_MASK - 1 : 10;
}

int main(int argc, char **argv)
{
    struct options options = {
        .workers = 2, .bytes = 64u << 20, .worker = {.seed = 1, .tmp = "/tmp"}};
    parse(argc, argv, &options);
    return run(&options);
}
