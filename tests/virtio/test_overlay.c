/* Overlays: a disk's changes beside its image, against an array. */

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "dev/virtio/blk.h"
#include "dev/virtio/image.h"
#include "mem/disk_pages.h"
#include "util/temp_file.h"
#include "virtio/driver.h"

#define SECTORS    300u /* no multiple of 64, nor whole pages */
#define DISK_SIZE  (SECTORS * SECTOR_SIZE)
#define PIECES_MAX 200u

static const char *folder(void)
{
    const char *chosen = getenv("TMPDIR");
    return chosen != NULL ? chosen : P_tmpdir;
}

/* An image whose sectors differ; its path, and the host's view of it. */
static int make_base(char *path, size_t path_size, uint8_t bytes[DISK_SIZE])
{
    for (unsigned i = 0; i < DISK_SIZE; i++)
        bytes[i] = (uint8_t)(i + i / SECTOR_SIZE * 7 + 1);
    snprintf(path, path_size, "%s/aerostat-overlay-XXXXXX", folder());
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, DISK_SIZE, 0), DISK_SIZE);
    return fd;
}

static void check_base(int fd, const uint8_t bytes[DISK_SIZE])
{
    static uint8_t found[DISK_SIZE];
    assert_int_equal(pread(fd, found, DISK_SIZE, 0), DISK_SIZE);
    assert_memory_equal(found, bytes, DISK_SIZE);
}

static struct image *open_overlay(const char *path)
{
    struct image *image;
    struct error err = {0};
    if (image_open_overlay(&image, path, folder(), &err) != STATUS_OK)
        fail_msg("%s", err.text);
    return image;
}

static unsigned draw(uint64_t *seed, unsigned below)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((*seed >> 33) % below);
}

/* Cuts the buffer into at most PIECES_MAX pieces, of no particular sizes. */
static unsigned cut(uint64_t *seed, uint8_t *buffer, unsigned length, struct iovec *pieces)
{
    unsigned count = 0;
    unsigned usual = draw(seed, 2) == 0 ? length : 1 + draw(seed, 2000);
    while (length > 0) {
        unsigned size = count == PIECES_MAX - 1 || length < usual ? length : usual;
        pieces[count++] = (struct iovec){buffer, size};
        buffer += size;
        length -= size;
    }
    return count;
}

static void test_random_requests(void **state)
{
    static uint8_t original[DISK_SIZE], wanted[DISK_SIZE], buffer[DISK_SIZE];
    struct iovec pieces[PIECES_MAX];
    char path[64];

    for (uint64_t round = 1; round <= 20; round++) {
        uint64_t seed = round;
        int fd = make_base(path, sizeof path, original);
        struct image *image = open_overlay(path);
        memcpy(wanted, original, DISK_SIZE);
        assert_int_equal(image_size(image), DISK_SIZE);
        assert_false(image_read_only(image));
        for (unsigned step = 0; step < 300; step++) {
            unsigned sector = draw(&seed, SECTORS);
            unsigned count = 1 + draw(&seed, draw(&seed, 8) == 0 ? SECTORS - sector : 4);
            if (count > SECTORS - sector)
                count = SECTORS - sector;
            unsigned offset = sector * SECTOR_SIZE, length = count * SECTOR_SIZE;
            unsigned what = draw(&seed, 10);
            if (what < 4) {
                memset(buffer, (int)step, length);
                buffer[0] = (uint8_t)round;
                memcpy(wanted + offset, buffer, length);
                unsigned cuts = cut(&seed, buffer, length, pieces);
                assert_int_equal(image_write(image, offset, pieces, cuts), STATUS_OK);
            } else if (what == 4) {
                memset(wanted + offset, 0, length);
                bool unmap = draw(&seed, 2) == 0;
                assert_int_equal(image_write_zeroes(image, offset, length, unmap), STATUS_OK);
            } else {
                memset(buffer, 0xee, length);
                unsigned cuts = cut(&seed, buffer, length, pieces);
                assert_int_equal(image_read(image, offset, pieces, cuts), STATUS_OK);
                assert_memory_equal(buffer, wanted + offset, length);
            }
        }
        assert_int_equal(image_flush(image), STATUS_OK);
        image_close(image);
        check_base(fd, original);
        close(fd);
        unlink(path);
    }
}

