#include "hostd/sandbox.h"

#include <fcntl.h>
#include <seccomp.h>
#include <sys/socket.h>

#include "util/bits.h"
#include "util/call_filter.h"

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

static const struct judged_call judged_calls[] = {
    {SCMP_SYS(socket), 0, CALL_WHOLE_INT, AF_UNIX},
    {SCMP_SYS(fcntl), 1, CALL_WHOLE_INT, F_GETFL},
    {SCMP_SYS(fcntl), 1, CALL_WHOLE_INT, F_ADD_SEALS},
    {SCMP_SYS(fcntl), 1, CALL_WHOLE_INT, F_GET_SEALS},
};

static const struct call_list call_list = {
    .allowed = allowed_calls,
    .allowed_count = ARRAY_LENGTH(allowed_calls),
    .judged = judged_calls,
    .judged_count = ARRAY_LENGTH(judged_calls),
};

enum status hostd_sandbox_enter(struct error *err)
{
    return call_filter_enter(&call_list, err);
}
