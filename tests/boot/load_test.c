/* The loaders on well-formed kernels: what is where in guest memory afterwards. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "boot/boot.h"
#include "kernels.h"
#include "util/bits.h"

static struct pmap *make_map(uint64_t size)
{
    struct pmap *map;
    struct ram_range ranges[2] = {{0, size < 3 * GIB ? size : 3 * GIB}, {4 * GIB, 0}};
    unsigned count = 1;
    if (size > 3 * GIB) {
        ranges[1].size = size - 3 * GIB;
        count = 2;
    }
    struct error err;
    assert_int_equal(pmap_create(&map, ranges, count, &err), STATUS_OK);
    return map;
}

static uint64_t get(struct pmap *map, uint64_t gpa, unsigned size)
{
    uint64_t value = 0;
    assert_int_equal(pmap_read(map, gpa, &value, size), STATUS_OK);
    return value;
}

static void assert_pattern(struct pmap *map, uint64_t gpa, uint8_t seed, size_t size, size_t skip)
{
    uint8_t *bytes = malloc(size);
    assert_int_equal(pmap_read(map, gpa, bytes, size), STATUS_OK);
    for (size_t i = skip; i < size; i++) {
        if (bytes[i] != pattern_byte(seed, i))
            fail_msg("byte %zu at 0x%llx is %02x", i, (unsigned long long)gpa, bytes[i]);
    }
    free(bytes);
}

static void assert_zero(struct pmap *map, uint64_t gpa, size_t size)
{
    for (size_t i = 0; i < size; i += 8)
        assert_int_equal(get(map, gpa + i, 8), 0);
}

/* Shaped as vmlinux is: physical entry, a segment at virtual address 0, bss. */
static const struct test_segment vmlinux[] = {
    {0xffffffff81000000, 0x1000000, 70000, 70000, 11},
    {0xffffffff81200000, 0x1200000, 5000, 9000, 22},
    {0, 0x1210000, 100, 100, 33},
    {0xffffffff81220000, 0x1220000, 300, 300000, 44},
};
#define VMLINUX_ENTRY 0x1000040
#define VMLINUX_END   0x12693e0 /* with the last segment's bss: 18.4 MiB */

static struct bytes make_vmlinux(void)
{
    return make_elf64(vmlinux, ARRAY_LENGTH(vmlinux), VMLINUX_ENTRY);
}

static void assert_vmlinux(struct pmap *map)
{
    for (unsigned i = 0; i < ARRAY_LENGTH(vmlinux); i++) {
        assert_pattern(map, vmlinux[i].paddr, vmlinux[i].seed, vmlinux[i].file_size, 0);
        assert_zero(map, vmlinux[i].paddr + vmlinux[i].file_size,
                    vmlinux[i].mem_size - vmlinux[i].file_size);
    }
}

static void assert_linux64(struct pmap *map, const struct boot_entry *entry)
{
    assert_int_equal(entry->mode, BOOT_LINUX64);
    assert_int_equal(entry->rip, VMLINUX_ENTRY);
    assert_int_equal(entry->rsi, 0x7000);
    assert_int_equal(entry->cr3, 0x9000);
    assert_int_equal(entry->gdt_base, 0x500);
    assert_int_equal(entry->gdt_limit, 31);
    assert_int_equal(get(map, 0x510, 8), 0x00af9b000000ffff);
    assert_int_equal(get(map, 0x518, 8), 0x00cf93000000ffff);
    /* The page tables map every address below 4 GiB to itself, and nothing else. */
    for (uint64_t address = 0; address < 4 * GIB; address += 256 * MIB + 2 * MIB) {
        uint64_t pml4e = get(map, 0x9000, 8);
        uint64_t pdpte = get(map, (pml4e & ~(uint64_t)0xfff) + (address >> 30) * 8, 8);
        uint64_t pde = get(map, (pdpte & ~(uint64_t)0xfff) + (address >> 21 & 511) * 8, 8);
        assert_int_equal(pml4e & 3, 3);
        assert_int_equal(pdpte & 0x83, 3);
        assert_int_equal(pde, address | 0x83);
    }
    assert_zero(map, 0x9008, 4088);
    assert_zero(map, 0xa020, 4064);
    /* The zero page. */
    assert_int_equal(get(map, 0x7000 + 0x1fe, 2), 0xaa55);
    assert_int_equal(get(map, 0x7000 + 0x202, 4), 0x53726448);
    assert_int_equal(get(map, 0x7000 + 0x210, 1), 0xff);
    assert_int_equal(get(map, 0x7000 + 0x228, 4), 0x20000);
    assert_int_equal(get(map, 0x7000 + BZ_SETUP_DATA, 8), 0);
    assert_int_equal(get(map, 0x7000 + 0x1ef, 1), 0); /* sentinel */
}

