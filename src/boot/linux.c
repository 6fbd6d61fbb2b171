/*
 * Starting a Linux kernel proper (vmlinux) by the 64-bit boot protocol: boot_params in rsi, the
 * first 4 GiB identity-mapped, flat segments. A 32-bit vmlinux is started by the 32-bit protocol,
 * whose CPU state is that of multiboot.
 */

#include <asm/bootparam.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "boot/formats.h"
#include "boot/memory.h"
#include "util/bits.h"

_Static_assert(sizeof(struct boot_params) == 4096, "the zero page is a page");
_Static_assert(BOOT_PAGE_TABLES + 6 * PAGE_SIZE <= BOOT_CMDLINE, "tables below the command line");

enum {
    LOADER_UNDEFINED = 0xff,
    VIDEO_MODE_NORMAL = 0xffff,
    /* For a bare vmlinux, which does not say: x86's COMMAND_LINE_SIZE less its NUL, and the highest
     * initrd address that every kernel takes. */
    CMDLINE_MAX = 2047,
    INITRD_ADDRESS_MAX = 0x7fffffff,
};

/* PML4, one page directory pointer table, four page directories of 2 MiB pages. */
static enum status put_page_tables(struct pmap *map, struct error *err)
{
    enum { PRESENT_WRITE = 3, LARGE = 0x80, TABLES = 6, ENTRIES = 512 };
    uint64_t *tables = calloc(TABLES, PAGE_SIZE);
    if (tables == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for page tables");
    tables[0] = (BOOT_PAGE_TABLES + PAGE_SIZE) | PRESENT_WRITE;
    for (unsigned i = 0; i < 4; i++)
        tables[ENTRIES + i] = (BOOT_PAGE_TABLES + (2 + i) * PAGE_SIZE) | PRESENT_WRITE;
    for (uint64_t i = 0; i < 4 * ENTRIES; i++)
        tables[2 * ENTRIES + i] = (i * 2 * MIB) | PRESENT_WRITE | LARGE;
    enum status status = memory_put(map, BOOT_PAGE_TABLES, tables, TABLES * PAGE_SIZE, err);
    free(tables);
    return status;
}

static void fill_header(struct setup_header *header, const struct image *image,
                        const uint8_t *setup_header, uint64_t setup_header_size)
{
    if (setup_header != NULL) {
        memcpy(header, setup_header,
               setup_header_size < sizeof(*header) ? setup_header_size : sizeof(*header));
    } else {
        header->boot_flag = 0xaa55;
        header->header = 0x53726448;
        header->version = 0x20c;
        header->kernel_alignment = 2 * MIB;
        header->initrd_addr_max = INITRD_ADDRESS_MAX;
        header->cmdline_size = CMDLINE_MAX;
        header->loadflags = LOADED_HIGH;
    }
    header->type_of_loader = LOADER_UNDEFINED;
    header->loadflags &= (uint8_t) ~(CAN_USE_HEAP | QUIET_FLAG | KEEP_SEGMENTS);
    header->vid_mode = VIDEO_MODE_NORMAL;
    header->code32_start = (uint32_t)image->entry;
    header->cmd_line_ptr = BOOT_CMDLINE;
    /* Whatever the file has here is not a pointer that we made. */
    header->setup_data = 0;
    header->ramdisk_image = 0;
    header->ramdisk_size = 0;
}

static void fill_memory_map(struct boot_params *params, const struct pmap *map)
{
    struct memory_entry entries[MEMORY_ENTRIES_MAX];
    _Static_assert(MEMORY_ENTRIES_MAX <= E820_MAX_ENTRIES_ZEROPAGE, "all entries fit");
    unsigned count = memory_describe(map, entries);
    for (unsigned i = 0; i < count; i++)
        params->e820_table[i] = (struct boot_e820_entry){
            .addr = entries[i].base, .size = entries[i].size, .type = entries[i].type};
    params->e820_entries = (uint8_t)count;
}

enum status linux_prepare(const struct boot_job *job, const struct image *image,
                          const uint8_t *setup_header, uint64_t setup_header_size,
                          struct boot_entry *entry, struct error *err)
{
    struct pmap *map = job->map;
    struct boot_range initrd = {0};
    struct boot_params *params = calloc(1, sizeof(*params));
    if (params == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for boot parameters");

    fill_header(&params->hdr, image, setup_header, setup_header_size);
    fill_memory_map(params, map);
    params->acpi_rsdp_addr = job->config->rsdp;

    enum status status =
        memory_put_cmdline(map, job->config->append, params->hdr.cmdline_size, err);
    if (status != STATUS_OK)
        goto out;
    if (job->initrd != NULL) {
        status = memory_load_file(map, job->initrd, image->end,
                                  (uint64_t)params->hdr.initrd_addr_max + 1, &initrd, err);
        if (status != STATUS_OK)
            goto out;
        params->hdr.ramdisk_image = (uint32_t)initrd.gpa;
        params->hdr.ramdisk_size = (uint32_t)initrd.size;
    }
    status = memory_put(map, BOOT_PARAMS, params, sizeof(*params), err);
    if (status != STATUS_OK)
        goto out;

    uint16_t gdt_limit;
    status = memory_put_gdt(map, image->is_64, &gdt_limit, err);
    if (status != STATUS_OK)
        goto out;
    *entry = (struct boot_entry){
        .mode = image->is_64 ? BOOT_LINUX64 : BOOT_MULTIBOOT1,
        .rip = image->entry,
        .rsi = BOOT_PARAMS,
        .rsp = BOOT_STACK,
        .gdt_base = BOOT_GDT,
        .gdt_limit = gdt_limit,
        .kernel = image_range(image),
        .initrd = initrd,
    };
    if (image->is_64) {
        status = put_page_tables(map, err);
        entry->cr3 = BOOT_PAGE_TABLES;
    }
out:
    free(params);
    return status;
}
