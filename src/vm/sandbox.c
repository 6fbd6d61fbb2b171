#include "vm/sandbox.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/call_filter.h"

/* Descriptors of the process: a machine with all its devices takes some 100, the rest is for the
 * guest's connections, each of which costs memory here as well. */
#define DESCRIPTORS_MAX 1024u

/* Grouped by who needs them. */
static const int allowed_calls[] = {
    /* files: kernel, disk images, console, resolv.conf */
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(pread64),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(lseek),
    SCMP_SYS(close),
    SCMP_SYS(fstat),
    SCMP_SYS(stat),
    SCMP_SYS(newfstatat),
    SCMP_SYS(fallocate),
    SCMP_SYS(ftruncate),
    SCMP_SYS(fdatasync),
    SCMP_SYS(io_uring_enter), /* of the swap file's ring, which can do one thing: swap_ring.h */
    /* memory; executable mappings are judged below */
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(memfd_create),
    /* threads and waiting */
    SCMP_SYS(futex),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
    SCMP_SYS(epoll_create1),
    SCMP_SYS(epoll_ctl),
    SCMP_SYS(epoll_wait),
    SCMP_SYS(poll),
    SCMP_SYS(eventfd2),
    SCMP_SYS(timerfd_create),
    SCMP_SYS(timerfd_settime),
    SCMP_SYS(restart_syscall),
    /* clocks, where the vDSO cannot tell */
    SCMP_SYS(clock_gettime),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    /* signals: who waits for them, masks of new threads, and what abort needs */
    SCMP_SYS(rt_sigtimedwait),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getpgrp), /* is the terminal ours? */
    /* randomness, user network */
    SCMP_SYS(getrandom),
    SCMP_SYS(bind),
    SCMP_SYS(listen),
    SCMP_SYS(accept),
    SCMP_SYS(accept4),
    SCMP_SYS(connect),
    SCMP_SYS(shutdown),
    SCMP_SYS(sendto),
    SCMP_SYS(recvfrom),
    SCMP_SYS(recvmsg),
    SCMP_SYS(getsockname),
    SCMP_SYS(getpeername),
    SCMP_SYS(setsockopt),
    SCMP_SYS(getsockopt),
};

static const struct judged_call judged_calls[] = {
    /* Files that exist are opened, none is made or emptied. */
    {SCMP_SYS(openat), 2, O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY), 0},
    /* The translator, where the CPU has no FSGSBASE. */
    {SCMP_SYS(arch_prctl), 0, CALL_WHOLE_INT, ARCH_SET_GS},
    {SCMP_SYS(arch_prctl), 0, CALL_WHOLE_INT, ARCH_GET_GS},
    /* Internet sockets: local ones reach daemons that trust this user. */
    {SCMP_SYS(socket), 0, CALL_WHOLE_INT, AF_INET},
    {SCMP_SYS(socket), 0, CALL_WHOLE_INT, AF_INET6},
    /* The terminal's modes, but not input in the user's name (TIOCSTI); what a socket has. */
    {SCMP_SYS(ioctl), 1, CALL_WHOLE_INT, TCGETS},
    {SCMP_SYS(ioctl), 1, CALL_WHOLE_INT, TCSETS},
    {SCMP_SYS(ioctl), 1, CALL_WHOLE_INT, TCSETSW},
    {SCMP_SYS(ioctl), 1, CALL_WHOLE_INT, TIOCGPGRP},
    {SCMP_SYS(ioctl), 1, CALL_WHOLE_INT, FIONREAD},
    /* Not the owner of a descriptor's signals, who may be anybody. */
    {SCMP_SYS(fcntl), 1, CALL_WHOLE_INT, F_DUPFD_CLOEXEC},
    {SCMP_SYS(fcntl), 1, CALL_WHOLE_INT, F_GETFD},
    {SCMP_SYS(fcntl), 1, CALL_WHOLE_INT, F_SETFD},
    {SCMP_SYS(fcntl), 1, CALL_WHOLE_INT, F_GETFL},
    {SCMP_SYS(fcntl), 1, CALL_WHOLE_INT, F_SETFL},
    {SCMP_SYS(fcntl), 1, CALL_WHOLE_INT, F_OFD_SETLK},
    {SCMP_SYS(fcntl), 1, CALL_WHOLE_INT, F_ADD_SEALS},
    {SCMP_SYS(fcntl), 1, CALL_WHOLE_INT, F_GET_SEALS},
    /* Over the manager's link, the only local socket there is. */
    {SCMP_SYS(sendmsg), 2, CALL_WHOLE_INT, MSG_DONTWAIT | MSG_NOSIGNAL},
};

static const struct call_list call_list = {
    .allowed = allowed_calls,
    .allowed_count = ARRAY_LENGTH(allowed_calls),
    .judged = judged_calls,
    .judged_count = ARRAY_LENGTH(judged_calls),
};

static void limit_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_max > DESCRIPTORS_MAX) {
        limit.rlim_max = DESCRIPTORS_MAX;
        if (limit.rlim_cur > DESCRIPTORS_MAX)
            limit.rlim_cur = DESCRIPTORS_MAX;
        setrlimit(RLIMIT_NOFILE, &limit); /* lowering is always allowed */
    }
}

/* Of a root's process all its powers: of this thread, and of those that it will start. What a
 * file's mode denies is denied then: a pool that is there to be read cannot be opened again for
 * writing. */
static enum status drop_capabilities(struct error *err)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {0};
    if (syscall(SYS_capset, &header, none) != 0)
        return error_set(err, STATUS_UNSUPPORTED, "cannot give up privileges: %s", strerror(errno));
    return STATUS_OK;
}

enum status sandbox_enter(struct error *err)
{
    limit_descriptors();
    enum status status = drop_capabilities(err);
    return status == STATUS_OK ? call_filter_enter(&call_list, err) : status;
}
