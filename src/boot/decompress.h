#ifndef AEROSTAT_BOOT_DECOMPRESS_H
#define AEROSTAT_BOOT_DECOMPRESS_H

/* Decompression of a bzImage's payload: the plain bytes go to a sink piece by piece, so that the
 * compressed kernel is never held whole, and the plain one never twice. */

#include <stdint.h>

#include "boot/source.h"

/* Takes the next `length` plain bytes. Anything but STATUS_OK ends the decompression with that. */
typedef enum status decompress_sink_fn(void *context, const uint8_t *bytes, uint64_t length,
                                       struct error *err);

/*
 * Decompresses bytes [offset, offset + length) of the source: gzip, lz4 (legacy frame), zstd, xz,
 * lzma, or an ELF file as it is. Exactly plain_size bytes must come out: one more or less is an
 * error, found before the sink sees anything beyond. The decoders need at most 160 MiB, however
 * hostile the input, but for zstd: plain_size, which is given back as the sink takes it. All of it
 * is freed on return.
 */
enum status decompress(const struct boot_source *source, uint64_t offset, uint64_t length,
                       uint64_t plain_size, decompress_sink_fn *sink, void *context,
                       struct error *err);

#endif
