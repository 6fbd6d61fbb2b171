/*
 * For LD_PRELOAD into aerostat-vm: a host that has little memory for a guest's RAM. The file that
 * $SMALL_HOST names says how many MiB, in digits; 0: any. It is read at every page.
 */

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096

static const volatile char *limit;
static int ram = -1;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("SMALL_HOST");
    int fd = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED)
        limit = mapped;
    if (fd >= 0)
        close(fd);
}

int memfd_create(const char *name, unsigned flags)
{
    int fd = (int)syscall(SYS_memfd_create, name, flags);
    if (strcmp(name, "aerostat-ram") == 0)
        ram = fd;
    return fd;
}

int madvise(void *address, size_t length, int advice)
{
    struct stat info;
    long most = limit == NULL ? 0 : atol((const char *)limit);
    if (advice == MADV_POPULATE_WRITE && most != 0 && fstat(ram, &info) == 0 &&
        info.st_blocks * 512 >= most << 20) {
        errno = ENOMEM;
        return -1;
    }
    return (int)syscall(SYS_madvise, address, length, advice);
}
