/*
 * Pages of disks: random transfers, writes by the guest and reclaim against plain arrays of what
 * memory and disks hold. Whatever leaves as PAGE_DISK must come back with the guest's bytes.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem/disk_pages.h"
#include "mem/page_clean.h"
#include "mem/page_leave.h"
#include "util/bits.h"
#include "util/xorshift.h"

#define PAGES  24u
#define BLOCKS 16u
#define DISKS  2u

struct world {
    struct pmap *map;
    struct disk_pages *disks;
    unsigned numbers[DISKS];
    uint8_t images[DISKS][BLOCKS][PAGE_SIZE]; /* what the disks hold */
    uint8_t memory[PAGES][PAGE_SIZE];         /* what the guest must see */
    bool fails;                               /* reading blocks back */
    unsigned left;                            /* pages that left as PAGE_DISK */
    uint64_t seed;
    uint8_t fill;
};

static uint64_t draw(struct world *world, uint64_t below)
{
    return xorshift_next(&world->seed) % below;
}

struct side {
    struct world *world;
    unsigned disk;
};

static enum status block_read(void *context, uint64_t block, uint8_t *page)
{
    const struct side *side = context;
    if (side->world->fails)
        return STATUS_IO;
    assert_true(block < BLOCKS);
    memcpy(page, side->world->images[side->disk][block], PAGE_SIZE);
    return STATUS_OK;
}

static enum status store_get(void *context, enum page_state state, uint64_t payload, uint64_t ppn,
                             uint8_t *page, struct error *err)
{
    struct world *world = context;
    assert_int_equal(state, PAGE_DISK);
    assert_true(ppn < PAGES);
    return disk_pages_get(world->disks, payload, page, err);
}

static void store_drop(void *context, enum page_state state, uint64_t payload)
{
    (void)context, (void)payload;
    assert_int_equal(state, PAGE_DISK);
}

static const struct page_store_ops store = {.get = store_get, .drop = store_drop};
static struct side sides[DISKS];

static void world_open(struct world *world, uint64_t seed)
{
    struct ram_range ram = {0, PAGES * PAGE_SIZE};
    *world = (struct world){.seed = seed};
    assert_int_equal(pmap_create(&world->map, &ram, 1, NULL), STATUS_OK);
    assert_int_equal(disk_pages_create(&world->disks, world->map, NULL), STATUS_OK);
    pmap_set_store(world->map, &store, world);
    for (unsigned disk = 0; disk < DISKS; disk++) {
        sides[disk] = (struct side){world, disk};
        assert_int_equal(
            disk_pages_add(world->disks, block_read, &sides[disk], &world->numbers[disk], NULL),
            STATUS_OK);
        for (unsigned block = 0; block < BLOCKS; block++)
            memset(world->images[disk][block], (int)(1 + disk * BLOCKS + block), PAGE_SIZE);
    }
    disk_pages_enable(world->disks, true);
}

static void world_close(struct world *world)
{
    disk_pages_destroy(world->disks);
    pmap_destroy(world->map);
}

static void check_page(struct world *world, uint64_t ppn)
{
    uint8_t bytes[PAGE_SIZE];
    assert_int_equal(pmap_read(world->map, ppn << PAGE_SHIFT, bytes, PAGE_SIZE), STATUS_OK);
    assert_memory_equal(bytes, world->memory[ppn], PAGE_SIZE);
}