static void test_bzimage(void **state)
{
    for (enum packing packing = 0; packing < PACK_COUNT; packing++) {
        struct pmap *map = make_map(64 * MIB);
        struct bytes elf = make_vmlinux();
        /* Relocations follow the ELF file in a real payload. */
        bytes_append(&elf, "relocations", 11);
        struct bytes payload = pack(packing, &elf);
        struct bytes image = make_bzimage(&payload);
        struct boot_config config = {.append = "console=ttyS0 x=y", .rsdp = 0xe0000};
        struct boot_entry entry;
        struct error err = {0};

        if (boot_load_bytes(map, image.data, image.size, NULL, 0, &config, &entry, &err) !=
            STATUS_OK)
            fail_msg("%s: %s", packing_names[packing], err.text);
        assert_vmlinux(map);
        assert_linux64(map, &entry);
        assert_int_equal(get(map, 0x7000 + BZ_VERSION, 2), 0x20f);
        assert_int_equal(get(map, 0x7070, 8), 0xe0000);
        char text[18];
        assert_int_equal(pmap_read(map, 0x20000, text, sizeof(text)), STATUS_OK);
        assert_string_equal(text, "console=ttyS0 x=y");
        assert_int_equal(get(map, 0x7000 + 0x218, 8), 0); /* no initrd */
        assert_int_equal(entry.initrd.size, 0);
        assert_int_equal(entry.kernel.gpa, vmlinux[0].paddr);
        assert_int_equal(entry.kernel.gpa + entry.kernel.size, VMLINUX_END);

        bytes_free(&image);
        bytes_free(&payload);
        bytes_free(&elf);
        pmap_destroy(map);
    }
}

/* Several blocks and chunks: larger than every buffer in decompress.c. */
static void test_bzimage_large(void **state)
{
    static const struct test_segment segments[] = {{0, 0x1000000, 20 << 20, 21 << 20, 5}};
    for (enum packing packing = 0; packing < PACK_COUNT; packing++) {
        struct pmap *map = make_map(64 * MIB);
        struct bytes elf = make_elf64(segments, 1, 0x1000000);
        struct bytes payload =
            pack(packing == PACK_XZ || packing == PACK_LZMA ? PACK_GZIP : packing, &elf);
        struct bytes image = make_bzimage(&payload);
        struct boot_config config = {.append = ""};
        struct boot_entry entry;
        struct error err = {0};
        if (boot_load_bytes(map, image.data, image.size, NULL, 0, &config, &entry, &err) !=
            STATUS_OK)
            fail_msg("%s: %s", packing_names[packing], err.text);
        assert_pattern(map, segments[0].paddr, segments[0].seed, segments[0].file_size, 0);
        bytes_free(&image);
        bytes_free(&payload);
        bytes_free(&elf);
        pmap_destroy(map);
    }
}

static long peak_kib(void)
{
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    return usage.ru_maxrss;
}

