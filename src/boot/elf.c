/* ELF program headers, 32 and 64 bit. Section headers are not looked at. */

#include <elf.h>
#include <string.h>

#include "boot/formats.h"
#include "boot/image.h"
#include "util/bits.h"

bool elf_recognize(const uint8_t *head, uint64_t head_size)
{
    return head_size >= SELFMAG && memcmp(head, ELFMAG, SELFMAG) == 0;
}

/* What both classes have, widened. */
struct elf_header {
    uint16_t type, machine, phentsize, phnum;
    uint64_t entry, phoff;
};

struct elf_segment {
    uint32_t type;
    uint64_t offset, vaddr, paddr, filesz, memsz;
};

static bool read_header(struct elf_header *header, bool is_64, const uint8_t *head,
                        uint64_t head_size)
{
    if (is_64) {
        Elf64_Ehdr ehdr;
        if (head_size < sizeof(ehdr))
            return false;
        memcpy(&ehdr, head, sizeof(ehdr));
        *header = (struct elf_header){ehdr.e_type,  ehdr.e_machine, ehdr.e_phentsize,
                                      ehdr.e_phnum, ehdr.e_entry,   ehdr.e_phoff};
    } else {
        Elf32_Ehdr ehdr;
        if (head_size < sizeof(ehdr))
            return false;
        memcpy(&ehdr, head, sizeof(ehdr));
        *header = (struct elf_header){ehdr.e_type,  ehdr.e_machine, ehdr.e_phentsize,
                                      ehdr.e_phnum, ehdr.e_entry,   ehdr.e_phoff};
    }
    return true;
}

static struct elf_segment read_segment(bool is_64, const uint8_t *bytes)
{
    if (is_64) {
        Elf64_Phdr phdr;
        memcpy(&phdr, bytes, sizeof(phdr));
        return (struct elf_segment){phdr.p_type,  phdr.p_offset, phdr.p_vaddr,
                                    phdr.p_paddr, phdr.p_filesz, phdr.p_memsz};
    }
    Elf32_Phdr phdr;
    memcpy(&phdr, bytes, sizeof(phdr));
    return (struct elf_segment){phdr.p_type,  phdr.p_offset, phdr.p_vaddr,
                                phdr.p_paddr, phdr.p_filesz, phdr.p_memsz};
}

static enum status check_header(const struct image *image, const struct elf_header *header,
                                bool is_64, uint64_t head_size, struct error *err)
{
    const char *what = image->source->what, *name = image->source->name;
    size_t size = is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);

    if (header->machine != (is_64 ? EM_X86_64 : EM_386))
        return error_set(err, STATUS_UNSUPPORTED, "%s '%s' is an ELF file for another processor",
                         what, name);
    if (header->type != ET_EXEC)
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s '%s' is an ELF file, but not a kernel (not "
                         "linked to a fixed address)",
                         what, name);
    if (header->phnum == 0 || header->phentsize != size)
        return error_set(err, STATUS_INVALID,
                         "%s '%s' is an ELF file without usable program "
                         "headers",
                         what, name);
    if (!range_fits(header->phoff, header->phnum * size, image->file_size))
        return error_set(err, STATUS_INVALID,
                         "%s '%s' is truncated: its program headers are not "
                         "there",
                         what, name);
    if (!range_fits(header->phoff, header->phnum * size, head_size))
        return error_set(err, STATUS_UNSUPPORTED,
                         "%s '%s' has its program headers beyond the "
                         "first %u KiB",
                         what, name, IMAGE_HEAD_SIZE / 1024);
    return STATUS_OK;
}

enum status elf_parse(struct image *image, const uint8_t *head, uint64_t head_size,
                      struct error *err)
{
    const char *what = image->source->what, *name = image->source->name;
    struct elf_header header;

    if (!elf_recognize(head, head_size))
        return error_set(err, STATUS_INVALID, "%s '%s' does not contain an ELF file", what, name);
    if (head_size < EI_NIDENT ||
        !read_header(&header, head[EI_CLASS] == ELFCLASS64, head, head_size))
        return error_set(err, STATUS_INVALID, "%s '%s' is truncated within its ELF header", what,
                         name);
    if ((head[EI_CLASS] != ELFCLASS64 && head[EI_CLASS] != ELFCLASS32) ||
        head[EI_DATA] != ELFDATA2LSB)
        return error_set(err, STATUS_UNSUPPORTED, "%s '%s' is an ELF file for another processor",
                         what, name);
    image->is_64 = head[EI_CLASS] == ELFCLASS64;
    enum status status = check_header(image, &header, image->is_64, head_size, err);
    if (status != STATUS_OK)
        return status;

    /* The entry of vmlinux is a physical address; others give a virtual one, which is translated
     * through the segment that has it. */
    bool has_virtual = false;
    uint64_t translated = 0;
    for (unsigned i = 0; i < header.phnum; i++) {
        struct elf_segment segment =
            read_segment(image->is_64, head + header.phoff + i * (uint64_t)header.phentsize);
        if (segment.type != PT_LOAD)
            continue;
        status = image_add(image,
                           &(struct image_segment){.offset = segment.offset,
                                                   .file_size = segment.filesz,
                                                   .gpa = segment.paddr,
                                                   .mem_size = segment.memsz},
                           err);
        if (status != STATUS_OK)
            return status;
        if (!has_virtual && header.entry - segment.vaddr < segment.memsz) {
            has_virtual = true;
            translated = header.entry - segment.vaddr + segment.paddr;
        }
    }
    if (image->count == 0)
        return error_set(err, STATUS_INVALID, "%s '%s' is an ELF file with nothing to load", what,
                         name);
    if (image_contains(image, header.entry))
        image->entry = header.entry;
    else if (has_virtual)
        image->entry = translated;
    else
        return error_set(err, STATUS_INVALID,
                         "%s '%s' has its entry point outside of what it "
                         "loads",
                         what, name);
    return STATUS_OK;
}
