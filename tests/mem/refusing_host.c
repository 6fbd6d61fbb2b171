#include "refusing_host.h"

#include <errno.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

bool (*volatile host_refuses)(void);

bool host_refuses_all(void)
{
    return true;
}

int madvise(void *address, size_t length, int advice)
{
    if (advice == MADV_POPULATE_WRITE && host_refuses != NULL && host_refuses()) {
        errno = ENOMEM;
        return -1;
    }
    return (int)syscall(SYS_madvise, address, length, advice);
}
