/* The console and the entropy device. */

#include <fcntl.h>
#include <linux/virtio_console.h>
#include <linux/virtio_mmio.h>
#include <poll.h>
#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cmocka.h>

#include "dev/virtio/console.h"
#include "dev/virtio/rng.h"
#include "util/io_loop.h"
#include "virtio/driver.h"

enum { RECEIVE, TRANSMIT };

struct console {
    struct driver driver;
    struct io_loop *loop;
    int host_in;  /* what the host writes arrives in the guest */
    int host_out; /* what the guest writes arrives here */
};

static void attach(struct console *console, int input_fd, int output_fd)
{
    const struct virtio_console_options options = {.input_fd = input_fd, .output_fd = output_fd};
    struct virtio_device *device;

    assert_int_equal(
        virtio_console_create(&device, console->driver.map, console->loop, &options, NULL),
        STATUS_OK);
    driver_attach(&console->driver, device);
}

static void console_create(struct console *console)
{
    int in[2], out[2];

    driver_create(&console->driver);
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    assert_int_equal(io_loop_create(&console->loop, "test", NULL), STATUS_OK);
    assert_int_equal(io_loop_start(console->loop, NULL), STATUS_OK);
    attach(console, in[0], out[1]);
    close(in[0]); /* the console has its own */
    close(out[1]);
    console->host_in = in[1];
    console->host_out = out[0];
}

static void console_destroy(struct console *console)
{
    driver_destroy(&console->driver);
    if (console->loop != NULL)
        io_loop_destroy(console->loop);
    if (console->host_in >= 0)
        close(console->host_in);
    if (console->host_out >= 0)
        close(console->host_out);
}

static uint64_t send_text(struct driver *driver, const char *text)
{
    uint64_t gpa = driver_alloc(driver, strlen(text), 1);
    const struct driver_buffer buffer = {gpa, (uint32_t)strlen(text), false};

    driver_poke(driver, gpa, text, strlen(text));
    assert_int_not_equal(driver_add(driver, TRANSMIT, &buffer, 1), -1);
    driver_kick(driver, TRANSMIT);
    return gpa;
}

static void read_exactly(int fd, void *bytes, size_t length)
{
    for (size_t done = 0; done < length;) {
        ssize_t got = read(fd, (char *)bytes + done, length - done);
        assert_true(got > 0);
        done += (size_t)got;
    }
}

static void test_output(void **state)
{
    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        struct console console;
        char text[11] = {0};
        uint32_t written;
        int id;

        console_create(&console);
        driver_start(&console.driver, driver_mode(mode), 0, 16);
        send_text(&console.driver, "hello");
        send_text(&console.driver, "world");
        read_exactly(console.host_out, text, 10);
        assert_string_equal(text, "helloworld");
        for (unsigned i = 0; i < 2; i++)
            driver_take_wait(&console.driver, TRANSMIT, &id, &written);
        console_destroy(&console);
    }
}