static enum status transfer(struct image *image, bool write, unsigned sector, uint8_t *bytes)
{
    struct iovec iov = {bytes, SECTOR_SIZE};
    return write ? image_write(image, sector * SECTOR_SIZE, &iov, 1)
                 : image_read(image, sector * SECTOR_SIZE, &iov, 1);
}

/* What was discarded may have any content, but always the same; the rest stays, the image too. */
static void test_discard(void **state)
{
    static uint8_t original[DISK_SIZE];
    uint8_t bytes[SECTOR_SIZE], again[SECTOR_SIZE];
    char path[64];
    int fd = make_base(path, sizeof path, original);
    struct image *image = open_overlay(path);
    memset(bytes, 0x77, sizeof bytes);
    assert_int_equal(transfer(image, true, 20, bytes), STATUS_OK);
    assert_int_equal(transfer(image, true, 40, bytes), STATUS_OK);
    assert_int_equal(image_discard(image, 8 * SECTOR_SIZE, 24 * SECTOR_SIZE), STATUS_OK);
    for (unsigned sector = 8; sector < 32; sector++) {
        assert_int_equal(transfer(image, false, sector, bytes), STATUS_OK);
        assert_int_equal(transfer(image, false, sector, again), STATUS_OK);
        assert_memory_equal(bytes, again, SECTOR_SIZE);
    }
    assert_int_equal(transfer(image, false, 40, bytes), STATUS_OK);
    assert_int_equal(bytes[0], 0x77);
    assert_int_equal(transfer(image, false, 41, bytes), STATUS_OK);
    assert_memory_equal(bytes, original + 41 * SECTOR_SIZE, SECTOR_SIZE);
    image_close(image);
    check_base(fd, original);
    close(fd);
    unlink(path);
}

/* Any number on one image, each with changes of its own; no writer beside them. */
static void test_many_on_one_image(void **state)
{
    static uint8_t original[DISK_SIZE];
    uint8_t bytes[SECTOR_SIZE];
    struct image *overlays[8], *other;
    struct error err = {0};
    char path[64];
    int fd = make_base(path, sizeof path, original);
    for (unsigned i = 0; i < 8; i++) {
        overlays[i] = open_overlay(path);
        memset(bytes, (int)i, sizeof bytes);
        assert_int_equal(transfer(overlays[i], true, 5, bytes), STATUS_OK);
    }
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(transfer(overlays[i], false, 5, bytes), STATUS_OK);
        assert_int_equal(bytes[SECTOR_SIZE - 1], i);
    }
    assert_int_equal(image_open(&other, path, false, &err), STATUS_BUSY);
    assert_int_equal(image_open(&other, path, true, &err), STATUS_OK);
    image_close(other);
    for (unsigned i = 0; i < 8; i++)
        image_close(overlays[i]);
    assert_int_equal(image_open(&other, path, false, &err), STATUS_OK);
    assert_int_equal(image_open_overlay(&overlays[0], path, folder(), &err), STATUS_BUSY);
    image_close(other);
    check_base(fd, original);
    close(fd);
    unlink(path);
}

static void test_refused(void **state)
{
    static uint8_t original[DISK_SIZE];
    struct image *image;
    struct error err = {0};
    char path[64];
    int fd = make_base(path, sizeof path, original);
    assert_int_equal(image_open_overlay(&image, path, "/nowhere", &err), STATUS_INVALID);
    assert_non_null(strstr(err.text, "/nowhere"));
    close(fd);
    unlink(path);
    assert_int_equal(image_open_overlay(&image, path, folder(), &err), STATUS_NOT_FOUND);
    assert_non_null(strstr(err.text, path));
}

/* The host has no room for a change: an error, and what was there is there. */
static void test_no_space(void **state)
{
    static uint8_t original[DISK_SIZE];
    uint8_t bytes[SECTOR_SIZE];
    struct rlimit limit, small;
    char path[64];
    int fd = make_base(path, sizeof path, original);
    struct image *image = open_overlay(path);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 16 * SECTOR_SIZE;
    memset(bytes, 0x77, sizeof bytes);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    enum status inside = transfer(image, true, 15, bytes);
    enum status beyond = transfer(image, true, 16, bytes);
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_int_equal(inside, STATUS_OK);
    assert_int_not_equal(beyond, STATUS_OK);
    assert_int_equal(transfer(image, false, 16, bytes), STATUS_OK);
    assert_memory_equal(bytes, original + 16 * SECTOR_SIZE, SECTOR_SIZE);
    image_close(image);
    close(fd);
    unlink(path);
}

