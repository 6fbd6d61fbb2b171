/*
 * One reader and one writer with their bounds, and a loop for each library between them.
 *
 * The kernel's build appends the plain size (4 bytes, little-endian) to what the compressor made,
 * except for gzip, whose own trailer ends with it. Stream formats say themselves where they end;
 * for the legacy lz4 frame, which does not, the caller's length must exclude that trailer.
 */

#include "boot/decompress.h"

#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <zlib.h>
/* For ZSTD_d_stableOutBuffer. */
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>
#include <zstd_errors.h>

#include "util/bits.h"

enum {
    INPUT_CHUNK = 128 * 1024,
    OUTPUT_CHUNK = 256 * 1024,
    RELEASE_CHUNK = 1024 * 1024,
    LZ4_BLOCK_MAX = 8 * 1024 * 1024, /* plain bytes in one block of a legacy frame */
    ZSTD_WINDOW_LOG_MAX = 27,        /* zstd -22 --ultra, as the kernel's build calls it */
};
#define LZMA_MEMORY_MAX (128 * MIB)
#define LZ4_MAGIC       0x184c2102u

struct stream {
    const struct boot_source *source;
    uint64_t position, end; /* what is left of the input */
    uint64_t plain_left;
    decompress_sink_fn *sink;
    void *context;
    uint8_t input[INPUT_CHUNK], output[OUTPUT_CHUNK];
};

static enum status corrupt(const struct stream *stream, struct error *err, const char *why)
{
    return error_set(err, STATUS_INVALID, "%s '%s' has a damaged compressed payload: %s",
                     stream->source->what, stream->source->name, why);
}

static enum status host_memory(const struct stream *stream, struct error *err)
{
    return error_set(err, STATUS_NO_MEMORY, "no memory to decompress %s '%s'", stream->source->what,
                     stream->source->name);
}

/* Fills the input buffer; *got is 0 only at the end. */
static enum status stream_fill(struct stream *stream, size_t *got, struct error *err)
{
    uint64_t left = stream->end - stream->position;
    *got = left < INPUT_CHUNK ? left : INPUT_CHUNK;
    enum status status = source_read(stream->source, stream->position, stream->input, *got, err);
    if (status == STATUS_OK)
        stream->position += *got;
    return status;
}

static enum status stream_emit(struct stream *stream, const uint8_t *bytes, uint64_t length,
                               struct error *err)
{
    if (length > stream->plain_left)
        return corrupt(stream, err, "it is longer than it says");
    stream->plain_left -= length;
    return length == 0 ? STATUS_OK : stream->sink(stream->context, bytes, length, err);
}

static enum status decompress_gzip(struct stream *stream, struct error *err)
{
    z_stream z = {0};
    if (inflateInit2(&z, 15 + 16) != Z_OK) /* largest window, gzip header and trailer */
        return host_memory(stream, err);

    enum status status = STATUS_OK;
    for (int result = Z_OK; result != Z_STREAM_END && status == STATUS_OK;) {
        if (z.avail_in == 0) {
            size_t got;
            status = stream_fill(stream, &got, err);
            if (status != STATUS_OK)
                break;
            if (got == 0) {
                status = corrupt(stream, err, "it ends early");
                break;
            }
            z.next_in = stream->input;
            z.avail_in = (uInt)got;
        }
        z.next_out = stream->output;
        z.avail_out = OUTPUT_CHUNK;
        result = inflate(&z, Z_NO_FLUSH);
        if (result == Z_OK || result == Z_STREAM_END)
            status = stream_emit(stream, stream->output, OUTPUT_CHUNK - z.avail_out, err);
        else if (result == Z_MEM_ERROR)
            status = host_memory(stream, err);
        else
            status = corrupt(stream, err, z.msg != NULL ? z.msg : "not gzip data");
    }
    inflateEnd(&z);
    return status;
}

/* xz with any filter liblzma knows (the kernel's build uses x86 BCJ), or the older .lzma. */
static enum status decompress_lzma(struct stream *stream, bool is_xz, struct error *err)
{
    lzma_stream z = LZMA_STREAM_INIT;
    lzma_ret result = is_xz ? lzma_stream_decoder(&z, LZMA_MEMORY_MAX, 0)
                            : lzma_alone_decoder(&z, LZMA_MEMORY_MAX);
    if (result != LZMA_OK)
        return host_memory(stream, err);

