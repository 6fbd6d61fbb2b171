#include "dev/virtio/image_private.h"

void image_close(struct image *image)
{
    if (image != NULL)
        image->ops->close(image);
}

uint64_t image_size(const struct image *image)
{
    return image->size;
}

bool image_read_only(const struct image *image)
{
    return image->read_only;
}

enum status image_read(struct image *image, uint64_t offset, struct iovec *iov, unsigned count)
{
    return image->ops->read(image, offset, iov, count);
}

enum status image_write(struct image *image, uint64_t offset, struct iovec *iov, unsigned count)
{
    return image->ops->write(image, offset, iov, count);
}

enum status image_flush(struct image *image)
{
    return image->ops->flush(image);
}

enum status image_discard(struct image *image, uint64_t offset, uint64_t length)
{
    return image->ops->discard(image, offset, length);
}

enum status image_write_zeroes(struct image *image, uint64_t offset, uint64_t length, bool unmap)
{
    return image->ops->write_zeroes(image, offset, length, unmap);
}
