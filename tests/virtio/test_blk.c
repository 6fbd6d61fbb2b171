/* The block device against files. */

#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <sched.h>
#include <semaphore.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "dev/virtio/blk.h"
#include "virtio/driver.h"

#define SECTOR 512u

/* A disk on a temporary file that is gone with the test, whatever happens. */
struct disk {
    struct driver driver;
    char path[64];
    int fd; /* the host's view */
    uint64_t header_gpa, status_gpa, data_gpa;
    sem_t interrupted;
};

static int make_image(char *path, size_t path_size, uint64_t size)
{
    const char *folder = getenv("TMPDIR");

    snprintf(path, path_size, "%s/aerostat-blk-XXXXXX", folder != NULL ? folder : P_tmpdir);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

static void disk_create(struct disk *disk, uint64_t size, bool read_only, bool synchronous)
{
    struct virtio_device *device;
    struct error err = {0};

    driver_create(&disk->driver);
    disk->fd = make_image(disk->path, sizeof(disk->path), size);
    const struct virtio_blk_options options = {
        .path = disk->path,
        .read_only = read_only,
        .serial = "serial-0123456789-cut",
        .synchronous = synchronous,
    };
    if (virtio_blk_create(&device, disk->driver.map, &options, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    driver_attach(&disk->driver, device);
    disk->header_gpa = driver_alloc(&disk->driver, 16, 16);
    disk->status_gpa = driver_alloc(&disk->driver, 1, 1);
    disk->data_gpa = driver_alloc(&disk->driver, 4 * MIB, PAGE_SIZE);
}

static void disk_destroy(struct disk *disk)
{
    driver_destroy(&disk->driver);
    close(disk->fd);
    unlink(disk->path);
}

static uint64_t disk_features(const struct disk *disk)
{
    return disk->driver.device->features_offered &
           (bit(VIRTIO_BLK_F_FLUSH) | bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES) |
            bit(VIRTIO_BLK_F_RO) | bit(VIRTIO_BLK_F_CONFIG_WCE));
}

static void disk_start(struct disk *disk, unsigned mode)
{
    driver_start(&disk->driver, driver_mode(mode), disk_features(disk), 64);
}

/* Sends a request with `pieces` buffers of `piece` bytes from data_gpa on. */
static void disk_send(struct disk *disk, uint32_t type, uint64_t sector, uint32_t piece,
                      unsigned pieces)
{
    const struct virtio_blk_outhdr header = {.type = type, .sector = sector};
    struct driver_buffer buffers[DRIVER_TABLE_MAX];
    uint8_t poison = 0xee;
    unsigned count = 0;
    bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;

    driver_poke(&disk->driver, disk->header_gpa, &header, sizeof(header));
    driver_poke(&disk->driver, disk->status_gpa, &poison, 1);
    buffers[count++] = (struct driver_buffer){disk->header_gpa, sizeof(header), false};
    for (unsigned i = 0; i < pieces; i++)
        buffers[count++] = (struct driver_buffer){disk->data_gpa + (uint64_t)i * piece, piece, in};
    buffers[count++] = (struct driver_buffer){disk->status_gpa, 1, true};
    assert_int_not_equal(driver_add(&disk->driver, 0, buffers, count), -1);
    driver_kick(&disk->driver, 0);
}

/* The status byte of the request that was sent. */
static uint8_t disk_finish(struct disk *disk)
{
    uint8_t status;
    uint32_t written;
    int id;

    if (disk->driver.device->loop == NULL)
        assert_true(driver_take(&disk->driver, 0, &id, &written));
    else
        driver_take_wait(&disk->driver, 0, &id, &written);
    assert_true(written >= 1);
    driver_peek(&disk->driver, disk->status_gpa, &status, 1);
    return status;
}

static uint8_t disk_do(struct disk *disk, uint32_t type, uint64_t sector, uint32_t piece,
                       unsigned pieces)
{
    disk_send(disk, type, sector, piece, pieces);
    return disk_finish(disk);
}

static void pattern(uint8_t *bytes, size_t length, uint8_t seed)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(seed + i + i / 256);
}

static void test_read_write(void **state)
{
    static uint8_t bytes[16 * 4096], back[16 * 4096];

    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        struct disk disk;

        disk_create(&disk, 1 * MIB, false, true);
        disk_start(&disk, mode);
        for (unsigned round = 0; round < 40; round++) {
            uint64_t sector = round * 37 % 1900;
            pattern(bytes, sizeof(bytes), (uint8_t)round);
            driver_poke(&disk.driver, disk.data_gpa, bytes, sizeof(bytes));
            assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_OUT, sector, 4096, 16), VIRTIO_BLK_S_OK);
            assert_int_equal(pread(disk.fd, back, sizeof(back), (off_t)(sector * SECTOR)),
                             sizeof(back));
            assert_memory_equal(bytes, back, sizeof(bytes));

            memset(back, 0, sizeof(back));
            driver_poke(&disk.driver, disk.data_gpa, back, sizeof(back));
            /* Cut differently, not even in whole sectors. */
            assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_IN, sector, 2816, 10), VIRTIO_BLK_S_OK);
            driver_peek(&disk.driver, disk.data_gpa, back, 28160);
            assert_memory_equal(bytes, back, 28160);
        }
        assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK);
        struct virtio_stats stats;
        virtio_device_get_stats(disk.driver.device, &stats);
        assert_int_equal(stats.requests, 81);
        assert_int_equal(stats.bytes_out, 40 * sizeof(bytes));
        assert_int_equal(stats.bytes_in, 40 * 28160);
        assert_int_equal(stats.errors, 0);
        disk_destroy(&disk);
    }
}

