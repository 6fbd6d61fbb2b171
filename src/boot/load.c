/* Recognizes a kernel's format by its head, and hands it to the loader for that format. */

#include <malloc.h>
#include <stdlib.h>

#include "boot/boot.h"
#include "boot/formats.h"
#include "boot/memory.h"
#include "util/bits.h"

/* A bare vmlinux with its debugging information is about 1 GiB. */
#define KERNEL_SIZE_MAX (4 * GIB)

static enum status load_vmlinux(const struct boot_job *job, struct boot_entry *entry,
                                struct error *err)
{
    struct image image;
    image_init(&image, job->map, job->kernel, job->kernel->size);
    enum status status = elf_parse(&image, job->head, job->head_size, err);
    if (status == STATUS_OK)
        status = image_load(&image, err);
    if (status == STATUS_OK)
        status = linux_prepare(job, &image, NULL, 0, entry, err);
    return status;
}

static enum status load(struct pmap *map, const struct boot_config *config,
                        const struct boot_source *kernel, const struct boot_source *initrd,
                        struct boot_entry *entry, struct error *err)
{
    if (kernel->size > KERNEL_SIZE_MAX)
        return error_set(err, STATUS_INVALID, "kernel '%s' is too large to be a kernel",
                         kernel->name);
    if (!memory_is_ram(map, 0, BOOT_HIGH))
        return error_set(err, STATUS_INVALID, "%llu KiB of memory is too little to start a kernel",
                         (unsigned long long)(memory_total(map) / KIB));

    uint64_t head_size = kernel->size < IMAGE_HEAD_SIZE ? kernel->size : IMAGE_HEAD_SIZE;
    uint8_t *head = malloc(head_size);
    if (head == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory to load kernel '%s'", kernel->name);
    struct boot_job job = {map, config, kernel, initrd, head, head_size};

    enum status status = source_read(kernel, 0, head, head_size, err);
    if (status == STATUS_OK) {
        if (bzimage_recognize(head, head_size))
            status = bzimage_load(&job, entry, err);
        else if (multiboot_recognize(head, head_size))
            status = multiboot_load(&job, entry, err);
        else if (elf_recognize(head, head_size))
            status = load_vmlinux(&job, entry, err);
        else
            status = error_set(err, STATUS_INVALID,
                               "kernel '%s' is not a kernel: neither a Linux "
                               "bzImage, nor an ELF file, nor multiboot",
                               kernel->name);
    }
    free(head);
    /* The decoders' buffers are tens of megabytes: back to the host before the guest starts. */
    malloc_trim(0);
    return status;
}

enum status boot_load(struct pmap *map, const struct boot_config *config, struct boot_entry *entry,
                      struct error *err)
{
    struct boot_source kernel, initrd = {.fd = -1};
    enum status status = source_open(&kernel, "kernel", config->kernel, err);
    if (status != STATUS_OK)
        return status;
    if (config->initrd != NULL)
        status = source_open(&initrd, "initrd", config->initrd, err);
    if (status == STATUS_OK)
        status = load(map, config, &kernel, config->initrd != NULL ? &initrd : NULL, entry, err);
    source_close(&initrd);
    source_close(&kernel);
    return status;
}

enum status boot_load_bytes(struct pmap *map, const uint8_t *kernel, uint64_t kernel_size,
                            const uint8_t *initrd, uint64_t initrd_size,
                            const struct boot_config *config, struct boot_entry *entry,
                            struct error *err)
{
    struct boot_source kernel_source, initrd_source;
    enum status status =
        source_from_bytes(&kernel_source, "kernel", config->kernel != NULL ? config->kernel : "",
                          kernel, kernel_size, err);
    if (status == STATUS_OK && initrd != NULL)
        status = source_from_bytes(&initrd_source, "initrd",
                                   config->initrd != NULL ? config->initrd : "", initrd,
                                   initrd_size, err);
    if (status != STATUS_OK)
        return status;
    return load(map, config, &kernel_source, initrd != NULL ? &initrd_source : NULL, entry, err);
}
