/*
 * What the window shows of an MMU's user pages, and when that goes.
 *
 * A page is filled by a resolve, shown, and then something happens after which the guest must not
 * find it there any more, or only with less permission; or after which it may stay, and does.
 * Whether a place can be read and written is asked of the kernel (window_probe.h). A host
 * without room for a window skips the tests.
 *
 * The guest's tables are changed with the vCPU parked, since they may be traced (shadow.h).
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tlb_fixture.h"
#include "window_probe.h"

#define HIGH       0x7f0000201000ull
#define LOW        0x400000ull
#define LARGE      0x7f0000800000ull /* a page of 2 MiB: LARGE_AT */
#define LARGE_AT   (4 * MIB)
#define OTHER_ROOT 0x18000u  /* HIGH and LOW map PAGE_B */
#define UNWRITTEN  0x300000u /* RAM that nobody has written */
#define KEEP       true

static bool has_room;
static struct machine *machine;
static struct mmu *mmu; /* CPU 0's */

/* ------------------------------------------------------------------------- helpers */

static void entry_set(uint64_t root, uint64_t linear, uint64_t entry)
{
    mmu_park(mmu);
    machine_map(machine, root, linear, entry);
    mmu_unpark(mmu);
}

/* What the tables say of the 2 MiB that it is in. */
static void region_set(uint64_t linear, uint64_t entry)
{
    mmu_park(mmu);
    machine_put(machine, ROOT + 0x2000 + (linear >> 21 & 511) * 8, entry);
    mmu_unpark(mmu);
}

/* CPU 1 is parked, and stays so where a test does not say otherwise. */
static int show_setup(void **state)
{
    *state = machine = machine_create(2);
    mmu = &machine->cpus[0].mmu;
    mmu_park(&machine->cpus[1].mmu);
    for (uint64_t at = 0; at < 256 * KIB; at += PAGE_SIZE)
        machine_at(machine, at);
    memset(machine_at(machine, PAGE_A), 0xaa, PAGE_SIZE);
    memset(machine_at(machine, PAGE_B), 0xbb, PAGE_SIZE);
    memset(machine_at(machine, LARGE_AT + 0x3000), 0xcc, PAGE_SIZE);
    entry_set(ROOT, HIGH, PAGE_A | LEAF);
    entry_set(ROOT, LOW, PAGE_B | LEAF);
    region_set(LARGE, LARGE_AT | LEAF | PTE_PS);
    entry_set(OTHER_ROOT, HIGH, PAGE_B | LEAF);
    entry_set(OTHER_ROOT, LOW, PAGE_B | LEAF);
    machine_long_mode(mmu, ROOT);
    return has_room && window_create(&mmu->window, NULL) != STATUS_OK ? -1 : 0;
}

static void need_window(void)
{
    if (!has_room)
        skip();
}

static void expect(uint64_t linear, enum window_reach shown)
{
    assert_int_equal(window_reach_of(linear), shown);
}

/* As user code that has just had an access there. */
static void show(uint64_t linear, enum mmu_access access, enum window_reach shown)
{
    assert_int_equal(resolve(mmu, linear, access, MMU_USER), MMU_OK);
    assert_true(mmu_show(mmu, linear));
    expect(linear, shown);
}

/* HIGH is PAGE_A, LOW is PAGE_B. Any address of a page will do. */
static void show_both(void)
{
    show(HIGH + 0x123, MMU_WRITE, WRITABLE);
    show(LOW, MMU_WRITE, WRITABLE);
}

/* ------------------------------------------------------------------------- what is shown */

static void test_bytes(void **state)
{
    need_window();
    show_both();
    assert_int_equal(window_count(mmu->window), 2);
    assert_int_equal(mmu_user_pages(mmu), 2);
    assert_int_equal(window_place(HIGH)[5], 0xaa);
    assert_int_equal(window_place(LOW)[5], 0xbb);
    window_place(HIGH)[PAGE_SIZE - 1] = 0x11;
    assert_int_equal(*(uint8_t *)machine_at(machine, PAGE_A + PAGE_SIZE - 1), 0x11);
    *(uint8_t *)machine_at(machine, PAGE_B) = 0x22;
    assert_int_equal(window_place(LOW)[0], 0x22);
    /* Of a large page there is the piece. */
    show(LARGE + 0x3000, MMU_WRITE, WRITABLE);
    assert_int_equal(window_place(LARGE + 0x3000)[7], 0xcc);
    expect(LARGE + 0x2000, HIDDEN);
}

