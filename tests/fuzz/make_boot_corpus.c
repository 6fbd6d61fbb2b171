/* Writes the seeds of fuzz_boot's corpus into the folder given as argument:
 *   build/tests/fuzz/make_boot_corpus tests/fuzz/corpus/boot */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../boot/kernels.h"

static const char *folder;

/* Control bytes as in fuzz_boot.c, then the kernel and an initrd of initrd_size bytes. */
static void write_seed(const char *name, const struct bytes *kernel, uint8_t memory, uint8_t line,
                       uint16_t initrd_size)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    if (file == NULL) {
        perror(path);
        exit(1);
    }
    uint8_t control[4] = {memory, (uint8_t)((initrd_size != 0) | line << 1), (uint8_t)initrd_size,
                          (uint8_t)(initrd_size >> 8)};
    fwrite(control, 1, sizeof(control), file);
    fwrite(kernel->data, 1, kernel->size, file);
    for (unsigned i = 0; i < initrd_size; i++)
        fputc(pattern_byte(7, i), file);
    fclose(file);
}

static void write_bzimages(void)
{
    static const struct test_segment segments[] = {
        {0xffffffff81000000, 0x1000000, 600, 700, 1},
        {0, 0x1010000, 80, 5000, 2},
    };
    char name[64];
    struct bytes elf = make_elf64(segments, 2, 0x1000000);
    write_seed("elf64", &elf, 63, 1, 0);
    write_seed("elf64-initrd", &elf, 0x80 | 31, 1, 100);
    for (enum packing packing = 0; packing < PACK_COUNT; packing++) {
        struct bytes payload = pack(packing, &elf);
        struct bytes image = make_bzimage(&payload);
        snprintf(name, sizeof(name), "bzimage-%s", packing_names[packing]);
        write_seed(name, &image, 31, 1, 0);
        snprintf(name, sizeof(name), "bzimage-%s-initrd", packing_names[packing]);
        write_seed(name, &image, 0x80 | 31, 2, 300);
        snprintf(name, sizeof(name), "bzimage-%s-cut", packing_names[packing]);
        image.size -= image.size / 8;
        write_seed(name, &image, 31, 0, 0);
        bytes_free(&image);
        bytes_free(&payload);
    }
    bytes_free(&elf);
}

static void write_multiboot(void)
{
    static const struct test_segment segments[] = {{0x100000, 0x100000, 300, 400, 3},
                                                   {0x101000, 0x101000, 50, 60, 4}};
    struct bytes elf = make_elf32(segments, 2, 0x100010, 1, 3);
    write_seed("multiboot", &elf, 3, 1, 0);
    write_seed("multiboot-module", &elf, 3, 1, 50);
    write_seed("multiboot-little-memory", &elf, 0, 1, 50);
    bytes_free(&elf);

    elf = make_elf32(segments, 2, 0x100010, 0, 0);
    write_seed("elf32", &elf, 3, 1, 0);
    bytes_free(&elf);

    uint32_t header[8] = {0x1badb002, 0x10000,  -(0x1badb002 + 0x10000),
                          0x200080,   0x200000, 0x200400,
                          0x200800,   0x200100};
    struct bytes flat = {0};
    bytes_append(&flat, NULL, 1200);
    memcpy(flat.data + 0x80, header, sizeof(header));
    write_seed("multiboot-addresses", &flat, 7, 1, 0);
    bytes_free(&flat);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: make_boot_corpus FOLDER\n");
        return 2;
    }
    folder = argv[1];
    write_bzimages();
    write_multiboot();
    return 0;
}
