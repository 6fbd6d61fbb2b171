/*
 * Programs as people run them, started anew for each measurement: busybox on a file of text, and
 * Python with and without SQLite. In the data folder (bench_env) there are
 *
 *     text                       what busybox works on
 *     python/ld.so, lib, bin     a Python with all it loads, see bench/speed/stage.py
 *     python/work.py             its two jobs
 *
 * The output of each goes to a file in memory and is checked.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench.h"
#include "sha256.h"

enum { PATH_SIZE = 512, ARGUMENTS = 8 };

enum job { JOB_SHA256SUM, JOB_GZIP, JOB_GUNZIP, JOB_PYTHON, JOB_SQLITE };

struct program {
    enum job job;
    const char *busybox;
    char text[PATH_SIZE], packed[PATH_SIZE], output[PATH_SIZE];
    char loader[PATH_SIZE], library[PATH_SIZE], python[PATH_SIZE], script[PATH_SIZE],
        home[PATH_SIZE];
    char digest[SHA256_HEX]; /* of the text */
};

__attribute__((format(printf, 2, 3))) static void path_set(char path[PATH_SIZE], const char *format,
                                                           ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(path, PATH_SIZE, format, arguments);
    va_end(arguments);
    /* An empty path fails to open, with a message. */
    if (length < 0 || length >= PATH_SIZE)
        path[0] = '\0';
}

/* A whole file in memory, to be freed, and its size; NULL, with a message, if it cannot be read. */
static char *file_read(const char *path, size_t *size)
{
    struct stat status;
    char *data = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &status) == 0) {
        data = state_alloc((size_t)status.st_size + 1);
        if (read(fd, data, (size_t)status.st_size) != status.st_size) {
            free(data);
            data = NULL;
        }
        *size = (size_t)status.st_size;
    }
    if (!data)
        fprintf(stderr, "speed: cannot read %s\n", path);
    if (fd >= 0)
        close(fd);
    return data;
}

/* Runs a program with its output in a file; true if it ended with status 0. */
static bool program_execute(const struct program *program, const char *const *arguments,
                            const char *output)
{
    int pid = fork();
    if (pid == 0) {
        char home[PATH_SIZE + 16];
        snprintf(home, sizeof(home), "PYTHONHOME=%s", program->home);
        char *const environment[] = {"LC_ALL=C", "PYTHONHASHSEED=0", home, NULL};
        int in = open("/dev/null", O_RDONLY);
        int out = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0)
            _exit(126);
        execve(arguments[0], (char *const *)arguments, environment);
        _exit(127);
    }
    return pid > 0 && child_wait(pid) == 0;
}

/* Whether a file begins with a line, or with `length` bytes of it. */
static bool output_is(const char *path, const char *expected, size_t length)
{
    size_t size;
    char *data = file_read(path, &size);
    bool right = data && size >= length && memcmp(data, expected, length) == 0;
    free(data);
    return right;
}

static bool file_has_digest(const char *path, const char *digest)
{
    char hex[SHA256_HEX];
    size_t size;
    char *data = file_read(path, &size);
    if (!data)
        return false;
    sha256_hex(data, size, hex);
    free(data);
    return strcmp(hex, digest) == 0;
}

static bool program_run(void *state)
{
    const struct program *program = state;
    const char *const python[] = {program->loader,
                                  "--library-path",
                                  program->library,
                                  program->python,
                                  "-S",
                                  program->script,
                                  NULL,
                                  NULL};
    const char *arguments[ARGUMENTS] = {program->busybox};
    switch (program->job) {
    case JOB_SHA256SUM:
        arguments[1] = "sha256sum";
        arguments[2] = program->text;
        break;
    case JOB_GZIP:
        arguments[1] = "gzip";
        arguments[2] = "-c";
        arguments[3] = program->text;
        break;
    case JOB_GUNZIP:
        arguments[1] = "gunzip";
        arguments[2] = "-c";
        arguments[3] = program->packed;
        break;
    case JOB_PYTHON:
    case JOB_SQLITE:
        memcpy(arguments, python, sizeof(python));
        arguments[6] = program->job == JOB_PYTHON ? "python" : "sqlite";
        break;
    }
    return program_execute(program, arguments, program->output);
}

/* What the jobs of work.py print; the same with Python 3.8 to 3.13. */
static const char python_result[] = "615dfb97c48b21f3 74929 2989 3939\n";
static const char sqlite_result[] =
    "54773ebe715e931f 16 customer 1019189600 customer 1795960074 1265822\n";

static bool program_check(void *state)
{
    const struct program *program = state;
    switch (program->job) {
    case JOB_SHA256SUM:
        return output_is(program->output, program->digest, SHA256_HEX - 1);
    case JOB_GZIP: {
        /* Unpacked again, it must be the text. The packed file takes the place of the output. */
        const char *const arguments[] = {program->busybox, "gunzip", "-c", program->packed, NULL};
        return rename(program->output, program->packed) == 0 &&
               program_execute(program, arguments, program->output) &&
               file_has_digest(program->output, program->digest);
    }
    case JOB_GUNZIP:
        return file_has_digest(program->output, program->digest);
    case JOB_PYTHON:
        return output_is(program->output, python_result, sizeof(python_result) - 1);
    case JOB_SQLITE:
        return output_is(program->output, sqlite_result, sizeof(sqlite_result) - 1);
    }
    return false;
}

static void program_teardown(void *state)
{
    struct program *program = state;
    unlink(program->output);
    unlink(program->packed);
    free(program);
}

static bool text_prepare(struct program *program)
{
    size_t size;
    char *data = file_read(program->text, &size);
    if (!data)
        return false;
    sha256_hex(data, size, program->digest);
    free(data);
    const char *const pack[] = {program->busybox, "gzip", "-c", program->text, NULL};
    return program->job != JOB_GUNZIP || program_execute(program, pack, program->packed);
}

static void *program_setup(const struct bench_env *env, uint64_t job)
{
    struct program *program = state_alloc(sizeof(*program));
    program->job = (enum job)job;
    program->busybox = env->busybox;
    path_set(program->text, "%s/text", env->folder);
    path_set(program->packed, "%s/speed-packed.gz", env->scratch);
    path_set(program->output, "%s/speed-output.gz", env->scratch);
    path_set(program->home, "%s/python", env->folder);
    path_set(program->loader, "%s/python/ld.so", env->folder);
    path_set(program->library, "%s/python/lib", env->folder);
    path_set(program->python, "%s/python/bin/python3", env->folder);
    path_set(program->script, "%s/python/work.py", env->folder);
    bool is_python = program->job == JOB_PYTHON || program->job == JOB_SQLITE;
    if (!is_python && !text_prepare(program)) {
        program_teardown(program);
        return NULL;
    }
    return program;
}

const struct bench program_benches[] = {
    {"busybox-sha256sum", "run", 1, JOB_SHA256SUM, program_setup, program_run, program_check,
     program_teardown},
    {"busybox-gzip", "run", 1, JOB_GZIP, program_setup, program_run, program_check,
     program_teardown},
    {"busybox-gunzip", "run", 1, JOB_GUNZIP, program_setup, program_run, program_check,
     program_teardown},
    {"python3", "run", 1, JOB_PYTHON, program_setup, program_run, program_check, program_teardown},
    {"sqlite3", "run", 1, JOB_SQLITE, program_setup, program_run, program_check, program_teardown},
    {NULL, NULL, 0, 0, NULL, NULL, NULL, NULL}};
