#include "cpu/code_memory.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

/* The pieces, with their guards around them. */
static size_t whole(const struct code_memory *memory)
{
    return PAGE_SIZE + memory->pieces * code_memory_stride(memory);
}

/* NULL: it cannot be had. */
static uint8_t *map(const struct code_memory *memory, int fd, int protection)
{
    uint8_t *all = mmap(NULL, whole(memory), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED)
        return NULL;
    for (unsigned n = 0; n < memory->pieces; n++) {
        void *at = all + PAGE_SIZE + n * code_memory_stride(memory);
        if (mmap(at, memory->size, protection, MAP_SHARED | MAP_FIXED, fd,
                 (off_t)(n * memory->size)) == MAP_FAILED) {
            munmap(all, whole(memory));
            return NULL;
        }
    }
    return all + PAGE_SIZE;
}

static void unmap(const struct code_memory *memory, const uint8_t *first)
{
    if (first != NULL)
        munmap((void *)(uintptr_t)(first - PAGE_SIZE), whole(memory));
}

enum status code_memory_create(struct code_memory *memory, const char *name, size_t size,
                               unsigned pieces, bool executable, struct error *err)
{
    enum status status = STATUS_OK;
    *memory = (struct code_memory){.size = size, .pieces = pieces};
    /* Kernels before 6.3 do not know MFD_EXEC, later ones may insist on it. */
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_EXEC);
    if (fd < 0 && errno == EINVAL)
        fd = memfd_create(name, MFD_CLOEXEC);
    if (fd < 0)
        return error_set(err, STATUS_NO_MEMORY, "cannot create code memory: %s", strerror(errno));
    if (ftruncate(fd, (off_t)(pieces * size)) == 0)
        memory->write = map(memory, fd, PROT_READ | PROT_WRITE);
    if (memory->write != NULL && executable)
        memory->execute = map(memory, fd, PROT_READ | PROT_EXEC);
    if (memory->write == NULL || (executable && memory->execute == NULL)) {
        status = error_set(err, STATUS_NO_MEMORY, "cannot map code memory: %s", strerror(errno));
        code_memory_destroy(memory);
    }
    close(fd);
    return status;
}

void code_memory_destroy(struct code_memory *memory)
{
    unmap(memory, memory->write);
    unmap(memory, memory->execute);
    *memory = (struct code_memory){0};
}