/* Loads it in a process of its own. Returns by how much that grew at most, in KiB. */
static long loading_peak(const struct bytes *image)
{
    int pipe_ends[2];
    long growth = 0;
    assert_int_equal(pipe(pipe_ends), 0);
    pid_t child = fork();
    if (child == 0) {
        struct pmap *map = make_map(128 * MIB);
        struct boot_config config = {.append = ""};
        struct boot_entry entry;
        struct error err;
        long before = peak_kib();
        bool done = boot_load_bytes(map, image->data, image->size, NULL, 0, &config, &entry,
                                    &err) == STATUS_OK;
        growth = peak_kib() - before;
        _exit(!done || write(pipe_ends[1], &growth, sizeof(growth)) != sizeof(growth));
    }
    close(pipe_ends[1]);
    assert_int_equal(read(pipe_ends[0], &growth, sizeof(growth)), sizeof(growth));
    close(pipe_ends[0]);
    assert_int_equal(waitpid(child, NULL, 0), child);
    return growth;
}

/* A kernel with its guest's copy of it is never in memory twice, whatever window it was made with.
 */
static void test_held_once(void **state)
{
    static const struct test_segment segments[] = {{0, 0x1000000, 48 << 20, 48 << 20, 5}};
    const enum packing packings[] = {PACK_GZIP, PACK_ZSTD};
    for (unsigned i = 0; i < ARRAY_LENGTH(packings); i++) {
        struct bytes elf = make_elf64(segments, 1, 0x1000000);
        struct bytes payload = pack(packings[i], &elf);
        struct bytes image = make_bzimage(&payload);
        bytes_free(&payload);
        bytes_free(&elf);
        long growth = loading_peak(&image);
        if (growth < 48 << 10 || growth > 64 << 10)
            fail_msg("%s: 48 MiB took %ld KiB", packing_names[packings[i]], growth);
        bytes_free(&image);
    }
}

static void test_vmlinux(void **state)
{
    struct pmap *map = make_map(64 * MIB);
    struct bytes elf = make_vmlinux();
    struct boot_config config = {.append = "quiet"};
    struct boot_entry entry;
    struct error err = {0};
    assert_int_equal(boot_load_bytes(map, elf.data, elf.size, NULL, 0, &config, &entry, &err),
                     STATUS_OK);
    assert_vmlinux(map);
    assert_linux64(map, &entry);
    bytes_free(&elf);
    pmap_destroy(map);
}

/* An entry given as a virtual address is translated through its segment. */
static void test_virtual_entry(void **state)
{
    struct pmap *map = make_map(64 * MIB);
    struct bytes elf = make_elf64(vmlinux, ARRAY_LENGTH(vmlinux), 0xffffffff81200010);
    struct boot_config config = {.append = ""};
    struct boot_entry entry;
    struct error err = {0};
    assert_int_equal(boot_load_bytes(map, elf.data, elf.size, NULL, 0, &config, &entry, &err),
                     STATUS_OK);
    assert_int_equal(entry.rip, 0x1200010);
    bytes_free(&elf);
    pmap_destroy(map);
}

static void test_linux32(void **state)
{
    static const struct test_segment segments[] = {{0xc1000000, 0x1000000, 5000, 6000, 9}};
    struct pmap *map = make_map(64 * MIB);
    struct bytes elf = make_elf32(segments, 1, 0x1000000, 0, 0);
    struct boot_config config = {.append = ""};
    struct boot_entry entry;
    struct error err = {0};
    assert_int_equal(boot_load_bytes(map, elf.data, elf.size, NULL, 0, &config, &entry, &err),
                     STATUS_OK);
    assert_int_equal(entry.mode, BOOT_MULTIBOOT1);
    assert_int_equal(entry.rip, 0x1000000);
    assert_int_equal(entry.rsi, 0x7000);
    assert_int_equal(entry.rbx, 0);
    assert_int_equal(get(map, 0x510, 8), 0x00cf9b000000ffff);
    assert_pattern(map, 0x1000000, 9, 5000, 0);
    bytes_free(&elf);
    pmap_destroy(map);
}

