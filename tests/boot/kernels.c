#include "kernels.h"

#include <elf.h>
#include <lz4.h>
#include <lz4hc.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

const char *const packing_names[PACK_COUNT] = {"gzip", "lz4", "zstd", "xz", "lzma", "none"};

void bytes_append(struct bytes *bytes, const void *data, size_t size)
{
    bytes->data = realloc(bytes->data, bytes->size + size);
    if (bytes->data == NULL)
        abort();
    if (data != NULL)
        memcpy(bytes->data + bytes->size, data, size);
    else
        memset(bytes->data + bytes->size, 0, size);
    bytes->size += size;
}

void bytes_free(struct bytes *bytes)
{
    free(bytes->data);
    *bytes = (struct bytes){0};
}

uint8_t pattern_byte(uint8_t seed, size_t offset)
{
    /* Compressible, and different at every page. */
    return (uint8_t)(seed + (offset >> 4) + (offset >> 12) * 3);
}

static void append_pattern(struct bytes *bytes, const struct test_segment *segment)
{
    size_t start = bytes->size;
    bytes_append(bytes, NULL, segment->file_size);
    for (size_t i = 0; i < segment->file_size; i++)
        bytes->data[start + i] = pattern_byte(segment->seed, i);
}

struct bytes make_elf64(const struct test_segment *segments, unsigned count, uint64_t entry)
{
    struct bytes elf = {0};
    Elf64_Ehdr header = {
        .e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_entry = entry,
        .e_phoff = sizeof(header),
        .e_ehsize = sizeof(header),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = (uint16_t)(count + 1),
    };
    bytes_append(&elf, &header, sizeof(header));
    uint64_t offset = sizeof(header) + (count + 1) * sizeof(Elf64_Phdr);
    for (unsigned i = 0; i < count; i++) {
        Elf64_Phdr program = {
            .p_type = PT_LOAD,
            .p_flags = PF_R | PF_W | PF_X,
            .p_offset = offset,
            .p_vaddr = segments[i].vaddr,
            .p_paddr = segments[i].paddr,
            .p_filesz = segments[i].file_size,
            .p_memsz = segments[i].mem_size,
        };
        bytes_append(&elf, &program, sizeof(program));
        offset += segments[i].file_size;
    }
    /* Something that is not loaded, as vmlinux has. */
    Elf64_Phdr note = {.p_type = PT_NOTE, .p_offset = 0, .p_filesz = 16, .p_memsz = 16};
    bytes_append(&elf, &note, sizeof(note));
    for (unsigned i = 0; i < count; i++)
        append_pattern(&elf, &segments[i]);
    return elf;
}

struct bytes make_elf32(const struct test_segment *segments, unsigned count, uint32_t entry,
                        int with_header, uint32_t flags)
{
    struct bytes elf = {0};
    Elf32_Ehdr header = {
        .e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_386,
        .e_version = EV_CURRENT,
        .e_entry = entry,
        .e_phoff = sizeof(header),
        .e_ehsize = sizeof(header),
        .e_phentsize = sizeof(Elf32_Phdr),
        .e_phnum = (uint16_t)count,
    };
    bytes_append(&elf, &header, sizeof(header));
    uint32_t offset = (uint32_t)(sizeof(header) + count * sizeof(Elf32_Phdr));
    for (unsigned i = 0; i < count; i++) {
        Elf32_Phdr program = {
            .p_type = PT_LOAD,
            .p_flags = PF_R | PF_W | PF_X,
            .p_offset = offset,
            .p_vaddr = (uint32_t)segments[i].vaddr,
            .p_paddr = (uint32_t)segments[i].paddr,
            .p_filesz = (uint32_t)segments[i].file_size,
            .p_memsz = (uint32_t)segments[i].mem_size,
        };
        bytes_append(&elf, &program, sizeof(program));
        offset += (uint32_t)segments[i].file_size;
    }
    for (unsigned i = 0; i < count; i++) {
        size_t start = elf.size;
        append_pattern(&elf, &segments[i]);
        if (i == 0 && with_header) {
            uint32_t multiboot[3] = {0x1badb002, flags, -(0x1badb002 + flags)};
            memcpy(elf.data + start, multiboot, sizeof(multiboot));
        }
    }
    return elf;
}

static struct bytes pack_gzip(const struct bytes *plain)
{
    struct bytes out = {0};
    z_stream z = {0};
    deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
    bytes_append(&out, NULL, deflateBound(&z, plain->size));
    z.next_in = plain->data;
    z.avail_in = (uInt)plain->size;
    z.next_out = out.data;
    z.avail_out = (uInt)out.size;
    deflate(&z, Z_FINISH);
    out.size = z.total_out;
    deflateEnd(&z);
    return out;
}

