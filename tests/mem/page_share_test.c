/*
 * Pages that become shared and private again, at the moments that random histories seldom hit: what
 * others see while a page is compared or copied, and when its reference is dropped. The revoke hook
 * is those moments.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "marks.h"
#include "mem/page_hash.h"
#include "mem/page_share.h"

#define PPN    5u
#define FRAMES 4u

static const struct ram_range ram = {0, 64 * KIB};

struct probe {
    struct pmap *map;
    _Alignas(1 << PAGE_SHIFT) uint8_t pool[FRAMES][1 << PAGE_SHIFT];
    void (*in_revoke)(struct probe *probe);
    unsigned revocations, code_revocations, drops;
    uint32_t dropped;
};

static void on_revoke(void *context, const struct pmap_revocation *what)
{
    struct probe *probe = context;
    probe->revocations++;
    probe->code_revocations += what->keeps_code ? 0 : what->code_count;
    void (*in_revoke)(struct probe *) = probe->in_revoke;
    probe->in_revoke = NULL;
    if (in_revoke != NULL)
        in_revoke(probe);
    marks_take_off(probe->map, what);
}

static void on_drop(void *context, uint64_t ppn, uint32_t frame)
{
    struct probe *probe = context;
    assert_int_equal(ppn, PPN);
    probe->drops++;
    probe->dropped = frame;
    memset(probe->pool[frame], 0xdd, PAGE_SIZE);
}

static const struct page_share_ops ops = {.drop = on_drop};

static int setup(void **state)
{
    static struct probe probe;
    probe = (struct probe){0};
    assert_int_equal(pmap_create(&probe.map, &ram, 1, NULL), STATUS_OK);
    pmap_set_revoke_hook(probe.map, on_revoke, &probe);
    pmap_set_share(probe.map, &ops, &probe);
    assert_true(pmap_set_pool(probe.map, probe.pool[0], FRAMES));
    memset(probe.pool[1], 0x5a, PAGE_SIZE);
    assert_int_equal(pmap_write(probe.map, PPN * PAGE_SIZE, probe.pool[1], PAGE_SIZE), STATUS_OK);
    *state = &probe;
    return 0;
}

static int teardown(void **state)
{
    struct probe *probe = *state;
    struct error err = {0};
    if (pmap_check(probe->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    page_share_end(probe->map);
    pmap_destroy(probe->map);
    return 0;
}

static bool share(struct probe *probe, uint32_t frame)
{
    bool shared;
    page_share(probe->map, &(struct page_ref){PPN, frame}, 1, &shared);
    return shared;
}

/* As a vCPU that reads. */
static const uint8_t *lend(struct probe *probe)
{
    bool writable = true;
    const uint8_t *page = pmap_page_read(probe->map, PPN, &writable);
    assert_non_null(page);
    assert_false(writable);
    return page;
}

/* ------------------------------------------------------------------------- dropping */

static void expect_no_drop(struct probe *probe)
{
    assert_int_equal(probe->drops, 0);
    assert_ptr_not_equal(lend(probe), probe->pool[1]); /* whoever looks now has the copy */
    assert_int_equal(lend(probe)[17], 0x5a);
}

static void test_dropped_after_revocation(void **state)
{
    struct probe *probe = *state;
    assert_true(share(probe, 1));
    assert_ptr_equal(lend(probe), probe->pool[1]);
    probe->in_revoke = expect_no_drop;
    unsigned before = probe->revocations;
    uint8_t *page = pmap_page_write(probe->map, PPN);
    assert_int_equal(probe->revocations, before + 1);
    assert_int_equal(probe->drops, 1);
    assert_int_equal(probe->dropped, 1);
    assert_int_equal(page[17], 0x5a);
}

