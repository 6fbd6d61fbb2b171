#ifndef AEROSTAT_TESTS_BOOT_KERNELS_H
#define AEROSTAT_TESTS_BOOT_KERNELS_H

/* Synthetic kernels for the loaders' tests, small and deterministic. */

#include <stddef.h>
#include <stdint.h>

struct bytes {
    uint8_t *data;
    size_t size;
};

void bytes_append(struct bytes *bytes, const void *data, size_t size);
void bytes_free(struct bytes *bytes);

/* A segment of an ELF file under construction: `size` bytes made from `seed` go to paddr. */
struct test_segment {
    uint64_t vaddr, paddr;
    size_t file_size;
    uint64_t mem_size;
    uint8_t seed;
};

/* The byte at `offset` of what a seed makes. */
uint8_t pattern_byte(uint8_t seed, size_t offset);

struct bytes make_elf64(const struct test_segment *segments, unsigned count, uint64_t entry);
/* with_header: a multiboot 1 header with these flags comes first in the first segment. */
struct bytes make_elf32(const struct test_segment *segments, unsigned count, uint32_t entry,
                        int with_header, uint32_t flags);

enum packing { PACK_GZIP, PACK_LZ4, PACK_ZSTD, PACK_XZ, PACK_LZMA, PACK_NONE, PACK_COUNT };
extern const char *const packing_names[PACK_COUNT];

/* The compressed payload as the kernel's build makes it, with the size appended. */
struct bytes pack(enum packing packing, const struct bytes *plain);

/* A bzImage of protocol 2.15 around a payload. */
struct bytes make_bzimage(const struct bytes *payload);

/* Offsets of setup header fields in a bzImage. */
enum {
    BZ_SETUP_SECTS = 0x1f1,
    BZ_SYSSIZE = 0x1f4,
    BZ_BOOT_FLAG = 0x1fe,
    BZ_JUMP_LENGTH = 0x201,
    BZ_MAGIC = 0x202,
    BZ_VERSION = 0x206,
    BZ_LOADFLAGS = 0x211,
    BZ_INITRD_MAX = 0x22c,
    BZ_CMDLINE_SIZE = 0x238,
    BZ_PAYLOAD_OFFSET = 0x248,
    BZ_PAYLOAD_LENGTH = 0x24c,
    BZ_SETUP_DATA = 0x250,
};

#endif
