#include "boot/memory.h"

#include <stdlib.h>
#include <string.h>

#include "util/bits.h"

#define LOW_LIMIT (4 * GIB)

static unsigned append(struct memory_entry *entries, unsigned count, uint64_t base, uint64_t end,
                       enum memory_type type)
{
    if (base >= end || count == MEMORY_ENTRIES_MAX)
        return count;
    entries[count] = (struct memory_entry){base, end - base, type};
    return count + 1;
}

unsigned memory_describe(const struct pmap *map, struct memory_entry entries[MEMORY_ENTRIES_MAX])
{
    unsigned range_count, count = 0;
    const struct ram_range *ranges = pmap_ranges(map, &range_count);
    bool reserved = false;

    for (unsigned i = 0; i < range_count; i++) {
        uint64_t base = ranges[i].base, end = base + ranges[i].size;
        if (base < BOOT_EBDA)
            count = append(entries, count, base, end < BOOT_EBDA ? end : BOOT_EBDA, MEMORY_RAM);
        if (end > BOOT_EBDA && !reserved) {
            count = append(entries, count, BOOT_EBDA, 0xa0000, MEMORY_RESERVED);
            count = append(entries, count, 0xe0000, BOOT_HIGH, MEMORY_RESERVED);
            reserved = true;
        }
        if (end > BOOT_HIGH)
            count = append(entries, count, base > BOOT_HIGH ? base : BOOT_HIGH, end, MEMORY_RAM);
    }
    return count;
}

bool memory_is_ram(const struct pmap *map, uint64_t base, uint64_t size)
{
    unsigned count;
    const struct ram_range *ranges = pmap_ranges(map, &count);
    for (unsigned i = 0; i < count; i++) {
        if (base >= ranges[i].base && range_fits(base - ranges[i].base, size, ranges[i].size))
            return true;
    }
    return false;
}

uint64_t memory_total(const struct pmap *map)
{
    unsigned count;
    const struct ram_range *ranges = pmap_ranges(map, &count);
    uint64_t total = 0;
    for (unsigned i = 0; i < count; i++)
        total += ranges[i].size;
    return total;
}

uint64_t memory_low_end(const struct pmap *map)
{
    unsigned count;
    const struct ram_range *ranges = pmap_ranges(map, &count);
    if (count == 0 || ranges[0].base != 0)
        return 0;
    return ranges[0].size < LOW_LIMIT ? ranges[0].size : LOW_LIMIT;
}

enum status memory_put(struct pmap *map, uint64_t gpa, const void *bytes, uint64_t length,
                       struct error *err)
{
    enum status status = pmap_write(map, gpa, bytes, length);
    if (status == STATUS_INVALID)
        return error_set(err, status, "%llu MiB of memory is too little to start a kernel",
                         (unsigned long long)(memory_total(map) / MIB));
    if (status != STATUS_OK)
        return error_set(err, status, "cannot write guest memory at 0x%llx",
                         (unsigned long long)gpa);
    return STATUS_OK;
}

/* The bytes, which are not none and lie in one page, are zeros where zeros are already. */
static bool is_zero_piece(const struct pmap *map, uint64_t gpa, const uint8_t *bytes,
                          uint64_t length)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0 &&
           pmap_state(map, gpa >> PAGE_SHIFT) == PAGE_ZERO;
}

enum status memory_put_sparse(struct pmap *map, uint64_t gpa, const uint8_t *bytes, uint64_t length,
                              struct error *err)
{
    uint64_t start = 0, at = 0; /* [start, at) is to be written */
    enum status status = STATUS_OK;
    while (at < length && status == STATUS_OK) {
        uint64_t piece = PAGE_SIZE - ((gpa + at) & PAGE_MASK);
        if (piece > length - at)
            piece = length - at;
        if (is_zero_piece(map, gpa + at, bytes + at, piece)) {
            if (at > start)
                status = memory_put(map, gpa + start, bytes + start, at - start, err);
            start = at + piece;
        }
        at += piece;
    }
    if (status == STATUS_OK && at > start)
        status = memory_put(map, gpa + start, bytes + start, at - start, err);
    return status;
}

static enum status copy_file(struct pmap *map, const struct boot_source *source, uint64_t base,
                             struct error *err)
{
    enum { CHUNK = 256 * 1024 };
    uint8_t *buffer = malloc(CHUNK);
    if (buffer == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory to load %s '%s'", source->what,
                         source->name);
    enum status status = STATUS_OK;
    for (uint64_t done = 0; done < source->size && status == STATUS_OK;) {
        uint64_t length = source->size - done < CHUNK ? source->size - done : CHUNK;
        status = source_read(source, done, buffer, length, err);
        if (status == STATUS_OK)
            status = memory_put_sparse(map, base + done, buffer, length, err);
        done += length;
    }
    free(buffer);
    return status;
}

enum status memory_load_file(struct pmap *map, const struct boot_source *source, uint64_t floor,
                             uint64_t ceiling, struct boot_range *range, struct error *err)
{
    uint64_t low_end = memory_low_end(map);
    uint64_t top = align_down(ceiling < low_end ? ceiling : low_end, PAGE_SIZE);
    uint64_t bottom = align_up(floor, PAGE_SIZE);

    if (top >= bottom && source->size <= top - bottom) {
        *range = (struct boot_range){align_down(top - source->size, PAGE_SIZE), source->size};
        return copy_file(map, source, range->gpa, err);
    }

    unsigned long long size = align_up(source->size, MIB) / MIB;
    if (ceiling > BOOT_LOW_RAM_MAX)
        ceiling = BOOT_LOW_RAM_MAX;
    if (source->size > LOW_LIMIT || bottom + source->size > ceiling)
        return error_set(err, STATUS_INVALID,
                         "%s '%s' of %llu MiB is too large: it must lie below "
                         "%llu MiB, above the kernel",
                         source->what, source->name, size, (unsigned long long)(ceiling / MIB));
    return error_set(err, STATUS_INVALID,
                     "%s '%s' of %llu MiB does not fit in %llu MiB of memory: "
                     "give --memory at least %lluM",
                     source->what, source->name, size,
                     (unsigned long long)(memory_total(map) / MIB),
                     (unsigned long long)(align_up(bottom + source->size, MIB) / MIB));
}

enum status memory_put_cmdline(struct pmap *map, const char *text, uint64_t max, struct error *err)
{
    uint64_t length = strlen(text);
    if (max > BOOT_CMDLINE_SIZE - 1)
        max = BOOT_CMDLINE_SIZE - 1;
    if (length > max)
        return error_set(err, STATUS_INVALID,
                         "the kernel command line of %llu bytes is too long: "
                         "the kernel takes %llu",
                         (unsigned long long)length, (unsigned long long)max);
    return memory_put(map, BOOT_CMDLINE, text, length + 1, err);
}

enum status memory_put_gdt(struct pmap *map, bool is_64, uint16_t *limit, struct error *err)
{
    const uint64_t gdt[] = {
        0, 0, is_64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff, /* 0x10 code */
        0x00cf93000000ffff,                                    /* 0x18 data */
    };
    *limit = sizeof(gdt) - 1;
    return memory_put(map, BOOT_GDT, gdt, sizeof(gdt), err);
}