/* What user code does not have in the TLB, or the window has no place for. */
static void test_not_shown(void **state)
{
    need_window();
    assert_false(mmu_show(mmu, HIGH));
    reach(mmu, HIGH, MMU_WRITE, MMU_SUPERVISOR);
    reach(mmu, HIGH, MMU_EXECUTE, MMU_USER);
    assert_false(mmu_show(mmu, HIGH));
    entry_set(ROOT, LINEAR, PAGE_A | LEAF);
    reach(mmu, LINEAR, MMU_READ, MMU_USER);
    show(LOW, MMU_READ, WRITABLE);
    assert_false(mmu_show(mmu, LINEAR));
    assert_int_equal(window_count(mmu->window), 1);
    window_destroy(mmu->window);
    mmu->window = NULL;
    assert_false(mmu_show(mmu, LOW));
}

static void test_permission(void **state)
{
    need_window();
    entry_set(ROOT, HIGH, PAGE_A | (LEAF & ~PTE_D));
    entry_set(ROOT, LOW, PAGE_B | (LEAF & ~PTE_W));
    show(HIGH, MMU_READ, READABLE);
    show(LOW, MMU_READ, READABLE);
    assert_int_equal(window_place(HIGH)[5], 0xaa);
    assert_int_equal(window_place(LOW)[5], 0xbb);
    show(HIGH, MMU_WRITE, WRITABLE); /* it is dirty now */
}

static void test_zero(void **state)
{
    need_window();
    static const uint8_t zeros[PAGE_SIZE];
    entry_set(ROOT, HIGH, UNWRITTEN | LEAF);
    show(HIGH, MMU_READ, READABLE);
    assert_memory_equal(window_place(HIGH), zeros, PAGE_SIZE);
    mmu_flush(mmu, false);
    expect(HIGH, READABLE);
    /* It is another page of the host's from the first write on. */
    assert_int_equal(resolve(mmu, HIGH, MMU_WRITE, MMU_USER), MMU_OK);
    expect(HIGH, HIDDEN);
    *target.host = 0x77;
    show(HIGH, MMU_WRITE, WRITABLE);
    assert_int_equal(*window_place(HIGH), 0x77);
}

/* ------------------------------------------------------------------------- flushes */

static void test_flush_page(void **state)
{
    need_window();
    show_both();
    mmu_flush_page(mmu, HIGH - 1);
    mmu_flush_page(mmu, HIGH + PAGE_SIZE);
    expect(HIGH, WRITABLE);
    mmu_flush_page(mmu, HIGH + 0x123);
    expect(HIGH, HIDDEN);
    expect(LOW, WRITABLE);
}

/* Of HIGH. */
static const struct change {
    uint64_t entry;
    bool takes_write, takes_read; /* of who could write, and of who could read only */
} changes[] = {
    {PAGE_A | LEAF, false, false},
    {PAGE_A | (LEAF & ~PTE_A), false, false},
    {PAGE_A | LEAF | PTE_G | PTE_NX, false, false},
    {PAGE_A | (LEAF & ~PTE_W), true, false},
    {PAGE_A | (LEAF & ~PTE_D), true, false},
    {PAGE_A | (LEAF & ~PTE_U), true, true},
    {PAGE_B | LEAF, true, true},
    {UNWRITTEN | LEAF, true, true},
    {0, true, true},
};

static void flush_all(void)
{
    mmu_flush(mmu, false);
}

static void flush_local(void)
{
    mmu_flush(mmu, true);
}

/* The same space again: with PCIDs and without them. */
static void load_same(void)
{
    mmu_load_cr3(mmu, ROOT, !KEEP);
}

static void load_same_pcid(void)
{
    mmu->cr4 |= CR4_PCIDE_BIT;
    mmu_load_cr3(mmu, ROOT, KEEP);
    mmu->cr4 &= ~CR4_PCIDE_BIT;
}

static void leave_and_return(void)
{
    mmu->cr4 |= CR4_PCIDE_BIT;
    mmu_load_cr3(mmu, OTHER_ROOT | 1, KEEP);
    mmu_load_cr3(mmu, ROOT, !KEEP);
    mmu->cr4 &= ~CR4_PCIDE_BIT;
}

/* After the entry has changed and been flushed, a page stays where that has changed nothing. */
static void test_flush_changed(void **state)
{
    need_window();
    void (*const flushes[])(void) = {flush_all, flush_local, load_same, load_same_pcid,
                                     leave_and_return};
    for (unsigned i = 0; i < ARRAY_LENGTH(changes) * ARRAY_LENGTH(flushes) * 2; i++) {
        const struct change *change = &changes[i / 2 % ARRAY_LENGTH(changes)];
        bool is_written = i % 2, is_taken = is_written ? change->takes_write : change->takes_read;
        entry_set(ROOT, HIGH, PAGE_A | (is_written ? LEAF : LEAF & ~PTE_W));
        mmu_flush(mmu, false);
        window_empty(mmu->window);
        show(LOW, MMU_WRITE, WRITABLE);
        show(HIGH, MMU_READ, is_written ? WRITABLE : READABLE);
        entry_set(ROOT, HIGH, change->entry);
        flushes[i / 2 / ARRAY_LENGTH(changes)]();
        expect(HIGH, is_taken ? HIDDEN : is_written ? WRITABLE : READABLE);
        expect(LOW, WRITABLE);
        assert_null(mmu_probe_read(mmu, MMU_USER, LOW, 1));
    }
}