static void check(struct world *world)
{
    struct error err = {0};
    for (uint64_t ppn = 0; ppn < PAGES; ppn++)
        check_page(world, ppn);
    if (pmap_check(world->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
}

/* A disk's request: what is done by virtio-blk for one segment. */
static void transfer(struct world *world, unsigned disk, bool to_disk, uint64_t offset,
                     uint64_t gpa, uint64_t length, bool fails)
{
    struct iovec iov;
    unsigned count = 0, number = world->numbers[disk];
    uint8_t *image = &world->images[disk][0][0] + offset, *memory = &world->memory[0][0] + gpa;
    enum pmap_pin_use use = to_disk ? PIN_READ : PIN_WRITE;
    assert_int_equal(pmap_pin(world->map, gpa, length, use, &iov, &count, 1), STATUS_OK);
    if (to_disk)
        assert_int_equal(disk_pages_overwrite(world->disks, number, offset, length), STATUS_OK);
    disk_pages_transfer(world->disks, number, offset, gpa, length);
    uint64_t moved = fails ? length / 2 : length;
    if (to_disk) {
        memcpy(image, iov.iov_base, moved);
    } else {
        memcpy(iov.iov_base, image, moved);
        memcpy(memory, image, moved);
    }
    if (fails)
        disk_pages_failed(world->disks, number, offset, gpa, length);
    pmap_unpin(world->map, gpa, length, !to_disk);
}

/* As reclaim does. */
static void leave(struct world *world, uint64_t ppn)
{
    struct page_batch batch = {.count = 1, .ppn = {ppn}};
    uint64_t payload;
    page_leave_begin(world->map, &batch, PAGE_LEAVE_ACTIVE);
    if (batch.count == 0)
        return;
    if (disk_pages_payload(world->disks, ppn, &payload))
        world->left += page_leave_end(world->map, &batch, 0, PAGE_DISK, payload);
    else
        page_leave_cancel(world->map, &batch, 0);
    if (draw(world, 2))
        page_punch(world->map, &ppn, 1);
}

/* A vCPU's write: through the address that a look-up gives, opened first where it must be. */
static void guest_write(struct world *world, uint64_t ppn)
{
    bool writable;
    uint64_t at = draw(world, PAGE_SIZE);
    while (pmap_page_claim(world->map, ppn, &writable) == NULL || !writable)
        assert_non_null(pmap_page_write(world->map, ppn));
    uint8_t *page = (uint8_t *)(uintptr_t)pmap_page_read(world->map, ppn, &writable);
    assert_true(writable);
    page[at] = world->memory[ppn][at] = ++world->fill;
}

static void step(struct world *world)
{
    uint64_t ppn = draw(world, PAGES), gpa, offset, length;
    switch (draw(world, 10)) {
    case 0:
    case 1:
    case 2:
        /* Mostly whole pages on whole blocks; sometimes neither. */
        length = (1 + draw(world, 4)) * PAGE_SIZE;
        gpa = draw(world, PAGES - 4) * PAGE_SIZE + (draw(world, 4) ? 0 : draw(world, PAGE_SIZE));
        offset = draw(world, BLOCKS - 4) * PAGE_SIZE + (draw(world, 4) ? gpa & PAGE_MASK : 512);
        length -= draw(world, 4) ? 0 : 1024;
        if (offset + length > sizeof(world->images[0]))
            length = sizeof(world->images[0]) - offset;
        transfer(world, (unsigned)draw(world, DISKS), draw(world, 2), offset, gpa, length,
                 draw(world, 8) == 0);
        break;
    case 3:
        guest_write(world, ppn);
        break;
    case 4:
        world->memory[ppn][7] = ++world->fill;
        assert_int_equal(pmap_write(world->map, ppn * PAGE_SIZE + 7, &world->fill, 1), STATUS_OK);
        break;
    case 5:
        check_page(world, ppn);
        break;
    case 6:
        if (draw(world, 4) == 0) {
            pmap_release(world->map, ppn, 1);
            memset(world->memory[ppn], 0, PAGE_SIZE);
        }
        break;
    default:
        leave(world, ppn);
        break;
    }
}

static void test_random_histories(void **state)
{
    (void)state;
    static struct world world;
    unsigned left = 0;
    for (uint64_t round = 1; round <= 40; round++) {
        world_open(&world, round * 0x9e3779b97f4a7c15u);
        for (unsigned i = 0; i < 1500; i++) {
            step(&world);
            if (i % 150 == 0)
                check(&world);
        }
        check(&world);
        left += world.left;
        world_close(&world);
    }
    assert_true(left > 3000); /* or nothing was tested */
}

/* Blocks change under pages that are only there: these come back first. */
static void test_overwrite_brings_back(void **state)
{
    (void)state;
    static struct world world;
    world_open(&world, 1);
    transfer(&world, 0, false, 0, 0, 4 * PAGE_SIZE, false);
    leave(&world, 1);
    leave(&world, 2);
    assert_int_equal(pmap_state(world.map, 1), PAGE_DISK);
    assert_int_equal(disk_pages_overwrite(world.disks, 1, 0, BLOCKS * PAGE_SIZE), STATUS_OK);
    assert_int_equal(pmap_state(world.map, 1), PAGE_DISK); /* that was another disk */
    assert_int_equal(disk_pages_overwrite(world.disks, 0, PAGE_SIZE + 512, 512), STATUS_OK);
    assert_int_equal(pmap_state(world.map, 1), PAGE_PRIVATE);
    assert_int_equal(pmap_state(world.map, 2), PAGE_DISK);
    assert_false(page_is_clean(world.map, 1));
    assert_true(page_is_clean(world.map, 0));

    world.fails = true;
    assert_int_equal(disk_pages_overwrite(world.disks, 0, 0, UINT32_MAX), STATUS_IO);
    world.fails = false;
    check(&world);
    world_close(&world);
}

/* A second pin may be a device that writes. */
static void test_not_clean_while_another_device_has_it(void **state)
{
    (void)state;
    static struct world world;
    struct iovec iov;
    unsigned count = 0;
    world_open(&world, 1);
    assert_int_equal(pmap_pin(world.map, 0, PAGE_SIZE, PIN_WRITE, &iov, &count, 1), STATUS_OK);
    transfer(&world, 0, false, 0, 0, 2 * PAGE_SIZE, false);
    assert_false(page_is_clean(world.map, 0));
    assert_true(page_is_clean(world.map, 1));
    pmap_unpin(world.map, 0, PAGE_SIZE, true);

    transfer(&world, 0, false, 0, 0, PAGE_SIZE, false);
    assert_true(page_is_clean(world.map, 0));
    count = 0;
    assert_int_equal(pmap_pin(world.map, 0, 1, PIN_WRITE, &iov, &count, 1), STATUS_OK);
    assert_false(page_is_clean(world.map, 0));
    pmap_unpin(world.map, 0, 1, false);
    world_close(&world);
}

static void test_nothing_is_followed_when_off(void **state)
{
    (void)state;
    static struct world world;
    world_open(&world, 1);
    disk_pages_enable(world.disks, false);
    transfer(&world, 0, false, 0, 0, PAGE_SIZE, false);
    assert_false(page_is_clean(world.map, 0));
    world_close(&world);
}

/* What a device that only reads is given is the page's bytes, and the page stays where it is. */
static void test_peek(void **state)
{
    (void)state;
    static struct world world;
    uint8_t bytes[PAGE_SIZE];
    world_open(&world, 1);
    transfer(&world, 1, false, 0, 0, PAGE_SIZE, false);
    assert_int_equal(pmap_peek(world.map, 0, bytes), STATUS_NOT_FOUND);
    assert_int_equal(pmap_peek(world.map, PAGES, bytes), STATUS_NOT_FOUND);
    do
        leave(&world, 0);
    while (pmap_state(world.map, 0) != PAGE_DISK);
    uint64_t ppn = 0;
    page_punch(world.map, &ppn, 1);
    assert_int_equal(pmap_peek(world.map, 0, bytes), STATUS_OK);
    assert_memory_equal(bytes, world.memory[0], PAGE_SIZE);
    assert_int_equal(pmap_state(world.map, 0), PAGE_DISK);
    world.fails = true;
    assert_int_equal(pmap_peek(world.map, 0, bytes), STATUS_IO);
    world.fails = false;
    check(&world);
    world_close(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_histories),
        cmocka_unit_test(test_overwrite_brings_back),
        cmocka_unit_test(test_not_clean_while_another_device_has_it),
        cmocka_unit_test(test_nothing_is_followed_when_off),
        cmocka_unit_test(test_peek),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
