/* How pages come to be shared in a group, case by case. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "hostd/group.h"

#define PAGES 8192u
#define VMS   3u

static struct group *group;
static struct vm {
    struct sharer sharer;
    bool reads;
    struct link_ref got[2 * PAGES];
    unsigned count, messages;
} vms[VMS];

static bool take(void *context, const struct link_ref *refs, uint32_t count)
{
    struct vm *vm = context;
    assert_in_range(count, 1, LINK_PAGES);
    if (!vm->reads)
        return false;
    memcpy(&vm->got[vm->count], refs, count * sizeof *refs);
    vm->count += count;
    vm->messages++;
    return true;
}

static int setup(void **state)
{
    struct error err;
    assert_int_equal(group_create(&group, 0, &err), STATUS_OK);
    for (unsigned i = 0; i < VMS; i++) {
        vms[i] = (struct vm){
            .reads = true,
            .sharer = {.ram = memfd_create("ram", MFD_CLOEXEC), .send = take, .context = &vms[i]},
        };
        assert_int_equal(ftruncate(vms[i].sharer.ram, PAGES * PAGE_SIZE), 0);
        assert_int_equal(group_join(group, &vms[i].sharer, PAGES, &err), STATUS_OK);
    }
    return 0;
}

static int teardown(void **state)
{
    for (unsigned i = 0; i < VMS; i++) {
        group_leave(&vms[i].sharer);
        close(vms[i].sharer.ram);
    }
    group_tidy(group);
    group_check(group);
    assert_int_equal(group->table.frame_count + group->table.hint_count, 0);
    assert_int_equal(pool_used(&group->pool), 0);
    group_destroy(group);
    return 0;
}

static void fill(uint8_t page[PAGE_SIZE], uint64_t content)
{
    for (unsigned at = 0; at < PAGE_SIZE; at += 8)
        memcpy(page + at, &content, 8);
}

static void write_page(unsigned vm, uint32_t ppn, uint64_t content)
{
    uint8_t page[PAGE_SIZE];
    fill(page, content);
    assert_int_equal(pwrite(vms[vm].sharer.ram, page, PAGE_SIZE, (off_t)(ppn * PAGE_SIZE)),
                     PAGE_SIZE);
}

static uint64_t hash_of(uint64_t content)
{
    uint8_t page[PAGE_SIZE];
    fill(page, content);
    return XXH3_64bits_withSeed(page, PAGE_SIZE, group->key);
}

static void offer(unsigned vm, uint32_t ppn, uint64_t content)
{
    struct error err;
    struct link_offer it = {.ppn = ppn, .hash = hash_of(content)};
    assert_int_equal(group_offer(&vms[vm].sharer, &it, &err), STATUS_OK);
}

static void drop(unsigned vm, unsigned got)
{
    struct error err;
    assert_int_equal(group_drop(&vms[vm].sharer, vms[vm].got[got], &err), STATUS_OK);
}

static void test_hint_then_frame(void **state)
{
    uint8_t page[PAGE_SIZE], expected[PAGE_SIZE];
    for (unsigned vm = 0; vm < VMS; vm++)
        write_page(vm, 10 + vm, 77);
    offer(0, 10, 77);
    group_flush(group);
    assert_int_equal(group->table.hint_count, 1);
    assert_int_equal(group->table.frame_count, 0);
    offer(1, 11, 77);
    group_flush(group);
    assert_int_equal(group->table.hint_count, 0);
    assert_int_equal(group->table.frame_count, 1);
    offer(2, 12, 77);
    group_flush(group);
    for (unsigned vm = 0; vm < VMS; vm++) {
        assert_int_equal(vms[vm].count, 1);
        assert_int_equal(vms[vm].got[0].ppn, 10 + vm);
        assert_int_equal(vms[vm].got[0].frame, vms[0].got[0].frame);
    }
    uint32_t frame = vms[0].got[0].frame;
    assert_int_equal(share_count(&group->table, frame), 3);
    fill(expected, 77);
    write_page(0, 10, 78); /* afterwards */
    assert_int_equal(pool_read(&group->pool, frame, page), STATUS_OK);
    assert_memory_equal(page, expected, PAGE_SIZE);
    group_divide(group);
    for (unsigned vm = 0; vm < VMS; vm++)
        assert_in_range(vms[vm].sharer.part, PAGE_SIZE / 3 - 1, PAGE_SIZE / 3 + 1);
    /* offered again while it is held: nothing */
    offer(0, 10, 78);
    offer(2, 12, 77);
    group_flush(group);
    assert_int_equal(vms[0].count + vms[2].count, 2);
    group_check(group);
    drop(1, 0);
    drop(0, 0);
    assert_int_equal(group->table.frame_count, 1);
    drop(2, 0);
    assert_int_equal(group->table.frame_count, 0);
    assert_int_equal(pool_used(&group->pool), PAGE_SIZE);
    group_tidy(group);
    assert_int_equal(pool_used(&group->pool), 0);
}