/* What is said above the page counts as well. */
static void test_flush_changed_above(void **state)
{
    need_window();
    static const uint64_t flags[] = {PTE_P, PTE_P | PTE_W, PTE_P | PTE_U, 0};
    for (unsigned i = 0; i < ARRAY_LENGTH(flags); i++) {
        entry_set(ROOT, HIGH, PAGE_A | LEAF);
        mmu_flush(mmu, false);
        show(HIGH, MMU_WRITE, WRITABLE);
        region_set(HIGH, (ROOT + 0x3000) | flags[i]);
        mmu_flush(mmu, true);
        expect(HIGH, HIDDEN);
    }
}

/* Any address of a large page names all of it, and no other page; whatever was flushed since it was
 * filled, and has left it in the window. */
static void test_flush_large(void **state)
{
    need_window();
    void (*const flushes[])(void) = {NULL,           flush_local,      load_same,
                                     load_same_pcid, leave_and_return, flush_all};
    show(LOW, MMU_WRITE, WRITABLE);
    for (unsigned i = 0; i < ARRAY_LENGTH(flushes); i++) {
        show(LARGE + 0x3000, MMU_WRITE, WRITABLE);
        if (flushes[i] != NULL)
            flushes[i]();
        mmu_flush_page(mmu, LOW + PAGE_SIZE);
        expect(LARGE + 0x3000, WRITABLE);
        mmu_flush_page(mmu, LARGE + 0x155000);
        expect(LARGE + 0x3000, HIDDEN);
        expect(LOW, WRITABLE);
    }
}

/* It has become one since it was shown, and says the same. */
static void test_flush_become_large(void **state)
{
    need_window();
    entry_set(ROOT, LARGE + 0x3000, (LARGE_AT + 0x3000) | LEAF);
    show(LARGE + 0x3000, MMU_WRITE, WRITABLE);
    region_set(LARGE, LARGE_AT | LEAF | PTE_PS);
    mmu_flush(mmu, true);
    expect(LARGE + 0x3000, WRITABLE);
    mmu_flush_page(mmu, LARGE + 0x155000);
    expect(LARGE + 0x3000, HIDDEN);
}

/* ------------------------------------------------------------------------- address spaces */

/* In PCID 0, with HIGH shown. */
static void begin_spaces(void)
{
    need_window();
    mmu->cr4 |= CR4_PCIDE_BIT;
    mmu_flush(mmu, false);
    show_both();
}

/* The other one's own flush does not count. */
static void test_space_kept(void **state)
{
    begin_spaces();
    mmu_load_cr3(mmu, OTHER_ROOT | 1, !KEEP);
    assert_int_equal(reach(mmu, HIGH, MMU_READ, MMU_USER), PAGE_B);
    mmu_load_cr3(mmu, ROOT, KEEP);
    expect(HIGH, WRITABLE);
    assert_int_equal(window_place(HIGH)[5], 0xaa);
    mmu_load_cr3(mmu, OTHER_ROOT | 1, !KEEP);
    entry_set(ROOT, HIGH, PAGE_B | LEAF);
    mmu_load_cr3(mmu, ROOT, !KEEP);
    expect(HIGH, HIDDEN);
    expect(LOW, WRITABLE);
    mmu_load_cr3(mmu, OTHER_ROOT, !KEEP); /* another root in the same PCID */
    expect(LOW, HIDDEN);
}

/* Flushes while the other space is current. */
static void test_space_flushed(void **state)
{
    begin_spaces();
    mmu_load_cr3(mmu, OTHER_ROOT | 1, KEEP);
    mmu_flush_space(mmu, 2);
    expect(HIGH, WRITABLE);
    mmu_flush_space(mmu, 0);
    assert_int_equal(window_count(mmu->window), 0);
    expect(HIGH, HIDDEN);
    void (*const flushes[])(void) = {flush_all, flush_local};
    for (unsigned i = 0; i < ARRAY_LENGTH(flushes); i++) {
        mmu_load_cr3(mmu, ROOT, KEEP);
        show_both();
        mmu_load_cr3(mmu, OTHER_ROOT | 1, KEEP);
        flushes[i]();
        expect(LOW, HIDDEN); /* though it is the same here */
    }
}

