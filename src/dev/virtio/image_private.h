#ifndef AEROSTAT_DEV_VIRTIO_IMAGE_PRIVATE_H
#define AEROSTAT_DEV_VIRTIO_IMAGE_PRIVATE_H

/* What the kinds of images share: the file itself, and an overlay. */

#include "dev/virtio/image.h"

/* As the functions of image.h. */
struct image_ops {
    enum status (*read)(struct image *image, uint64_t offset, struct iovec *iov, unsigned count);
    enum status (*write)(struct image *image, uint64_t offset, struct iovec *iov, unsigned count);
    enum status (*flush)(struct image *image);
    enum status (*discard)(struct image *image, uint64_t offset, uint64_t length);
    enum status (*write_zeroes)(struct image *image, uint64_t offset, uint64_t length, bool unmap);
    void (*close)(struct image *image);
};

struct image {
    const struct image_ops *ops;
    uint64_t size;
    bool read_only;
};

/* An image of a file that is open for reading and writing, and no business of anybody else's: it is
 * not locked. Takes fd over, also when it fails. */
enum status image_wrap(struct image **image, int fd, uint64_t size, struct error *err);

#endif
