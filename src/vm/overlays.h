#ifndef AEROSTAT_VM_OVERLAYS_H
#define AEROSTAT_VM_OVERLAYS_H

/* The images of the disks that are overlays. They outlive a machine: what a guest has written is
 * there after its reset. */

#include "dev/virtio/image.h"
#include "vm/options.h"

struct overlays;

/* Opens them, before the sandbox is entered; fails with the line that says which cannot be had. */
enum status overlays_open(struct overlays **overlays, const struct vm_options *options,
                          struct error *err);
void overlays_close(struct overlays *overlays); /* NULL is fine */

/* The image of the disk of that number; NULL: it is no overlay. */
struct image *overlays_image(const struct overlays *overlays, unsigned disk);

#endif
