#include "boot/image.h"

#include <stdlib.h>

#include "boot/memory.h"
#include "util/bits.h"

void image_init(struct image *image, struct pmap *map, const struct boot_source *source,
                uint64_t file_size)
{
    *image = (struct image){.map = map, .source = source, .file_size = file_size};
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

enum status image_refuse_size(const struct pmap *map, const struct boot_source *source,
                              uint64_t needed, struct error *err)
{
    return error_set(err, STATUS_INVALID,
                     "%s '%s' does not fit in %llu MiB of memory: give --memory at least %lluM",
                     source->what, source->name, (unsigned long long)(memory_total(map) / MIB),
                     (unsigned long long)(align_up(needed, MIB) / MIB));
}

enum status image_add(struct image *image, const struct image_segment *segment, struct error *err)
{
    const char *what = image->source->what, *name = image->source->name;

    if (segment->mem_size == 0)
        return STATUS_OK;
    if (segment->file_size > segment->mem_size)
        return error_set(err, STATUS_INVALID,
                         "%s '%s' has a segment larger in the file than in "
                         "memory",
                         what, name);
    if (!range_fits(segment->offset, segment->file_size, image->file_size))
        return error_set(err, STATUS_INVALID,
                         "%s '%s' is truncated: a segment lies outside the "
                         "file",
                         what, name);
    if (!range_fits(segment->gpa, segment->mem_size, 4 * GIB))
        return error_set(err, STATUS_INVALID, "%s '%s' wants memory above 4 GiB", what, name);
    if (segment->gpa < BOOT_LOW_END ||
        overlap(segment->gpa, segment->mem_size, BOOT_EBDA, BOOT_HIGH - BOOT_EBDA))
        return error_set(err, STATUS_INVALID,
                         "%s '%s' wants memory at 0x%llx, which the loader "
                         "and the firmware tables use",
                         what, name, (unsigned long long)segment->gpa);
    uint64_t end = segment->gpa + segment->mem_size;
    if (!memory_is_ram(image->map, segment->gpa, segment->mem_size)) {
        /* More memory helps only where the addresses could be RAM at all. */
        if (end <= memory_low_end(image->map) || end > BOOT_LOW_RAM_MAX)
            return error_set(err, STATUS_INVALID,
                             "%s '%s' wants memory at 0x%llx, where there is "
                             "none",
                             what, name, (unsigned long long)segment->gpa);
        return image_refuse_size(image->map, image->source, end, err);
    }
    for (unsigned i = 0; i < image->count; i++) {
        if (overlap(segment->gpa, segment->mem_size, image->segments[i].gpa,
                    image->segments[i].mem_size))
            return error_set(err, STATUS_INVALID, "%s '%s' has overlapping segments", what, name);
    }
    if (image->count == IMAGE_SEGMENTS_MAX)
        return error_set(err, STATUS_UNSUPPORTED, "%s '%s' has more than %u segments", what, name,
                         IMAGE_SEGMENTS_MAX);
    image->segments[image->count++] = *segment;
    if (end > image->end)
        image->end = end;
    return STATUS_OK;
}

struct boot_range image_range(const struct image *image)
{
    uint64_t start = image->end;
    for (unsigned i = 0; i < image->count; i++) {
        if (image->segments[i].gpa < start)
            start = image->segments[i].gpa;
    }
    return (struct boot_range){start, image->end - start};
}

bool image_contains(const struct image *image, uint64_t gpa)
{
    for (unsigned i = 0; i < image->count; i++) {
        if (gpa - image->segments[i].gpa < image->segments[i].mem_size)
            return true;
    }
    return false;
}

enum status image_put(struct image *image, uint64_t offset, const uint8_t *bytes, uint64_t length,
                      struct error *err)
{
    for (unsigned i = 0; i < image->count; i++) {
        const struct image_segment *segment = &image->segments[i];
        uint64_t from = segment->offset > offset ? segment->offset : offset;
        uint64_t to = segment->offset + segment->file_size;
        if (to > offset + length)
            to = offset + length;
        if (from >= to)
            continue;
        enum status status = memory_put_sparse(image->map, segment->gpa + (from - segment->offset),
                                               bytes + (from - offset), to - from, err);
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

enum status image_load(struct image *image, struct error *err)
{
    enum { CHUNK = 256 * 1024 };
    uint8_t *buffer = malloc(CHUNK);
    if (buffer == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory to load the kernel");
    enum status status = STATUS_OK;
    for (unsigned i = 0; i < image->count && status == STATUS_OK; i++) {
        const struct image_segment *segment = &image->segments[i];
        for (uint64_t done = 0; done < segment->file_size && status == STATUS_OK;) {
            uint64_t length = segment->file_size - done;
            if (length > CHUNK)
                length = CHUNK;
            status = source_read(image->source, segment->offset + done, buffer, length, err);
            if (status == STATUS_OK)
                status = memory_put_sparse(image->map, segment->gpa + done, buffer, length, err);
            done += length;
        }
    }
    free(buffer);
    return status;
}