static void test_not_lent(void **state)
{
    struct probe *probe = *state;
    assert_true(share(probe, 1));
    unsigned before = probe->revocations;
    assert_int_equal(pmap_write(probe->map, PPN * PAGE_SIZE, "new", 3), STATUS_OK);
    assert_int_equal(probe->revocations, before);
    assert_int_equal(probe->drops, 1);
    uint8_t bytes[4];
    assert_int_equal(pmap_read(probe->map, PPN * PAGE_SIZE, bytes, 4), STATUS_OK);
    assert_memory_equal(bytes, "new\x5a", 4);
}

static void expect_zero(struct probe *probe)
{
    assert_int_equal(probe->drops, 0);
    assert_int_equal(pmap_state(probe->map, PPN), PAGE_ZERO);
    assert_int_equal(lend(probe)[17], 0);
    assert_int_equal(probe->pool[1][17], 0x5a); /* for whom it was lent to */
}

static void test_released(void **state)
{
    struct probe *probe = *state;
    assert_true(share(probe, 1));
    lend(probe);
    assert_true(pmap_code_mark(probe->map, PPN));
    probe->in_revoke = expect_zero;
    assert_int_equal(pmap_release(probe->map, 0, 16), 1);
    assert_int_equal(probe->drops, 1);
    assert_int_equal(probe->code_revocations, 1);
    assert_false(pmap_has_code(probe->map, PPN));
}

static void test_ballooned(void **state)
{
    struct probe *probe = *state;
    assert_true(share(probe, 1));
    assert_int_equal(pmap_balloon_take(probe->map, PPN, 1), 1);
    assert_int_equal(probe->drops, 1);
    assert_int_equal(pmap_state(probe->map, PPN), PAGE_BALLOONED);
}

static void test_pool_stays(void **state)
{
    struct probe *probe = *state;
    assert_true(share(probe, 1));
    assert_false(pmap_set_pool(probe->map, NULL, 0));
    uint64_t next = 0;
    assert_int_equal(page_unshare_some(probe->map, &next, 8), STATUS_OK);
    assert_int_equal(next, 16);
    assert_true(pmap_set_pool(probe->map, NULL, 0));
    assert_false(share(probe, 1));
    uint8_t byte;
    assert_int_equal(pmap_read(probe->map, PPN * PAGE_SIZE + 9, &byte, 1), STATUS_OK);
    assert_int_equal(byte, 0x5a);
}

/* ------------------------------------------------------------------------- comparing */

static void write_page(struct probe *probe)
{
    assert_int_equal(pmap_write(probe->map, PPN * PAGE_SIZE, "new", 3), STATUS_OK);
}

static void write_the_same(struct probe *probe)
{
    assert_int_equal(pmap_write(probe->map, PPN * PAGE_SIZE, "\x5a", 1), STATUS_OK);
}

static void release_page(struct probe *probe)
{
    assert_int_equal(pmap_release(probe->map, PPN, 1), 1);
}

static void test_wanted_meanwhile(void **state)
{
    struct probe *probe = *state;
    void (*const wants[])(struct probe *) = {write_the_same, write_page, release_page};
    for (unsigned i = 0; i < ARRAY_LENGTH(wants); i++) {
        probe->in_revoke = wants[i];
        assert_false(share(probe, 1));
        assert_int_equal(probe->drops, 0);
        assert_int_equal(pmap_state(probe->map, PPN), i < 2 ? PAGE_PRIVATE : PAGE_ZERO);
    }
}

static void test_unequal(void **state)
{
    struct probe *probe = *state;
    for (unsigned at = 0; at < PAGE_SIZE; at += 1365) { /* the first byte, the last, two others */
        memset(probe->pool[2], 0x5a, PAGE_SIZE);
        probe->pool[2][at] ^= 1;
        assert_false(share(probe, 2));
        assert_int_equal(pmap_state(probe->map, PPN), PAGE_PRIVATE);
    }
    assert_false(share(probe, 0));
    assert_false(share(probe, FRAMES));
    assert_false(share(probe, UINT32_MAX));
    assert_int_equal(probe->drops, 0);
}