/* One at a time is shown. */
static void test_space_shown(void **state)
{
    begin_spaces();
    mmu_load_cr3(mmu, OTHER_ROOT | 1, KEEP);
    show(HIGH, MMU_WRITE, WRITABLE);
    assert_int_equal(window_place(HIGH)[5], 0xbb);
    expect(LOW, HIDDEN);
    mmu_flush_space(mmu, 0); /* not its */
    expect(HIGH, WRITABLE);
    mmu_load_cr3(mmu, ROOT, KEEP);
    show(LOW, MMU_WRITE, WRITABLE);
    expect(HIGH, HIDDEN);
}

static void test_other_cr3(void **state)
{
    need_window();
    show_both();
    mmu_load_cr3(mmu, OTHER_ROOT, KEEP); /* which does not count */
    expect(HIGH, HIDDEN);
    expect(LOW, HIDDEN);
    show(HIGH, MMU_WRITE, WRITABLE);
    assert_int_equal(window_place(HIGH)[5], 0xbb);
}

/* ------------------------------------------------------------------------- other ends */

/* All of a page's addresses, and no other page; whatever space is current. */
static void test_revoked(void **state)
{
    begin_spaces();
    entry_set(ROOT, HIGH + PAGE_SIZE, PAGE_A | LEAF);
    show(HIGH + PAGE_SIZE, MMU_READ, WRITABLE);
    mmu_park(mmu);
    machine_revoke(machine, UNWRITTEN >> PAGE_SHIFT);
    expect(HIGH, WRITABLE);
    machine_revoke(machine, PAGE_A >> PAGE_SHIFT);
    expect(HIGH, HIDDEN);
    expect(HIGH + PAGE_SIZE, HIDDEN);
    expect(LOW, WRITABLE);
    mmu_unpark(mmu);
    mmu_load_cr3(mmu, OTHER_ROOT | 1, KEEP);
    mmu_park(mmu);
    machine_revoke(machine, PAGE_B >> PAGE_SHIFT);
    expect(LOW, HIDDEN);
    mmu_unpark(mmu);
}

/* A fault takes along what was there for another kind of access. */
static void test_fault(void **state)
{
    need_window();
    entry_set(ROOT, HIGH, PAGE_A | LEAF | PTE_NX);
    show_both();
    assert_int_equal(resolve(mmu, HIGH + 2 * PAGE_SIZE, MMU_READ, MMU_USER), MMU_FAULT);
    expect(HIGH, WRITABLE);
    assert_int_equal(resolve(mmu, HIGH + 8, MMU_EXECUTE, MMU_USER), MMU_FAULT);
    expect(HIGH, HIDDEN);
    expect(LOW, WRITABLE);
}

/* Whoever marks it. */
static void test_marked(void **state)
{
    need_window();
    struct mmu *const markers[] = {mmu, &machine->cpus[1].mmu};
    for (unsigned i = 0; i < ARRAY_LENGTH(markers); i++) {
        show_both();
        mmu_park(mmu);
        mmu_unpark(markers[i]);
        mmu_mark_code(markers[i], PAGE_A >> PAGE_SHIFT);
        mmu_park(markers[i]);
        mmu_unpark(mmu);
        assert_int_not_equal(window_reach_of(HIGH), WRITABLE);
        expect(LOW, WRITABLE);
        show(HIGH, MMU_READ, READABLE);
        assert_int_equal(window_place(HIGH)[5], 0xaa);
        /* A write takes the mark away; what is shown has not changed before it is shown again. */
        assert_int_equal(resolve(mmu, HIGH, MMU_WRITE, MMU_USER), MMU_OK);
        expect(HIGH, READABLE);
    }
}

static void test_watched(void **state)
{
    need_window();
    const uint64_t pages[] = {HIGH + PAGE_SIZE, HIGH};
    show_both();
    mmu_watch(mmu, pages, 1);
    expect(HIGH, WRITABLE);
    mmu_watch(mmu, pages, 2);
    expect(HIGH, HIDDEN);
    expect(LOW, WRITABLE);
    reach(mmu, HIGH, MMU_WRITE, MMU_USER);
    assert_false(mmu_show(mmu, HIGH));
    mmu_watch(mmu, NULL, 0);
    show(HIGH, MMU_WRITE, WRITABLE);
}

/* Any argument: with the software MMU. */
int main(int count, char **arguments)
{
    struct window *window = NULL;
    if (count > 1)
        machine_mode = MMU_SHADOW;
    if (!window_probe_open())
        return 1;
    has_room = window_create(&window, NULL) != STATUS_UNSUPPORTED;
    window_destroy(window);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bytes, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_shown, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_permission, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_zero, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush_page, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush_changed, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush_changed_above, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush_large, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_flush_become_large, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_space_kept, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_space_flushed, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_space_shown, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_cr3, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_revoked, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_fault, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_marked, show_setup, teardown),
        cmocka_unit_test_setup_teardown(test_watched, show_setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
