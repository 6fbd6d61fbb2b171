/* The loaders on files that are wrong: every truncation, every byte changed, sizes and addresses
 * that lie. Nothing may crash; what cannot be right must be refused with one line that says why. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "boot/boot.h"
#include "kernels.h"
#include "util/bits.h"

static struct pmap *make_map(uint64_t size)
{
    struct pmap *map;
    struct ram_range range = {0, size};
    struct error err;
    assert_int_equal(pmap_create(&map, &range, 1, &err), STATUS_OK);
    return map;
}

static enum status load_in(uint64_t memory, const struct bytes *kernel, const char *append,
                           struct error *err)
{
    struct pmap *map = make_map(memory);
    struct boot_config config = {.append = append, .kernel = "K"};
    struct boot_entry entry;
    *err = (struct error){0};
    /* A copy of exactly this size, so that a sanitizer sees any read beyond it. */
    uint8_t *copy = malloc(kernel->size);
    if (kernel->size != 0)
        memcpy(copy, kernel->data, kernel->size);
    enum status status = boot_load_bytes(map, copy, kernel->size, NULL, 0, &config, &entry, err);
    free(copy);
    struct error broken;
    if (pmap_check(map, &broken) != STATUS_OK)
        fail_msg("%s", broken.text);
    pmap_destroy(map);
    if (status != STATUS_OK) {
        assert_int_equal(err->status, status);
        assert_int_not_equal(status, STATUS_INTERNAL);
        assert_true(err->text[0] != 0);
        assert_null(strchr(err->text, '\n'));
    }
    return status;
}

static enum status load(const struct bytes *kernel, struct error *err)
{
    return load_in(32 * MIB, kernel, "", err);
}

static void assert_refused(const struct bytes *kernel, const char *why)
{
    struct error err;
    enum status status = load(kernel, &err);
    if (status == STATUS_OK)
        fail_msg("accepted; expected '%s'", why);
    if (strstr(err.text, why) == NULL)
        fail_msg("'%s' does not say '%s'", err.text, why);
}

static const struct test_segment small[] = {
    {0xffffffff81000000, 0x1000000, 600, 700, 1},
    {0, 0x1010000, 80, 5000, 2},
};

static struct bytes small_bzimage(enum packing packing)
{
    struct bytes elf = make_elf64(small, 2, 0x1000000);
    struct bytes payload = pack(packing, &elf);
    struct bytes image = make_bzimage(&payload);
    bytes_free(&payload);
    bytes_free(&elf);
    return image;
}

static struct bytes small_multiboot(void)
{
    static const struct test_segment segments[] = {{0x100000, 0x100000, 300, 400, 3},
                                                   {0x101000, 0x101000, 50, 60, 4}};
    return make_elf32(segments, 2, 0x100010, 1, 3);
}

static void put(struct bytes *bytes, size_t at, uint64_t value, size_t size)
{
    memcpy(bytes->data + at, &value, size);
}

static void truncate_everywhere(struct bytes *file)
{
    struct error err;
    assert_int_equal(load(file, &err), STATUS_OK);
    for (size_t size = 0; size < file->size; size++) {
        struct bytes shorter = {file->data, size};
        if (load(&shorter, &err) == STATUS_OK)
            fail_msg("accepted when cut to %zu of %zu bytes", size, file->size);
    }
}

static void test_truncated(void **state)
{
    for (enum packing packing = 0; packing < PACK_COUNT; packing++) {
        struct bytes image = small_bzimage(packing);
        truncate_everywhere(&image);
        bytes_free(&image);
    }
    struct bytes elf = make_elf64(small, 2, 0x1000000);
    truncate_everywhere(&elf);
    bytes_free(&elf);
    elf = small_multiboot();
    truncate_everywhere(&elf);
    bytes_free(&elf);
}

