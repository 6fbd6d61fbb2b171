/* The transport's registers: identity, negotiation, status, configuration, interrupts, reset. */

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "dev/platform.h"
#include "virtio/driver.h"
#include "virtio/echo.h"

struct fixture {
    struct driver driver;
    struct echo_device *echo;
};

static void fixture_create(struct fixture *fixture)
{
    driver_create(&fixture->driver);
    fixture->echo = echo_create(fixture->driver.map);
    driver_attach(&fixture->driver, &fixture->echo->base);
}

static void test_identity(void **state)
{
    struct fixture f;

    fixture_create(&f);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_VERSION), 2);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_DEVICE_ID), ECHO_ID);
    /* Registers are 32 bits wide and read-only ones stay. */
    assert_int_equal(virtio_mmio_read(f.driver.mmio, VIRTIO_MMIO_MAGIC_VALUE, 1), 0);
    assert_int_equal(virtio_mmio_read(f.driver.mmio, VIRTIO_MMIO_MAGIC_VALUE, 8), 0);
    driver_write(&f.driver, VIRTIO_MMIO_DEVICE_ID, 1);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_DEVICE_ID), ECHO_ID);
    /* No shared memory region: all ones. */
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_SHM_LEN_LOW), 0xffffffff);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_SHM_LEN_HIGH), 0xffffffff);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_SHM_BASE_LOW), 0xffffffff);
    driver_destroy(&f.driver);
}

static void test_bus(void **state)
{
    struct driver driver;
    struct bus *bus;
    struct virtio_mmio *mmio;
    const struct irq_line irq = {0};

    driver_create(&driver);
    struct echo_device *echo = echo_create(driver.map);
    assert_int_equal(bus_create(&bus, NULL, NULL), STATUS_OK);
    assert_int_equal(virtio_mmio_create(&mmio, &echo->base, bus, PLATFORM_VIRTIO_BASE, &irq, NULL),
                     STATUS_OK);
    assert_int_equal(bus_read(bus, PLATFORM_VIRTIO_BASE, 4), 0x74726976);
    struct virtio_mmio *second = NULL;
    assert_int_equal(
        virtio_mmio_create(&second, &echo->base, bus, PLATFORM_VIRTIO_BASE, &irq, NULL),
        STATUS_INVALID);
    assert_null(second);
    driver.device = &echo->base;
    driver.mmio = mmio;
    driver_destroy(&driver);
    bus_destroy(bus);
}

static bool try_features(struct driver *driver, uint64_t features)
{
    driver_write(driver, VIRTIO_MMIO_STATUS, 0);
    driver_write(driver, VIRTIO_MMIO_STATUS, 1);
    driver_write(driver, VIRTIO_MMIO_STATUS, 3);
    for (uint32_t half = 0; half < 2; half++) {
        driver_write(driver, VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
        driver_write(driver, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> (32 * half)));
    }
    driver_write(driver, VIRTIO_MMIO_STATUS, 3 | VIRTIO_CONFIG_S_FEATURES_OK);
    return driver_read(driver, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK;
}

static void test_negotiation(void **state)
{
    struct fixture f;

    fixture_create(&f);
    assert_true(try_features(&f.driver, bit(VIRTIO_F_VERSION_1)));
    assert_true(try_features(&f.driver, bit(VIRTIO_F_VERSION_1) | bit(VIRTIO_F_RING_PACKED)));
    assert_false(try_features(&f.driver, 0)); /* a legacy driver */
    assert_false(try_features(&f.driver, bit(VIRTIO_F_VERSION_1) | bit(5)));
    assert_false(try_features(&f.driver, bit(VIRTIO_F_VERSION_1) | bit(63)));

    /* Without FEATURES_OK there is no DRIVER_OK, and no queue. */
    driver_write(&f.driver, VIRTIO_MMIO_STATUS, 7);
    assert_false(driver_read(&f.driver, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK);
    assert_int_equal(f.echo->starts, 0);
    driver_write(&f.driver, VIRTIO_MMIO_QUEUE_SEL, 0);
    driver_write(&f.driver, VIRTIO_MMIO_QUEUE_READY, 1);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_QUEUE_READY), 0);

    /* Features are final with FEATURES_OK; selectors beyond the second half read and set nothing.
     */
    assert_true(try_features(&f.driver, bit(VIRTIO_F_VERSION_1)));
    driver_write(&f.driver, VIRTIO_MMIO_DRIVER_FEATURES, 0xffffffff);
    assert_int_equal(f.echo->base.features, bit(VIRTIO_F_VERSION_1));
    driver_write(&f.driver, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_DEVICE_FEATURES), 0);
    driver_destroy(&f.driver);
}

