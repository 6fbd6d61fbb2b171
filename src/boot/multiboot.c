/*
 * Multiboot 1 (specification 0.6.96): an ELF32 file, or any file whose header carries its load
 * addresses ("a.out kludge"). The kernel starts in 32-bit protected mode without paging, with the
 * magic number in eax and the address of the information structure in ebx.
 *
 * At BOOT_PARAMS: the information structure, then the module list, the memory map, the strings.
 */

#include <stddef.h>
#include <string.h>

#include "boot/formats.h"
#include "boot/memory.h"
#include "util/bits.h"

enum {
    SEARCH_SIZE = 8192,
    HEADER_PAGE_ALIGN = 1 << 0, /* modules on page boundaries: they always are */
    HEADER_MEMORY = 1 << 1,     /* wants the memory fields: they are always there */
    HEADER_REQUIRED = 0xffff,   /* a bit here that we do not know forbids loading */
    HEADER_ADDRESSES = 1 << 16,
};
#define HEADER_MAGIC 0x1badb002u
#define ENTRY_MAGIC  0x2badb002u

struct header {
    uint32_t magic, flags, checksum;
    uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

enum info_flags {
    INFO_MEMORY = 1 << 0,
    INFO_CMDLINE = 1 << 2,
    INFO_MODULES = 1 << 3,
    INFO_MEMORY_MAP = 1 << 6,
    INFO_LOADER = 1 << 9,
};

struct info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr;
    uint32_t symbols[4], mmap_length, mmap_addr, drives_length, drives_addr, config_table;
    uint32_t boot_loader_name, apm_table;
};

struct module {
    uint32_t start, end, string, reserved;
};

struct __attribute__((packed)) map_entry {
    uint32_t size; /* of what follows */
    uint64_t base, length;
    uint32_t type;
};

/* All that is put at BOOT_PARAMS. The module's string is the last part of its path. */
struct block {
    struct info info;
    struct module module;
    struct map_entry map[MEMORY_ENTRIES_MAX];
    char loader[16];
    char module_name[256];
};
_Static_assert(sizeof(struct block) < BOOT_CMDLINE - BOOT_PARAMS, "below the command line");

static bool find_header(const uint8_t *head, uint64_t head_size, struct header *header,
                        uint64_t *offset)
{
    uint64_t limit = head_size < SEARCH_SIZE ? head_size : SEARCH_SIZE;
    for (uint64_t at = 0; range_fits(at, offsetof(struct header, header_addr), limit); at += 4) {
        memcpy(header, head + at, offsetof(struct header, header_addr));
        if (header->magic != HEADER_MAGIC || header->magic + header->flags + header->checksum != 0)
            continue;
        if (header->flags & HEADER_ADDRESSES) {
            if (!range_fits(at, sizeof(*header), limit))
                continue;
            memcpy(header, head + at, sizeof(*header));
        }
        *offset = at;
        return true;
    }
    return false;
}

bool multiboot_recognize(const uint8_t *head, uint64_t head_size)
{
    struct header header;
    uint64_t offset;
    return find_header(head, head_size, &header, &offset);
}

static enum status add_by_addresses(struct image *image, const struct header *header,
                                    uint64_t header_offset, struct error *err)
{
    const char *name = image->source->name;
    uint64_t before = (uint64_t)header->header_addr - header->load_addr;

    if (header->header_addr < header->load_addr || before > header_offset)
        return error_set(err, STATUS_INVALID,
                         "kernel '%s' has a multiboot header that says it "
                         "starts before the file",
                         name);
    uint64_t offset = header_offset - before;
    uint64_t file_size = image->file_size - offset;
    if (header->load_end_addr != 0) {
        if (header->load_end_addr <= header->load_addr)
            return error_set(err, STATUS_INVALID,
                             "kernel '%s' has a multiboot header whose load "
                             "addresses are reversed",
                             name);
        file_size = header->load_end_addr - header->load_addr;
    }
    uint64_t mem_size = file_size;
    if (header->bss_end_addr != 0) {
        if (header->bss_end_addr < header->load_addr + file_size)
            return error_set(err, STATUS_INVALID,
                             "kernel '%s' has a multiboot header whose bss "
                             "ends before its data",
                             name);
        mem_size = header->bss_end_addr - header->load_addr;
    }
    enum status status = image_add(image,
                                   &(struct image_segment){.offset = offset,
                                                           .file_size = file_size,
                                                           .gpa = header->load_addr,
                                                           .mem_size = mem_size},
                                   err);
    if (status != STATUS_OK)
        return status;
    image->entry = header->entry_addr;
    if (!image_contains(image, image->entry))
        return error_set(err, STATUS_INVALID,
                         "kernel '%s' has its entry point outside of what it "
                         "loads",
                         name);
    return STATUS_OK;
}

