/*
 * Fuzz target for the kernel loaders. Input: four bytes of control, then the kernel, then the
 * initrd.
 *   byte 0     memory: 1 to 64 MiB, odd values of bit 7 with RAM above 4 GiB too
 *   byte 1     bit 0: has an initrd; bits 1-2: length of the command line
 *   bytes 2-3  length of the initrd, at most what there is
 */

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "boot/boot.h"
#include "util/bits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const unsigned line_lengths[] = {0, 20, 2047, 70000};
    enum { CONTROL = 4 };
    if (size < CONTROL)
        return 0;

    struct ram_range ranges[2] = {{0, (1 + (data[0] & 63)) * MIB}, {4 * GIB, 16 * MIB}};
    struct pmap *map;
    if (pmap_create(&map, ranges, data[0] & 0x80 ? 2 : 1, NULL) != STATUS_OK)
        return 0;

    size_t initrd_size = (size_t)(data[2] | data[3] << 8);
    size_t kernel_size = size - CONTROL;
    if (!(data[1] & 1))
        initrd_size = 0;
    else if (initrd_size > kernel_size)
        initrd_size = kernel_size;
    kernel_size -= initrd_size;
    const uint8_t *kernel = data + CONTROL;

    unsigned line_length = line_lengths[data[1] >> 1 & 3];
    char *line = malloc(line_length + 1);
    if (line == NULL)
        abort();
    memset(line, 'a', line_length);
    line[line_length] = 0;

    struct boot_config config = {.append = line, .rsdp = 0xe0000};
    struct boot_entry entry;
    struct error err = {0};
    enum status status =
        boot_load_bytes(map, kernel, kernel_size, data[1] & 1 ? kernel + kernel_size : NULL,
                        initrd_size, &config, &entry, &err);
    /* A refusal explains itself in one line; and what was accepted starts in RAM. */
    uint8_t byte;
    if (status == STATUS_OK ? pmap_read(map, entry.rip, &byte, 1) != STATUS_OK
                            : err.text[0] == 0 || strchr(err.text, '\n') != NULL)
        abort();
    free(line);
    pmap_destroy(map);
    return 0;
}
