#include "vm/virtio_set.h"

#include <stdio.h>
#include <stdlib.h>

#include "dev/virtio/balloon.h"
#include "dev/virtio/blk.h"
#include "dev/virtio/console.h"
#include "dev/virtio/mmio.h"
#include "dev/virtio/net.h"
#include "dev/virtio/rng.h"
#include "dev/virtio/slirp.h"

struct slot {
    struct virtio_device *device;
    struct virtio_mmio *mmio;
};

struct virtio_set {
    struct slot slots[PLATFORM_VIRTIO_MAX];
    unsigned count;
    struct virtio_device *balloon; /* among the slots */
};

_Static_assert(OPTIONS_MAX_DISKS + OPTIONS_MAX_NETS + 3 <= PLATFORM_VIRTIO_MAX,
               "every device has a window");

/* Gives the device, which the set owns from here on, the next window and interrupt. */
static enum status add(struct virtio_set *set, const struct virtio_set_config *config,
                       struct virtio_device *device, struct error *err)
{
    struct slot *slot = &set->slots[set->count];
    slot->device = device;
    struct irq_line irq = ioapic_line(config->ioapic, PLATFORM_VIRTIO_GSI + set->count);
    uint64_t base = PLATFORM_VIRTIO_BASE + (uint64_t)set->count * PLATFORM_VIRTIO_SIZE;
    set->count++;
    return virtio_mmio_create(&slot->mmio, device, config->mmio, base, &irq, err);
}

static enum status add_disk(struct virtio_set *set, const struct virtio_set_config *config,
                            unsigned index, struct error *err)
{
    const struct disk_options *disk = &config->options->disks[index];
    char serial[21];
    snprintf(serial, sizeof serial, "disk%u", index);
    struct virtio_blk_options options = {
        .path = disk->path,
        .image = overlays_image(config->overlays, index),
        .pages = config->disks,
        .read_only = disk->read_only,
        .serial = serial,
    };
    struct virtio_device *device;
    enum status status = virtio_blk_create(&device, config->map, &options, err);
    return status == STATUS_OK ? add(set, config, device, err) : status;
}

static enum status add_net(struct virtio_set *set, const struct virtio_set_config *config,
                           unsigned index, struct error *err)
{
    const struct vm_options *vm = config->options;
    const struct net_options *net = &vm->nets[index];
    struct slirp_options slirp = {
        .hostname = vm->name,
        .forwards = net->forwards,
        .forward_count = net->forward_count,
    };
    struct virtio_net_options options;
    net_mac_derive(options.mac, vm->name, index);
    enum status status = slirp_backend_create(&options.backend, config->loop, &slirp, err);
    if (status != STATUS_OK)
        return status;
    struct virtio_device *device;
    status = virtio_net_create(&device, config->map, config->loop, &options, err);
    if (status != STATUS_OK) {
        options.backend->ops->destroy(options.backend);
        return status;
    }
    return add(set, config, device, err);
}

static enum status add_rng(struct virtio_set *set, const struct virtio_set_config *config,
                           struct error *err)
{
    struct virtio_device *device;
    enum status status = virtio_rng_create(&device, config->map, config->loop, err);
    return status == STATUS_OK ? add(set, config, device, err) : status;
}

static enum status add_console(struct virtio_set *set, const struct virtio_set_config *config,
                               struct error *err)
{
    struct virtio_console_options options = {.input_fd = -1, .output_fd = config->console};
    struct virtio_device *device;
    enum status status = virtio_console_create(&device, config->map, config->loop, &options, err);
    return status == STATUS_OK ? add(set, config, device, err) : status;
}

static enum status add_balloon(struct virtio_set *set, const struct virtio_set_config *config,
                               struct error *err)
{
    enum status status =
        virtio_balloon_create(&set->balloon, config->map, config->loop, config->time,
                              config->balloon_target >> PAGE_SHIFT, err);
    return status == STATUS_OK ? add(set, config, set->balloon, err) : status;
}

enum status virtio_set_create(struct virtio_set **out, const struct virtio_set_config *config,
                              struct error *err)
{
    const struct vm_options *options = config->options;
    struct virtio_set *set = calloc(1, sizeof *set);
    *out = set;
    if (set == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");

    enum status status = STATUS_OK;
    for (unsigned i = 0; status == STATUS_OK && i < options->disk_count; i++)
        status = add_disk(set, config, i, err);
    for (unsigned i = 0; status == STATUS_OK && i < options->net_count; i++)
        status = add_net(set, config, i, err);
    if (status == STATUS_OK)
        status = add_rng(set, config, err);
    if (status == STATUS_OK)
        status = add_console(set, config, err);
    if (status == STATUS_OK)
        status = add_balloon(set, config, err);
    return status;
}

void virtio_set_destroy(struct virtio_set *set)
{
    if (set == NULL)
        return;
    for (unsigned i = 0; i < set->count; i++) {
        virtio_mmio_destroy(set->slots[i].mmio);
        virtio_device_destroy(set->slots[i].device);
    }
    free(set);
}

unsigned virtio_set_describe(const struct virtio_set *set, struct acpi_virtio *windows)
{
    for (unsigned i = 0; i < set->count; i++) {
        windows[i] = (struct acpi_virtio){
            .base = PLATFORM_VIRTIO_BASE + (uint64_t)i * PLATFORM_VIRTIO_SIZE,
            .size = PLATFORM_VIRTIO_SIZE,
            .gsi = PLATFORM_VIRTIO_GSI + i,
        };
    }
    return set->count;
}

struct virtio_device *virtio_set_balloon(const struct virtio_set *set)
{
    return set->balloon;
}

void virtio_set_notify(const struct virtio_set *set)
{
    for (unsigned i = 0; i < set->count; i++) {
        struct virtio_device *device = set->slots[i].device;
        for (unsigned queue = 0; queue < device->ops->queue_count; queue++)
            virtio_device_notify(device, queue);
    }
}

json_t *virtio_set_stats(const struct virtio_set *set)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < set->count; i++) {
        struct virtio_stats stats;
        virtio_device_get_stats(set->slots[i].device, &stats);
        json_array_append_new(
            list, json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "device",
                            set->slots[i].device->ops->name, "notifications",
                            (json_int_t)stats.notifications, "requests", (json_int_t)stats.requests,
                            "bytes_in", (json_int_t)stats.bytes_in, "bytes_out",
                            (json_int_t)stats.bytes_out, "errors", (json_int_t)stats.errors,
                            "interrupts", (json_int_t)stats.interrupts));
    }
    return list;
}