/* Also when the headers say so: a payload cut short inside the compressed data. */
static void test_truncated_payload(void **state)
{
    for (enum packing packing = 0; packing < PACK_NONE; packing++) {
        struct bytes elf = make_elf64(small, 2, 0x1000000);
        struct bytes payload = pack(packing, &elf);
        for (size_t size = 8; size < payload.size; size += 3) {
            struct bytes cut = {0};
            uint32_t plain = (uint32_t)elf.size;
            bytes_append(&cut, payload.data, size - 4);
            bytes_append(&cut, &plain, 4);
            struct bytes image = make_bzimage(&cut);
            struct error err;
            /* gzip and lzma may have everything before their trailer begins. */
            if (load(&image, &err) == STATUS_OK && size + 12 < payload.size)
                fail_msg("%s: accepted when cut to %zu of %zu", packing_names[packing], size,
                         payload.size);
            bytes_free(&image);
            bytes_free(&cut);
        }
        bytes_free(&payload);
        bytes_free(&elf);
    }
}

static void change_every_byte(struct bytes *file)
{
    static const uint8_t masks[] = {0xff, 0x80, 0x01};
    struct error err;
    for (size_t at = 0; at < file->size; at++) {
        for (unsigned i = 0; i < ARRAY_LENGTH(masks); i++) {
            file->data[at] ^= masks[i];
            load(file, &err);
            file->data[at] ^= masks[i];
        }
    }
    assert_int_equal(load(file, &err), STATUS_OK);
}

static void test_changed_bytes(void **state)
{
    struct bytes elf = make_elf64(small, 1, 0x1000000);
    change_every_byte(&elf);
    bytes_free(&elf);
    elf = small_multiboot();
    change_every_byte(&elf);
    bytes_free(&elf);
    for (enum packing packing = 0; packing < PACK_COUNT; packing++) {
        struct bytes image = small_bzimage(packing);
        struct bytes tail = image;
        struct error err;
        /* The setup header, and the whole payload. */
        for (size_t at = 0x1f1; at < image.size; at++) {
            if (at == 0x268)
                at = 3 * 512 + 48;
            image.data[at] ^= 0xff;
            load(&tail, &err);
            image.data[at] ^= 0xff;
        }
        assert_int_equal(load(&image, &err), STATUS_OK);
        bytes_free(&image);
    }
}

static void test_bzimage_header(void **state)
{
    struct bytes image = small_bzimage(PACK_GZIP);
    const struct {
        size_t at;
        uint64_t value;
        unsigned size;
        const char *why;
    } cases[] = {
        {BZ_BOOT_FLAG, 0, 2, "not a kernel"},
        {BZ_MAGIC, 0, 4, "not a kernel"},
        {BZ_VERSION, 0x207, 2, "boot protocol 2.07"},
        {BZ_VERSION, 0, 2, "boot protocol"},
        {BZ_LOADFLAGS, 0, 1, "zImage"},
        {BZ_JUMP_LENGTH, 0x20, 1, "boot protocol"},
        {BZ_SYSSIZE, image.size / 16 - 3 * 32 + 1, 4, "truncated"},
        {BZ_SYSSIZE, 0xffffffff, 4, "truncated"},
        {BZ_SETUP_SECTS, 255, 1, "truncated"},
        {BZ_SETUP_SECTS, 0, 1, "truncated"},
        {BZ_PAYLOAD_OFFSET, 0xffffffff, 4, "truncated"},
        {BZ_PAYLOAD_OFFSET, 0x80000000, 4, "truncated"},
        {BZ_PAYLOAD_OFFSET, 47, 4, "no known compression"},
        {BZ_PAYLOAD_LENGTH, 0xffffffff, 4, "truncated"},
        {BZ_PAYLOAD_LENGTH, 0, 4, "no payload"},
        {BZ_PAYLOAD_LENGTH, 7, 4, "no payload"},
        {BZ_PAYLOAD_LENGTH, image.size - 3 * 512 - 47, 4, "truncated"},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        uint8_t saved[8];
        memcpy(saved, image.data + cases[i].at, sizeof(saved));
        put(&image, cases[i].at, cases[i].value, cases[i].size);
        assert_refused(&image, cases[i].why);
        memcpy(image.data + cases[i].at, saved, sizeof(saved));
    }
    bytes_free(&image);
}