/* A page that is about to leave is shared before that, and does not leave then. */
static void test_taken_over(void **state)
{
    struct probe *probe = *state;
    struct page_batch batch = {.count = 1, .ppn = {PPN}};
    page_leave_begin(probe->map, &batch, PAGE_LEAVE_ACTIVE);
    assert_int_equal(batch.count, 1);
    struct page_look_at look = {.ppn = PPN};
    page_look(probe->map, &look, 1, 7);
    assert_int_equal(look.look, PAGE_LOOK_HASHED);
    assert_int_equal(look.hash, page_hash(probe->pool[1], 7));
    assert_true(share(probe, 1));
    assert_false(page_leave_end(probe->map, &batch, 0, PAGE_SWAPPED, 77));
    page_leave_cancel(probe->map, &batch, 0);
    assert_int_equal(pmap_state(probe->map, PPN), PAGE_SHARED);
}

/* Code decoded from a page is good as long as its bytes are the same, wherever they are. */
static void test_code_stays(void **state)
{
    struct probe *probe = *state;
    assert_true(pmap_code_mark(probe->map, PPN));
    pmap_code_guard(probe->map, PPN);
    assert_true(share(probe, 1));
    assert_true(pmap_code_is_guarded(probe->map, PPN));
    lend(probe);
    assert_non_null(pmap_page_write(probe->map, PPN)); /* what a vCPU does after it dropped code */
    assert_true(pmap_code_is_guarded(probe->map, PPN));
    assert_int_equal(probe->code_revocations, 0);
    assert_true(share(probe, 0) == false && probe->drops == 1);
    write_page(probe);
    assert_int_equal(probe->code_revocations, 1);
    assert_false(pmap_has_code(probe->map, PPN));
}

static void expect_mark(struct probe *probe)
{
    assert_true(pmap_has_code(probe->map, PPN));
}

/* The guest frees it: the mark stays until everybody has heard that the code goes. */
static void test_code_is_freed(void **state)
{
    struct probe *probe = *state;
    assert_true(pmap_code_mark(probe->map, PPN));
    pmap_code_guard(probe->map, PPN);
    assert_true(share(probe, 1));
    probe->in_revoke = expect_mark;
    assert_int_equal(pmap_release(probe->map, PPN, 1), 1);
    assert_int_equal(probe->code_revocations, 1);
    assert_false(pmap_has_code(probe->map, PPN));
    assert_int_equal(pmap_state(probe->map, PPN), PAGE_ZERO);
}

/* ------------------------------------------------------------------------- reading */

static void test_readers_break_nothing(void **state)
{
    struct probe *probe = *state;
    _Alignas(1 << PAGE_SHIFT) uint8_t bytes[1 << PAGE_SHIFT];
    assert_true(share(probe, 1));
    assert_int_equal(pmap_read(probe->map, PPN * PAGE_SIZE, bytes, PAGE_SIZE), STATUS_OK);
    assert_memory_equal(bytes, probe->pool[1], PAGE_SIZE);
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(pmap_peek(probe->map, PPN, bytes), STATUS_OK);
    assert_memory_equal(bytes, probe->pool[1], PAGE_SIZE);
    pmap_set_peeking(probe->map, false); /* is about pages that are away */
    assert_int_equal(pmap_peek(probe->map, PPN, bytes), STATUS_OK);
    bool writable = true;
    assert_ptr_equal(pmap_page_claim(probe->map, PPN, &writable), probe->pool[1]);
    assert_false(writable);
    assert_int_equal(pmap_page_bring(probe->map, PPN), STATUS_OK);
    assert_true(pmap_is_shared(probe->map, PPN));
    assert_int_equal(probe->drops, 0);
}

