#ifndef AEROSTAT_BOOT_AML_H
#define AEROSTAT_BOOT_AML_H

/*
 * The few pieces of ACPI machine language (ACPI 6.5 chapter 20) that a DSDT naming fixed devices
 * needs. Text is appended to a buffer of fixed size; what does not fit sets `overflow`, which is
 * checked once at the end. Blocks (scope, device, method, resources) nest:
 *
 *   aml_device_begin(&aml, &device, "COM1");
 *   aml_name_integer(&aml, "_UID", 1);
 *   aml_end(&aml, &device);
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct aml {
    uint8_t *bytes;
    size_t size, capacity;
    bool overflow;
};

/* Where a block's length is to be inserted when it ends. */
struct aml_block {
    size_t start;
};

void aml_init(struct aml *aml, uint8_t *bytes, size_t capacity);

/* Names are four characters of A-Z, 0-9 and _. A scope's may begin with a backslash. */
void aml_scope_begin(struct aml *aml, struct aml_block *block, const char *name);
void aml_device_begin(struct aml *aml, struct aml_block *block, const char *name);
void aml_method_begin(struct aml *aml, struct aml_block *block, const char *name,
                      unsigned arguments);
void aml_end(struct aml *aml, const struct aml_block *block);

/* In a method: tells the operating system of an event of a device. */
void aml_notify(struct aml *aml, const char *device, uint64_t event);

void aml_name_integer(struct aml *aml, const char *name, uint64_t value);
void aml_name_string(struct aml *aml, const char *name, const char *text);
/* id: three capitals and four hexadecimal digits, "PNP0501". */
void aml_name_eisa_id(struct aml *aml, const char *name, const char *id);
void aml_name_package(struct aml *aml, const char *name, const uint8_t *values, unsigned count);

/* A _CRS: begin, resources, end. */
struct aml_resources {
    struct aml_block buffer;
    uint8_t bytes[64];
    size_t size;
};
void aml_resources_begin(struct aml *aml, struct aml_resources *resources);
void aml_resource_memory32(struct aml_resources *resources, uint32_t base, uint32_t size);
void aml_resource_io(struct aml_resources *resources, uint16_t base, uint8_t count);
/* Edge-triggered, active high, exclusive: the ISA way. irq < 16. */
void aml_resource_isa_irq(struct aml_resources *resources, unsigned irq);
/* Level- or edge-triggered, active high, exclusive. */
void aml_resource_interrupt(struct aml_resources *resources, uint32_t gsi);
void aml_resource_interrupt_edge(struct aml_resources *resources, uint32_t gsi);
void aml_resources_end(struct aml *aml, struct aml_resources *resources);

#endif
