#ifndef AEROSTAT_DEV_VIRTIO_IMAGE_H
#define AEROSTAT_DEV_VIRTIO_IMAGE_H

/*
 * A raw disk image: a regular file or a block device, opened, locked and read in whole requests.
 *
 * An open image is locked as a whole by an open file description lock, exclusive for a writer,
 * shared for readers: two virtual machines cannot have one image where either writes, not even two
 * disks of one machine. The lock goes with the descriptor, so nothing is left behind.
 *
 * Reading may be done by any thread; everything else by one at a time.
 *
 * Reads and writes block. Offsets and lengths are in bytes; the caller keeps them inside
 * image_size.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "util/status.h"

#define SECTOR_SHIFT 9u
#define SECTOR_SIZE  512u

struct image;

/* Opens the image at `path`. Bytes after the last whole sector are not used, with a warning.
 * NOT_FOUND, BUSY (in use by somebody else), INVALID (no image, not readable or writable) or IO,
 * each with a line for the user. */
enum status image_open(struct image **image, const char *path, bool read_only, struct error *err);
/*
 * Opens the image at `path` for reading, and sends what is written elsewhere: to a file without a
 * name in the folder `dir`, which takes disk space as it is written and goes with the image. Any
 * number may be open on one image, with readers, not with writers. Errors as image_open's; INVALID
 * also for a folder that does not serve.
 *
 * A flush has nothing to do: nobody could read what it saves. Discarding frees what was written.
 */
enum status image_open_overlay(struct image **image, const char *path, const char *dir,
                               struct error *err);
/* NULL is allowed. */
void image_close(struct image *image);

uint64_t image_size(const struct image *image); /* a multiple of SECTOR_SIZE */
bool image_read_only(const struct image *image);

/* Transfers exactly the list's bytes, or fails: the file ended, the host's disk is full or broken.
 * The list is used up. */
enum status image_read(struct image *image, uint64_t offset, struct iovec *iov, unsigned count);
enum status image_write(struct image *image, uint64_t offset, struct iovec *iov, unsigned count);

/* What was written is on stable storage. */
enum status image_flush(struct image *image);

/* The range's content is of no use any more: frees its blocks where the host can. */
enum status image_discard(struct image *image, uint64_t offset, uint64_t length);

/* The range reads zero afterwards. `unmap`: its blocks may be freed. */
enum status image_write_zeroes(struct image *image, uint64_t offset, uint64_t length, bool unmap);

#endif
