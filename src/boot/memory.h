#ifndef AEROSTAT_BOOT_MEMORY_H
#define AEROSTAT_BOOT_MEMORY_H

/* Where the loaders put things, what the guest is told about its memory, and copying files there.
 */

#include <stdbool.h>
#include <stdint.h>

#include "boot/boot.h"
#include "boot/source.h"
#include "mem/pmap.h"

/* The layout below 1 MiB; boot.h draws it. */
#define BOOT_GDT          0x500u
#define BOOT_STACK        0x7000u /* top of a page or so of stack, which no loader needs */
#define BOOT_PARAMS       0x7000u /* Linux zero page, or multiboot information */
#define BOOT_PAGE_TABLES  0x9000u
#define BOOT_CMDLINE      0x20000u
#define BOOT_CMDLINE_SIZE 0x10000u /* with the final NUL */
#define BOOT_LOW_END      0x30000u /* no kernel below this */
#define BOOT_EBDA         0x9fc00u /* reserved from here to 1 MiB */
#define BOOT_HIGH         0x100000u
#define BOOT_LOW_RAM_MAX  0xc0000000u /* however much there is, the first RAM range ends here */

enum memory_type { MEMORY_RAM = 1, MEMORY_RESERVED = 2 }; /* as in ACPI's address map */

struct memory_entry {
    uint64_t base, size;
    enum memory_type type;
};

#define MEMORY_ENTRIES_MAX 128u

/* The memory map for the guest, ascending: its RAM with the reserved area below 1 MiB cut out.
 * Returns the number of entries. */
unsigned memory_describe(const struct pmap *map, struct memory_entry entries[MEMORY_ENTRIES_MAX]);

/* True when [base, base + size) is RAM throughout. */
bool memory_is_ram(const struct pmap *map, uint64_t base, uint64_t size);

/* All RAM in bytes; and where the RAM that holds the first MiB ends, at most 4 GiB. */
uint64_t memory_total(const struct pmap *map);
uint64_t memory_low_end(const struct pmap *map);

/* Reads the whole file to page-aligned guest memory as high as possible in [floor, ceiling) of low
 * RAM, in pieces. Says how much memory it would take where it does not fit. */
enum status memory_load_file(struct pmap *map, const struct boot_source *source, uint64_t floor,
                             uint64_t ceiling, struct boot_range *range, struct error *err);

/* Copies the command line with its NUL to BOOT_CMDLINE. max: the longest the kernel takes. */
enum status memory_put_cmdline(struct pmap *map, const char *text, uint64_t max, struct error *err);

/* A GDT at BOOT_GDT with flat code at 0x10 (64-bit or 32-bit) and data at 0x18; gives its limit. */
enum status memory_put_gdt(struct pmap *map, bool is_64, uint16_t *limit, struct error *err);

/* As pmap_write, with a message for people. */
enum status memory_put(struct pmap *map, uint64_t gpa, const void *bytes, uint64_t length,
                       struct error *err);

/* The same for a file's content: zeros are not written to pages that are zero, and so pages of
 * zeros take no memory. A third of a vmlinux is such pages. */
enum status memory_put_sparse(struct pmap *map, uint64_t gpa, const uint8_t *bytes, uint64_t length,
                              struct error *err);

#endif
