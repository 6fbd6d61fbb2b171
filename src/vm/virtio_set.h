#ifndef AEROSTAT_VM_VIRTIO_SET_H
#define AEROSTAT_VM_VIRTIO_SET_H

/* The virtio devices that the options ask for, each behind its own virtio-mmio window: the disks in
 * order, the network interfaces, a source of randomness, a console for output (hvc0), which goes
 * where the serial port's goes, and a balloon. */

#include <jansson.h>

#include "boot/acpi.h"
#include "dev/device_time.h"
#include "dev/ioapic.h"
#include "dev/platform.h"
#include "mem/bus.h"
#include "mem/disk_pages.h"
#include "mem/pmap.h"
#include "util/io_loop.h"
#include "vm/options.h"
#include "vm/overlays.h"

struct virtio_set;

/* What the devices are made of. All but `time` outlives them. */
struct virtio_set_config {
    const struct vm_options *options;
    int console;             /* descriptor for the virtio console's output */
    uint64_t balloon_target; /* bytes */
    struct pmap *map;
    struct disk_pages *disks;
    const struct overlays *overlays;
    struct bus *mmio;
    struct ioapic *ioapic;
    struct io_loop *loop;
    const struct device_time *time; /* with timers on `loop`; is copied */
};

/* Opens images and ports of the host: fails with the line that says which cannot be had. */
enum status virtio_set_create(struct virtio_set **set, const struct virtio_set_config *config,
                              struct error *err);
/* No vCPU runs any more; `loop` exists, stopped or not. NULL is allowed. */
void virtio_set_destroy(struct virtio_set *set);

/* Fills `windows` (PLATFORM_VIRTIO_MAX of them) for the ACPI tables, returns how many. */
unsigned virtio_set_describe(const struct virtio_set *set, struct acpi_virtio *windows);

/* For balloon.h's functions; the set keeps it. Not before virtio_set_create succeeded. */
struct virtio_device *virtio_set_balloon(const struct virtio_set *set);

/* As if the driver had notified every queue, which it may at any time: the devices look again. */
void virtio_set_notify(const struct virtio_set *set);

/* An array with an object of counters for each device, owned by the caller. */
json_t *virtio_set_stats(const struct virtio_set *set);

#endif
