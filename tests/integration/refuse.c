/*
 * For LD_PRELOAD into aerostat-vm: a host that has no memory for guests. While the first byte of
 * the file $REFUSE is not '0', no page is populated; fallocate and all else go on.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static volatile const char *refuses;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("REFUSE");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *page = fd < 0 ? MAP_FAILED : mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED)
        refuses = page;
    if (fd >= 0)
        close(fd);
}

int madvise(void *address, size_t length, int advice)
{
    static int (*real)(void *, size_t, int);
    if (advice == MADV_POPULATE_WRITE && refuses != NULL && *refuses != '0') {
        errno = ENOMEM;
        return -1;
    }
    if (real == NULL)
        real = (int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "madvise");
    return real(address, length, advice);
}
