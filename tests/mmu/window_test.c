/*
 * The window by itself: pages of a memfd, mapped at linear addresses, kept and dropped.
 *
 * Whether a place can be read and written is asked of the kernel: a system call that has to touch
 * it gives EFAULT where an instruction would raise a signal. A host without room for a window (a
 * build with a sanitizer has none) skips the tests.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "fixture.h"
#include "window_probe.h"

#define HIGH       0x7f0000201000ull
#define LOW        0x400000ull
#define HIGH_FIRST ((1ull << WINDOW_BIT) + WINDOW_FIRST + PAGE_SIZE)
#define HIGH_LAST  ((2ull << WINDOW_BIT) - 2 * PAGE_SIZE)
#define LOW_FIRST  PAGE_SIZE
#define LOW_LAST   ((1ull << WINDOW_LOW_BITS) - PAGE_SIZE)
#define PPN        0x1234u /* any */
#define HOST_PAGES 16u

static bool has_room;
static struct window *window; /* of the test that runs; NULL: there is no room */
static uint8_t *host;         /* HOST_PAGES, all different */
static const uint8_t zeros[PAGE_SIZE];

/* ------------------------------------------------------------------------- helpers */

static uint8_t *host_page(unsigned number)
{
    return host + number * PAGE_SIZE;
}

static int setup(void **state)
{
    for (unsigned i = 0; i < HOST_PAGES; i++)
        memset(host_page(i), (int)i + 1, PAGE_SIZE);
    return has_room && window_create(&window, NULL) != STATUS_OK ? -1 : 0;
}

static int teardown(void **state)
{
    window_destroy(window);
    window = NULL;
    return 0;
}

static void need_window(void)
{
    if (window == NULL)
        skip();
}

static void expect(uint64_t linear, enum window_reach reach)
{
    assert_int_equal(window_reach_of(linear), reach);
    assert_int_equal(window_reach_of(linear + PAGE_SIZE - 1), reach);
}

static void expect_bytes(uint64_t linear, enum window_reach reach, const uint8_t *bytes)
{
    expect(linear, reach);
    assert_memory_equal(window_place(linear), bytes, PAGE_SIZE);
}

static void expect_page(uint64_t linear, enum window_reach reach, unsigned number)
{
    expect_bytes(linear, reach, host_page(number));
}

