/*
 * Queues in pages that are away: rings are brought back as they were, buffers that the device will
 * write are not read back, whole pages that it reads are borrowed, and a lost one breaks the queue.
 */

#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../mem/memory_store.h"
#include "../mem/refusing_host.h"
#include "dev/virtio/iov.h"
#include "dev/virtio/virtqueue.h"

#define SIZE   256u /* so that the descriptors are a whole page */
#define DESC   0x10000u
#define DRIVER 0x11000u
#define DEVICE 0x12000u
#define OUT    0x20000u
#define HEAD   100u /* bytes of it in the page before */
#define IN     0x30000u

struct suite {
    struct pmap *map;
    struct memory_store *store;
    struct virtqueue queue;
};

static void put(struct suite *suite, uint64_t gpa, const void *bytes, size_t length)
{
    assert_int_equal(pmap_write(suite->map, gpa, bytes, length), STATUS_OK);
}

/* A chain of three pages to be read, of which the middle one is here, and two and a half to be
 * written, and all else away. */
static int setup(void **state)
{
    static const struct ram_range ram = {0, MIB};
    static struct suite suite;
    suite = (struct suite){.store = memory_store_create()};
    assert_int_equal(pmap_create(&suite.map, &ram, 1, NULL), STATUS_OK);
    pmap_set_store(suite.map, &memory_store_ops, suite.store);
    struct vring_desc desc[2] = {
        {.addr = OUT - HEAD, .len = HEAD + 3 * PAGE_SIZE, .flags = VRING_DESC_F_NEXT, .next = 1},
        {.addr = IN, .len = 2 * PAGE_SIZE + 100, .flags = VRING_DESC_F_WRITE},
    };
    uint16_t avail[3] = {0, 1, 0}; /* flags, index, ring[0] */
    put(&suite, DESC, desc, sizeof(desc));
    put(&suite, DRIVER, avail, sizeof(avail));
    for (unsigned i = 0; i < 3; i++)
        put(&suite, IN + i * PAGE_SIZE, "old", 3);
    put(&suite, OUT - HEAD, "head", 4);
    for (unsigned i = 0; i < 3; i++)
        put(&suite, OUT + i * PAGE_SIZE, (uint8_t[]){(uint8_t)('a' + i)}, 1);

    static const uint64_t gpas[] = {
        DESC, DRIVER,         OUT - PAGE_SIZE,   OUT, OUT + 2 * PAGE_SIZE,
        IN,   IN + PAGE_SIZE, IN + 2 * PAGE_SIZE};
    struct page_batch batch = {.count = ARRAY_LENGTH(gpas)};
    for (unsigned i = 0; i < ARRAY_LENGTH(gpas); i++)
        batch.ppn[i] = gpas[i] >> PAGE_SHIFT;
    page_leave_begin(suite.map, &batch, PAGE_LEAVE_ACTIVE);
    assert_int_equal(batch.count, ARRAY_LENGTH(gpas));
    for (unsigned i = 0; i < batch.count; i++) {
        uint8_t bytes[1 << PAGE_SHIFT];
        assert_true(page_leave_copy(suite.map, batch.ppn[i], bytes));
        uint64_t payload = memory_store_put(suite.store, PAGE_SWAPPED, bytes);
        assert_true(page_leave_end(suite.map, &batch, i, PAGE_SWAPPED, payload));
    }
    page_punch(suite.map, batch.ppn, batch.count);

    virtqueue_init(&suite.queue, suite.map, SIZE);
    suite.queue.desc_gpa = DESC;
    suite.queue.driver_gpa = DRIVER;
    suite.queue.device_gpa = DEVICE;
    *state = &suite;
    return 0;
}