static void test_stale_hint(void **state)
{
    write_page(0, 1, 5);
    write_page(1, 1, 5);
    offer(0, 1, 5);
    write_page(0, 1, 6);
    offer(1, 1, 5);
    group_flush(group);
    assert_int_equal(vms[0].count + vms[1].count, 0);
    assert_int_equal(group->table.frame_count, 0);
    assert_int_equal(group->table.hint_count, 1); /* the one who offered last */
    assert_int_equal(vms[0].sharer.stale, 1);
    /* a page that has gone, too */
    assert_int_equal(ftruncate(vms[1].sharer.ram, 0), 0);
    write_page(2, 1, 5);
    offer(2, 1, 5);
    group_flush(group);
    assert_int_equal(group->table.frame_count, 0);
    /* and a new content takes the place of the older hint */
    write_page(2, 1, 9);
    offer(2, 1, 9);
    assert_int_equal(group->table.hint_count, 1);
    assert_int_equal(share_find(&group->table, hash_of(5)), SHARE_NONE);
    group_check(group);
}

/* When an older hint goes, the one that matches may be the one that takes its place in the table.
 */
static void test_hint_that_moves(void **state)
{
    write_page(0, 1, 5);
    offer(0, 1, 5);
    write_page(1, 2, 6);
    offer(1, 2, 6);
    write_page(0, 1, 6);
    offer(0, 1, 6);
    group_flush(group);
    assert_int_equal(vms[0].count, 1);
    assert_int_equal(vms[1].count, 1);
    assert_int_equal(vms[1].got[0].ppn, 2);
    assert_int_equal(group->table.hint_count, 0);
    group_check(group);
}

/* A VM that says another page's hash gets nothing, and takes nothing from who says the truth. */
static void test_wrong_hash(void **state)
{
    write_page(0, 1, 666);
    write_page(1, 1, 5);
    write_page(2, 1, 5);
    offer(0, 1, 5);
    offer(1, 1, 5);
    offer(2, 1, 5);
    group_flush(group);
    assert_int_equal(vms[0].count, 0);
    assert_int_equal(vms[1].count, 1);
    assert_int_equal(vms[2].count, 1);
    /* of a frame, it gets a reference: it can read the pool anyway */
    offer(0, 2, 5);
    group_flush(group);
    assert_int_equal(vms[0].count, 1);
    group_check(group);
}

static void test_within_one_vm(void **state)
{
    /* each message's answer is longer than a message may be */
    for (uint32_t ppn = 0; ppn < LINK_PAGES; ppn++) {
        write_page(0, ppn, 1000 + ppn);
        write_page(0, 4096 + ppn, 1000 + ppn);
        offer(0, ppn, 1000 + ppn);
    }
    for (uint32_t ppn = 0; ppn < LINK_PAGES; ppn++)
        offer(0, 4096 + ppn, 1000 + ppn);
    group_flush(group);
    assert_int_equal(vms[0].count, 2 * LINK_PAGES);
    assert_int_equal(vms[0].messages, 2);
    assert_int_equal(group->table.frame_count, LINK_PAGES);
    group_check(group);
}

static void test_who_does_not_read(void **state)
{
    write_page(0, 1, 5);
    write_page(1, 1, 5);
    vms[0].reads = false;
    offer(0, 1, 5);
    offer(1, 1, 5);
    group_flush(group);
    assert_int_equal(mirror_get(&vms[0].sharer.mirror, 1), SHARE_NONE);
    assert_int_equal(vms[1].count, 1);
    assert_int_equal(share_count(&group->table, vms[1].got[0].frame), 1);
    /* neither of them: the frame goes at once */
    vms[1].reads = false;
    write_page(0, 2, 7);
    write_page(1, 2, 7);
    offer(0, 2, 7);
    offer(1, 2, 7);
    group_flush(group);
    assert_int_equal(group->table.frame_count, 1);
    group_check(group);
    /* also where the answer is longer than one message, and the first part fails */
    for (uint32_t ppn = 100; ppn < 2500; ppn++) {
        write_page(0, ppn, ppn % 3 + 50);
        offer(0, ppn, ppn % 3 + 50);
    }
    group_flush(group);
    assert_int_equal(vms[0].count, 0);
    assert_int_equal(vms[0].sharer.mirror.frames, 0);
    group_check(group);
}

/* Hints are for pages that there are. */
static void test_flood_of_ppns(void **state)
{
    write_page(0, 1, 5);
    for (uint32_t ppn = 0; ppn < PAGES; ppn++)
        offer(0, ppn, 100000 + ppn);
    assert_int_equal(group->table.hint_count, 1);
    write_page(0, 2, 6);
    for (uint32_t ppn = 0; ppn < PAGES; ppn++)
        offer(0, ppn, 200000 + ppn);
    assert_int_equal(group->table.hint_count, 2);
    group_check(group);
}