static void test_payload_format(void **state)
{
    const struct {
        const char *magic;
        const char *why;
    } cases[] = {
        {"BZh91AY&SY", "bzip2"},
        {"\x89LZO\x00\x0d\x0a\x1a\x0a", "lzo"},
        {"garbage...", "no known compression format"},
        {"\x1f\x8bgarbage.", "damaged compressed payload"},
        {"\x28\xb5\x2f\xfdgarbage.", "damaged compressed payload"},
        {"\xfd"
         "7zXZ\0garbage.",
         "damaged compressed payload"},
        {"\x02\x21\x4c\x18garbage.", "damaged compressed payload"},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct bytes payload = {0};
        uint32_t size = 1000;
        bytes_append(&payload, cases[i].magic, 10);
        bytes_append(&payload, &size, 4);
        struct bytes image = make_bzimage(&payload);
        assert_refused(&image, cases[i].why);
        bytes_free(&image);
        bytes_free(&payload);
    }
}

/* Where the payload of a bzImage ends. */
static size_t payload_end(const struct bytes *image)
{
    uint32_t offset, length;
    memcpy(&offset, image->data + BZ_PAYLOAD_OFFSET, 4);
    memcpy(&length, image->data + BZ_PAYLOAD_LENGTH, 4);
    return (image->data[BZ_SETUP_SECTS] + 1) * 512u + offset + length;
}

/* The size after the payload must be what comes out. */
static void test_payload_size(void **state)
{
    for (enum packing packing = 0; packing < PACK_NONE; packing++) {
        struct bytes image = small_bzimage(packing);
        size_t at = payload_end(&image) - 4;
        uint32_t size;
        memcpy(&size, image.data + at, 4);
        const struct {
            uint32_t size;
            const char *why;
        } cases[] = {
            {size - 1, packing == PACK_LZMA ? "" : "longer than it says"},
            {size + 1, "shorter than it says"},
            {0, "which no kernel does"},
            {63, "which no kernel does"},
            {0xffffffff, "which no kernel does"},
            {512 * MIB + 1, "which no kernel does"},
            {512 * MIB, "does not fit in"},
            {64, ""},
        };
        for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
            put(&image, at, cases[i].size, 4);
            /* gzip and lzma notice in their own words. */
            assert_refused(&image, packing == PACK_GZIP && i < 2    ? "damaged"
                                   : packing == PACK_LZMA && i == 1 ? ""
                                                                    : cases[i].why);
        }
        bytes_free(&image);
    }
}

/* A small file that would become very large. */
static void test_bomb(void **state)
{
    struct bytes plain = {0};
    bytes_append(&plain, NULL, 64 << 20);
    for (enum packing packing = 0; packing < PACK_NONE; packing++) {
        if (packing == PACK_XZ || packing == PACK_LZMA)
            continue; /* slow to make */
        struct bytes payload = pack(packing, &plain);
        put(&payload, payload.size - 4, 4096, 4);
        struct bytes image = make_bzimage(&payload);
        assert_refused(&image, "");
        bytes_free(&image);
        bytes_free(&payload);
    }
    bytes_free(&plain);
}

enum { EHDR64 = 64, PHDR64 = 56 };

/* Offsets of fields in the i-th program header of an ELF64 file made by make_elf64. */
static size_t ph(unsigned i, size_t field)
{
    return EHDR64 + i * PHDR64 + field;
}
enum { P_OFFSET = 8, P_VADDR = 16, P_PADDR = 24, P_FILESZ = 32, P_MEMSZ = 40 };