static int teardown(void **state)
{
    struct suite *suite = *state;
    struct error err = {0};
    struct pmap_stats stats;
    virtqueue_disable(&suite->queue);
    virtqueue_finish(&suite->queue);
    pmap_get_stats(suite->map, &stats);
    assert_int_equal(stats.pinned_pages, 0);
    assert_int_equal(suite->store->misused, 0);
    if (pmap_check(suite->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    pmap_destroy(suite->map);
    memory_store_destroy(suite->store);
    return 0;
}

static void check_out(struct virtqueue_chain *chain)
{
    uint8_t bytes[HEAD + 3 * PAGE_SIZE];
    assert_int_equal(chain->out_length, sizeof(bytes));
    assert_int_equal(iov_read(chain->iov, chain->out_count, 0, bytes, sizeof(bytes)),
                     sizeof(bytes));
    assert_memory_equal(bytes, "head", 4);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(bytes[HEAD + i * PAGE_SIZE], 'a' + i);
}

static void check_in(struct virtqueue_chain *chain)
{
    assert_int_equal(chain->in_length, 2 * PAGE_SIZE + 100);
    const uint8_t *in = virtqueue_chain_in(chain)->iov_base;
    for (unsigned i = 0; i < 2 * PAGE_SIZE; i++)
        assert_int_equal(in[i], 0); /* of nobody else */
    assert_memory_equal(in + 2 * PAGE_SIZE, "old", 3);
}

static void test_borrowed(void **state)
{
    struct suite *suite = *state;
    struct virtqueue_chain chain = {0};
    struct pmap_stats stats;
    assert_true(virtqueue_enable(&suite->queue, false, false, false));
    pmap_get_stats(suite->map, &stats);
    assert_int_equal(stats.faults_swap_in, 2); /* the rings */
    assert_int_equal(stats.overwritten, 0);

    assert_true(virtqueue_pop(&suite->queue, &chain));
    pmap_get_stats(suite->map, &stats);
    assert_int_equal(stats.faults_swap_in, 4); /* and parts of pages: of OUT, of IN */
    assert_int_equal(stats.overwritten, 2);
    assert_int_equal(stats.double_paging_avoided, 2);
    assert_int_equal(stats.double_paging_seen, 0);
    assert_int_equal(pmap_state(suite->map, OUT >> PAGE_SHIFT), PAGE_SWAPPED);
    check_out(&chain);
    check_in(&chain);

    /* The guest's write to a borrowed page goes to the page. */
    put(suite, OUT, "z", 1);
    check_out(&chain);
    virtqueue_push(&suite->queue, &chain, 10);
    uint8_t byte;
    assert_int_equal(pmap_read(suite->map, OUT, &byte, 1), STATUS_OK);
    assert_int_equal(byte, 'z');
    virtqueue_chain_finish(&chain);
}

/* Switched off, as it would be without. */
static void test_brought(void **state)
{
    struct suite *suite = *state;
    struct virtqueue_chain chain = {0};
    struct pmap_stats stats;
    pmap_set_peeking(suite->map, false);
    assert_true(virtqueue_enable(&suite->queue, false, false, false));
    assert_true(virtqueue_pop(&suite->queue, &chain));
    pmap_get_stats(suite->map, &stats);
    assert_int_equal(stats.faults_swap_in, 6);
    assert_int_equal(stats.double_paging_avoided, 0);
    assert_int_equal(stats.double_paging_seen, 2);
    check_out(&chain);
    check_in(&chain);
    virtqueue_push(&suite->queue, &chain, 10);
    virtqueue_chain_finish(&chain);
}

static void test_lost(void **state)
{
    struct suite *suite = *state;
    struct virtqueue_chain chain = {0};
    assert_true(virtqueue_enable(&suite->queue, false, false, false));
    suite->store->is_broken = true;
    assert_false(virtqueue_pop(&suite->queue, &chain));
    assert_true(suite->queue.broken);
    assert_string_equal(suite->queue.broken_reason, "buffer lost");
    virtqueue_chain_finish(&chain);
}

/* A chain for whose pages the host has no memory stays in the ring until it has. */
static void test_starved(void **state)
{
    struct suite *suite = *state;
    struct virtqueue_chain chain = {0};
    assert_true(virtqueue_enable(&suite->queue, false, false, false));
    host_refuses = host_refuses_all;
    for (unsigned i = 0; i < 2; i++) {
        assert_false(virtqueue_pop(&suite->queue, &chain));
        assert_false(virtqueue_unmute(&suite->queue));
        assert_false(suite->queue.broken);
    }
    host_refuses = NULL;
    assert_true(virtqueue_pop(&suite->queue, &chain));
    check_out(&chain);
    virtqueue_push(&suite->queue, &chain, 0);
    virtqueue_chain_finish(&chain);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_borrowed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_brought, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_starved, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