static void test_count_beyond_16_bits(void **state)
{
    enum { MANY = 66000 };
    struct error err;
    struct sharer big = vms[2].sharer;
    big.group = NULL;
    big.send = take;
    big.context = &vms[2];
    assert_int_equal(group_join(group, &big, MANY, &err), STATUS_OK);
    write_page(0, 1, 5);
    write_page(1, 1, 5);
    offer(0, 1, 5);
    offer(1, 1, 5);
    group_flush(group);
    uint32_t frame = vms[0].got[0].frame;
    for (uint32_t ppn = 0; ppn < MANY; ppn++)
        assert_int_equal(group_hold(&big, (struct link_ref){ppn, frame}, &err), STATUS_OK);
    assert_int_equal(share_count(&group->table, frame), MANY + 2);
    group_check(group);
    drop(0, 0);
    drop(1, 0);
    assert_int_equal(share_count(&group->table, frame), MANY);
    group_leave(&big);
    assert_int_equal(group->table.frame_count, 0);
    group_check(group);
}

static void test_breaches(void **state)
{
    struct error err;
    struct sharer *sharer = &vms[0].sharer;
    write_page(0, 1, 5);
    write_page(1, 1, 5);
    offer(0, 1, 5);
    struct link_ref hint = {.ppn = 1, .frame = mirror_get(&sharer->mirror, 1)};
    assert_int_equal(group_drop(sharer, hint, &err), STATUS_INVALID); /* a hint is no frame */
    offer(1, 1, 5);
    group_flush(group);
    struct link_ref ref = vms[0].got[0];
    static const struct {
        int ppn, frame;
    } wrong[] = {{1, 0}, {0, -1}, {1, 1}, {(int)PAGES, 0}, {INT32_MAX - 1, 0}};
    for (unsigned i = 1; i < 5; i++) {
        struct link_ref it = {ref.ppn + (uint32_t)wrong[i].ppn,
                              ref.frame + (uint32_t)wrong[i].frame};
        assert_int_equal(group_drop(sharer, it, &err), STATUS_INVALID);
        assert_true(strlen(err.text) > 0);
    }
    assert_int_equal(group_hold(sharer, ref, &err), STATUS_INVALID); /* once more */
    assert_int_equal(group_hold(sharer, (struct link_ref){2, ref.frame + 1}, &err), STATUS_INVALID);
    assert_int_equal(group_hold(sharer, (struct link_ref){2, 0}, &err), STATUS_INVALID);
    assert_int_equal(group_hold(sharer, (struct link_ref){PAGES, ref.frame}, &err), STATUS_INVALID);
    assert_int_equal(share_count(&group->table, ref.frame), 2);
    assert_int_equal(group_drop(sharer, ref, &err), STATUS_OK);
    assert_int_equal(group_drop(sharer, ref, &err), STATUS_INVALID); /* twice */
    assert_int_equal(share_count(&group->table, ref.frame), 1);
    group_check(group);
}

/* What a VM has of the pool can be read and nothing else. */
static void test_pool_is_for_reading(void **state)
{
    struct error err;
    struct stat info;
    int reader;
    uint8_t page[PAGE_SIZE] = {1};
    assert_int_equal(pool_reader(&group->pool, &reader, &err), STATUS_OK);
    assert_int_equal(pwrite(reader, page, sizeof page, 4096), -1);
    assert_int_equal(fallocate(reader, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, reader, 0), MAP_FAILED);
    assert_int_equal(ftruncate(reader, 0), -1);
    assert_int_equal(fstat(reader, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0400);
    assert_int_equal((uint64_t)info.st_size, POOL_BYTES);
    /* the manager itself could not truncate it */
    assert_int_equal(ftruncate(group->pool.fd, 4096), -1);
    assert_int_equal(errno, EPERM);

    /* a new manager takes it for what it is, and nothing else for it */
    struct pool again;
    assert_int_equal(pool_reopen(&again, reader, info.st_dev, info.st_ino + 1, &err),
                     STATUS_INVALID);
    assert_int_equal(pool_reopen(&again, vms[0].sharer.ram, info.st_dev, info.st_ino, &err),
                     STATUS_INVALID);
    struct stat other;
    int fake = memfd_create("fake", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fake, (off_t)POOL_BYTES), 0);
    assert_int_equal(fstat(fake, &other), 0);
    assert_int_equal(pool_reopen(&again, fake, other.st_dev, other.st_ino, &err), STATUS_INVALID);
    /* all but the mode, which a VM cannot give it */
    assert_int_equal(fcntl(fake, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
    assert_int_equal(pool_reopen(&again, fake, other.st_dev, other.st_ino, &err), STATUS_INVALID);
    assert_int_equal(fchmod(fake, 0400), 0);
    assert_int_equal(pool_reopen(&again, fake, other.st_dev, other.st_ino, &err), STATUS_OK);
    pool_close(&again);
    assert_int_equal(pool_reopen(&again, reader, info.st_dev, info.st_ino, &err), STATUS_OK);
    assert_int_equal(pool_write(&again, 1, page), STATUS_OK);
    assert_int_equal(pool_next(&again, 0), 1);
    assert_int_equal(fstat(reader, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0400);
    pool_free(&again, 1);
    pool_punch(&again);
    pool_close(&again);
    close(fake);
    close(reader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hint_then_frame, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stale_hint, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hint_that_moves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_hash, setup, teardown),
        cmocka_unit_test_setup_teardown(test_within_one_vm, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_does_not_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flood_of_ppns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_count_beyond_16_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_breaches, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pool_is_for_reading, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
