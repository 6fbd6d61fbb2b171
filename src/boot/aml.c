#include "boot/aml.h"

#include <string.h>

#include "util/bits.h"

enum opcode {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_EXTENDED = 0x5b,
    OP_NOTIFY = 0x86,
    OP_DEVICE = 0x82, /* after OP_EXTENDED */
};

void aml_init(struct aml *aml, uint8_t *bytes, size_t capacity)
{
    *aml = (struct aml){.bytes = bytes, .capacity = capacity};
}

static void put_bytes(struct aml *aml, const void *bytes, size_t length)
{
    if (length > aml->capacity - aml->size) {
        aml->overflow = true;
        return;
    }
    memcpy(aml->bytes + aml->size, bytes, length);
    aml->size += length;
}

static void put_byte(struct aml *aml, uint8_t byte)
{
    put_bytes(aml, &byte, 1);
}

static void put_name(struct aml *aml, const char *name)
{
    put_bytes(aml, name, strlen(name));
}

static void put_integer(struct aml *aml, uint64_t value)
{
    if (value <= 1) {
        put_byte(aml, value == 0 ? OP_ZERO : OP_ONE);
    } else if (value <= UINT8_MAX) {
        put_byte(aml, OP_BYTE);
        put_bytes(aml, &value, 1);
    } else if (value <= UINT16_MAX) {
        put_byte(aml, OP_WORD);
        put_bytes(aml, &value, 2);
    } else if (value <= UINT32_MAX) {
        put_byte(aml, OP_DWORD);
        put_bytes(aml, &value, 4);
    } else {
        put_byte(aml, OP_QWORD);
        put_bytes(aml, &value, 8);
    }
}

/* A PkgLength counts itself: one byte up to 63, else a nibble and one to three bytes. */
static unsigned encode_length(uint8_t encoded[4], size_t length)
{
    if (length + 1 < 64) {
        encoded[0] = (uint8_t)(length + 1);
        return 1;
    }
    unsigned extra = length + 2 < (size_t)1 << 12 ? 1 : length + 3 < (size_t)1 << 20 ? 2 : 3;
    size_t total = length + 1 + extra;
    encoded[0] = (uint8_t)(extra << 6 | (total & 0xf));
    for (unsigned i = 0; i < extra; i++)
        encoded[1 + i] = (uint8_t)(total >> (4 + 8 * i));
    return 1 + extra;
}

static void begin(struct aml *aml, struct aml_block *block)
{
    block->start = aml->size;
}

void aml_end(struct aml *aml, const struct aml_block *block)
{
    if (aml->overflow)
        return;
    uint8_t encoded[4];
    size_t length = aml->size - block->start;
    unsigned extra = encode_length(encoded, length);
    if (extra > aml->capacity - aml->size) {
        aml->overflow = true;
        return;
    }
    memmove(aml->bytes + block->start + extra, aml->bytes + block->start, length);
    memcpy(aml->bytes + block->start, encoded, extra);
    aml->size += extra;
}

void aml_scope_begin(struct aml *aml, struct aml_block *block, const char *name)
{
    put_byte(aml, OP_SCOPE);
    begin(aml, block);
    put_name(aml, name);
}

void aml_device_begin(struct aml *aml, struct aml_block *block, const char *name)
{
    put_byte(aml, OP_EXTENDED);
    put_byte(aml, OP_DEVICE);
    begin(aml, block);
    put_name(aml, name);
}

#define METHOD_SERIALIZED 0x08u

void aml_method_begin(struct aml *aml, struct aml_block *block, const char *name,
                      unsigned arguments)
{
    put_byte(aml, OP_METHOD);
    begin(aml, block);
    put_name(aml, name);
    put_byte(aml, (uint8_t)(arguments | METHOD_SERIALIZED));
}

void aml_notify(struct aml *aml, const char *device, uint64_t event)
{
    put_byte(aml, OP_NOTIFY);
    put_name(aml, device);
    put_integer(aml, event);
}

static void name_begin(struct aml *aml, const char *name)
{
    put_byte(aml, OP_NAME);
    put_name(aml, name);
}

void aml_name_integer(struct aml *aml, const char *name, uint64_t value)
{
    name_begin(aml, name);
    put_integer(aml, value);
}

void aml_name_string(struct aml *aml, const char *name, const char *text)
{
    name_begin(aml, name);
    put_byte(aml, OP_STRING);
    put_bytes(aml, text, strlen(text) + 1);
}

