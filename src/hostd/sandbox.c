#include "hostd/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/bits.h"

/* Grouped by who needs them. */
static const int allowed_calls[] = {
    /* files: the folder and its state, /proc, VMs' memory, pools */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(lseek),
    SCMP_SYS(close),
    SCMP_SYS(openat),
    SCMP_SYS(fstat),
    SCMP_SYS(fstatfs),
    SCMP_SYS(newfstatat),
    SCMP_SYS(getdents64),
    SCMP_SYS(renameat),
    SCMP_SYS(unlinkat),
    SCMP_SYS(flock),
    SCMP_SYS(fallocate),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fchmod),
    SCMP_SYS(memfd_create),
    SCMP_SYS(pidfd_open),
    /* memory */
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    /* the loop, its thread, and its end */
    SCMP_SYS(futex),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(poll),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getrandom),
    /* sockets: of VMs and of those who ask */
    SCMP_SYS(accept4),
    SCMP_SYS(connect),
    SCMP_SYS(socketpair),
    SCMP_SYS(sendto),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
};

/* Of an int the kernel looks at this half of the register alone. */
#define WHOLE_INT UINT32_MAX

/* Calls that are allowed where argument `index`, as far as `mask` goes, is `value`. */
static const struct judged_call {
    int call;
    unsigned index;
    uint64_t mask, value;
} judged_calls[] = {
    {SCMP_SYS(mmap), 2, PROT_EXEC, 0},
    {SCMP_SYS(mprotect), 2, PROT_EXEC, 0},
    /* Threads, not processes, and in no namespaces of their own. */
    {SCMP_SYS(clone), 0,
     CLONE_THREAD | CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
         CLONE_NEWUTS | CLONE_NEWCGROUP,
     CLONE_THREAD},
    {SCMP_SYS(prctl), 0, WHOLE_INT, PR_SET_NAME},
    {SCMP_SYS(socket), 0, WHOLE_INT, AF_UNIX},
    {SCMP_SYS(fcntl), 1, WHOLE_INT, F_GETFL},
    {SCMP_SYS(fcntl), 1, WHOLE_INT, F_ADD_SEALS},
    {SCMP_SYS(fcntl), 1, WHOLE_INT, F_GET_SEALS},
};

static int add_calls(scmp_filter_ctx filter)
{
    int failed = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(allowed_calls); i++)
        failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed_calls[i], 0);
    for (size_t i = 0; i < ARRAY_LENGTH(judged_calls); i++) {
        const struct judged_call *judged = &judged_calls[i];
        failed |= seccomp_rule_add(
            filter, SCMP_ACT_ALLOW, judged->call, 1,
            SCMP_CMP64(judged->index, SCMP_CMP_MASKED_EQ, judged->mask, judged->value));
    }
    /* abort, of this process alone. */
    failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                               SCMP_A0(SCMP_CMP_MASKED_EQ, WHOLE_INT, (uint64_t)getpid()));
    /* A filter does not see its flags: the C library falls back to clone. */
    failed |= seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return failed;
}

/* Builds for testing go without it: a sanitizer's leak check needs what must not be possible. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANDBOX_FITS false
#else
#define SANDBOX_FITS true
#endif

enum status hostd_sandbox_enter(struct error *err)
{
    if (!SANDBOX_FITS)
        return STATUS_OK;
    enum status status = STATUS_OK;
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (filter == NULL)
        return error_set(err, STATUS_UNSUPPORTED, "cannot make a system call filter");
    int failed = add_calls(filter);
    failed |= seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (failed != 0) {
        status = error_set(err, STATUS_INTERNAL, "cannot build the system call filter");
        goto out;
    }
    int error = seccomp_load(filter); /* sets no_new_privs as well */
    if (error != 0)
        status = error_set(err, STATUS_UNSUPPORTED, "cannot load the system call filter: %s",
                           strerror(-error));
out:
    seccomp_release(filter);
    return status;
}
