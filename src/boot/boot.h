#ifndef AEROSTAT_BOOT_BOOT_H
#define AEROSTAT_BOOT_BOOT_H

/*
 * Loading a kernel into guest memory: what to load, and the CPU state it starts with.
 *
 * Kernel and initrd are untrusted files: everything in them is checked before it is used, and what
 * is wrong is said in one line that names the file.
 *
 * Guest-physical layout below 1 MiB (see docs/architecture.md):
 *   0x000500  GDT           0x007000  boot_params ("zero page")
 *   0x009000  page tables   0x020000  command line
 *   0x0e0000  ACPI tables, RSDP first; 0x0ffff0 reset vector (reserved in the memory map)
 */

#include <stdbool.h>
#include <stdint.h>

#include "mem/pmap.h"
#include "util/status.h"

enum boot_mode {
    BOOT_LINUX64, /* 64-bit protocol: long mode, identity-mapped page tables at cr3, flat CS/DS */
    BOOT_MULTIBOOT1, /* 32-bit protected mode, no paging, flat CS/DS; also a 32-bit Linux kernel */
};

/* Where something was loaded; size 0: nothing was. */
struct boot_range {
    uint64_t gpa, size;
};

/* CPU state at the first guest instruction; what is not named is as after reset. And what was
 * loaded where. */
struct boot_entry {
    enum boot_mode mode;
    uint64_t rip;
    uint64_t rax, rbx, rsi, rsp;
    uint64_t cr3;      /* BOOT_LINUX64 */
    uint64_t gdt_base; /* in guest memory; selector 0x10 is code, 0x18 is data */
    uint16_t gdt_limit;
    struct boot_range kernel; /* with what stays zero in it */
    struct boot_range initrd;
};

struct boot_config {
    const char *kernel; /* path: bzImage, ELF64 or ELF32 vmlinux, or multiboot 1 ELF */
    const char *initrd; /* path or NULL; for multiboot: the one module */
    const char *append; /* command line, "" for none */
    uint64_t rsdp;      /* guest-physical address of the RSDP, 0 for none */
};

/*
 * Recognizes the kernel's format and loads everything. The guest's RAM must be all zero, apart from
 * the ACPI tables (a kernel's bss is left as it is), and nothing else may use the map meanwhile.
 * Files are read in pieces and nothing of them stays in memory. Errors: NOT_FOUND (no such file),
 * INVALID (unusable file, or it does not fit), UNSUPPORTED, NO_MEMORY, IO; guest memory is then
 * partly written and of no use.
 */
enum status boot_load(struct pmap *map, const struct boot_config *config, struct boot_entry *entry,
                      struct error *err);

/* For the loaders' fuzzers and tests: the same on bytes in memory. initrd may be NULL. */
enum status boot_load_bytes(struct pmap *map, const uint8_t *kernel, uint64_t kernel_size,
                            const uint8_t *initrd, uint64_t initrd_size,
                            const struct boot_config *config, struct boot_entry *entry,
                            struct error *err);

#endif
