#ifndef AEROSTAT_TESTS_VIRTIO_BALLOON_DRIVER_H
#define AEROSTAT_TESTS_VIRTIO_BALLOON_DRIVER_H

/* The driver's side of a balloon, for tests, on a clock that the test moves. */

#include <linux/virtio_balloon.h>

#include "dev/fixture.h"
#include "dev/virtio/balloon.h"
#include "virtio/driver.h"

/* With all features that we offer, as Linux numbers them. */
enum { INFLATE, DEFLATE, STATS, REPORT, REPORT_BY_THE_BOOK };

#define BALLOON_FEATURES                                                                           \
    (bit(VIRTIO_BALLOON_F_STATS_VQ) | bit(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |                       \
     bit(VIRTIO_BALLOON_F_REPORTING))

struct balloon_driver {
    struct driver driver; /* without a loop */
    struct fake_time clock;
    uint64_t array_gpa; /* for page numbers and statistics: ARRAY_BYTES */
    uint64_t first_ppn; /* from here on no page has anything to do with the driver */
};

#define ARRAY_BYTES  (256 * KIB)
#define DRIVER_PAGES (DRIVER_RAM_SIZE / PAGE_SIZE)

/* A device with the given target in pages. */
void balloon_driver_create(struct balloon_driver *balloon, uint64_t target);
void balloon_driver_destroy(struct balloon_driver *balloon);
/* Reset, negotiation, DRIVER_OK. */
void balloon_driver_start(struct balloon_driver *balloon, struct driver_mode mode,
                          uint64_t features);

/* Sends bytes to a queue, and sees them used. */
void balloon_send(struct balloon_driver *balloon, unsigned queue, const void *bytes, size_t length);
/* The same with page numbers. */
void balloon_request(struct balloon_driver *balloon, unsigned queue, const uint32_t *pfns,
                     unsigned count);
/* A run of them. */
void balloon_request_run(struct balloon_driver *balloon, unsigned queue, uint64_t first,
                         unsigned count);
/* Reports buffers as free, and sees them used. */
void balloon_report(struct balloon_driver *balloon, unsigned queue,
                    const struct driver_buffer *buffers, unsigned count);

struct balloon_info balloon_look(struct balloon_driver *balloon);

/* A page's contents: every word is a function of `value`; 0 is the zero page. */
void balloon_fill(struct balloon_driver *balloon, uint64_t ppn, uint64_t value);
void balloon_check(struct balloon_driver *balloon, uint64_t ppn, uint64_t value);

#endif
