/*
 * Pages that leave and come back, at the moments that random histories seldom hit: what others see
 * while a page is coming, being punched, or being moved. The store's functions are those moments.
 */

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "marks.h"
#include "mem/page_leave.h"

static const struct ram_range ram = {0, 64 * KIB};

#define PPN     5u
#define PAYLOAD 0x123456789abcu /* as large as they get, almost */

struct probe {
    struct pmap *map;
    void (*in_get)(struct probe *probe);
    void (*in_drop)(struct probe *probe);
    unsigned gets, drops;
    enum status get_status;
    pthread_t waiter;
    _Atomic bool waits, has_read;
};

static enum status probe_get(void *context, enum page_state state, uint64_t payload, uint64_t ppn,
                             uint8_t *page, struct error *err)
{
    struct probe *probe = context;
    assert_int_equal(state, PAGE_SWAPPED);
    assert_int_equal(payload, PAYLOAD);
    assert_int_equal(ppn, PPN);
    memset(page, 0x5a, PAGE_SIZE);
    probe->gets++;
    if (probe->in_get != NULL)
        probe->in_get(probe);
    return probe->get_status;
}

static void probe_drop(void *context, enum page_state state, uint64_t payload)
{
    struct probe *probe = context;
    assert_int_equal(state, PAGE_SWAPPED);
    assert_int_equal(payload, PAYLOAD);
    probe->drops++;
    if (probe->in_drop != NULL)
        probe->in_drop(probe);
}

static const struct page_store_ops ops = {.get = probe_get, .drop = probe_drop};

static int setup(void **state)
{
    static struct probe probe;
    probe = (struct probe){0};
    assert_int_equal(pmap_create(&probe.map, &ram, 1, NULL), STATUS_OK);
    pmap_set_store(probe.map, &ops, &probe);
    uint8_t bytes[1 << PAGE_SHIFT];
    memset(bytes, 0x5a, sizeof(bytes));
    assert_int_equal(pmap_write(probe.map, PPN * PAGE_SIZE, bytes, PAGE_SIZE), STATUS_OK);
    *state = &probe;
    return 0;
}

