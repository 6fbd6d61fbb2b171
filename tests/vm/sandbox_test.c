/* What a process can still do once it is in the sandbox. Each look is taken in a child process,
 * since there is no way back out. Not built with a sanitizer, where the filter is off. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vm/sandbox.h"

enum { CHILD_REFUSED = 10, CHILD_DID_IT, CHILD_OTHER_ERROR, CHILD_NO_SANDBOX };

/* Runs attempt() in a sandboxed child. It returns 0 or more where the host let it. */
static int try_in_sandbox(long (*attempt)(void))
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (sandbox_enter(NULL) != STATUS_OK)
            _exit(CHILD_NO_SANDBOX);
        errno = 0;
        if (attempt() >= 0)
            _exit(CHILD_DID_IT);
        _exit(errno == EPERM ? CHILD_REFUSED : CHILD_OTHER_ERROR);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static long execute(void)
{
    char *const nothing[] = {NULL};
    return execve("/bin/true", nothing, nothing);
}

static long make_process(void)
{
    return fork();
}

static long trace(void)
{
    return ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static long map_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return page == MAP_FAILED ? -1 : 0;
}

static long make_code(void)
{
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return mprotect(page, 4096, PROT_READ | PROT_EXEC);
}

static long remove_file(void)
{
    return unlink("/nonexistent/file");
}

static long send_signal(void)
{
    return kill(getppid(), 0);
}

static long own_signals(void)
{
    return fcntl(STDIN_FILENO, F_SETOWN, getppid());
}

static long signal_thread(void)
{
    return syscall(SYS_tgkill, getppid(), getppid(), 0);
}

static long make_file(void)
{
    return open("/nonexistent/file", O_WRONLY | O_CREAT, 0600);
}

static long empty_file(void)
{
    return open("/nonexistent/file", O_WRONLY | O_TRUNC);
}

static long make_nameless_file(void)
{
    return open("/tmp", O_WRONLY | O_TMPFILE, 0600);
}

static long connect_locally(void)
{
    return socket(AF_UNIX, SOCK_STREAM, 0);
}

static long talk_to_kernel(void)
{
    return socket(AF_NETLINK, SOCK_RAW, 0);
}

static long type_for_user(void)
{
    return ioctl(STDIN_FILENO, TIOCSTI, "x");
}

/* A file of this user's that is there to be read, as the manager's pool is. */
static int pool;

static long open_pool_for_writing(void)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", pool);
    return open(path, O_RDWR);
}

static long open_pool_for_reading(void)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", pool);
    return open(path, O_RDONLY);
}

static void test_pool(void **state)
{
    pool = memfd_create("pool", MFD_CLOEXEC);
    assert_true(pool >= 0);
    assert_int_equal(fchmod(pool, 0400), 0);
    assert_int_equal(try_in_sandbox(open_pool_for_reading), CHILD_DID_IT);
    assert_int_equal(try_in_sandbox(open_pool_for_writing), CHILD_OTHER_ERROR); /* EACCES */
    close(pool);
}

/* The rights of a descriptor go over the manager's link alone, which waits for nobody. */
static long send_waiting(void)
{
    struct msghdr nothing = {0};
    return sendmsg(1, &nothing, 0);
}

static long enter_namespace(void)
{
    return syscall(SYS_clone, CLONE_THREAD | CLONE_NEWNET, NULL, NULL, NULL, NULL);
}

static void test_refused(void **state)
{
    assert_int_equal(try_in_sandbox(own_signals), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(signal_thread), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(make_file), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(empty_file), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(make_nameless_file), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(connect_locally), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(talk_to_kernel), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(type_for_user), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(enter_namespace), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(send_waiting), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(execute), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(make_process), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(trace), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(map_code), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(make_code), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(remove_file), CHILD_REFUSED);
    assert_int_equal(try_in_sandbox(send_signal), CHILD_REFUSED);
}

static void *return_argument(void *argument)
{
    return argument;
}

/* What a VM needs to go on: threads, memory. */
static long work(void)
{
    pthread_t thread;
    int token = 0;
    void *result = NULL;
    if (pthread_create(&thread, NULL, return_argument, &token) != 0)
        return -1;
    if (pthread_join(thread, &result) != 0 || result != &token)
        return -1;
    void *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? -1 : munmap(memory, 1 << 20);
}

static long privileges_are_final(void)
{
    /* The filter refuses prctl's other uses, so the kernel's own record is read. */
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    int value = 0;
    while (status != NULL && fgets(line, sizeof line, status) != NULL) {
        if (sscanf(line, "NoNewPrivs: %d", &value) == 1)
            break;
    }
    return value == 1 ? 0 : -1;
}

/* A guest opens connections until the host gives no more. */
static long descriptors_are_few(void)
{
    for (unsigned i = 0; i < 2000; i++) {
        if (socket(AF_INET, SOCK_DGRAM, 0) < 0)
            return errno == EMFILE ? 0 : -1;
    }
    return -1;
}

static long abort_is_seen(void)
{
    return raise(SIGURG); /* ignored unless somebody asks; by the same call as abort */
}

static void test_allowed(void **state)
{
    /* What the limit is in the tests' own environment must not decide. */
    struct rlimit many = {4000, 4000};
    if (setrlimit(RLIMIT_NOFILE, &many) == 0)
        assert_int_equal(try_in_sandbox(descriptors_are_few), CHILD_DID_IT);
    assert_int_equal(try_in_sandbox(abort_is_seen), CHILD_DID_IT);
    assert_int_equal(try_in_sandbox(work), CHILD_DID_IT);
    assert_int_equal(try_in_sandbox(privileges_are_final), CHILD_DID_IT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
