#ifndef AEROSTAT_BOOT_SOURCE_H
#define AEROSTAT_BOOT_SOURCE_H

/* A file that is being loaded, or bytes in memory that stand for one: its size, and reads at any
 * offset. Nothing of it is kept in memory. */

#include <stdint.h>

#include "util/status.h"

struct boot_source {
    const char *what; /* "kernel" or "initrd", for messages */
    const char *name; /* the path, for messages */
    uint64_t size;
    const uint8_t *bytes; /* NULL: read from fd */
    int fd;
};

/* Opens a regular file that is not empty; everything else is refused in one line. The strings are
 * kept, not copied. */
enum status source_open(struct boot_source *source, const char *what, const char *path,
                        struct error *err);

/* The bytes stay the caller's. They may be none: an empty file is refused as source_open does. */
enum status source_from_bytes(struct boot_source *source, const char *what, const char *name,
                              const uint8_t *bytes, uint64_t size, struct error *err);

void source_close(struct boot_source *source);

/* Reads exactly length bytes at offset, or fails with "is truncated" beyond the end. */
enum status source_read(const struct boot_source *source, uint64_t offset, void *buffer,
                        uint64_t length, struct error *err);

#endif