/* On its own loop, as in a machine, many requests at once. */
static void test_threaded(void **state)
{
    uint8_t bytes[SECTOR];

    for (unsigned mode = 0; mode < DRIVER_MODES; mode++) {
        struct disk disk;
        int id;
        uint32_t written;

        disk_create(&disk, 1 * MIB, false, false);
        disk_start(&disk, mode);
        struct driver *driver = &disk.driver;
        uint64_t headers = driver_alloc(driver, 20 * 16, 16);
        for (unsigned round = 0; round < 20; round++) {
            for (unsigned i = 0; i < 20; i++) {
                const struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_OUT, .sector = i};
                memset(bytes, (int)(round + i), sizeof(bytes));
                driver_poke(driver, headers + i * 16, &header, sizeof(header));
                driver_poke(driver, disk.data_gpa + i * SECTOR, bytes, sizeof(bytes));
                const struct driver_buffer buffers[] = {
                    {headers + i * 16, sizeof(header), false},
                    {disk.data_gpa + i * SECTOR, SECTOR, false},
                    {disk.status_gpa + i, 1, true},
                };
                assert_int_not_equal(driver_add(driver, 0, buffers, 3), -1);
                driver_kick(driver, 0);
            }
            for (unsigned i = 0; i < 20; i++)
                driver_take_wait(driver, 0, &id, &written);
            for (unsigned i = 0; i < 20; i++) {
                assert_int_equal(pread(disk.fd, bytes, sizeof(bytes), i * SECTOR), SECTOR);
                assert_int_equal(bytes[0], (uint8_t)(round + i));
                assert_int_equal(bytes[SECTOR - 1], (uint8_t)(round + i));
            }
        }
        disk_destroy(&disk);
    }
}

/* Resets while the loop works: nothing stays pinned, and the disk works afterwards. */
static void test_threaded_reset(void **state)
{
    struct disk disk;

    disk_create(&disk, 1 * MIB, false, false);
    for (unsigned round = 0; round < 50; round++) {
        struct pmap_stats stats;

        disk_start(&disk, round % DRIVER_MODES);
        for (unsigned i = 0; i < 10; i++)
            disk_send(&disk, VIRTIO_BLK_T_OUT, i, 4096, 4);
        driver_write(&disk.driver, VIRTIO_MMIO_STATUS, 0);
        pmap_get_stats(disk.driver.map, &stats);
        assert_int_equal(stats.pinned_pages, 0);
    }
    disk_start(&disk, 0);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_IN, 0, SECTOR, 1), VIRTIO_BLK_S_OK);
    disk_destroy(&disk);
}