    enum status status = STATUS_OK;
    while (result != LZMA_STREAM_END && status == STATUS_OK) {
        if (z.avail_in == 0) {
            size_t got;
            status = stream_fill(stream, &got, err);
            if (status != STATUS_OK)
                break;
            if (got == 0) {
                status = corrupt(stream, err, "it ends early");
                break;
            }
            z.next_in = stream->input;
            z.avail_in = got;
        }
        z.next_out = stream->output;
        z.avail_out = OUTPUT_CHUNK;
        result = lzma_code(&z, LZMA_RUN);
        if (result == LZMA_OK || result == LZMA_STREAM_END)
            status = stream_emit(stream, stream->output, OUTPUT_CHUNK - z.avail_out, err);
        else if (result == LZMA_MEM_ERROR)
            status = host_memory(stream, err);
        else if (result == LZMA_MEMLIMIT_ERROR)
            status = corrupt(stream, err, "its dictionary is too large");
        else
            status = corrupt(stream, err, is_xz ? "not xz data" : "not lzma data");
        /* An .lzma file of known size may lack an end mark, and decoders differ in whether they
         * then report the end: the size we were told settles it. */
        if (!is_xz && status == STATUS_OK && stream->plain_left == 0)
            break;
    }
    lzma_end(&z);
    return status;
}

/* The plain bytes go to the sink, and their memory back to the host as they do. */
static enum status emit_and_release(struct stream *stream, uint8_t *plain, size_t length,
                                    struct error *err)
{
    enum status status = STATUS_OK;
    for (size_t at = 0; at < length && status == STATUS_OK; at += RELEASE_CHUNK) {
        size_t size = length - at < RELEASE_CHUNK ? length - at : RELEASE_CHUNK;
        status = stream_emit(stream, plain + at, size, err);
        madvise(plain + at, size, MADV_DONTNEED);
    }
    return status;
}

static enum status run_zstd(struct stream *stream, ZSTD_DStream *z, ZSTD_outBuffer *out,
                            struct error *err)
{
    ZSTD_inBuffer in = {.src = stream->input};
    for (size_t result = 1; result != 0;) {
        if (in.pos == in.size) {
            enum status status = stream_fill(stream, &in.size, err);
            in.pos = 0;
            if (status != STATUS_OK)
                return status;
            if (in.size == 0)
                return corrupt(stream, err, "it ends early");
        }
        result = ZSTD_decompressStream(z, out, &in);
        if (ZSTD_getErrorCode(result) == ZSTD_error_dstSize_tooSmall)
            return corrupt(stream, err, "it is longer than it says");
        if (ZSTD_isError(result))
            return corrupt(stream, err, ZSTD_getErrorName(result));
    }
    return STATUS_OK;
}

/* Kernels are made with the largest window, so that a decoder that keeps one keeps all of the
 * kernel. So does this one: it has it in one piece, which is its own window, and gives that back
 * while it becomes the guest's. There are never two of it. */
static enum status decompress_zstd(struct stream *stream, struct error *err)
{
    enum status status = STATUS_OK;
    ZSTD_outBuffer out = {.size = stream->plain_left};
    uint8_t *plain = mmap(NULL, out.size, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (plain == MAP_FAILED)
        return host_memory(stream, err);
    out.dst = plain;
    ZSTD_DStream *z = ZSTD_createDStream();
    if (z == NULL ||
        ZSTD_isError(ZSTD_DCtx_setParameter(z, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG_MAX)) ||
        ZSTD_isError(ZSTD_DCtx_setParameter(z, ZSTD_d_stableOutBuffer, 1)))
        status = host_memory(stream, err);
    if (status == STATUS_OK)
        status = run_zstd(stream, z, &out, err);
    ZSTD_freeDStream(z);
    if (status == STATUS_OK)
        status = emit_and_release(stream, plain, out.pos, err);
    munmap(plain, out.size);
    return status;
}

/* Legacy frame: a magic number, then blocks of a 4-byte size and that many compressed bytes. */
static enum status decompress_lz4(struct stream *stream, struct error *err)
{
    enum status status = STATUS_OK;
    uint64_t left = stream->end - stream->position;
    int block_max = LZ4_compressBound(LZ4_BLOCK_MAX);
    if (left < (uint64_t)block_max)
        block_max = (int)left;
    char *block = malloc((size_t)block_max);
    char *plain = malloc(LZ4_BLOCK_MAX);
    if (block == NULL || plain == NULL) {
        status = host_memory(stream, err);
        goto out;
    }