/* More than the pipe holds: the chain waits, nothing is lost, nothing comes twice. */
static void test_output_blocked(void **state)
{
    const uint32_t length = 300 * 1024; /* a pipe holds 64 KiB */
    struct console console;
    uint32_t written;
    int id;

    console_create(&console);
    struct driver *driver = &console.driver;
    driver_start(driver, driver_mode(0), 0, 16);
    uint8_t *bytes = malloc(length);
    assert_non_null(bytes);
    for (uint32_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(i * 31 + i / 251);
    uint64_t gpa = driver_alloc(driver, length, 1);
    driver_poke(driver, gpa, bytes, length);
    const struct driver_buffer buffers[] = {{gpa, 100001, false},
                                            {gpa + 100001, length - 100001, false}};
    driver_add(driver, TRANSMIT, buffers, 2);
    driver_kick(driver, TRANSMIT);
    uint8_t *back = malloc(length);
    assert_non_null(back);
    read_exactly(console.host_out, back, length);
    assert_memory_equal(bytes, back, length);
    driver_take_wait(driver, TRANSMIT, &id, &written);

    /* A reset while a chain waits for the pipe drops it. */
    driver_add(driver, TRANSMIT, buffers, 2);
    driver_kick(driver, TRANSMIT);
    read_exactly(console.host_out, back, 10); /* it has begun */
    driver_write(driver, VIRTIO_MMIO_STATUS, 0);
    struct pmap_stats stats;
    pmap_get_stats(driver->map, &stats);
    assert_int_equal(stats.pinned_pages, 0);
    free(back);
    free(bytes);
    console_destroy(&console);
}

/* A terminal whose reader sleeps takes a part of what is written and blocks for the rest. Whoever
 * ends the machine must not wait for that. */
static void test_terminal_stalled(void **state)
{
    const uint32_t length = 1 * MIB;
    struct console console = {.host_in = -1};
    struct termios raw;
    int master, slave;

    cfmakeraw(memset(&raw, 0, sizeof(raw)));
    assert_int_equal(openpty(&master, &slave, NULL, &raw, NULL), 0);
    driver_create(&console.driver);
    assert_int_equal(io_loop_create(&console.loop, "test", NULL), STATUS_OK);
    assert_int_equal(io_loop_start(console.loop, NULL), STATUS_OK);
    attach(&console, -1, slave);
    console.host_out = master;
    driver_start(&console.driver, driver_mode(0), 0, 16);
    /* After one byte, pieces of a page no longer fit as whole ones. */
    uint64_t gpa = driver_alloc(&console.driver, length, PAGE_SIZE);
    const struct driver_buffer buffers[] = {{gpa, 1, false}, {gpa, length, false}};
    driver_add(&console.driver, TRANSMIT, buffers, 2);
    driver_kick(&console.driver, TRANSMIT);
    struct pollfd begun = {.fd = master, .events = POLLIN};
    assert_int_equal(poll(&begun, 1, -1), 1);
    console_destroy(&console);
    close(slave);
}

/* The reader is gone: the guest goes on. */
static void test_output_closed(void **state)
{
    struct console console;
    uint32_t written;
    int id;

    console_create(&console);
    close(console.host_out);
    console.host_out = -1;
    driver_start(&console.driver, driver_mode(0), 0, 16);
    for (unsigned i = 0; i < 3; i++) {
        send_text(&console.driver, "into the void");
        driver_take_wait(&console.driver, TRANSMIT, &id, &written);
    }
    console_destroy(&console);
}

static void test_input(void **state)
{
    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        struct console console;
        char text[8] = {0};
        uint32_t written;
        int id;

        console_create(&console);
        struct driver *driver = &console.driver;
        driver_start(driver, driver_mode(mode), 0, 16);
        /* Typed before anybody has a buffer for it: it waits. */
        assert_int_equal(write(console.host_in, "abcdef", 6), 6);
        uint64_t gpa = driver_alloc(driver, 4, 4);
        const struct driver_buffer buffer = {gpa, 4, true};
        driver_add(driver, RECEIVE, &buffer, 1);
        driver_kick(driver, RECEIVE);
        driver_take_wait(driver, RECEIVE, &id, &written);
        assert_int_equal(written, 4);
        driver_peek(driver, gpa, text, 4);
        assert_string_equal(text, "abcd");

        driver_add(driver, RECEIVE, &buffer, 1);
        driver_kick(driver, RECEIVE);
        driver_take_wait(driver, RECEIVE, &id, &written);
        assert_int_equal(written, 2);
        /* A buffer that waits for input, */
        driver_add(driver, RECEIVE, &buffer, 1);
        driver_kick(driver, RECEIVE);
        assert_int_equal(write(console.host_in, "g", 1), 1);
        driver_take_wait(driver, RECEIVE, &id, &written);
        assert_int_equal(written, 1);
        driver_peek(driver, gpa, text, 1);
        assert_int_equal(text[0], 'g');
        /* and one that waits for ever. */
        driver_add(driver, RECEIVE, &buffer, 1);
        driver_kick(driver, RECEIVE);
        close(console.host_in);
        console.host_in = -1;
        console_destroy(&console);
    }
}