/* Nobody else can come to be there. */
static void expect_reserved(uint64_t linear)
{
    void *place = mmap(window_place(linear), PAGE_SIZE, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    assert_ptr_equal(place, MAP_FAILED);
    assert_int_equal(errno, EEXIST);
}

static void map(uint64_t linear, uint64_t ppn, unsigned number, enum window_access access)
{
    assert_true(window_map(window, linear, ppn, host_page(number), access));
}

/* ------------------------------------------------------------------------- mapping */

static void test_write(void **state)
{
    need_window();
    static const uint64_t places[] = {HIGH, LOW, HIGH_FIRST, HIGH_LAST, LOW_FIRST, LOW_LAST};
    for (unsigned i = 0; i < ARRAY_LENGTH(places); i++) {
        expect(places[i], HIDDEN);
        map(places[i], PPN + i, i, WINDOW_WRITE);
        assert_int_equal(window_count(window), i + 1);
    }
    for (unsigned i = 0; i < ARRAY_LENGTH(places); i++) {
        expect_page(places[i], WRITABLE, i);
        window_place(places[i])[5] = (uint8_t)(0x50 + i);
        assert_int_equal(host_page(i)[5], 0x50 + i);
        assert_int_equal(window_reach_of(places[i] - 1), HIDDEN);
        assert_int_equal(window_reach_of(places[i] + PAGE_SIZE), HIDDEN);
    }
}

static void test_read(void **state)
{
    need_window();
    map(HIGH, PPN, 3, WINDOW_READ);
    map(LOW, PPN, 3, WINDOW_READ);
    assert_true(window_map(window, HIGH + PAGE_SIZE, PPN, NULL, WINDOW_ZERO));
    map(LOW + PAGE_SIZE, PPN, 3, WINDOW_ZERO);
    host_page(3)[7] = 0x70;
    expect_page(HIGH, READABLE, 3);
    expect_page(LOW, READABLE, 3);
    expect_bytes(HIGH + PAGE_SIZE, READABLE, zeros);
    expect_bytes(LOW + PAGE_SIZE, READABLE, zeros);
}

/* From each kind of access to each other one. The page has its new PPN, and no old one. */
static void test_replace(void **state)
{
    need_window();
    for (unsigned from = WINDOW_ZERO; from <= WINDOW_WRITE; from++) {
        for (unsigned to = WINDOW_READ; to <= WINDOW_WRITE; to++) {
            map(LOW, PPN, 1, from);
            map(LOW, PPN + 1, 2, to);
            assert_int_equal(window_count(window), 1);
            window_drop_ppn(window, PPN);
            expect_page(LOW, to == WINDOW_WRITE ? WRITABLE : READABLE, 2);
            window_drop_ppn(window, PPN + 1);
            expect(LOW, HIDDEN);
            assert_int_equal(window_count(window), 0);
        }
    }
}

/* Its memory is of one process alone: there is no second mapping of it. */
static void test_private(void **state)
{
    static _Alignas(PAGE_SIZE) uint8_t page[PAGE_SIZE];
    need_window();
    map(HIGH + PAGE_SIZE, PPN, 1, WINDOW_WRITE);
    for (unsigned i = 0; i < 4; i++) {
        if (i < 2) /* in place of another */
            map(HIGH, PPN, 2, WINDOW_WRITE);
        assert_false(window_map(window, HIGH, PPN, page, i % 2 ? WINDOW_READ : WINDOW_WRITE));
        expect(HIGH, HIDDEN);
        expect_reserved(HIGH);
        assert_int_equal(window_count(window), 1);
    }
    expect_page(HIGH + PAGE_SIZE, WRITABLE, 1);
    map(HIGH, PPN, 3, WINDOW_READ);
    expect_page(HIGH, READABLE, 3);
}

/* ------------------------------------------------------------------------- dropping */

/* Others in the same bucket stay, before and after it. */
static void test_drop_linear(void **state)
{
    need_window();
    const uint64_t stride = WINDOW_PAGES * PAGE_SIZE;
    for (unsigned dropped = 0; dropped < 3; dropped++) {
        for (unsigned i = 0; i < 3; i++)
            map(HIGH + i * stride, PPN, i, WINDOW_WRITE);
        window_drop_linear(window, HIGH + dropped * stride);
        window_drop_linear(window, HIGH + dropped * stride); /* not there is fine */
        for (unsigned i = 0; i < 3; i++) {
            if (i != dropped)
                expect_page(HIGH + i * stride, WRITABLE, i);
        }
        expect(HIGH + dropped * stride, HIDDEN);
        expect_reserved(HIGH + dropped * stride);
    }
}

/* Several pages of one, and others in the same bucket. */
static void test_drop_ppn(void **state)
{
    need_window();
    const unsigned count = 9;
    for (unsigned dropped = 0; dropped < 3; dropped++) {
        for (unsigned i = 0; i < count; i++)
            map(HIGH + i * PAGE_SIZE, PPN + i % 3 * WINDOW_PAGES, i % 3, WINDOW_READ);
        window_drop_ppn(window, PPN + dropped * WINDOW_PAGES);
        window_drop_ppn(window, PPN + 3 * WINDOW_PAGES); /* of no page */
        window_drop_ppn(window, PPN + 1);
        assert_int_equal(window_count(window), count - 3);
        for (unsigned i = 0; i < count; i++) {
            if (i % 3 == dropped)
                expect(HIGH + i * PAGE_SIZE, HIDDEN);
            else
                expect_page(HIGH + i * PAGE_SIZE, READABLE, i % 3);
        }
        expect_reserved(HIGH + dropped * PAGE_SIZE);
    }
}

static bool has_ppn(const struct window_page *page, void *context)
{
    return page->ppn == *(const uint64_t *)context;
}

static void test_keep(void **state)
{
    need_window();
    uint64_t kept = PPN;
    for (unsigned i = 0; i < 12; i++)
        map(LOW + i * PAGE_SIZE, PPN + i % 2, i, WINDOW_WRITE);
    window_keep(window, has_ppn, &kept);
    assert_int_equal(window_count(window), 6);
    for (unsigned i = 0; i < 12; i += 2) {
        expect_page(LOW + i * PAGE_SIZE, WRITABLE, i);
        expect(LOW + (i + 1) * PAGE_SIZE, HIDDEN);
    }
    kept = PPN + 1;
    window_keep(window, has_ppn, &kept);
    assert_int_equal(window_count(window), 0);
    expect(LOW, HIDDEN);
}

/* Those that somebody may miss: not where all go, nor where one takes the place of another. */
static void test_losses(void **state)
{
    need_window();
    uint64_t kept = PPN + 1;
    for (unsigned i = 0; i < 12; i++)
        map(LOW + i * PAGE_SIZE, PPN + i % 2, i, WINDOW_READ);
    map(LOW, PPN, 0, WINDOW_WRITE);
    assert_int_equal(window_losses(window), 0);
    window_drop_linear(window, LOW);
    window_drop_linear(window, LOW);
    assert_int_equal(window_losses(window), 1);
    window_keep(window, has_ppn, &kept);
    assert_int_equal(window_losses(window), 6);
    kept = PPN;
    window_keep(window, has_ppn, &kept);
    assert_int_equal(window_count(window), 0);
    assert_int_equal(window_losses(window), 6);
    map(LOW, PPN, 0, WINDOW_READ);
    window_empty(window);
    assert_int_equal(window_losses(window), 6);
    map(LOW, PPN, 0, WINDOW_READ);
    map(HIGH, PPN, 0, WINDOW_READ);
    window_drop_ppn(window, PPN);
    assert_int_equal(window_losses(window), 8);
}

static void test_empty(void **state)
{
    need_window();
    static const uint64_t places[] = {HIGH, LOW, LOW_LAST};
    window_empty(window);
    for (unsigned i = 0; i < ARRAY_LENGTH(places); i++)
        map(places[i], PPN, i, i);
    window_empty(window);
    for (unsigned i = 0; i < ARRAY_LENGTH(places); i++) {
        expect(places[i], HIDDEN);
        expect_reserved(places[i]);
    }
    window_drop_ppn(window, PPN);
    window_drop_linear(window, HIGH);
    assert_int_equal(window_count(window), 0);
}

/* ------------------------------------------------------------------------- much */

static void fill(unsigned first, unsigned step)
{
    for (unsigned i = first; i < WINDOW_PAGES; i += step)
        map(HIGH + i * PAGE_SIZE, i, i % HOST_PAGES, WINDOW_READ);
}

static void expect_full(void)
{
    assert_int_equal(window_count(window), WINDOW_PAGES);
    for (unsigned i = 0; i < WINDOW_PAGES; i++)
        expect_page(HIGH + i * PAGE_SIZE, READABLE, i % HOST_PAGES);
}

static void test_full(void **state)
{
    need_window();
    fill(0, 1);
    expect_full();
    /* As many can come as have gone, again and again, and one in place of another. */
    for (unsigned round = 0; round < 30; round++) {
        for (unsigned i = 0; i < WINDOW_PAGES; i += 3)
            window_drop_linear(window, HIGH + i * PAGE_SIZE);
        fill(0, 3);
    }
    expect_full();
    map(HIGH, PPN, 0, WINDOW_READ);
    expect_full();

    uint64_t losses = window_losses(window);
    map(LOW, PPN, 5, WINDOW_WRITE);
    assert_int_equal(window_losses(window), losses + WINDOW_PAGES);
    assert_int_equal(window_count(window), 1);
    expect_page(LOW, WRITABLE, 5);
    for (unsigned i = 0; i < WINDOW_PAGES; i++)
        expect(HIGH + i * PAGE_SIZE, HIDDEN);
    window_drop_linear(window, LOW);
    fill(0, 1);
    expect_full();
}

/* ------------------------------------------------------------------------- by chance */

#define PLACES 40u
#define STEPS  4000u
#define PPNS   6u

/* What must be there. */
static struct model_page {
    bool is_mapped;
    uint64_t ppn;
    unsigned number;
    enum window_access access;
} model[PLACES];

/* High and low ones, beside each other and in one bucket. */
static uint64_t model_place(unsigned at)
{
    static const uint64_t bases[] = {HIGH, LOW, HIGH + WINDOW_PAGES * PAGE_SIZE,
                                     LOW_LAST - (PLACES / 4 - 1) * PAGE_SIZE};
    return bases[at % 4] + at / 4 * PAGE_SIZE;
}

struct choice {
    unsigned modulus, asked;
};

static bool is_chosen(const struct window_page *page, void *context)
{
    struct choice *choice = context;
    unsigned at = 0;
    while (at < PLACES && model_place(at) != page->linear)
        at++;
    assert_true(at < PLACES && model[at].is_mapped);
    assert_int_equal(page->ppn, model[at].ppn);
    assert_int_equal(page->access, model[at].access);
    choice->asked++;
    return at % choice->modulus != 0;
}

static void model_keep(unsigned modulus)
{
    unsigned count = window_count(window);
    struct choice choice = {.modulus = modulus};
    window_keep(window, is_chosen, &choice);
    assert_int_equal(choice.asked, count);
    for (unsigned at = 0; at < PLACES; at += modulus)
        model[at].is_mapped = false;
}

static void model_step(uint64_t chance)
{
    unsigned kind = chance % 32, at = (unsigned)(chance >> 8) % PLACES;
    unsigned number = (unsigned)(chance >> 16) % HOST_PAGES,
             which = (unsigned)(chance >> 24) % PPNS;
    uint64_t ppn = PPN + which / 3 + which % 3 * WINDOW_PAGES;
    if (kind == 0) {
        window_empty(window);
        memset(model, 0, sizeof(model));
    } else if (kind == 1) {
        model_keep(2 + number % 5);
    } else if (kind < 4) {
        window_drop_ppn(window, ppn);
        for (at = 0; at < PLACES; at++)
            model[at].is_mapped &= model[at].ppn != ppn;
    } else if (kind < 8) {
        window_drop_linear(window, model_place(at));
        model[at].is_mapped = false;
    } else if (kind < 10) {
        host_page(number)[(chance >> 32) % PAGE_SIZE] ^= 0x80;
    } else {
        model[at] = (struct model_page){true, ppn, number, (unsigned)(chance >> 48) % 3};
        map(model_place(at), ppn, number, model[at].access);
    }
}

static void model_check(void)
{
    unsigned count = 0;
    for (unsigned at = 0; at < PLACES; at++) {
        const struct model_page *page = &model[at];
        count += page->is_mapped;
        if (!page->is_mapped)
            expect(model_place(at), HIDDEN);
        else if (page->access == WINDOW_ZERO)
            expect_bytes(model_place(at), READABLE, zeros);
        else
            expect_page(model_place(at), page->access == WINDOW_WRITE ? WRITABLE : READABLE,
                        page->number);
    }
    assert_int_equal(window_count(window), count);
}

static void test_by_chance(void **state)
{
    need_window();
    uint64_t seed = 1;
    for (unsigned step = 0; step < STEPS; step++) {
        model_step(test_random(&seed));
        model_check();
    }
}

/* ------------------------------------------------------------------------- where */

static void test_one_at_a_time(void **state)
{
    need_window();
    struct window *second = NULL;
    struct error err = {0};
    map(HIGH, PPN, 1, WINDOW_WRITE);
    assert_int_equal(window_create(&second, &err), STATUS_UNSUPPORTED);
    assert_int_not_equal(err.text[0], '\0');
    assert_null(second);
    expect_page(HIGH, WRITABLE, 1);
    teardown(state);
    expect(HIGH, HIDDEN);
    assert_int_equal(window_create(&window, &err), STATUS_OK);
    expect(HIGH, HIDDEN);
    map(HIGH, PPN, 2, WINDOW_READ);
    assert_int_equal(window_count(window), 1);
    expect_page(HIGH, READABLE, 2);
}

/* With both ends of a half: there is a place for all of its pages, and none beyond. */
static void expect_half(uint64_t first, uint64_t last)
{
    static const int64_t inside[] = {0, 5, PAGE_SIZE, 0x400000};
    for (unsigned i = 0; i < ARRAY_LENGTH(inside); i++) {
        assert_true(window_has_place(first + inside[i]));
        assert_true(window_has_place(last + PAGE_SIZE - 1 - inside[i]));
    }
    assert_false(window_has_place(first - 1));
    assert_false(window_has_place(last + PAGE_SIZE));
    assert_in_range(window_flip(first), WINDOW_FIRST + PAGE_SIZE, WINDOW_END - 1);
    assert_in_range(window_flip(last), WINDOW_FIRST, WINDOW_END - 3 * PAGE_SIZE);
}

static void test_places(void **state)
{
    static const uint64_t nowhere[] = {
        0, 0x3fffffffffff, 0x400000000000, 0xff0000201000, 0x80007f0000201000, UINT64_MAX};
    expect_half(LOW_FIRST, LOW_LAST);
    expect_half(HIGH_FIRST, HIGH_LAST);
    for (unsigned i = 0; i < ARRAY_LENGTH(nowhere); i++)
        assert_false(window_has_place(nowhere[i]));
}

/* What this process has is where no direct access comes to. */
static void test_may_reach(void **state)
{
    int local;
    assert_true(window_may_reach(0));
    assert_true(window_may_reach(WINDOW_END - 1));
    assert_false(window_may_reach(WINDOW_END));
    assert_false(window_may_reach(bit(WINDOW_BIT + 1) - 1));
    assert_true(window_may_reach(bit(WINDOW_BIT + 1)));
    assert_true(window_may_reach(UINT64_MAX));
    if (has_room) {
        assert_false(window_may_reach((uintptr_t)&local));
        assert_false(window_may_reach((uintptr_t)setup));
    }
}

int main(void)
{
    const size_t size = HOST_PAGES * PAGE_SIZE;
    int file = memfd_create("window_test", 0);
    if (ftruncate(file, (off_t)size) != 0 || !window_probe_open())
        return 1;
    host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    has_room = window_create(&window, NULL) != STATUS_UNSUPPORTED;
    teardown(NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_read, setup, teardown),
        cmocka_unit_test_setup_teardown(test_replace, setup, teardown),
        cmocka_unit_test_setup_teardown(test_private, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drop_linear, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drop_ppn, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keep, setup, teardown),
        cmocka_unit_test_setup_teardown(test_losses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_empty, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_by_chance, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_at_a_time, setup, teardown),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_may_reach),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
