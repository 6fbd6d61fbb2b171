#include "util/call_filter.h"

#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "util/bits.h"

/* What any process of ours may do. */
static const struct judged_call common_calls[] = {
    /* No code is made or loaded. */
    {SCMP_SYS(mmap), 2, PROT_EXEC, 0},
    {SCMP_SYS(mprotect), 2, PROT_EXEC, 0},
    /* Threads, not processes, and in no namespaces of their own. */
    {SCMP_SYS(clone), 0,
     CLONE_THREAD | CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
         CLONE_NEWUTS | CLONE_NEWCGROUP,
     CLONE_THREAD},
    {SCMP_SYS(prctl), 0, CALL_WHOLE_INT, PR_SET_NAME},
};

static int add_judged(scmp_filter_ctx filter, const struct judged_call *calls, size_t count)
{
    int failed = 0;
    for (size_t i = 0; i < count; i++)
        failed |= seccomp_rule_add(
            filter, SCMP_ACT_ALLOW, calls[i].call, 1,
            SCMP_CMP64(calls[i].index, SCMP_CMP_MASKED_EQ, calls[i].mask, calls[i].value));
    return failed;
}

static int add_calls(scmp_filter_ctx filter, const struct call_list *list)
{
    int failed = 0;
    for (size_t i = 0; i < list->allowed_count; i++)
        failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, list->allowed[i], 0);
    failed |= add_judged(filter, common_calls, ARRAY_LENGTH(common_calls));
    failed |= add_judged(filter, list->judged, list->judged_count);
    /* abort, of this process alone. */
    failed |= seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                               SCMP_A0(SCMP_CMP_MASKED_EQ, CALL_WHOLE_INT, (uint64_t)getpid()));
    /* A filter does not see its flags: the C library falls back to clone. */
    failed |= seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return failed;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FILTER_FITS false
#else
#define FILTER_FITS true
#endif

enum status call_filter_enter(const struct call_list *list, struct error *err)
{
    if (!FILTER_FITS)
        return STATUS_OK;
    enum status status = STATUS_OK;
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    if (filter == NULL)
        return error_set(err, STATUS_UNSUPPORTED, "cannot make a system call filter");

    int failed = add_calls(filter, list);
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