static void test_elf(void **state)
{
    struct bytes elf = make_elf64(small, 2, 0x1000000);
    const struct {
        size_t at;
        uint64_t value;
        unsigned size;
        const char *why;
    } cases[] = {
        {4, 3, 1, "another processor"},
        {5, 2, 1, "another processor"},
        {16, 3, 2, "not linked to a fixed address"},
        {18, 183, 2, "another processor"},
        {54, 55, 2, "without usable program headers"},
        {56, 0, 2, "without usable program headers"},
        {56, 0xffff, 2, "truncated"},
        {32, 0xffffffffffffffff, 8, "truncated"},
        {32, 0xfffffffffffffff0, 8, "truncated"},
        {24, 0x9999, 8, "entry point"},
        {24, 0x1000000 + 700, 8, "entry point"},
        {24, 0xfffffffffffffff0, 8, "entry point"},
        {ph(0, P_OFFSET), 0xffffffffffffffff, 8, "truncated"},
        {ph(0, P_OFFSET), 0x7fffffffffffffff, 8, "truncated"},
        {ph(0, P_OFFSET), elf.size - 599, 8, "truncated"},
        {ph(0, P_FILESZ), 0xffffffffffffffff, 8, "larger in the file"},
        {ph(0, P_FILESZ), 701, 8, "larger in the file"},
        {ph(0, P_MEMSZ), 599, 8, "larger in the file"},
        {ph(0, P_MEMSZ), 0xffffffffffffffff, 8, "above 4 GiB"},
        {ph(0, P_MEMSZ), 0x10001, 8, "overlapping"},
        {ph(0, P_MEMSZ), 64 * MIB, 8, "give --memory at least 80M"},
        {ph(0, P_PADDR), 0xffffffffffffff00, 8, "above 4 GiB"},
        {ph(0, P_PADDR), 4 * GIB - 100, 8, "above 4 GiB"},
        {ph(0, P_PADDR), 0xfee00000, 8, "where there is none"},
        {ph(0, P_PADDR), 0, 8, "which the loader"},
        {ph(0, P_PADDR), 0x7000, 8, "which the loader"},
        {ph(0, P_PADDR), 0x2ffff, 8, "which the loader"},
        {ph(0, P_PADDR), 0x9fb00, 8, "which the loader"},
        {ph(0, P_PADDR), 0xfffff, 8, "which the loader"},
        {ph(1, P_PADDR), 0x1000000, 8, "overlapping"},
        {ph(1, P_PADDR), 0x1000000 + 699, 8, "overlapping"},
        {ph(1, P_PADDR), 0x1000000 - 4999, 8, "overlapping"},
        {ph(0, 0), 4, 4, "entry point"}, /* no longer PT_LOAD */
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        uint8_t saved[8];
        memcpy(saved, elf.data + cases[i].at, sizeof(saved));
        put(&elf, cases[i].at, cases[i].value, cases[i].size);
        assert_refused(&elf, cases[i].why);
        memcpy(elf.data + cases[i].at, saved, sizeof(saved));
    }
    put(&elf, ph(0, 0), 4, 4);
    put(&elf, ph(1, 0), 4, 4);
    assert_refused(&elf, "nothing to load");
    bytes_free(&elf);
}

static void test_too_many_segments(void **state)
{
    struct test_segment segments[40];
    for (unsigned i = 0; i < 40; i++)
        segments[i] = (struct test_segment){0, 0x1000000 + i * 0x1000, 16, 16, 1};
    struct bytes elf = make_elf64(segments, 32, 0x1000000);
    struct error err;
    assert_int_equal(load(&elf, &err), STATUS_OK);
    bytes_free(&elf);
    elf = make_elf64(segments, 33, 0x1000000);
    assert_refused(&elf, "more than 32 segments");
    bytes_free(&elf);
}