static enum status load_image(const struct boot_job *job, struct image *image, struct error *err)
{
    const char *name = job->kernel->name;
    struct header header;
    uint64_t offset;
    if (!find_header(job->head, job->head_size, &header, &offset))
        return error_set(err, STATUS_INVALID, "kernel '%s' has no multiboot header", name);
    if (header.flags & HEADER_REQUIRED & ~(unsigned)(HEADER_PAGE_ALIGN | HEADER_MEMORY))
        return error_set(err, STATUS_UNSUPPORTED,
                         "kernel '%s' requires multiboot features 0x%x, "
                         "which are not offered",
                         name, header.flags & HEADER_REQUIRED);

    image_init(image, job->map, job->kernel, job->kernel->size);
    enum status status;
    if (header.flags & HEADER_ADDRESSES) {
        status = add_by_addresses(image, &header, offset, err);
    } else {
        status = elf_parse(image, job->head, job->head_size, err);
        if (status == STATUS_OK && image->is_64)
            status = error_set(err, STATUS_UNSUPPORTED,
                               "kernel '%s' is a multiboot kernel in an "
                               "ELF64 file; it must be ELF32 or give load addresses",
                               name);
    }
    return status == STATUS_OK ? image_load(image, err) : status;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static void fill_block(struct block *block, const struct boot_job *job, struct boot_range module)
{
    struct memory_entry entries[MEMORY_ENTRIES_MAX];
    unsigned count = memory_describe(job->map, entries);
    uint64_t low_end = memory_low_end(job->map);

    memset(block, 0, sizeof(*block));
    for (unsigned i = 0; i < count; i++)
        block->map[i] = (struct map_entry){.size = sizeof(struct map_entry) - 4,
                                           .base = entries[i].base,
                                           .length = entries[i].size,
                                           .type = entries[i].type};
    strcpy(block->loader, "aerostat");

    block->info = (struct info){
        .flags = INFO_MEMORY | INFO_CMDLINE | INFO_MEMORY_MAP | INFO_LOADER,
        .mem_lower = BOOT_EBDA / 1024,
        .mem_upper = low_end > BOOT_HIGH ? (uint32_t)((low_end - BOOT_HIGH) / 1024) : 0,
        .cmdline = BOOT_CMDLINE,
        .mmap_length = (uint32_t)(count * sizeof(struct map_entry)),
        .mmap_addr = (uint32_t)(BOOT_PARAMS + offsetof(struct block, map)),
        .boot_loader_name = (uint32_t)(BOOT_PARAMS + offsetof(struct block, loader)),
    };
    if (job->initrd == NULL)
        return;
    strncpy(block->module_name, base_name(job->initrd->name), sizeof(block->module_name) - 1);
    block->module = (struct module){
        .start = (uint32_t)module.gpa,
        .end = (uint32_t)(module.gpa + module.size),
        .string = (uint32_t)(BOOT_PARAMS + offsetof(struct block, module_name)),
    };
    block->info.flags |= INFO_MODULES;
    block->info.mods_count = 1;
    block->info.mods_addr = (uint32_t)(BOOT_PARAMS + offsetof(struct block, module));
}

enum status multiboot_load(const struct boot_job *job, struct boot_entry *entry, struct error *err)
{
    struct image image = {0};
    struct block block;
    struct boot_range module = {0};
    uint16_t gdt_limit;

    enum status status = load_image(job, &image, err);
    if (status != STATUS_OK)
        return status;
    if (job->initrd != NULL) {
        /* The last page below 4 GiB stays free, so that the module's end has 32 bits. */
        status =
            memory_load_file(job->map, job->initrd, image.end, 4 * GIB - PAGE_SIZE, &module, err);
        if (status != STATUS_OK)
            return status;
    }
    status = memory_put_cmdline(job->map, job->config->append, BOOT_CMDLINE_SIZE - 1, err);
    if (status != STATUS_OK)
        return status;
    fill_block(&block, job, module);
    status = memory_put(job->map, BOOT_PARAMS, &block, sizeof(block), err);
    if (status == STATUS_OK)
        status = memory_put_gdt(job->map, false, &gdt_limit, err);
    if (status != STATUS_OK)
        return status;
    *entry = (struct boot_entry){
        .mode = BOOT_MULTIBOOT1,
        .rip = image.entry,
        .rax = ENTRY_MAGIC,
        .rbx = BOOT_PARAMS,
        .rsp = BOOT_STACK,
        .gdt_base = BOOT_GDT,
        .gdt_limit = gdt_limit,
        .kernel = image_range(&image),
        .initrd = module,
    };
    return STATUS_OK;
}
