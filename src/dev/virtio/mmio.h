#ifndef AEROSTAT_DEV_VIRTIO_MMIO_H
#define AEROSTAT_DEV_VIRTIO_MMIO_H

/* The virtio-mmio transport, version 2 (virtio 1.2, clause 4.2): the registers by which a driver
 * finds, negotiates with and rings a device. No shared memory regions, no queue reset, no legacy
 * interface. */

#include "dev/virtio/device.h"
#include "mem/bus.h"

struct virtio_mmio;

/* Puts the device (not owned) at [base, base + PLATFORM_VIRTIO_SIZE) of the bus and on an interrupt
 * line. While no vCPU runs. `bus` may be NULL: then only virtio_mmio_read and _write reach it. */
enum status virtio_mmio_create(struct virtio_mmio **mmio, struct virtio_device *device,
                               struct bus *bus, uint64_t base, const struct irq_line *irq,
                               struct error *err);
/* After the last access, before or after the device's end. NULL is allowed. */
void virtio_mmio_destroy(struct virtio_mmio *mmio);

/* The bus operations (mem/bus.h). */
uint64_t virtio_mmio_read(void *mmio, uint64_t offset, unsigned size);
void virtio_mmio_write(void *mmio, uint64_t offset, unsigned size, uint64_t value);

#endif