static void test_multiboot(void **state)
{
    static const struct test_segment segments[] = {{0x100000, 0x100000, 300, 400, 3}};
    struct bytes elf = make_elf32(segments, 1, 0x100010, 1, 7);
    assert_refused(&elf, "requires multiboot features 0x7");
    bytes_free(&elf);
    elf = make_elf64(segments, 1, 0x100010);
    uint32_t header[] = {0x1badb002, 0, -0x1badb002};
    memcpy(elf.data + EHDR64 + 2 * PHDR64, header, sizeof(header));
    assert_refused(&elf, "ELF64");
    bytes_free(&elf);

    /* header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr */
    const struct {
        uint32_t addresses[5];
        const char *why;
    } cases[] = {
        {{0x200000, 0x200001, 0, 0, 0x200000}, "starts before the file"},
        {{0x200081, 0x200000, 0, 0, 0x200000}, "starts before the file"},
        {{0xffffffff, 0, 0, 0, 0x200000}, "starts before the file"},
        {{0x200000, 0x200000, 0x1fffff, 0, 0x200000}, "reversed"},
        {{0x200000, 0x200000, 0x200000, 0, 0x200000}, "reversed"},
        {{0x200000, 0x200000, 0x200100, 0x2000ff, 0x200000}, "bss"},
        {{0x200000, 0x200000, 0xffffffff, 0, 0x200000}, "truncated"},
        {{0x200000, 0x200000, 0x200f81, 0, 0x200000}, "truncated"},
        {{0x200000, 0x200000, 0, 0xffffffff, 0x200000}, "where there is none"},
        {{0x200000, 0x200000, 0, 0x4000000, 0x200000}, "give --memory"},
        {{0x200000, 0x200000, 0, 0, 0x1fffff}, "entry point"},
        {{0x200000, 0x200000, 0, 0, 0x200f80}, "entry point"},
        {{0x7000, 0x7000, 0, 0, 0x7000}, "which the loader"},
        {{0xfffff000, 0xfffff000, 0, 0, 0xfffff000}, "where there is none"},
    };
    struct bytes file = {0};
    bytes_append(&file, NULL, 4096);
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        uint32_t kludge[3] = {0x1badb002, 0x10000, -(0x1badb002 + 0x10000)};
        memcpy(file.data + 0x80, kludge, sizeof(kludge));
        memcpy(file.data + 0x8c, cases[i].addresses, sizeof(cases[i].addresses));
        assert_refused(&file, cases[i].why);
    }
    /* The header beyond the first 8 KiB, or cut off at the end of the file, is none. */
    struct bytes late = {0};
    bytes_append(&late, NULL, 12000);
    memcpy(late.data + 8184, header, sizeof(header));
    assert_refused(&late, "not a kernel");
    bytes_free(&late);
    bytes_free(&file);
}

static void test_not_a_kernel(void **state)
{
    struct bytes text = {0};
    assert_refused(&text, "is empty");
    bytes_append(&text, "#!/bin/sh\n", 10);
    assert_refused(&text, "is not a kernel");
    bytes_append(&text, NULL, 100000);
    assert_refused(&text, "is not a kernel");
    bytes_free(&text);
}

static void test_little_memory(void **state)
{
    struct bytes image = small_bzimage(PACK_GZIP);
    struct bytes multiboot = small_multiboot();
    struct error err;
    for (uint64_t size = 4096; size < MIB; size += 64 * KIB) {
        assert_int_equal(load_in(size, &image, "", &err), STATUS_INVALID);
        assert_non_null(strstr(err.text, "too little"));
        assert_int_equal(load_in(size, &multiboot, "", &err), STATUS_INVALID);
    }
    assert_int_equal(load_in(MIB, &image, "", &err), STATUS_INVALID);
    assert_string_equal(err.text,
                        "kernel 'K' does not fit in 1 MiB of memory: give --memory at least 17M");
    assert_int_equal(load_in(16 * MIB, &image, "", &err), STATUS_INVALID);
    assert_int_equal(load_in(17 * MIB, &image, "", &err), STATUS_OK);
    assert_int_equal(load_in(2 * MIB, &multiboot, "", &err), STATUS_OK);
    bytes_free(&multiboot);
    bytes_free(&image);
}