/* Who pins it needs it in layer 0, in one piece with its neighbours. */
static void test_pinned(void **state)
{
    struct probe *probe = *state;
    struct iovec iov;
    unsigned count = 0;
    assert_true(share(probe, 1));
    assert_int_equal(pmap_pin(probe->map, PPN * PAGE_SIZE, PAGE_SIZE, PIN_READ, &iov, &count, 1),
                     STATUS_OK);
    assert_int_equal(((uint8_t *)iov.iov_base)[4095], 0x5a);
    assert_int_equal(probe->drops, 1);
    memset(probe->pool[1], 0x5a, PAGE_SIZE);
    assert_false(share(probe, 1));
    struct page_look_at look = {.ppn = PPN};
    page_look(probe->map, &look, 1, 7);
    assert_int_equal(look.look, PAGE_LOOK_BUSY);
    pmap_unpin(probe->map, PPN * PAGE_SIZE, PAGE_SIZE, false);
    assert_true(share(probe, 1));
}

/* ------------------------------------------------------------------------- looking */

static void test_hashes_agree(void **state)
{
    struct probe *probe = *state;
    for (unsigned i = 0; i < PAGE_SIZE; i++)
        probe->pool[3][i] = (uint8_t)(i * i >> 3);
    uint64_t plain = page_hash_plain()(probe->pool[3], 99);
    assert_int_equal(page_hash(probe->pool[3], 99), plain);
    if (page_hash_avx2() != NULL)
        assert_int_equal(page_hash_avx2()(probe->pool[3], 99), plain);
    assert_int_not_equal(page_hash(probe->pool[3], 98), plain);
}

/* It neither touches pages nor gives memory to those that have none. */
static void test_looking_leaves_no_trace(void **state)
{
    struct probe *probe = *state;
    struct page_look_at looks[18];
    struct page_batch sample = {.count = 1, .ppn = {PPN}};
    page_sample_begin(probe->map, &sample);
    for (unsigned i = 0; i < ARRAY_LENGTH(looks); i++)
        looks[i].ppn = i;
    looks[17].ppn = UINT64_MAX;
    page_look(probe->map, looks, ARRAY_LENGTH(looks), 1);
    for (unsigned i = 0; i < ARRAY_LENGTH(looks); i++)
        assert_int_equal(looks[i].look, i == PPN ? PAGE_LOOK_HASHED : PAGE_LOOK_OTHER);
    assert_int_equal(page_sample_end(probe->map, &sample), 0);
}

/* As many as may be, with one revocation for all. */
static void test_many_at_once(void **state)
{
    static const struct ram_range much = {0, 2 * MIB};
    struct probe *probe = *state;
    struct page_ref refs[PAGE_SHARE_MAX];
    bool shared[PAGE_SHARE_MAX];
    struct pmap *map;
    assert_int_equal(pmap_create(&map, &much, 1, NULL), STATUS_OK);
    pmap_set_revoke_hook(map, on_revoke, probe);
    assert_true(pmap_set_pool(map, probe->pool[0], FRAMES));
    for (unsigned i = 0; i < PAGE_SHARE_MAX; i++) {
        refs[i] = (struct page_ref){i + i / 3, 1}; /* with gaps */
        assert_int_equal(pmap_write(map, refs[i].ppn * PAGE_SIZE, probe->pool[1], PAGE_SIZE),
                         STATUS_OK);
    }
    probe->revocations = 0;
    page_share(map, refs, PAGE_SHARE_MAX, shared);
    assert_int_equal(probe->revocations, 1);
    for (unsigned i = 0; i < PAGE_SHARE_MAX; i++) {
        assert_true(shared[i]);
        assert_int_equal(pmap_state(map, refs[i].ppn), PAGE_SHARED);
    }
    page_share_end(map);
    pmap_destroy(map);
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_dropped_after_revocation),
        CASE(test_not_lent),
        CASE(test_released),
        CASE(test_ballooned),
        CASE(test_pool_stays),
        CASE(test_wanted_meanwhile),
        CASE(test_unequal),
        CASE(test_taken_over),
        CASE(test_code_stays),
        CASE(test_code_is_freed),
        CASE(test_readers_break_nothing),
        CASE(test_pinned),
        CASE(test_hashes_agree),
        CASE(test_looking_leaves_no_trace),
        CASE(test_many_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
