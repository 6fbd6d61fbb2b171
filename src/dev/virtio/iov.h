#ifndef AEROSTAT_DEV_VIRTIO_IOV_H
#define AEROSTAT_DEV_VIRTIO_IOV_H

/* Lists of host buffers, treated as one stream of bytes. Offsets and lengths are in bytes; a
 * function that runs past the end stops there and tells how far it came. */

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

uint64_t iov_length(const struct iovec *iov, unsigned count);

/* Copies out of and into the stream from `offset` on. Returns the bytes copied, less than `length`
 * when the stream ends before. */
size_t iov_read(const struct iovec *iov, unsigned count, uint64_t offset, void *buffer,
                size_t length);
size_t iov_write(const struct iovec *iov, unsigned count, uint64_t offset, const void *buffer,
                 size_t length);

/* Clears `length` bytes from `offset` on, or up to the end. */
void iov_zero(const struct iovec *iov, unsigned count, uint64_t offset, uint64_t length);

/* Narrows a list in place: drops the first `length` bytes, or all but the first `length`. Both
 * change the list itself. */
void iov_drop_front(struct iovec **iov, unsigned *count, uint64_t length);
void iov_keep_front(struct iovec *iov, unsigned *count, uint64_t length);

#endif