/* Files are not for epoll. */
static void test_files(void **state)
{
    struct console console = {.host_in = -1};
    uint32_t written;
    char text[8] = {0};
    int id;

    driver_create(&console.driver);
    assert_int_equal(io_loop_create(&console.loop, "test", NULL), STATUS_OK);
    assert_int_equal(io_loop_start(console.loop, NULL), STATUS_OK);
    int in = memfd_create("in", MFD_CLOEXEC);
    console.host_out = memfd_create("out", MFD_CLOEXEC);
    assert_int_equal(pwrite(in, "typed", 5, 0), 5);
    attach(&console, in, console.host_out);
    close(in);
    struct driver *driver = &console.driver;
    driver_start(driver, driver_mode(3), 0, 16);
    send_text(driver, "shown");
    driver_take_wait(driver, TRANSMIT, &id, &written);
    assert_int_equal(pread(console.host_out, text, 8, 0), 5);
    assert_string_equal(text, "shown");
    uint64_t gpa = driver_alloc(driver, 16, 16);
    const struct driver_buffer buffer = {gpa, 16, true};
    driver_add(driver, RECEIVE, &buffer, 1);
    driver_kick(driver, RECEIVE);
    driver_take_wait(driver, RECEIVE, &id, &written);
    assert_int_equal(written, 5);
    driver_peek(driver, gpa, text, 5);
    assert_string_equal(text, "typed");
    console_destroy(&console);
}

static void test_size(void **state)
{
    struct console console;

    console_create(&console);
    struct driver *driver = &console.driver;
    driver_start(driver, driver_mode(0), bit(VIRTIO_CONSOLE_F_SIZE), 16);
    virtio_console_resize(driver->device, 132, 43);
    assert_int_equal(driver_wait(driver), VIRTIO_MMIO_INT_CONFIG);
    assert_int_equal(driver_read(driver, VIRTIO_MMIO_CONFIG), 132 | 43 << 16);
    virtio_console_resize(driver->device, 132, 43);
    assert_false(driver->irq);
    console_destroy(&console);
}

static void test_entropy(void **state)
{
    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        struct virtio_device *device;
        struct driver driver;
        uint8_t bytes[4096], again[4096];
        uint32_t written;
        int id;

        driver_create(&driver);
        assert_int_equal(virtio_rng_create(&device, driver.map, NULL, NULL), STATUS_OK);
        driver_attach(&driver, device);
        driver_start(&driver, driver_mode(mode), 0, 8);
        uint64_t gpa = driver_alloc(&driver, 3 * MIB, PAGE_SIZE);
        const struct driver_buffer buffers[] = {{gpa, 100, true}, {gpa + 100, 156, true}};
        driver_add(&driver, 0, buffers, 2);
        driver_kick(&driver, 0);
        assert_true(driver_take(&driver, 0, &id, &written));
        assert_int_equal(written, 256);
        driver_peek(&driver, gpa, bytes, sizeof(bytes));
        memset(again, 0, sizeof(again));
        assert_memory_not_equal(bytes, again, 256);
        assert_memory_equal(bytes + 256, again, sizeof(again) - 256);

        /* However much is asked for, a request is short. */
        const struct driver_buffer huge = {gpa, 3 * MIB, true};
        driver_add(&driver, 0, &huge, 1);
        driver_kick(&driver, 0);
        assert_true(driver_take(&driver, 0, &id, &written));
        assert_in_range(written, 1, 65536);
        driver_peek(&driver, gpa, again, 256);
        assert_memory_not_equal(bytes, again, 256);

        /* Nothing to write to: used with nothing in it. */
        const struct driver_buffer readable = {gpa, 16, false};
        driver_add(&driver, 0, &readable, 1);
        driver_kick(&driver, 0);
        assert_true(driver_take(&driver, 0, &id, &written));
        assert_int_equal(written, 0);
        driver_destroy(&driver);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_output),        cmocka_unit_test(test_output_blocked),
        cmocka_unit_test(test_output_closed), cmocka_unit_test(test_input),
        cmocka_unit_test(test_files),         cmocka_unit_test(test_size),
        cmocka_unit_test(test_entropy),       cmocka_unit_test(test_terminal_stalled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