static struct bytes pack_lz4(const struct bytes *plain)
{
    enum { BLOCK = 8 << 20 };
    struct bytes out = {0};
    bytes_append(&out, "\x02\x21\x4c\x18", 4);
    for (size_t at = 0; at < plain->size; at += BLOCK) {
        int length = (int)(plain->size - at < BLOCK ? plain->size - at : BLOCK);
        char *block = malloc((size_t)LZ4_compressBound(length));
        uint32_t size = (uint32_t)LZ4_compress_HC((const char *)plain->data + at, block, length,
                                                  LZ4_compressBound(length), 9);
        bytes_append(&out, &size, 4);
        bytes_append(&out, block, size);
        free(block);
    }
    return out;
}

/* With the largest window, as the kernel's build has it (zstd -22 --ultra, of a pipe, whose length
 * is in no header); not with its patience. */
static struct bytes pack_zstd(const struct bytes *plain)
{
    struct bytes out = {0};
    bytes_append(&out, NULL, ZSTD_compressBound(plain->size));
    ZSTD_CCtx *z = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(z, ZSTD_c_windowLog, 27);
    ZSTD_CCtx_setParameter(z, ZSTD_c_contentSizeFlag, 0);
    out.size = ZSTD_compress2(z, out.data, out.size, plain->data, plain->size);
    ZSTD_freeCCtx(z);
    return out;
}

static struct bytes pack_lzma(const struct bytes *plain, int is_xz)
{
    struct bytes out = {0};
    bytes_append(&out, NULL, plain->size + 65536);
    lzma_options_lzma options;
    lzma_lzma_preset(&options, 6);
    options.dict_size = 1 << 20;
    if (is_xz) {
        /* As scripts/xz_wrap.sh: --check=crc32 --x86 --lzma2 */
        lzma_filter filters[] = {
            {LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, NULL}};
        size_t position = 0;
        if (lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, plain->data, plain->size,
                                      out.data, &position, out.size) != LZMA_OK)
            abort();
        out.size = position;
        return out;
    }
    lzma_stream z = LZMA_STREAM_INIT;
    if (lzma_alone_encoder(&z, &options) != LZMA_OK)
        abort();
    z.next_in = plain->data;
    z.avail_in = plain->size;
    z.next_out = out.data;
    z.avail_out = out.size;
    if (lzma_code(&z, LZMA_FINISH) != LZMA_STREAM_END)
        abort();
    out.size = z.total_out;
    lzma_end(&z);
    return out;
}

struct bytes pack(enum packing packing, const struct bytes *plain)
{
    struct bytes out = {0};
    switch (packing) {
    case PACK_GZIP:
        return pack_gzip(plain); /* its trailer ends with the size */
    case PACK_LZ4:
        out = pack_lz4(plain);
        break;
    case PACK_ZSTD:
        out = pack_zstd(plain);
        break;
    case PACK_XZ:
        out = pack_lzma(plain, 1);
        break;
    case PACK_LZMA:
        out = pack_lzma(plain, 0);
        break;
    default:
        bytes_append(&out, plain->data, plain->size);
        return out;
    }
    uint32_t size = (uint32_t)plain->size;
    bytes_append(&out, &size, sizeof(size));
    return out;
}

static void put(struct bytes *bytes, size_t at, uint64_t value, size_t size)
{
    memcpy(bytes->data + at, &value, size);
}

struct bytes make_bzimage(const struct bytes *payload)
{
    enum { SETUP_SECTS = 2, STUB = 48 };
    struct bytes image = {0};
    bytes_append(&image, NULL, (SETUP_SECTS + 1) * 512 + STUB);
    put(&image, BZ_SETUP_SECTS, SETUP_SECTS, 1);
    put(&image, BZ_BOOT_FLAG, 0xaa55, 2);
    put(&image, 0x200, 0xeb, 1);
    put(&image, BZ_JUMP_LENGTH, 0x6a, 1);
    put(&image, BZ_MAGIC, 0x53726448, 4);
    put(&image, BZ_VERSION, 0x20f, 2);
    put(&image, BZ_LOADFLAGS, 1, 1);
    put(&image, BZ_INITRD_MAX, 0x7fffffff, 4);
    put(&image, BZ_CMDLINE_SIZE, 2047, 4);
    put(&image, BZ_PAYLOAD_OFFSET, STUB, 4);
    put(&image, BZ_PAYLOAD_LENGTH, payload->size, 4);
    put(&image, BZ_SETUP_DATA, 0x123456, 8); /* must not reach the guest */
    bytes_append(&image, payload->data, payload->size);
    /* The decompressor's code would follow; Linux has it end with a whole unit of 16 bytes. */
    bytes_append(&image, NULL, 8 + (-(image.size + 8) & 15));
    put(&image, BZ_SYSSIZE, image.size / 16 - (SETUP_SECTS + 1) * 32, 4);
    return image;
}