    stream->position += 4; /* the magic number, which has been looked at */
    while (stream->position < stream->end) {
        uint32_t size;
        if (stream->end - stream->position < sizeof(size)) {
            status = corrupt(stream, err, "it ends early");
            goto out;
        }
        status = source_read(stream->source, stream->position, &size, sizeof(size), err);
        if (status != STATUS_OK)
            goto out;
        stream->position += sizeof(size);
        if (size == LZ4_MAGIC) /* another frame follows */
            continue;
        if (size == 0 || size > (uint32_t)block_max || size > stream->end - stream->position) {
            status = corrupt(stream, err, "an lz4 block's size is wrong");
            goto out;
        }
        status = source_read(stream->source, stream->position, block, size, err);
        if (status != STATUS_OK)
            goto out;
        stream->position += size;
        int length = LZ4_decompress_safe(block, plain, (int)size, LZ4_BLOCK_MAX);
        if (length < 0)
            status = corrupt(stream, err, "not lz4 data");
        else
            status = stream_emit(stream, (const uint8_t *)plain, (uint64_t)length, err);
        if (status != STATUS_OK)
            goto out;
    }
out:
    free(block);
    free(plain);
    return status;
}

static enum status copy_plain(struct stream *stream, struct error *err)
{
    for (;;) {
        size_t got;
        enum status status = stream_fill(stream, &got, err);
        if (status != STATUS_OK || got == 0)
            return status;
        status = stream_emit(stream, stream->input, got, err);
        if (status != STATUS_OK)
            return status;
    }
}

enum format { FORMAT_GZIP, FORMAT_LZ4, FORMAT_ZSTD, FORMAT_XZ, FORMAT_LZMA, FORMAT_PLAIN };

static enum status run(struct stream *stream, enum format format, struct error *err)
{
    switch (format) {
    case FORMAT_GZIP:
        return decompress_gzip(stream, err);
    case FORMAT_LZ4:
        return decompress_lz4(stream, err);
    case FORMAT_ZSTD:
        return decompress_zstd(stream, err);
    case FORMAT_XZ:
        return decompress_lzma(stream, true, err);
    case FORMAT_LZMA:
        return decompress_lzma(stream, false, err);
    case FORMAT_PLAIN:
        return copy_plain(stream, err);
    }
    return STATUS_INTERNAL;
}

/* By the first bytes, as the kernel's build leaves them. */
static enum status recognize(const struct boot_source *source, const uint8_t head[6],
                             enum format *format, struct error *err)
{
    static const struct {
        uint8_t length;
        uint8_t magic[6];
        enum format format;
    } formats[] = {
        {2, {0x1f, 0x8b}, FORMAT_GZIP},
        {4, {0x02, 0x21, 0x4c, 0x18}, FORMAT_LZ4},
        {4, {0x28, 0xb5, 0x2f, 0xfd}, FORMAT_ZSTD},
        {6, {0xfd, '7', 'z', 'X', 'Z', 0}, FORMAT_XZ},
        {3, {0x5d, 0, 0}, FORMAT_LZMA},
        {4, {0x7f, 'E', 'L', 'F'}, FORMAT_PLAIN},
    };
    for (unsigned i = 0; i < ARRAY_LENGTH(formats); i++) {
        if (memcmp(head, formats[i].magic, formats[i].length) == 0) {
            *format = formats[i].format;
            return STATUS_OK;
        }
    }
    if (memcmp(head, "BZh", 3) == 0 || memcmp(head, "\x89LZO", 4) == 0)
        return error_set(
            err, STATUS_UNSUPPORTED,
            "%s '%s' is compressed with %s; gzip, lz4, zstd, xz and lzma are supported",
            source->what, source->name, head[0] == 'B' ? "bzip2" : "lzo");
    return error_set(err, STATUS_INVALID, "%s '%s' has a payload in no known compression format",
                     source->what, source->name);
}

enum status decompress(const struct boot_source *source, uint64_t offset, uint64_t length,
                       uint64_t plain_size, decompress_sink_fn *sink, void *context,
                       struct error *err)
{
    uint8_t head[6];
    if (!range_fits(offset, length, source->size) || length < sizeof(head))
        return error_set(err, STATUS_INVALID, "%s '%s' is truncated", source->what, source->name);
    enum status status = source_read(source, offset, head, sizeof(head), err);
    if (status != STATUS_OK)
        return status;
    enum format format = FORMAT_PLAIN;
    status = recognize(source, head, &format, err);
    if (status != STATUS_OK)
        return status;

    struct stream *stream = malloc(sizeof(*stream));
    if (stream == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory to decompress %s '%s'", source->what,
                         source->name);
    stream->source = source;
    stream->position = offset;
    stream->end = offset + length;
    stream->plain_left = plain_size;
    stream->sink = sink;
    stream->context = context;

    status = run(stream, format, err);
    if (status == STATUS_OK && stream->plain_left != 0)
        status = corrupt(stream, err, "it is shorter than it says");
    free(stream);
    return status;
}