static void check_e820(uint64_t memory, const uint64_t (*expected)[3], unsigned count)
{
    struct pmap *map = make_map(memory);
    struct bytes elf = make_vmlinux();
    struct boot_config config = {.append = ""};
    struct boot_entry entry;
    struct error err = {0};
    assert_int_equal(boot_load_bytes(map, elf.data, elf.size, NULL, 0, &config, &entry, &err),
                     STATUS_OK);
    assert_int_equal(get(map, 0x7000 + 0x1e8, 1), count);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(get(map, 0x7000 + 0x2d0 + i * 20, 8), expected[i][0]);
        assert_int_equal(get(map, 0x7000 + 0x2d0 + i * 20 + 8, 8), expected[i][1]);
        assert_int_equal(get(map, 0x7000 + 0x2d0 + i * 20 + 16, 4), expected[i][2]);
    }
    bytes_free(&elf);
    pmap_destroy(map);
}

static void test_e820(void **state)
{
    const uint64_t small[][3] = {
        {0, 0x9fc00, 1}, {0x9fc00, 0x400, 2}, {0xe0000, 0x20000, 2}, {0x100000, 63 * MIB, 1}};
    check_e820(64 * MIB, small, 4);
    const uint64_t large[][3] = {{0, 0x9fc00, 1},
                                 {0x9fc00, 0x400, 2},
                                 {0xe0000, 0x20000, 2},
                                 {0x100000, 3 * GIB - MIB, 1},
                                 {4 * GIB, 5 * GIB, 1}};
    check_e820(8 * GIB, large, 5);
}

/* Loads a kernel with an initrd of `size` bytes; gives where it went. */
static enum status load_initrd(struct pmap *map, size_t size, uint32_t initrd_max, uint64_t *base,
                               struct error *err)
{
    struct bytes elf = make_vmlinux();
    struct bytes payload = pack(PACK_GZIP, &elf);
    struct bytes image = make_bzimage(&payload);
    struct bytes initrd = {0};
    memcpy(image.data + BZ_INITRD_MAX, &initrd_max, 4);
    bytes_append(&initrd, NULL, size);
    for (size_t i = 0; i < size; i++)
        initrd.data[i] = pattern_byte(77, i);
    struct boot_config config = {.append = "", .kernel = "K", .initrd = "dir/I"};
    struct boot_entry entry;
    enum status status = boot_load_bytes(map, image.data, image.size, initrd.data, initrd.size,
                                         &config, &entry, err);
    *base = status == STATUS_OK ? get(map, 0x7000 + 0x218, 4) : 0;
    if (status == STATUS_OK) {
        assert_int_equal(entry.initrd.gpa, *base);
        assert_int_equal(entry.initrd.size, size);
        assert_int_equal(get(map, 0x7000 + 0x21c, 4), size);
        assert_pattern(map, *base, 77, size, 0);
        assert_vmlinux(map);
    }
    bytes_free(&initrd);
    bytes_free(&image);
    bytes_free(&payload);
    bytes_free(&elf);
    return status;
}

static void test_initrd(void **state)
{
    struct error err = {0};
    uint64_t base;
    struct pmap *map = make_map(64 * MIB);
    assert_int_equal(load_initrd(map, 3 * MIB + 5, 0x7fffffff, &base, &err), STATUS_OK);
    assert_int_equal(base, 64 * MIB - 3 * MIB - 4096);
    assert_int_equal(load_initrd(map, 1, 0x7fffffff, &base, &err), STATUS_OK);
    assert_int_equal(base, 64 * MIB - 4096);
    assert_int_equal(load_initrd(map, 4096, 0x27fffff, &base, &err), STATUS_OK);
    assert_int_equal(base, 0x2800000 - 4096);
    pmap_destroy(map);

    map = make_map(8 * GIB);
    assert_int_equal(load_initrd(map, 4096, 0x7fffffff, &base, &err), STATUS_OK);
    assert_int_equal(base, 2 * GIB - 4096);
    assert_int_equal(load_initrd(map, 4096, 0xffffffff, &base, &err), STATUS_OK);
    assert_int_equal(base, 3 * GIB - 4096);
    pmap_destroy(map);
}

