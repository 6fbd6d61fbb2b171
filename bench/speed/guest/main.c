/*
 * The program that bench/speed/run runs natively, under QEMU and under Aerostat: one static binary
 * that measures, one after the other, what an engine must do well. bench.h says how a benchmark is
 * described, docs/benchmarks.md what each is.
 *
 *     speed [--busybox PATH] [--folder PATH] [--scratch PATH] [NAME]...
 *     speed --list
 *
 * With names it measures only those. It prints one line for each benchmark (see bench_measure), and
 * before and after each a line `clock SECONDS`, the guest's clock, for whoever reads the lines to
 * compare with a clock of his own. Status 1 when a result was wrong or a setup failed.
 */
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

static const struct bench *const tables[] = {
    integer_benches, floating_benches, store_benches,  copy_benches,    chase_benches,
    call_benches,    bytecode_benches, hash_benches,   syscall_benches, fault_benches,
    process_benches, switch_benches,   program_benches};

enum { TABLES = sizeof(tables) / sizeof(tables[0]) };

static const struct bench *bench_find(const char *name)
{
    for (unsigned i = 0; i < TABLES; i++)
        for (const struct bench *bench = tables[i]; bench->name; bench++)
            if (strcmp(bench->name, name) == 0)
                return bench;
    return NULL;
}

/* Guests have one CPU. So has the native run, or two processes would run beside each other there.
 */
static void pin_to_one_cpu(void)
{
    cpu_set_t set;
    int cpu = sched_getcpu();
    CPU_ZERO(&set);
    CPU_SET((unsigned)(cpu < 0 ? 0 : cpu), &set);
    if (sched_setaffinity(0, sizeof(set), &set) != 0)
        perror("speed: sched_setaffinity");
}

static bool measure(const struct bench *bench, const struct bench_env *env)
{
    bool right = bench_measure(bench, env);
    printf("clock %.6f\n", (double)clock_now() / 1e9);
    return right;
}

static void list(void)
{
    for (unsigned i = 0; i < TABLES; i++)
        for (const struct bench *bench = tables[i]; bench->name; bench++)
            printf("%s %s\n", bench->name, bench->unit);
}

int main(int argc, char **argv)
{
    struct bench_env env = {"/bin/busybox", "/bench", "/tmp"};
    const struct {
        const char *name;
        const char **value;
    } options[] = {
        {"--busybox", &env.busybox}, {"--folder", &env.folder}, {"--scratch", &env.scratch}};

    /* What process.c makes of this program to have something to execute. */
    if (argc == 3 && strcmp(argv[1], "--exit") == 0)
        _exit(argv[2][0] - '0');
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        list();
        return 0;
    }

    int first = 1;
    while (first + 1 < argc && strncmp(argv[first], "--", 2) == 0) {
        bool known = false;
        for (unsigned i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
            if (strcmp(argv[first], options[i].name) == 0) {
                *options[i].value = argv[first + 1];
                known = true;
            }
        }
        if (!known)
            break;
        first += 2;
    }
    for (int i = first; i < argc; i++) {
        if (!bench_find(argv[i])) {
            fprintf(stderr, "speed: no such benchmark: %s\n", argv[i]);
            return 2;
        }
    }

    setvbuf(stdout, NULL, _IOLBF, 0);
    pin_to_one_cpu();
    printf("clock %.6f\n", (double)clock_now() / 1e9);
    bool right = true;
    for (int i = first; i < argc; i++)
        right &= measure(bench_find(argv[i]), &env);
    for (unsigned i = 0; first >= argc && i < TABLES; i++)
        for (const struct bench *bench = tables[i]; bench->name; bench++)
            right &= measure(bench, &env);
    return right ? 0 : 1;
}
