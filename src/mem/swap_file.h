#ifndef AEROSTAT_MEM_SWAP_FILE_H
#define AEROSTAT_MEM_SWAP_FILE_H

/*
 * The file beneath swap.h: an unlinked temporary file, and the ways to read and write it. They are
 * a table, so that tests can stand between and let them fail.
 *
 * The file is opened without the host's page cache where its file system can (O_DIRECT): memory
 * that was taken from a guest and lay in the page cache instead would not have been taken at all.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "util/status.h"

/* Bytes done, which may be fewer than asked, or -errno. Addresses, lengths and offsets are
 * multiples of PAGE_SIZE; iov stays the caller's. */
struct swap_file_ops {
    ssize_t (*read)(void *context, const struct iovec *iov, unsigned count, uint64_t offset);
    ssize_t (*write)(void *context, const struct iovec *iov, unsigned count, uint64_t offset);

    /* Writing without waiting; for one thread, and NULL where there is no such thing. submit: false
     * when it cannot now; iov and what it names stay as they are until it is reaped. reap waits for
     * one of those submitted, which it names by *tag. */
    bool (*submit)(void *context, const struct iovec *iov, unsigned count, uint64_t offset,
                   void *tag);
    ssize_t (*reap)(void *context, void **tag);

    /* These contents may go, and the disk have its space back. False: it has not. */
    bool (*discard)(void *context, uint64_t offset, uint64_t length);
    void (*close)(void *context);
};

struct swap_file {
    const struct swap_file_ops *ops;
    void *context; /* close frees it */
};

#define SWAP_QUEUE_DEPTH 8u /* writes submitted and not reaped at most */

enum swap_queue {
    SWAP_QUEUE_IF_ANY, /* io_uring, where the host lets us */
    SWAP_QUEUE_NONE,
};

/*
 * Makes a file of `size` bytes, which takes disk space as it is written, in the folder `dir`.
 * To be called before the sandbox is entered. INVALID: the folder or its disk does not serve.
 */
enum status swap_file_open(struct swap_file *file, const char *dir, uint64_t size,
                           enum swap_queue queue, struct error *err);

#endif