static void test_initrd_does_not_fit(void **state)
{
    struct error err = {0};
    uint64_t base;
    /* 13.58 MiB remain of 32 above VMLINUX_END. */
    struct pmap *map = make_map(32 * MIB);
    assert_int_equal(load_initrd(map, 40 * MIB, 0x7fffffff, &base, &err), STATUS_INVALID);
    assert_string_equal(err.text, "initrd 'dir/I' of 40 MiB does not fit in 32 MiB of memory: "
                                  "give --memory at least 59M");
    uint64_t room = 32 * MIB - align_up(0x1220000 + 300000, 4096);
    assert_int_equal(load_initrd(map, room, 0x7fffffff, &base, &err), STATUS_OK);
    assert_int_equal(load_initrd(map, room + 1, 0x7fffffff, &base, &err), STATUS_INVALID);
    /* Below where the kernel lets it be there is no room, however much memory is given. */
    assert_int_equal(load_initrd(map, 4096, 0x100000, &base, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "too large"));
    pmap_destroy(map);
}

static const struct test_segment multiboot_segments[] = {
    {0x100000, 0x100000, 10000, 10000, 3},
    {0x110000, 0x110000, 10, 50000, 4},
};

static void check_info(struct pmap *map, const struct boot_entry *entry, bool module)
{
    assert_int_equal(entry->mode, BOOT_MULTIBOOT1);
    assert_int_equal(entry->rax, 0x2badb002);
    uint64_t info = entry->rbx;
    assert_int_equal(get(map, info, 4), module ? 0x24d : 0x245);
    assert_int_equal(get(map, info + 4, 4), 639);
    assert_int_equal(get(map, info + 8, 4), 63 * 1024);
    char text[16];
    assert_int_equal(pmap_read(map, get(map, info + 16, 4), text, sizeof(text)), STATUS_OK);
    assert_string_equal(text, "test args");
    assert_int_equal(pmap_read(map, get(map, info + 64, 4), text, sizeof(text)), STATUS_OK);
    assert_string_equal(text, "aerostat");
    assert_int_equal(get(map, info + 44, 4), 4 * 24);
    uint64_t mmap = get(map, info + 48, 4) + 3 * 24;
    assert_int_equal(get(map, mmap, 4), 20);
    assert_int_equal(get(map, mmap + 4, 8), 0x100000);
    assert_int_equal(get(map, mmap + 12, 8), 63 * MIB);
    assert_int_equal(get(map, mmap + 20, 4), 1);
    if (!module)
        return;
    assert_int_equal(get(map, info + 20, 4), 1);
    uint64_t list = get(map, info + 24, 4);
    uint64_t start = get(map, list, 4);
    assert_int_equal(start % 4096, 0);
    assert_int_equal(get(map, list + 4, 4), start + 5000);
    assert_pattern(map, start, 7, 5000, 0);
    assert_int_equal(pmap_read(map, get(map, list + 8, 4), text, 7), STATUS_OK);
    assert_string_equal(text, "module");
}

static void test_multiboot(void **state)
{
    struct bytes module = {0};
    bytes_append(&module, NULL, 5000);
    for (size_t i = 0; i < module.size; i++)
        module.data[i] = pattern_byte(7, i);
    for (int with_module = 0; with_module < 2; with_module++) {
        struct pmap *map = make_map(64 * MIB);
        struct bytes elf = make_elf32(multiboot_segments, 2, 0x100010, 1, 3);
        struct boot_config config = {.append = "test args", .initrd = "some/module"};
        struct boot_entry entry;
        struct error err = {0};
        assert_int_equal(boot_load_bytes(map, elf.data, elf.size, with_module ? module.data : NULL,
                                         with_module ? module.size : 0, &config, &entry, &err),
                         STATUS_OK);
        assert_int_equal(entry.rip, 0x100010);
        assert_int_equal(entry.kernel.gpa, 0x100000);
        assert_int_equal(entry.kernel.size, 0x10000 + 50000);
        assert_int_equal(entry.initrd.size, with_module ? 5000 : 0);
        check_info(map, &entry, with_module);
        assert_int_equal(get(map, 0x100000, 4), 0x1badb002);
        assert_pattern(map, 0x100000, 3, 10000, 12);
        assert_pattern(map, 0x110000, 4, 10, 0);
        bytes_free(&elf);
        pmap_destroy(map);
    }
    bytes_free(&module);
}

