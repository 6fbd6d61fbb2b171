#include "cpu/code_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

static void *map(int fd, size_t size, int protection)
{
    void *at = mmap(NULL, size, protection, MAP_SHARED, fd, 0);
    return at == MAP_FAILED ? NULL : at;
}

enum status code_memory_create(struct code_memory *memory, const char *name, size_t size,
                               bool executable, struct error *err)
{
    enum status status = STATUS_OK;
    *memory = (struct code_memory){.size = size};
    /* Kernels before 6.3 do not know MFD_EXEC, later ones may insist on it. */
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_EXEC);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0)
        return error_set(err, STATUS_NO_MEMORY, "cannot create code memory: %s", strerror(errno));
    if (ftruncate(fd, (off_t)size) == 0)
        memory->write = map(fd, size, PROT_READ | PROT_WRITE);
    if (memory->write != NULL && executable)
        memory->execute = map(fd, size, PROT_READ | PROT_EXEC);
    if (memory->write == NULL || (executable && memory->execute == NULL)) {
        status = error_set(err, STATUS_NO_MEMORY, "cannot map code memory: %s", strerror(errno));
        code_memory_destroy(memory);
    }
    close(fd);
    return status;
}

void code_memory_destroy(struct code_memory *memory)
{
    if (memory->write != NULL)
        munmap(memory->write, memory->size);
    if (memory->execute != NULL)
        munmap((void *)(uintptr_t)memory->execute, memory->size);
    *memory = (struct code_memory){0};
}