static void test_status(void **state)
{
    struct fixture f;

    fixture_create(&f);
    driver_start(&f.driver, driver_mode(0), 0, 16);
    uint32_t running = driver_read(&f.driver, VIRTIO_MMIO_STATUS);
    assert_int_equal(running, 0xf);
    /* The driver can neither take bits back nor set the device's. */
    driver_write(&f.driver, VIRTIO_MMIO_STATUS, 1);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_STATUS), running);
    driver_write(&f.driver, VIRTIO_MMIO_STATUS, running | VIRTIO_CONFIG_S_NEEDS_RESET);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_STATUS), running);
    /* DRIVER_OK again does not start again. */
    driver_write(&f.driver, VIRTIO_MMIO_STATUS, running);
    assert_int_equal(f.echo->starts, 1);

    driver_write(&f.driver, VIRTIO_MMIO_STATUS, 0);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_STATUS), 0);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_QUEUE_READY), 0);
    assert_int_equal(f.echo->base.features, 0);
    driver_destroy(&f.driver);
}

static void test_queues(void **state)
{
    struct fixture f;

    fixture_create(&f);
    driver_start(&f.driver, driver_mode(0), 0, 16);
    driver_write(&f.driver, VIRTIO_MMIO_QUEUE_SEL, 0);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_QUEUE_NUM_MAX), ECHO_QUEUE_SIZE);
    /* Fixed while ready. */
    driver_write(&f.driver, VIRTIO_MMIO_QUEUE_NUM, 8);
    driver_write(&f.driver, VIRTIO_MMIO_QUEUE_DESC_LOW, 0x5000);
    assert_int_equal(f.echo->base.queues[0].size, 16);
    assert_int_equal(f.echo->base.queues[0].desc_gpa, f.driver.queues[0].desc_gpa);
    /* Queues that are not there. */
    for (uint32_t queue = 2; queue != 0; queue = queue == 2 ? 0xffffffff : 0) {
        driver_write(&f.driver, VIRTIO_MMIO_QUEUE_SEL, queue);
        assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
        driver_write(&f.driver, VIRTIO_MMIO_QUEUE_NUM, 8);
        driver_write(&f.driver, VIRTIO_MMIO_QUEUE_READY, 1);
        assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_QUEUE_READY), 0);
        driver_write(&f.driver, VIRTIO_MMIO_QUEUE_NOTIFY, queue);
        virtio_device_run(&f.echo->base);
    }
    /* A queue can be taken away and set up anew. */
    driver_write(&f.driver, VIRTIO_MMIO_QUEUE_SEL, 1);
    driver_write(&f.driver, VIRTIO_MMIO_QUEUE_READY, 0);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_QUEUE_READY), 0);
    driver_queue_setup(&f.driver, 1, 32);
    uint64_t gpa = driver_alloc(&f.driver, 32, 16);
    const struct driver_buffer buffers[] = {{gpa, 16, false}, {gpa + 16, 16, true}};
    assert_int_not_equal(driver_add(&f.driver, 1, buffers, 2), -1);
    driver_kick(&f.driver, 1);
    int id;
    uint32_t written;
    assert_true(driver_take(&f.driver, 1, &id, &written));
    assert_int_equal(written, 16);
    driver_destroy(&f.driver);
}