/* One request of a page at a sector, with the device's answer. */
static uint8_t request(struct driver *driver, uint32_t type, uint64_t sector, uint64_t gpa)
{
    const struct virtio_blk_outhdr header = {.type = type, .sector = sector};
    uint64_t header_gpa = driver_alloc(driver, sizeof header, 16);
    uint64_t status_gpa = driver_alloc(driver, 1, 1);
    const struct driver_buffer buffers[] = {
        {header_gpa, sizeof header, false},
        {gpa, PAGE_SIZE, type == VIRTIO_BLK_T_IN},
        {status_gpa, 1, true},
    };
    uint8_t result = 0xee;
    uint32_t written;
    int id;
    driver_poke(driver, header_gpa, &header, sizeof header);
    assert_int_not_equal(driver_add(driver, 0, buffers, 3), -1);
    driver_kick(driver, 0);
    assert_true(driver_take(driver, 0, &id, &written));
    driver_peek(driver, status_gpa, &result, 1);
    return result;
}

/* A page that is equal to a block comes back from where the block is: image or changes. */
static void test_pages_come_back(void **state)
{
    static uint8_t original[DISK_SIZE];
    uint8_t bytes[PAGE_SIZE], page[PAGE_SIZE];
    struct virtio_device *device;
    struct disk_pages *disks;
    struct driver driver;
    struct error err = {0};
    uint64_t payload;
    char path[64];
    int fd = make_base(path, sizeof path, original);
    struct image *image = open_overlay(path);
    driver_create(&driver);
    assert_int_equal(disk_pages_create(&disks, driver.map, &err), STATUS_OK);
    disk_pages_enable(disks, true);
    const struct virtio_blk_options options = {.image = image, .pages = disks, .synchronous = true};
    assert_int_equal(virtio_blk_create(&device, driver.map, &options, &err), STATUS_OK);
    driver_attach(&driver, device);
    driver_start(&driver, driver_mode(0), 0, 16);
    uint64_t from = driver_alloc(&driver, PAGE_SIZE, PAGE_SIZE);
    uint64_t to = driver_alloc(&driver, PAGE_SIZE, PAGE_SIZE);

    /* Block 1 is half of it changed; block 2 is as it was. */
    memset(bytes, 0x33, sizeof bytes);
    driver_poke(&driver, from, bytes, sizeof bytes);
    assert_int_equal(request(&driver, VIRTIO_BLK_T_OUT, 12, from), VIRTIO_BLK_S_OK);
    assert_int_equal(request(&driver, VIRTIO_BLK_T_IN, 8, to), VIRTIO_BLK_S_OK);
    memcpy(bytes, original + 8 * SECTOR_SIZE, PAGE_SIZE / 2);
    driver_peek(&driver, to, page, sizeof page);
    assert_memory_equal(page, bytes, sizeof page);
    assert_true(disk_pages_payload(disks, to >> PAGE_SHIFT, &payload));
    memset(page, 0, sizeof page);
    assert_int_equal(disk_pages_get(disks, payload, page, &err), STATUS_OK);
    assert_memory_equal(page, bytes, sizeof page);

    /* The block changes: the page is not its like any more. */
    assert_int_equal(request(&driver, VIRTIO_BLK_T_OUT, 8, from), VIRTIO_BLK_S_OK);
    assert_false(disk_pages_payload(disks, to >> PAGE_SHIFT, &payload));
    assert_true(disk_pages_payload(disks, from >> PAGE_SHIFT, &payload));
    memset(bytes, 0x33, sizeof bytes);
    assert_int_equal(disk_pages_get(disks, payload, page, &err), STATUS_OK);
    assert_memory_equal(page, bytes, sizeof page);

    driver_destroy(&driver);
    disk_pages_destroy(disks);
    image_close(image);
    check_base(fd, original);
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_requests),   cmocka_unit_test(test_discard),
        cmocka_unit_test(test_many_on_one_image), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_space),          cmocka_unit_test(test_pages_come_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