static void test_ranges(void **state)
{
    const uint64_t sectors = 64;
    struct disk disk;

    disk_create(&disk, sectors * SECTOR + 100, false, true); /* the odd bytes are not used */
    disk_start(&disk, 0);
    assert_int_equal(virtio_mmio_read(disk.driver.mmio, VIRTIO_MMIO_CONFIG, 8), sectors);
    static const struct {
        uint64_t sector;
        uint32_t length;
        uint8_t status;
    } cases[] = {
        {63, SECTOR, VIRTIO_BLK_S_OK},
        {0, 64 * SECTOR, VIRTIO_BLK_S_OK},
        {64, SECTOR, VIRTIO_BLK_S_IOERR},
        {63, 2 * SECTOR, VIRTIO_BLK_S_IOERR},
        {0, 65 * SECTOR, VIRTIO_BLK_S_IOERR},
        {UINT64_MAX, SECTOR, VIRTIO_BLK_S_IOERR},
        {UINT64_MAX >> 9, SECTOR, VIRTIO_BLK_S_IOERR},
        {(UINT64_MAX >> 9) + 1, SECTOR, VIRTIO_BLK_S_IOERR},
        {0, 100, VIRTIO_BLK_S_IOERR},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_IN, cases[i].sector, cases[i].length, 1),
                         cases[i].status);
        assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_OUT, cases[i].sector, cases[i].length, 1),
                         cases[i].status);
    }
    struct stat info;
    assert_int_equal(fstat(disk.fd, &info), 0);
    assert_int_equal(info.st_size, sectors * SECTOR + 100);
    assert_int_equal(disk_do(&disk, 77, 0, SECTOR, 1), VIRTIO_BLK_S_UNSUPP);
    disk_destroy(&disk);
}

/* The file became shorter under us: an I/O error, not a hang or zeros. */
static void test_truncated(void **state)
{
    struct disk disk;

    disk_create(&disk, 64 * SECTOR, false, true);
    disk_start(&disk, 0);
    assert_int_equal(ftruncate(disk.fd, 10 * SECTOR), 0);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_IN, 8, SECTOR, 2), VIRTIO_BLK_S_OK);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_IN, 9, SECTOR, 2), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_IN, 20, SECTOR, 2), VIRTIO_BLK_S_IOERR);
    disk_destroy(&disk);
}

static void test_identify(void **state)
{
    struct disk disk;
    char serial[21] = {0};

    disk_create(&disk, MIB, false, true);
    disk_start(&disk, 2);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_GET_ID, 0, 20, 1), VIRTIO_BLK_S_OK);
    driver_peek(&disk.driver, disk.data_gpa, serial, 20);
    assert_string_equal(serial, "serial-0123456789-cu");
    disk_destroy(&disk);
}

static void test_read_only(void **state)
{
    const struct virtio_blk_discard_write_zeroes range = {.num_sectors = 8};
    struct disk disk;
    uint8_t bytes[SECTOR];

    disk_create(&disk, MIB, true, true);
    assert_true(disk_features(&disk) & bit(VIRTIO_BLK_F_RO));
    assert_false(disk_features(&disk) & bit(VIRTIO_BLK_F_DISCARD));
    disk_start(&disk, 0);
    memset(bytes, 0xab, sizeof(bytes));
    assert_int_equal(pwrite(disk.fd, bytes, sizeof(bytes), 0), SECTOR);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_OUT, 0, SECTOR, 1), VIRTIO_BLK_S_IOERR);
    driver_poke(&disk.driver, disk.data_gpa, &range, sizeof(range));
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_DISCARD, 0, sizeof(range), 1), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, sizeof(range), 1),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_IN, 0, SECTOR, 1), VIRTIO_BLK_S_OK);
    driver_peek(&disk.driver, disk.data_gpa, bytes, sizeof(bytes));
    assert_int_equal(bytes[SECTOR - 1], 0xab);
    disk_destroy(&disk);
}