static void test_long_command_line(void **state)
{
    struct bytes image = small_bzimage(PACK_GZIP);
    struct error err;
    char line[70000];
    memset(line, 'x', sizeof(line));
    line[2047] = 0;
    assert_int_equal(load_in(32 * MIB, &image, line, &err), STATUS_OK);
    line[2047] = 'x';
    line[2048] = 0;
    assert_int_equal(load_in(32 * MIB, &image, line, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "the kernel takes 2047"));
    /* A kernel that says it takes any length still gets no more than there is room for. */
    put(&image, BZ_CMDLINE_SIZE, 0xffffffff, 4);
    line[2048] = 'x';
    line[65535] = 0;
    assert_int_equal(load_in(32 * MIB, &image, line, &err), STATUS_OK);
    line[65535] = 'x';
    line[65536] = 0;
    assert_int_equal(load_in(32 * MIB, &image, line, &err), STATUS_INVALID);
    bytes_free(&image);
}

/* Files, by path. */

static enum status load_path(const char *kernel, const char *initrd, struct error *err)
{
    struct pmap *map = make_map(32 * MIB);
    struct boot_config config = {.append = "", .kernel = kernel, .initrd = initrd};
    struct boot_entry entry;
    *err = (struct error){0};
    enum status status = boot_load(map, &config, &entry, err);
    pmap_destroy(map);
    return status;
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void test_files(void **state)
{
    char folder[] = "boot_test_XXXXXX";
    assert_non_null(mkdtemp(folder));
    char good[64], empty[64], fifo[64], missing[64], dangling[64];
    snprintf(good, sizeof(good), "%s/good", folder);
    snprintf(empty, sizeof(empty), "%s/empty", folder);
    snprintf(fifo, sizeof(fifo), "%s/fifo", folder);
    snprintf(missing, sizeof(missing), "%s/missing", folder);
    snprintf(dangling, sizeof(dangling), "%s/good/below", folder);
    struct bytes image = small_bzimage(PACK_XZ);
    write_file(good, image.data, image.size);
    write_file(empty, "", 0);
    assert_int_equal(mkfifo(fifo, 0600), 0);

    struct error err;
    assert_int_equal(load_path(good, NULL, &err), STATUS_OK);
    assert_int_equal(load_path(good, good, &err), STATUS_OK);
    assert_int_equal(load_path(missing, NULL, &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, missing));
    assert_int_equal(load_path(dangling, NULL, &err), STATUS_NOT_FOUND);
    assert_int_equal(load_path(folder, NULL, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "is a directory"));
    assert_int_equal(load_path(empty, NULL, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "is empty"));
    assert_int_equal(load_path(fifo, NULL, &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "not a regular file"));
    assert_int_equal(load_path(good, missing, &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, "initrd"));
    assert_int_equal(load_path(good, empty, &err), STATUS_INVALID);
    assert_int_equal(load_path(good, folder, &err), STATUS_INVALID);
    assert_int_equal(load_path("", NULL, &err), STATUS_NOT_FOUND);
    if (geteuid() != 0) {
        assert_int_equal(chmod(good, 0), 0);
        assert_int_equal(load_path(good, NULL, &err), STATUS_INVALID);
        assert_non_null(strstr(err.text, "Permission denied"));
    }
    unlink(good);
    unlink(empty);
    unlink(fifo);
    assert_int_equal(rmdir(folder), 0);
    bytes_free(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_truncated_payload),
        cmocka_unit_test(test_changed_bytes),
        cmocka_unit_test(test_bzimage_header),
        cmocka_unit_test(test_payload_format),
        cmocka_unit_test(test_payload_size),
        cmocka_unit_test(test_bomb),
        cmocka_unit_test(test_elf),
        cmocka_unit_test(test_too_many_segments),
        cmocka_unit_test(test_multiboot),
        cmocka_unit_test(test_not_a_kernel),
        cmocka_unit_test(test_little_memory),
        cmocka_unit_test(test_long_command_line),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