static int teardown(void **state)
{
    struct probe *probe = *state;
    struct error err = {0};
    if (pmap_check(probe->map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    pmap_destroy(probe->map);
    return 0;
}

static void send_away(struct probe *probe, bool punches)
{
    struct page_batch batch = {.count = 1, .ppn = {PPN}};
    page_leave_begin(probe->map, &batch, PAGE_LEAVE_ACTIVE);
    assert_int_equal(batch.count, 1);
    assert_true(page_leave_end(probe->map, &batch, 0, PAGE_SWAPPED, PAYLOAD));
    if (punches)
        page_punch(probe->map, batch.ppn, 1);
}

static void *read_page(void *context)
{
    struct probe *probe = context;
    uint8_t byte = 0;
    atomic_store(&probe->waits, true);
    assert_int_equal(pmap_read(probe->map, PPN * PAGE_SIZE + 100, &byte, 1), STATUS_OK);
    assert_int_equal(byte, 0x5a);
    atomic_store(&probe->has_read, true);
    return NULL;
}

/* Nobody sees the page, nobody takes it, and who wants it waits. */
static void while_coming(struct probe *probe)
{
    bool writable;
    struct page_batch batch = {.count = 1, .ppn = {PPN}};
    assert_null(pmap_page_read(probe->map, PPN, &writable));
    assert_null(pmap_page_claim(probe->map, PPN, &writable));
    page_leave_begin(probe->map, &batch, PAGE_LEAVE_ACTIVE);
    assert_int_equal(batch.count, 0);
    assert_int_equal(pmap_release(probe->map, 0, 16), 0);
    assert_int_equal(pmap_balloon_take(probe->map, PPN, 1), 0);
    assert_false(page_move_begin(probe->map, PPN, PAGE_SWAPPED, PAYLOAD));
    assert_int_equal(pthread_create(&probe->waiter, NULL, read_page, probe), 0);
    while (!atomic_load(&probe->waits))
        sched_yield();
    for (unsigned i = 0; i < 100; i++)
        sched_yield();
    assert_false(atomic_load(&probe->has_read));
}

/* ------------------------------------------------------------------------- code */

struct heard {
    struct pmap *map;
    unsigned calls, count, code_count;
    bool keeps_code;
};

static void hear(void *context, const struct pmap_revocation *what)
{
    struct heard *heard = context;
    *heard = (struct heard){heard->map, heard->calls + 1, what->count, what->code_count,
                            what->keeps_code};
    for (unsigned i = 0; i < what->code_count; i++) {
        assert_int_equal(what->code_ppns[i], PPN);
        /* Who has not heard of it yet cannot write the page without dropping its code. */
        assert_true(pmap_has_code(heard->map, PPN));
    }
    marks_take_off(heard->map, what);
}

static void check_heard(struct heard *heard, unsigned count, unsigned code_count, bool keeps_code)
{
    assert_int_equal(heard->calls, 1);
    assert_int_equal(heard->count, count);
    assert_int_equal(heard->code_count, code_count);
    assert_int_equal(heard->keeps_code, keeps_code);
    heard->calls = 0;
}

static void test_code_is_kept(void **state)
{
    struct probe *probe = *state;
    struct heard heard = {.map = probe->map};
    struct page_batch batch = {.count = 1, .ppn = {PPN}};
    bool writable;
    pmap_set_revoke_hook(probe->map, hear, &heard);
    for (unsigned wanted = 0; wanted < 2; wanted++) {
        pmap_code_mark(probe->map, PPN);
        pmap_code_guard(probe->map, PPN);
        batch.count = 1;
        page_leave_begin(probe->map, &batch, PAGE_LEAVE_ACTIVE | PAGE_LEAVE_KEEP_CODE);
        check_heard(&heard, 1, 1, true);
        assert_true(pmap_code_is_guarded(probe->map, PPN));
        if (wanted) {
            assert_non_null(pmap_page_read(probe->map, PPN, &writable));
            assert_false(writable);
            page_leave_code(probe->map, &batch);
            assert_int_equal(heard.calls, 0);
            assert_true(pmap_code_is_guarded(probe->map, PPN));
            assert_false(page_leave_end(probe->map, &batch, 0, PAGE_SWAPPED, PAYLOAD));
        } else {
            page_leave_code(probe->map, &batch);
            check_heard(&heard, 0, 1, false);
            assert_false(pmap_has_code(probe->map, PPN));
            page_leave_code(probe->map, &batch);
            assert_int_equal(heard.calls, 0);
            page_leave_cancel(probe->map, &batch, 0);
        }
    }
    batch.count = 1;
    page_leave_begin(probe->map, &batch, PAGE_LEAVE_ACTIVE);
    check_heard(&heard, 1, 1, false);
    assert_false(pmap_has_code(probe->map, PPN));
    page_leave_cancel(probe->map, &batch, 0);

    uint8_t byte = 1; /* a device writes it */
    pmap_code_mark(probe->map, PPN);
    pmap_code_guard(probe->map, PPN);
    assert_int_equal(pmap_write(probe->map, PPN * PAGE_SIZE, &byte, 1), STATUS_OK);
    check_heard(&heard, 1, 1, false);
    assert_false(pmap_has_code(probe->map, PPN));
    pmap_code_mark(probe->map, PPN);
    pmap_code_guard(probe->map, PPN);
    assert_int_equal(pmap_balloon_take(probe->map, PPN, 1), 1);
    check_heard(&heard, 1, 1, false);
    assert_false(pmap_has_code(probe->map, PPN));
    pmap_set_revoke_hook(probe->map, NULL, NULL);
}

/* Wanted while the others hear that its code goes: it stays. */
static void want_it(void *context, const struct pmap_revocation *what)
{
    struct probe *probe = context;
    bool writable;
    if (what->code_count != 0 && !what->keeps_code)
        assert_non_null(pmap_page_read(probe->map, PPN, &writable));
    marks_take_off(probe->map, what);
}

static void test_code_is_wanted_at_the_last_moment(void **state)
{
    struct probe *probe = *state;
    struct page_batch batch = {.count = 1, .ppn = {PPN}};
    pmap_set_revoke_hook(probe->map, want_it, probe);
    pmap_code_mark(probe->map, PPN);
    pmap_code_guard(probe->map, PPN);
    page_leave_begin(probe->map, &batch, PAGE_LEAVE_ACTIVE | PAGE_LEAVE_KEEP_CODE);
    page_leave_code(probe->map, &batch);
    assert_false(pmap_has_code(probe->map, PPN));
    assert_false(page_leave_end(probe->map, &batch, 0, PAGE_SWAPPED, PAYLOAD));
    assert_int_equal(pmap_state(probe->map, PPN), PAGE_PRIVATE);
    pmap_set_revoke_hook(probe->map, NULL, NULL);
}

static void test_coming(void **state)
{
    struct probe *probe = *state;
    send_away(probe, true);
    probe->in_get = while_coming;
    assert_int_equal(pmap_page_bring(probe->map, PPN), STATUS_OK);
    pthread_join(probe->waiter, NULL);
    assert_int_equal(probe->gets, 1); /* once for both */
    assert_int_equal(probe->drops, 1);
    struct pmap_stats stats;
    pmap_get_stats(probe->map, &stats);
    assert_int_equal(stats.faults_swap_in, 1);
    assert_true(stats.reclaim_stall_ns > 0);
}

/* Whoever waits for a page that is then lost is told as well, and so is the next one. */
static void fail_coming(struct probe *probe)
{
    probe->get_status = STATUS_IO;
}

static void test_lost(void **state)
{
    struct probe *probe = *state;
    send_away(probe, true);
    probe->in_get = fail_coming;
    uint8_t byte = 1;
    assert_int_equal(pmap_page_bring(probe->map, PPN), STATUS_IO);
    assert_int_equal(pmap_read(probe->map, PPN * PAGE_SIZE, &byte, 1), STATUS_IO);
    assert_int_equal(byte, 1);
    assert_int_equal(probe->drops, 0);
    /* Overwritten whole, it needs nothing of what is lost. */
    uint8_t bytes[1 << PAGE_SHIFT] = {7};
    assert_int_equal(pmap_write(probe->map, PPN * PAGE_SIZE, bytes, PAGE_SIZE), STATUS_OK);
    assert_int_equal(pmap_read(probe->map, PPN * PAGE_SIZE, &byte, 1), STATUS_OK);
    assert_int_equal(byte, 7);
    assert_int_equal(probe->gets, 2);
    assert_int_equal(probe->drops, 1);
}

/* A hollow page that is released is zero at once, but its memory cannot be used yet. */
static void while_punching(struct probe *probe)
{
    bool writable = true;
    assert_int_equal(pmap_state(probe->map, PPN), PAGE_ZERO);
    assert_null(pmap_page_claim(probe->map, PPN, &writable));
    const uint8_t *page = pmap_page_read(probe->map, PPN, &writable);
    assert_non_null(page);
    assert_int_equal(page[0], 0);
    assert_false(writable);
    page_punch(probe->map, &(uint64_t){PPN}, 1); /* not twice */
}

static void test_punching(void **state)
{
    struct probe *probe = *state;
    bool writable;
    send_away(probe, false);
    assert_null(pmap_page_read(probe->map, PPN, &writable));
    probe->in_drop = while_punching;
    assert_int_equal(pmap_release(probe->map, PPN, 1), 1);
    assert_int_equal(probe->drops, 1);
    uint8_t *page = pmap_page_write(probe->map, PPN);
    assert_non_null(page);
    for (unsigned i = 0; i < PAGE_SIZE; i++)
        assert_int_equal(page[i], 0);
}

/* A mover waits for who is reading what it is going to drop, and drops it, not the map. */
static void *end_move(void *context)
{
    struct probe *probe = context;
    atomic_store(&probe->waits, true);
    assert_false(page_move_end(probe->map, PPN, PAGE_SWAPPED, PAYLOAD, PAGE_COMPRESSED, 0x42));
    atomic_store(&probe->has_read, true);
    return NULL;
}

static void while_moving(struct probe *probe)
{
    assert_int_equal(pthread_create(&probe->waiter, NULL, end_move, probe), 0);
    while (!atomic_load(&probe->waits))
        sched_yield();
    for (unsigned i = 0; i < 100; i++)
        sched_yield();
    assert_false(atomic_load(&probe->has_read));
}

static void test_moving(void **state)
{
    struct probe *probe = *state;
    send_away(probe, true);
    assert_true(page_move_begin(probe->map, PPN, PAGE_SWAPPED, PAYLOAD));
    probe->in_get = while_moving;
    assert_int_equal(pmap_page_bring(probe->map, PPN), STATUS_OK);
    pthread_join(probe->waiter, NULL);
    assert_int_equal(probe->drops, 0);
    assert_int_equal(pmap_state(probe->map, PPN), PAGE_PRIVATE);
}

/* Two take a page away one after the other, and somebody wants it in between: only the second may
 * end it, whatever the first believes. */
static void test_tickets(void **state)
{
    struct probe *probe = *state;
    struct page_batch first = {.count = 1, .ppn = {PPN}}, second = first;
    page_leave_begin(probe->map, &first, PAGE_LEAVE_ACTIVE);
    page_leave_begin(probe->map, &second, PAGE_LEAVE_ACTIVE);
    assert_int_equal(second.count, 0);
    assert_int_equal(pmap_write(probe->map, PPN * PAGE_SIZE, "new", 3), STATUS_OK);
    second.count = 1;
    page_leave_begin(probe->map, &second, PAGE_LEAVE_ACTIVE);
    assert_int_equal(second.count, 1);
    assert_false(page_leave_end(probe->map, &first, 0, PAGE_SWAPPED, PAYLOAD));
    page_leave_cancel(probe->map, &first, 0); /* is not its to cancel */
    assert_true(page_leave_end(probe->map, &second, 0, PAGE_SWAPPED, PAYLOAD));
    assert_int_equal(pmap_page_bring(probe->map, PPN), STATUS_OK);
    assert_int_equal(probe->gets, 0); /* it was still there */
    assert_int_equal(probe->drops, 1);
    char text[3];
    assert_int_equal(pmap_read(probe->map, PPN * PAGE_SIZE, text, 3), STATUS_OK);
    assert_memory_equal(text, "new", 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_code_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_code_is_wanted_at_the_last_moment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_coming, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_punching, setup, teardown),
        cmocka_unit_test_setup_teardown(test_moving, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tickets, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