static void test_discard(void **state)
{
    static uint8_t bytes[64 * 1024];
    struct disk disk;
    struct stat info;

    disk_create(&disk, sizeof(bytes), false, true);
    disk_start(&disk, 0);
    memset(bytes, 0x5a, sizeof(bytes));
    assert_int_equal(pwrite(disk.fd, bytes, sizeof(bytes), 0), sizeof(bytes));

    /* Zeros in the middle, with and without permission to free. */
    for (uint32_t flags = 0; flags < 2; flags++) {
        const struct virtio_blk_discard_write_zeroes range = {
            .sector = 16 + 16 * flags, .num_sectors = 9, .flags = flags};
        driver_poke(&disk.driver, disk.data_gpa, &range, sizeof(range));
        assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_WRITE_ZEROES, 0, sizeof(range), 1),
                         VIRTIO_BLK_S_OK);
    }
    assert_int_equal(pread(disk.fd, bytes, sizeof(bytes), 0), sizeof(bytes));
    for (size_t i = 0; i < sizeof(bytes); i++) {
        size_t sector = i / SECTOR;
        bool zero = (sector >= 16 && sector < 25) || (sector >= 32 && sector < 41);
        assert_int_equal(bytes[i], zero ? 0 : 0x5a);
    }

    /* Two ranges are dropped, the size stays. */
    const struct virtio_blk_discard_write_zeroes ranges[] = {{.sector = 0, .num_sectors = 8},
                                                             {.sector = 64, .num_sectors = 64}};
    driver_poke(&disk.driver, disk.data_gpa, ranges, sizeof(ranges));
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_DISCARD, 0, sizeof(ranges), 1), VIRTIO_BLK_S_OK);
    assert_int_equal(fstat(disk.fd, &info), 0);
    assert_int_equal(info.st_size, sizeof(bytes));
    assert_int_equal(pread(disk.fd, bytes, sizeof(bytes), 0), sizeof(bytes));
    assert_int_equal(bytes[8 * SECTOR], 0x5a);

    /* Refused as a whole: beyond the end, unknown flags, half a range, too many. */
    const struct {
        struct virtio_blk_discard_write_zeroes range;
        uint32_t type;
        uint8_t status;
    } cases[] = {
        {{.sector = 120, .num_sectors = 9}, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_IOERR},
        {{.sector = UINT64_MAX, .num_sectors = 2}, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_IOERR},
        {{.num_sectors = UINT32_MAX}, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_IOERR},
        {{.num_sectors = 8, .flags = 1}, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_S_UNSUPP},
        {{.num_sectors = 8, .flags = 2}, VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_S_UNSUPP},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(cases); i++) {
        driver_poke(&disk.driver, disk.data_gpa, &cases[i].range, sizeof(cases[i].range));
        assert_int_equal(disk_do(&disk, cases[i].type, 0, sizeof(cases[i].range), 1),
                         cases[i].status);
    }
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_DISCARD, 0, 15, 1), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_DISCARD, 0, 16 * 17, 1), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(pread(disk.fd, bytes, sizeof(bytes), 0), sizeof(bytes));
    assert_int_equal(bytes[8 * SECTOR], 0x5a);
    disk_destroy(&disk);
}

/* The host has no room: the guest gets an I/O error, reads go on, and once there is room so do
 * writes. */
