#ifndef AEROSTAT_BOOT_IMAGE_H
#define AEROSTAT_BOOT_IMAGE_H

/*
 * What a kernel file puts where in guest memory: segments, checked against the file, the guest's
 * RAM, the boot structures and each other when they are added, and only then written.
 */

#include <stdbool.h>
#include <stdint.h>

#include "boot/boot.h"
#include "boot/source.h"
#include "mem/pmap.h"

/* Headers must lie within this much of the file's beginning. */
#define IMAGE_HEAD_SIZE    65536u
#define IMAGE_SEGMENTS_MAX 32u

/* Bytes [offset, offset + file_size) of the file go to gpa; the rest up to mem_size stays zero. */
struct image_segment {
    uint64_t offset, file_size;
    uint64_t gpa, mem_size;
};

struct image {
    struct pmap *map;
    const struct boot_source *source; /* for messages; the plain file may be inside it */
    uint64_t file_size;               /* of the plain file */
    struct image_segment segments[IMAGE_SEGMENTS_MAX];
    unsigned count;
    uint64_t end; /* just above the highest segment */
    uint64_t entry;
    bool is_64; /* ELF64 */
};

void image_init(struct image *image, struct pmap *map, const struct boot_source *source,
                uint64_t file_size);

/* Says that the VM has too little memory for it, and how much it needs at least. */
enum status image_refuse_size(const struct pmap *map, const struct boot_source *source,
                              uint64_t needed, struct error *err);

enum status image_add(struct image *image, const struct image_segment *segment, struct error *err);

/* From the lowest segment to the end of the highest. */
struct boot_range image_range(const struct image *image);

/* True when gpa lies in a segment. */
bool image_contains(const struct image *image, uint64_t gpa);

/* Adds the segments of an ELF file whose first head_size bytes are given, and finds its entry. */
enum status elf_parse(struct image *image, const uint8_t *head, uint64_t head_size,
                      struct error *err);

/* Writes what these bytes, which are the plain file's at `offset`, contribute. */
enum status image_put(struct image *image, uint64_t offset, const uint8_t *bytes, uint64_t length,
                      struct error *err);

/* Reads every segment from the source, which must be the plain file itself. */
enum status image_load(struct image *image, struct error *err);

#endif