static uint8_t hex_digit(char digit)
{
    return (uint8_t)(digit <= '9' ? digit - '0' : digit - 'A' + 10);
}

/* Compressed EISA id: three letters of 5 bits, four digits, most significant byte first. */
void aml_name_eisa_id(struct aml *aml, const char *name, const char *id)
{
    uint8_t bytes[4] = {
        (uint8_t)((id[0] & 0x1f) << 2 | (id[1] & 0x1f) >> 3),
        (uint8_t)((id[1] & 0x7) << 5 | (id[2] & 0x1f)),
        (uint8_t)(hex_digit(id[3]) << 4 | hex_digit(id[4])),
        (uint8_t)(hex_digit(id[5]) << 4 | hex_digit(id[6])),
    };
    name_begin(aml, name);
    put_byte(aml, OP_DWORD);
    put_bytes(aml, bytes, sizeof(bytes));
}

void aml_name_package(struct aml *aml, const char *name, const uint8_t *values, unsigned count)
{
    struct aml_block block;
    name_begin(aml, name);
    put_byte(aml, OP_PACKAGE);
    begin(aml, &block);
    put_byte(aml, (uint8_t)count);
    for (unsigned i = 0; i < count; i++)
        put_integer(aml, values[i]);
    aml_end(aml, &block);
}

void aml_resources_begin(struct aml *aml, struct aml_resources *resources)
{
    name_begin(aml, "_CRS");
    put_byte(aml, OP_BUFFER);
    begin(aml, &resources->buffer);
    resources->size = 0;
}

/* Descriptors of a device are few and of fixed size: `bytes` holds any that this machine has. */
static void put_resource(struct aml_resources *resources, const uint8_t *bytes, size_t length)
{
    if (length <= sizeof(resources->bytes) - resources->size)
        memcpy(resources->bytes + resources->size, bytes, length);
    resources->size += length;
}

void aml_resource_memory32(struct aml_resources *resources, uint32_t base, uint32_t size)
{
    uint8_t bytes[12] = {0x86, 9, 0, 1 /* writable */};
    memcpy(bytes + 4, &base, 4);
    memcpy(bytes + 8, &size, 4);
    put_resource(resources, bytes, sizeof(bytes));
}

void aml_resource_io(struct aml_resources *resources, uint16_t base, uint8_t count)
{
    uint8_t bytes[8] = {0x47, 1 /* decodes 16 bits */};
    memcpy(bytes + 2, &base, 2); /* lowest and highest base are one */
    memcpy(bytes + 4, &base, 2);
    bytes[6] = 1; /* alignment */
    bytes[7] = count;
    put_resource(resources, bytes, sizeof(bytes));
}

void aml_resource_isa_irq(struct aml_resources *resources, unsigned irq)
{
    uint16_t mask = (uint16_t)(1u << irq);
    uint8_t bytes[3] = {0x22};
    memcpy(bytes + 1, &mask, 2);
    put_resource(resources, bytes, sizeof(bytes));
}

#define INTERRUPT_CONSUMER 0x01u /* active high, exclusive */
#define INTERRUPT_EDGE     0x02u

static void put_interrupt(struct aml_resources *resources, uint32_t gsi, uint8_t flags)
{
    uint8_t bytes[9] = {0x89, 6, 0, flags, 1};
    memcpy(bytes + 5, &gsi, 4);
    put_resource(resources, bytes, sizeof(bytes));
}

void aml_resource_interrupt(struct aml_resources *resources, uint32_t gsi)
{
    put_interrupt(resources, gsi, INTERRUPT_CONSUMER);
}

void aml_resource_interrupt_edge(struct aml_resources *resources, uint32_t gsi)
{
    put_interrupt(resources, gsi, INTERRUPT_CONSUMER | INTERRUPT_EDGE);
}

void aml_resources_end(struct aml *aml, struct aml_resources *resources)
{
    static const uint8_t end_tag[2] = {0x79, 0};
    put_resource(resources, end_tag, sizeof(end_tag));
    if (resources->size > sizeof(resources->bytes)) {
        aml->overflow = true;
        return;
    }
    put_integer(aml, resources->size);
    put_bytes(aml, resources->bytes, resources->size);
    aml_end(aml, &resources->buffer);
}