static void test_config(void **state)
{
    struct fixture f;

    fixture_create(&f);
    struct virtio_mmio *mmio = f.driver.mmio;
    assert_int_equal(virtio_mmio_read(mmio, VIRTIO_MMIO_CONFIG, 1), 0x01);
    assert_int_equal(virtio_mmio_read(mmio, VIRTIO_MMIO_CONFIG + 2, 2), 0x0403);
    assert_int_equal(virtio_mmio_read(mmio, VIRTIO_MMIO_CONFIG + 1, 4), 0x05040302);
    assert_int_equal(virtio_mmio_read(mmio, VIRTIO_MMIO_CONFIG, 8), 0x0807060504030201);
    /* Beyond the end. */
    assert_int_equal(virtio_mmio_read(mmio, VIRTIO_MMIO_CONFIG + 6, 4), 0x0807);
    assert_int_equal(virtio_mmio_read(mmio, VIRTIO_MMIO_CONFIG + 8, 4), 0);
    assert_int_equal(virtio_mmio_read(mmio, PLATFORM_VIRTIO_SIZE - 8, 8), 0);

    virtio_mmio_write(mmio, VIRTIO_MMIO_CONFIG + 4, 2, 0xbbaa);
    assert_int_equal(virtio_mmio_read(mmio, VIRTIO_MMIO_CONFIG + 4, 4), 0x0807bbaa);
    virtio_mmio_write(mmio, VIRTIO_MMIO_CONFIG + 6, 4, 0);
    virtio_mmio_write(mmio, VIRTIO_MMIO_CONFIG + 8, 1, 0);
    virtio_mmio_write(mmio, PLATFORM_VIRTIO_SIZE - 1, 1, 0);
    assert_int_equal(f.echo->config_writes, 1);

    /* A change by the device: a new generation, and an interrupt if a driver is there. */
    uint32_t generation = driver_read(&f.driver, VIRTIO_MMIO_CONFIG_GENERATION);
    virtio_device_access_begin(&f.echo->base);
    virtio_device_config_changed(&f.echo->base);
    virtio_device_access_end(&f.echo->base);
    assert_int_not_equal(driver_read(&f.driver, VIRTIO_MMIO_CONFIG_GENERATION), generation);
    assert_false(f.driver.irq);
    driver_start(&f.driver, driver_mode(0), 0, 16);
    virtio_device_access_begin(&f.echo->base);
    virtio_device_config_changed(&f.echo->base);
    virtio_device_access_end(&f.echo->base);
    assert_true(f.driver.irq);
    assert_int_equal(driver_acknowledge(&f.driver), VIRTIO_MMIO_INT_CONFIG);
    driver_destroy(&f.driver);
}

static void test_interrupt_line(void **state)
{
    struct fixture f;
    uint32_t written;
    int id;

    fixture_create(&f);
    driver_start(&f.driver, driver_mode(0), 0, 16);
    uint64_t gpa = driver_alloc(&f.driver, 16, 16);
    const struct driver_buffer buffer = {gpa, 16, false};
    driver_add(&f.driver, 0, &buffer, 1);
    driver_kick(&f.driver, 0);
    virtio_device_access_begin(&f.echo->base);
    virtio_device_config_changed(&f.echo->base);
    virtio_device_access_end(&f.echo->base);
    /* Two causes, one level: it falls with the last of them. */
    assert_int_equal(f.driver.irq_count, 1);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_INTERRUPT_STATUS),
                     VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG);
    driver_write(&f.driver, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert_true(f.driver.irq);
    driver_write(&f.driver, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_CONFIG);
    assert_false(f.driver.irq);
    assert_true(driver_take(&f.driver, 0, &id, &written));

    /* A reset takes the interrupt along. */
    driver_add(&f.driver, 0, &buffer, 1);
    driver_kick(&f.driver, 0);
    assert_true(f.driver.irq);
    driver_write(&f.driver, VIRTIO_MMIO_STATUS, 0);
    assert_false(f.driver.irq);
    assert_int_equal(driver_read(&f.driver, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    driver_destroy(&f.driver);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity),       cmocka_unit_test(test_bus),
        cmocka_unit_test(test_negotiation),    cmocka_unit_test(test_status),
        cmocka_unit_test(test_queues),         cmocka_unit_test(test_config),
        cmocka_unit_test(test_interrupt_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
