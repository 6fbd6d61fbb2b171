/* The escape key, and whose terminal it is. */

#include <pty.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "util/terminal.h"

static void count_quit(void *context)
{
    ++*(int *)context;
}

/* Feeds the text in pieces of `piece` bytes and gathers what is left. */
static size_t feed(struct terminal *terminal, const char *text, size_t piece, char *kept)
{
    size_t total = 0;
    for (size_t at = 0, length = strlen(text); at < length; at += piece) {
        uint8_t bytes[64];
        size_t count = length - at < piece ? length - at : piece;
        memcpy(bytes, text + at, count);
        size_t left = terminal_filter(terminal, bytes, count);
        memcpy(kept + total, bytes, left);
        total += left;
    }
    kept[total] = '\0';
    return total;
}

static void test_escape_key(void **state)
{
    for (size_t piece = 1; piece <= 16; piece++) {
        int quits = 0;
        char kept[64];
        struct terminal terminal = {.is_raw = true, .quit = count_quit, .quit_context = &quits};
        feed(&terminal,
             "ab\x1d\x1d"
             "c\x1dxq",
             piece, kept);
        assert_string_equal(kept, "ab\x1d"
                                  "cxq");
        assert_int_equal(quits, 0);
        feed(&terminal, "1\x1dq2", piece, kept);
        assert_string_equal(kept, "12");
        assert_int_equal(quits, 1);
    }
}

static void test_no_terminal_no_filter(void **state)
{
    int quits = 0;
    char kept[64];
    struct terminal terminal = {.is_raw = false, .quit = count_quit, .quit_context = &quits};
    feed(&terminal, "\x1dq\x1d\x1d", 2, kept);
    assert_string_equal(kept, "\x1dq\x1d\x1d");
    assert_int_equal(quits, 0);
}

/* What a job of a shell does: takes the terminal, is sent to the background, ends. */
static void run_job(int tell, int wait)
{
    struct terminal terminal;
    char byte;
    while (tcgetpgrp(STDIN_FILENO) != getpgrp())
        sched_yield();
    terminal_open(&terminal, "ends it", count_quit, NULL);
    if (!terminal.is_raw || write(tell, "r", 1) != 1 || read(wait, &byte, 1) != 1)
        _exit(1);
    terminal_close(&terminal);
    _exit(0);
}

/* What its shell does, in a session of its own on `slave`. */
static void run_shell(int slave)
{
    int to_job[2], to_shell[2], status;
    char byte;
    if (setsid() < 0 || ioctl(slave, TIOCSCTTY, 0) != 0 || dup2(slave, STDIN_FILENO) != 0 ||
        pipe(to_job) != 0 || pipe(to_shell) != 0)
        _exit(10);
    signal(SIGTTOU, SIG_IGN);
    pid_t job = fork();
    if (job == 0) {
        signal(SIGTTOU, SIG_DFL);
        setpgid(0, 0);
        run_job(to_shell[1], to_job[0]);
    }
    setpgid(job, job);
    close(to_shell[1]);
    if (tcsetpgrp(STDIN_FILENO, job) != 0 || read(to_shell[0], &byte, 1) != 1 ||
        tcsetpgrp(STDIN_FILENO, getpgrp()) != 0 || write(to_job[1], "b", 1) != 1 ||
        waitpid(job, &status, WUNTRACED) != job)
        _exit(11);
    if (WIFSTOPPED(status)) {
        kill(job, SIGKILL);
        _exit(12);
    }
    _exit(WEXITSTATUS(status));
}

static void test_background_job_ends(void **state)
{
    int master, slave, status;
    assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
    pid_t shell = fork();
    assert_true(shell >= 0);
    if (shell == 0)
        run_shell(slave);
    assert_int_equal(waitpid(shell, &status, 0), shell);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close(master);
    close(slave);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escape_key),
        cmocka_unit_test(test_no_terminal_no_filter),
        cmocka_unit_test(test_background_job_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