static void test_no_space(void **state)
{
    struct rlimit limit, small;
    struct disk disk;

    disk_create(&disk, MIB, false, true);
    disk_start(&disk, 0);
    signal(SIGXFSZ, SIG_IGN); /* a loop's thread has it blocked */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 64 * 1024;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    uint8_t inside = disk_do(&disk, VIRTIO_BLK_T_OUT, 0, 4096, 1);
    uint8_t across = disk_do(&disk, VIRTIO_BLK_T_OUT, 127, 4096, 1);
    uint8_t beyond = disk_do(&disk, VIRTIO_BLK_T_OUT, 1000, 4096, 1);
    uint8_t reading = disk_do(&disk, VIRTIO_BLK_T_IN, 1000, 4096, 1);
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_int_equal(inside, VIRTIO_BLK_S_OK);
    assert_int_equal(across, VIRTIO_BLK_S_IOERR);
    assert_int_equal(beyond, VIRTIO_BLK_S_IOERR);
    assert_int_equal(reading, VIRTIO_BLK_S_OK);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_OUT, 1000, 4096, 1), VIRTIO_BLK_S_OK);
    assert_int_equal(disk.driver.device->stats.errors, 2);
    disk_destroy(&disk);
}

/* The cache can be turned off by the driver, and comes back with a reset. */
static void test_write_cache(void **state)
{
    const uint32_t wce = VIRTIO_MMIO_CONFIG + offsetof(struct virtio_blk_config, wce);
    struct disk disk;

    disk_create(&disk, MIB, false, true);
    disk_start(&disk, 0);
    assert_int_equal(virtio_mmio_read(disk.driver.mmio, wce, 1), 1);
    virtio_mmio_write(disk.driver.mmio, wce, 1, 0);
    assert_int_equal(virtio_mmio_read(disk.driver.mmio, wce, 1), 0);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_OUT, 0, 4096, 1), VIRTIO_BLK_S_OK);
    virtio_mmio_write(disk.driver.mmio, VIRTIO_MMIO_CONFIG, 8, 0); /* not the driver's to write */
    assert_int_equal(virtio_mmio_read(disk.driver.mmio, VIRTIO_MMIO_CONFIG, 8), MIB / SECTOR);
    disk_start(&disk, 0);
    assert_int_equal(virtio_mmio_read(disk.driver.mmio, wce, 1), 1);
    disk_destroy(&disk);
}

/* Requests without room for header or status break the device, not the host. */
static void test_malformed(void **state)
{
    struct disk disk;

    disk_create(&disk, MIB, false, true);
    const struct driver_buffer shapes[][2] = {
        {{disk.header_gpa, 15, false}, {disk.status_gpa, 1, true}},
        {{disk.header_gpa, 16, false}, {disk.header_gpa, 0, true}},
        {{disk.header_gpa, 16, true}, {disk.status_gpa, 1, true}},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(shapes); i++) {
        disk_start(&disk, (unsigned)i);
        assert_int_not_equal(driver_add(&disk.driver, 0, shapes[i], 2), -1);
        driver_kick(&disk.driver, 0);
        assert_true(driver_read(&disk.driver, VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
    }
    disk_start(&disk, 0);
    assert_int_equal(disk_do(&disk, VIRTIO_BLK_T_IN, 0, SECTOR, 1), VIRTIO_BLK_S_OK);
    disk_destroy(&disk);
}

static enum status try_open(struct pmap *map, const char *path, bool read_only, struct error *err,
                            struct virtio_device **device)
{
    const struct virtio_blk_options options = {
        .path = path, .read_only = read_only, .synchronous = true};

    *err = (struct error){0};
    *device = NULL;
    return virtio_blk_create(device, map, &options, err);
}

static void test_locking(void **state)
{
    struct virtio_device *first, *second;
    struct driver driver;
    struct error err;
    char path[64];

    driver_create(&driver);
    int fd = make_image(path, sizeof(path), MIB);
    assert_int_equal(try_open(driver.map, path, false, &err, &first), STATUS_OK);
    assert_int_equal(try_open(driver.map, path, false, &err, &second), STATUS_BUSY);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "in use"));
    assert_int_equal(try_open(driver.map, path, true, &err, &second), STATUS_BUSY);
    virtio_device_destroy(first);

    /* Readers share, and keep writers out. */
    assert_int_equal(try_open(driver.map, path, true, &err, &first), STATUS_OK);
    assert_int_equal(try_open(driver.map, path, true, &err, &second), STATUS_OK);
    virtio_device_destroy(second);
    assert_int_equal(try_open(driver.map, path, false, &err, &second), STATUS_BUSY);
    virtio_device_destroy(first);
    assert_int_equal(try_open(driver.map, path, false, &err, &first), STATUS_OK);
    virtio_device_destroy(first);
    close(fd);
    unlink(path);
    driver_destroy(&driver);
}

