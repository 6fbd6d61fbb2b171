/* Each SIGBUS comes to a child, whose end and last words are looked at. */

#include "vm/bus_error.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vm/exit_status.h"

/* The wait status of a child that does it, and what it said. */
static int end_of(void (*doing)(void), char *said, size_t size)
{
    int ends[2], status;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        bus_error_watch();
        doing();
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    ssize_t count;
    while ((count = read(ends[0], said + length, size - 1 - length)) > 0)
        length += (size_t)count;
    said[length] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

/* A page of a file that has none there. */
static void touch_nothing(void)
{
    int fd = memfd_create("short", MFD_CLOEXEC);
    volatile char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    *page = 1;
}

static void send(void)
{
    kill(getpid(), SIGBUS);
}

static void test_fault(void **state)
{
    char said[256];
    int status = end_of(touch_nothing, said, sizeof said);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_STATUS_FAILURE);
    assert_ptr_equal(strstr(said, "aerostat: error: guest memory is lost: "), said);
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
}

static void test_sent(void **state)
{
    char said[256];
    int status = end_of(send, said, sizeof said);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGBUS);
    assert_string_equal(said, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fault), cmocka_unit_test(test_sent)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
