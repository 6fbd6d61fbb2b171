/*
 * Linux bzImage (Documentation/arch/x86/boot.rst). Its own decompressor is not run: the payload is
 * decompressed here, straight into guest memory, and the kernel proper is started at the address it
 * is linked for. What follows the ELF file in the payload (relocations) is needed only elsewhere.
 *
 *   0x000 boot sector | 0x1f1 setup header ... | (setup_sects + 1) * 512: protected-mode code
 *                                                 + payload_offset: payload_length bytes
 */

#include <asm/bootparam.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "boot/decompress.h"
#include "boot/formats.h"
#include "boot/memory.h"
#include "util/bits.h"

enum {
    HEADER_START = 0x1f1,
    HEADER_LIMIT = 0x290, /* boot_params has something else from here */
    BOOT_FLAG = 0xaa55,
    PROTOCOL_MIN = 0x208, /* the first with payload_offset */
};
#define HEADER_MAGIC   0x53726448u /* "HdrS" */
#define PLAIN_SIZE_MAX (512 * MIB)
#define PLAIN_SIZE_MIN 64u

bool bzimage_recognize(const uint8_t *head, uint64_t head_size)
{
    uint32_t magic;
    uint16_t flag;
    if (head_size < 0x206)
        return false;
    memcpy(&flag, head + 0x1fe, sizeof(flag));
    memcpy(&magic, head + 0x202, sizeof(magic));
    return flag == BOOT_FLAG && magic == HEADER_MAGIC;
}

/* Collects the payload's head until the ELF headers are there, then writes as bytes come. */
struct payload {
    struct image *image;
    uint8_t *head;
    uint64_t head_size, head_wanted;
    uint64_t position;
};

static enum status payload_take(void *context, const uint8_t *bytes, uint64_t length,
                                struct error *err)
{
    struct payload *payload = context;
    if (payload->head_size < payload->head_wanted) {
        uint64_t take = payload->head_wanted - payload->head_size;
        if (take > length)
            take = length;
        memcpy(payload->head + payload->head_size, bytes, take);
        payload->head_size += take;
        bytes += take;
        length -= take;
        if (payload->head_size < payload->head_wanted)
            return STATUS_OK;
        enum status status = elf_parse(payload->image, payload->head, payload->head_size, err);
        if (status == STATUS_OK)
            status = image_put(payload->image, 0, payload->head, payload->head_size, err);
        if (status != STATUS_OK)
            return status;
        payload->position = payload->head_size;
    }
    if (length == 0)
        return STATUS_OK;
    enum status status = image_put(payload->image, payload->position, bytes, length, err);
    payload->position += length;
    return status;
}

static enum status load_payload(const struct boot_job *job, uint64_t offset, uint64_t length,
                                struct image *image, struct error *err)
{
    uint8_t trailer[4], magic[2];
    uint32_t plain_size;

    enum status status =
        source_read(job->kernel, offset + length - sizeof(trailer), trailer, sizeof(trailer), err);
    if (status == STATUS_OK)
        status = source_read(job->kernel, offset, magic, sizeof(magic), err);
    if (status != STATUS_OK)
        return status;
    /* Every format's payload ends with the plain size; for gzip that is part of its own trailer,
     * an uncompressed payload has none. */
    memcpy(&plain_size, trailer, sizeof(plain_size));
    bool is_gzip = magic[0] == 0x1f && magic[1] == 0x8b;
    if (magic[0] == 0x7f)
        plain_size = length < UINT32_MAX ? (uint32_t)length : UINT32_MAX;
    else if (!is_gzip)
        length -= sizeof(trailer);
    if (plain_size < PLAIN_SIZE_MIN || plain_size > PLAIN_SIZE_MAX)
        return error_set(err, STATUS_INVALID,
                         "kernel '%s' says that it decompresses to %u bytes, "
                         "which no kernel does",
                         job->kernel->name, plain_size);
    /* So what a file says bounds no more of the host's memory than the guest may have. */
    if (plain_size > memory_total(job->map))
        return image_refuse_size(job->map, job->kernel, plain_size, err);

    struct payload payload = {
        .image = image,
        .head_wanted = plain_size < IMAGE_HEAD_SIZE ? plain_size : IMAGE_HEAD_SIZE,
    };
    payload.head = malloc(payload.head_wanted);
    if (payload.head == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory to load kernel '%s'", job->kernel->name);
    image_init(image, job->map, job->kernel, plain_size);
    status = decompress(job->kernel, offset, length, plain_size, payload_take, &payload, err);
    free(payload.head);
    return status;
}

enum status bzimage_load(const struct boot_job *job, struct boot_entry *entry, struct error *err)
{
    const char *name = job->kernel->name;
    struct setup_header header = {0};

    /* The header's own length: up to where the jump at 0x200 goes. */
    uint64_t header_size = 0x202 - HEADER_START + (uint64_t)job->head[0x201];
    if (header_size > HEADER_LIMIT - HEADER_START)
        header_size = HEADER_LIMIT - HEADER_START;
    if (header_size > job->head_size - HEADER_START)
        return error_set(err, STATUS_INVALID, "kernel '%s' is truncated within its setup header",
                         name);
    memcpy(&header, job->head + HEADER_START,
           header_size < sizeof(header) ? header_size : sizeof(header));

    if (header.version < PROTOCOL_MIN ||
        header_size < offsetof(struct setup_header, payload_length) + 4)
        return error_set(err, STATUS_UNSUPPORTED,
                         "kernel '%s' speaks boot protocol %u.%02u; 2.08 "
                         "or later is needed (Linux 2.6.26)",
                         name, header.version >> 8, header.version & 0xff);
    if (!(header.loadflags & LOADED_HIGH))
        return error_set(err, STATUS_UNSUPPORTED, "kernel '%s' is a zImage, not a bzImage", name);

    uint64_t setup_size = ((header.setup_sects == 0 ? 4u : header.setup_sects) + 1) * 512u;
    uint64_t offset = setup_size + header.payload_offset;
    if (header.payload_length < 8)
        return error_set(err, STATUS_INVALID, "kernel '%s' has no payload", name);
    /* What comes behind the payload is not used here, but a file without it is no whole one. */
    uint64_t payload_end = offset + header.payload_length;
    uint64_t least = setup_size + (uint64_t)header.syssize * 16;
    least = least > payload_end ? least : payload_end;
    if (job->kernel->size < least)
        return error_set(err, STATUS_INVALID,
                         "kernel '%s' is truncated: it should have %llu bytes "
                         "at least and has %llu",
                         name, (unsigned long long)least, (unsigned long long)job->kernel->size);

    struct image image;
    enum status status = load_payload(job, offset, header.payload_length, &image, err);
    if (status != STATUS_OK)
        return status;
    return linux_prepare(job, &image, job->head + HEADER_START, header_size, entry, err);
}