/* Load addresses in the header; the file is not ELF. */
static void test_multiboot_addresses(void **state)
{
    uint32_t header[8] = {0x1badb002, 0x10000,  -(0x1badb002 + 0x10000),
                          0x200100,   0x200080, 0x201000,
                          0x203000,   0x200100};
    struct bytes file = {0};
    bytes_append(&file, NULL, 8000);
    for (size_t i = 0; i < file.size; i++)
        file.data[i] = pattern_byte(50, i);
    memcpy(file.data + 0x180, header, sizeof(header)); /* so the load begins at byte 0x100 */

    struct pmap *map = make_map(64 * MIB);
    struct boot_config config = {.append = "test args"};
    struct boot_entry entry;
    struct error err = {0};
    assert_int_equal(boot_load_bytes(map, file.data, file.size, NULL, 0, &config, &entry, &err),
                     STATUS_OK);
    assert_int_equal(entry.rip, 0x200100);
    check_info(map, &entry, false);
    uint8_t bytes[0xf80];
    assert_int_equal(pmap_read(map, 0x200080, bytes, sizeof(bytes)), STATUS_OK);
    assert_memory_equal(bytes, file.data + 0x100, sizeof(bytes));
    assert_zero(map, 0x201000, 0x2000);
    pmap_destroy(map);

    /* Without an end, the rest of the file. */
    map = make_map(64 * MIB);
    header[5] = header[6] = 0;
    memcpy(file.data + 0x180, header, sizeof(header));
    assert_int_equal(boot_load_bytes(map, file.data, file.size, NULL, 0, &config, &entry, &err),
                     STATUS_OK);
    assert_int_equal(get(map, 0x200080 + 8000 - 0x100 - 1, 1), pattern_byte(50, 7999));
    assert_int_equal(get(map, 0x200080 + 8000 - 0x100, 1), 0);
    pmap_destroy(map);
    bytes_free(&file);
}

/* Pages of zeros in a kernel take no memory; what is around them is all there. */
static void test_zero_pages(void **state)
{
    static const struct test_segment segments[] = {{0, 0x1000000, 100 * 4096, 100 * 4096, 5}};
    for (int compressed = 0; compressed < 2; compressed++) {
        struct pmap *map = make_map(64 * MIB);
        struct bytes elf = make_elf64(segments, 1, 0x1000000);
        size_t start = elf.size - segments[0].file_size;
        /* Pages 10 to 39 whole, and parts of 9 and 40. */
        size_t from = 10 * 4096 - 1000, to = 40 * 4096 + 1000;
        memset(elf.data + start + from, 0, to - from);
        struct bytes payload = pack(PACK_GZIP, &elf);
        struct bytes image = make_bzimage(&payload);
        struct bytes *kernel = compressed ? &image : &elf;
        struct boot_config config = {.append = ""};
        struct boot_entry entry;
        struct error err = {0};
        assert_int_equal(
            boot_load_bytes(map, kernel->data, kernel->size, NULL, 0, &config, &entry, &err),
            STATUS_OK);
        for (uint64_t page = 0; page < 100; page++)
            assert_int_equal(pmap_state(map, 0x1000 + page),
                             page >= 10 && page < 40 ? PAGE_ZERO : PAGE_PRIVATE);
        assert_pattern(map, 0x1000000, 5, from, 0);
        assert_zero(map, 0x1000000 + from, to - from);
        assert_pattern(map, 0x1000000, 5, segments[0].file_size, to);
        bytes_free(&image);
        bytes_free(&payload);
        bytes_free(&elf);
        pmap_destroy(map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bzimage),    cmocka_unit_test(test_bzimage_large),
        cmocka_unit_test(test_vmlinux),    cmocka_unit_test(test_virtual_entry),
        cmocka_unit_test(test_linux32),    cmocka_unit_test(test_e820),
        cmocka_unit_test(test_initrd),     cmocka_unit_test(test_initrd_does_not_fit),
        cmocka_unit_test(test_multiboot),  cmocka_unit_test(test_multiboot_addresses),
        cmocka_unit_test(test_zero_pages), cmocka_unit_test(test_held_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
