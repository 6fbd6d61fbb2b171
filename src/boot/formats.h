#ifndef AEROSTAT_BOOT_FORMATS_H
#define AEROSTAT_BOOT_FORMATS_H

/* The three loaders that load.c chooses from. `head` is the first head_size bytes of the kernel, at
 * most IMAGE_HEAD_SIZE; initrd is NULL where there is none. */

#include <stdbool.h>

#include "boot/boot.h"
#include "boot/image.h"
#include "boot/source.h"

struct boot_job {
    struct pmap *map;
    const struct boot_config *config;
    const struct boot_source *kernel;
    const struct boot_source *initrd;
    const uint8_t *head;
    uint64_t head_size;
};

bool bzimage_recognize(const uint8_t *head, uint64_t head_size);
enum status bzimage_load(const struct boot_job *job, struct boot_entry *entry, struct error *err);

/* True where a multiboot 1 header with a right checksum is in the first 8 KiB. */
bool multiboot_recognize(const uint8_t *head, uint64_t head_size);
enum status multiboot_load(const struct boot_job *job, struct boot_entry *entry, struct error *err);

bool elf_recognize(const uint8_t *head, uint64_t head_size);

/* Everything a Linux kernel whose image is in memory needs beside itself: zero page, command line,
 * initrd, page tables, GDT. setup_header: the bytes at 0x1f1 of a bzImage and after, NULL for a
 * bare vmlinux. */
enum status linux_prepare(const struct boot_job *job, const struct image *image,
                          const uint8_t *setup_header, uint64_t setup_header_size,
                          struct boot_entry *entry, struct error *err);

#endif