static void test_bad_images(void **state)
{
    struct virtio_device *device;
    struct driver driver;
    struct error err;
    char path[64];

    driver_create(&driver);
    int fd = make_image(path, sizeof(path), 511);
    assert_int_equal(try_open(driver.map, path, false, &err, &device), STATUS_INVALID);
    assert_non_null(strstr(err.text, path));
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(try_open(driver.map, path, false, &err, &device), STATUS_INVALID);
    if (geteuid() != 0) { /* root may write anything */
        assert_int_equal(ftruncate(fd, MIB), 0);
        assert_int_equal(fchmod(fd, 0400), 0);
        assert_int_equal(try_open(driver.map, path, false, &err, &device), STATUS_INVALID);
        assert_non_null(strstr(err.text, ",ro"));
    }
    close(fd);
    unlink(path);
    assert_int_equal(try_open(driver.map, path, false, &err, &device), STATUS_NOT_FOUND);
    assert_int_equal(try_open(driver.map, "/", false, &err, &device), STATUS_INVALID);
    assert_int_equal(try_open(driver.map, "/", true, &err, &device), STATUS_INVALID);
    assert_int_equal(try_open(driver.map, "/dev/null", true, &err, &device), STATUS_INVALID);
    /* A FIFO is refused, not waited for. */
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(try_open(driver.map, path, true, &err, &device), STATUS_INVALID);
    unlink(path);
    driver_destroy(&driver);
}

/* Holds the first request's interrupt until somebody waits to reset the device. */
static void hold_interrupt(void *context, unsigned pin, bool level)
{
    struct disk *disk = context;

    if (!level)
        return;
    assert_int_equal(sem_post(&disk->interrupted), 0);
    while (!virtio_device_should_yield(disk->driver.device))
        sched_yield();
}

/* The end of a machine waits for the request that is being done, not for all that are queued. */
static void test_end_with_full_queue(void **state)
{
    struct disk disk;
    uint32_t written;
    int id;

    disk_create(&disk, MIB, false, false);
    disk_start(&disk, 0);
    assert_int_equal(sem_init(&disk.interrupted, 0, 0), 0);
    disk.driver.device->irq = (struct irq_line){.set = hold_interrupt, .context = &disk};
    for (unsigned i = 0; i < 16; i++)
        disk_send(&disk, VIRTIO_BLK_T_OUT, 0, 4096, 1);
    assert_int_equal(sem_wait(&disk.interrupted), 0);
    virtio_device_destroy(disk.driver.device);
    disk.driver.device = NULL;
    assert_true(driver_take(&disk.driver, 0, &id, &written));
    assert_false(driver_take(&disk.driver, 0, &id, &written));
    disk_destroy(&disk);
    sem_destroy(&disk.interrupted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read_write),     cmocka_unit_test(test_threaded),
        cmocka_unit_test(test_threaded_reset), cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_truncated),      cmocka_unit_test(test_identify),
        cmocka_unit_test(test_read_only),      cmocka_unit_test(test_discard),
        cmocka_unit_test(test_no_space),       cmocka_unit_test(test_write_cache),
        cmocka_unit_test(test_malformed),      cmocka_unit_test(test_locking),
        cmocka_unit_test(test_bad_images),     cmocka_unit_test(test_end_with_full_queue),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
