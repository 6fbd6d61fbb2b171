#include "virtio/balloon_driver.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <stdlib.h>

void balloon_driver_create(struct balloon_driver *balloon, uint64_t target)
{
    struct virtio_device *device;

    *balloon = (struct balloon_driver){0};
    struct device_time time = fake_time_init(&balloon->clock);
    driver_create(&balloon->driver);
    assert_int_equal(virtio_balloon_create(&device, balloon->driver.map, NULL, &time, target, NULL),
                     STATUS_OK);
    driver_attach(&balloon->driver, device);
    balloon->array_gpa = driver_alloc(&balloon->driver, ARRAY_BYTES, PAGE_SIZE);
    balloon->first_ppn = DRIVER_PAGES / 2;
}

void balloon_driver_destroy(struct balloon_driver *balloon)
{
    driver_destroy(&balloon->driver);
    assert_null(balloon->clock.timers);
}

void balloon_driver_start(struct balloon_driver *balloon, struct driver_mode mode,
                          uint64_t features)
{
    driver_start(&balloon->driver, mode, features, 128);
    assert_true(balloon->driver.next_gpa <= balloon->first_ppn * PAGE_SIZE);
}

static void see_used(struct driver *driver, unsigned queue, const struct driver_buffer *buffers,
                     unsigned count)
{
    uint32_t written;
    int used, id = driver_add(driver, queue, buffers, count);

    assert_int_not_equal(id, -1);
    driver_kick(driver, queue);
    assert_true(driver_take(driver, queue, &used, &written));
    assert_int_equal(used, id);
    assert_int_equal(written, 0);
    assert_false(driver_read(driver, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

void balloon_send(struct balloon_driver *balloon, unsigned queue, const void *bytes, size_t length)
{
    /* In two pieces, the first of an odd size. */
    uint32_t cut = length > 6 ? 6 : 0;
    const struct driver_buffer buffers[] = {
        {balloon->array_gpa, cut, false},
        {balloon->array_gpa + cut, (uint32_t)length - cut, false},
    };

    assert_in_range(length, 0, ARRAY_BYTES);
    driver_poke(&balloon->driver, balloon->array_gpa, bytes, length);
    see_used(&balloon->driver, queue, cut > 0 ? buffers : buffers + 1, cut > 0 ? 2 : 1);
}

void balloon_request(struct balloon_driver *balloon, unsigned queue, const uint32_t *pfns,
                     unsigned count)
{
    balloon_send(balloon, queue, pfns, count * sizeof(*pfns));
}

void balloon_request_run(struct balloon_driver *balloon, unsigned queue, uint64_t first,
                         unsigned count)
{
    uint32_t *pfns = calloc(count, sizeof(*pfns));

    assert_non_null(pfns);
    for (unsigned i = 0; i < count; i++)
        pfns[i] = (uint32_t)(first + i);
    balloon_request(balloon, queue, pfns, count);
    free(pfns);
}

void balloon_report(struct balloon_driver *balloon, unsigned queue,
                    const struct driver_buffer *buffers, unsigned count)
{
    see_used(&balloon->driver, queue, buffers, count);
}

struct balloon_info balloon_look(struct balloon_driver *balloon)
{
    struct balloon_info info;

    balloon_get(balloon->driver.device, &info);
    return info;
}

static uint64_t word_of(uint64_t value, unsigned index)
{
    return value == 0 ? 0 : value * 0x9e3779b97f4a7c15u + index;
}

void balloon_fill(struct balloon_driver *balloon, uint64_t ppn, uint64_t value)
{
    uint64_t words[PAGE_SIZE / 8];

    for (unsigned i = 0; i < ARRAY_LENGTH(words); i++)
        words[i] = word_of(value, i);
    driver_poke(&balloon->driver, ppn * PAGE_SIZE, words, sizeof(words));
}

void balloon_check(struct balloon_driver *balloon, uint64_t ppn, uint64_t value)
{
    uint64_t words[PAGE_SIZE / 8];

    driver_peek(&balloon->driver, ppn * PAGE_SIZE, words, sizeof(words));
    for (unsigned i = 0; i < ARRAY_LENGTH(words); i++)
        assert_int_equal(words[i], word_of(value, i));
}
