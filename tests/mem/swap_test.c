/* The swap file: runs of slots, what is read is what was written, and what happens when the host's
 * file lies, fails, is short or full. With the ring, where this host has one, and without. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "faulty_swap.h"
#include "mem/swap_slots.h"
#include "util/bits.h"
#include "util/xorshift.h"

/* The queue that the case is run with: SWAP_QUEUE_IF_ANY or SWAP_QUEUE_NONE. */
static enum swap_queue queue_of(void **state)
{
    return (enum swap_queue)(uintptr_t)*state;
}

static struct swap *make(struct faulty *faulty, uint64_t pages, enum swap_queue queue)
{
    return faulty_swap_create(faulty, pages, queue);
}

static uint8_t *make_pages(unsigned count)
{
    void *pages =
        mmap(NULL, count << PAGE_SHIFT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(pages != MAP_FAILED);
    return pages;
}

static void fill(uint8_t *page, uint64_t seed)
{
    seed = seed * 2 + 1;
    for (unsigned i = 0; i < PAGE_SIZE; i += 8) {
        uint64_t value = xorshift_next(&seed);
        memcpy(page + i, &value, 8);
    }
}

static void assert_slot(struct swap *swap, uint64_t slot, const uint8_t *expected, uint8_t *page)
{
    struct error err = {0};
    memset(page, 0, PAGE_SIZE);
    assert_int_equal(swap_read(swap, slot, page, &err), STATUS_OK);
    assert_memory_equal(page, expected, PAGE_SIZE);
}

/* A write of `count` pages, every second of them not beside the one before. */
static void prepare(struct swap *swap, struct swap_write *write, uint8_t *pages, unsigned count)
{
    *write = (struct swap_write){.count = count};
    assert_int_equal(swap_allocate(swap, count, &write->first), count);
    for (unsigned i = 0; i < count; i++) {
        unsigned at = i ^ (i >> 1 & 1);
        fill(pages + (at << PAGE_SHIFT), at);
        write->pages[i] = pages + (at << PAGE_SHIFT);
    }
}

static void test_round_trip(void **state)
{
    struct faulty faulty;
    struct swap *swap = make(&faulty, 256, queue_of(state));
    uint8_t *pages = make_pages(65), *page = pages + (64 << PAGE_SHIFT);
    struct swap_write write;
    struct error err = {0};
    for (unsigned count = 1; count <= 64; count += 7) {
        prepare(swap, &write, pages, count);
        swap_write_begin(swap, &write);
        assert_int_equal(swap_write_end(swap, &write, &err), STATUS_OK);
        for (unsigned i = 0; i < count; i++) {
            /* Not only where the disk would like to put them. */
            static uint8_t anywhere[8 + (1 << PAGE_SHIFT)] __attribute__((aligned(16)));
            if (i % 2 == 0) /* the odd ones are read along */
                assert_slot(swap, write.first + i, write.pages[i], anywhere + i % 9);
            assert_slot(swap, write.first + i, write.pages[i], page);
        }
        swap_free(swap, write.first, count);
        assert_int_equal(swap_read(swap, write.first, page, &err), STATUS_INVALID);
    }
    if (queue_of(state) == SWAP_QUEUE_NONE)
        assert_int_equal(faulty.submitted, 0);
    else if (faulty.ops.submit != NULL)
        assert_int_equal(faulty.submitted, faulty.reaped);
    struct swap_stats stats;
    swap_get_stats(swap, &stats);
    assert_int_equal(stats.used, 0);
    assert_int_equal(stats.slots, 256);
    assert_true(stats.bytes_read >= PAGE_SIZE && stats.bytes_written > 64 * PAGE_SIZE);
    munmap(pages, 65 << PAGE_SHIFT);
    swap_destroy(swap);
    swap_destroy(NULL);
}

/* Writes end in any order, whichever is waited for. */
static void test_several_under_way(void **state)
{
    struct faulty faulty;
    struct swap *swap = make(&faulty, 256, queue_of(state));
    uint8_t *pages = make_pages(SWAP_QUEUE_DEPTH * 16 + 1);
    uint8_t *page = pages + ((SWAP_QUEUE_DEPTH * 16) << PAGE_SHIFT);
    struct swap_write writes[SWAP_QUEUE_DEPTH];
    struct error err = {0};
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < SWAP_QUEUE_DEPTH; i++) {
            prepare(swap, &writes[i], pages + ((i * 16) << PAGE_SHIFT), 16);
            swap_write_begin(swap, &writes[i]);
        }
        for (unsigned i = SWAP_QUEUE_DEPTH; i-- > 0;)
            assert_int_equal(swap_write_end(swap, &writes[i], &err), STATUS_OK);
        for (unsigned i = 0; i < SWAP_QUEUE_DEPTH; i++) {
            for (unsigned j = 0; j < 16; j++)
                assert_slot(swap, writes[i].first + j, writes[i].pages[j], page);
            swap_free(swap, writes[i].first, 16);
        }
    }
    munmap(pages, (SWAP_QUEUE_DEPTH * 16 + 1) << PAGE_SHIFT);
    swap_destroy(swap);
}

static void test_short_writes_are_finished(void **state)
{
    static const size_t most[] = {4096, 3 * 4096, 4096 + 512, 40 * 4096};
    struct faulty faulty;
    struct swap *swap = make(&faulty, 128, queue_of(state));
    uint8_t *pages = make_pages(65), *page = pages + (64 << PAGE_SHIFT);
    struct swap_write write;
    struct error err = {0};
    for (unsigned i = 0; i < ARRAY_LENGTH(most); i++) {
        prepare(swap, &write, pages, 61);
        /* The host's file may take whole pages alone; 512 bytes more are only said to be done. */
        faulty.write_most = faulty.ops.submit != NULL ? most[i] : align_down(most[i], PAGE_SIZE);
        if (faulty.write_most % PAGE_SIZE != 0)
            continue;
        swap_write_begin(swap, &write);
        assert_int_equal(swap_write_end(swap, &write, &err), STATUS_OK);
        faulty.write_most = 0;
        for (unsigned j = 0; j < 61; j++)
            assert_slot(swap, write.first + j, write.pages[j], page);
        swap_free(swap, write.first, 61);
    }
    /* Less than a page at a time gets nowhere: an error, and no endless loop. */
    prepare(swap, &write, pages, 3);
    faulty.write_most = 512;
    swap_write_begin(swap, &write);
    assert_int_equal(swap_write_end(swap, &write, &err), STATUS_IO);
    munmap(pages, 65 << PAGE_SHIFT);
    swap_destroy(swap);
}

static void test_write_errors(void **state)
{
    static const struct {
        int error;
        enum status status;
    } cases[] = {{ENOSPC, STATUS_NO_SPACE},
                 {EDQUOT, STATUS_NO_SPACE},
                 {EFBIG, STATUS_NO_SPACE},
                 {EIO, STATUS_IO}};
    struct faulty faulty;
    struct swap *swap = make(&faulty, 128, queue_of(state));
    uint8_t *pages = make_pages(9), *page = pages + (8 << PAGE_SHIFT);
    struct swap_write write;
    struct swap_stats stats;
    for (unsigned i = 0; i < ARRAY_LENGTH(cases); i++) {
        struct error err = {0};
        prepare(swap, &write, pages, 8);
        faulty.write_error = cases[i].error;
        swap_write_begin(swap, &write);
        assert_int_equal(swap_write_end(swap, &write, &err), cases[i].status);
        assert_true(strstr(err.text, strerror(cases[i].error)) != NULL);
        assert_int_equal(swap_write(swap, &write, &err), cases[i].status);
        swap_get_stats(swap, &stats);
        assert_int_equal(stats.used, 8);
        assert_int_equal(stats.write_errors, 2 * i + 2);
        assert_int_equal(stats.bytes_written, i * 8 << PAGE_SHIFT);

        /* The disk is well again. */
        faulty.write_error = 0;
        assert_int_equal(swap_write(swap, &write, &err), STATUS_OK);
        assert_slot(swap, write.first, write.pages[0], page);
        swap_free(swap, write.first, 8);
    }
    munmap(pages, 9 << PAGE_SHIFT);
    swap_destroy(swap);
}

static void test_no_wrong_byte_is_read(void **state)
{
    struct faulty faulty;
    struct swap *swap = make(&faulty, 64, queue_of(state));
    uint8_t *pages = make_pages(5), *page = pages + (4 << PAGE_SHIFT);
    struct swap_write write;
    struct error err = {0};
    prepare(swap, &write, pages, 4);
    assert_int_equal(swap_write(swap, &write, &err), STATUS_OK);

    faulty.read_flips = true;
    assert_int_equal(swap_read(swap, write.first, page, &err), STATUS_IO);
    faulty.read_flips = false;
    faulty.read_short = true;
    assert_int_equal(swap_read(swap, write.first, page, &err), STATUS_IO);
    faulty.read_short = false;
    faulty.read_error = EIO;
    assert_int_equal(swap_read(swap, write.first, page, &err), STATUS_IO);
    assert_true(strstr(err.text, strerror(EIO)) != NULL);
    faulty.read_error = 0;
    assert_slot(swap, write.first, write.pages[0], page);

    /* A disk that said it had written and had not: what is there is an older page, or nothing. */
    faulty.lost_offset = (int64_t)(write.first << PAGE_SHIFT);
    write.count = 1;
    fill(pages, 1234);
    write.pages[0] = pages;
    assert_int_equal(swap_write(swap, &write, &err), STATUS_OK);
    assert_int_equal(swap_read(swap, write.first, page, &err), STATUS_IO);

    struct swap_stats stats;
    swap_get_stats(swap, &stats);
    assert_int_equal(stats.read_errors, 4);
    munmap(pages, 5 << PAGE_SHIFT);
    swap_destroy(swap);
}

/* Pages read one after the other are read together; what is read along and has changed since is
 * read again; and where it is of no use, pages are read alone. */
static void test_neighbours_come_along(void **state)
{
    enum { PAGES = 4096 };
    struct faulty faulty;
    struct swap *swap = make(&faulty, PAGES, queue_of(state));
    uint8_t *pages = make_pages(65), *page = pages + (64 << PAGE_SHIFT);
    struct swap_write write;
    struct error err = {0};
    for (unsigned i = 0; i < PAGES / 64; i++) {
        prepare(swap, &write, pages, 64);
        assert_int_equal(swap_write(swap, &write, &err), STATUS_OK);
    }
    for (unsigned i = 0; i < 64; i++)
        assert_slot(swap, write.first + i, write.pages[i], page);
    assert_int_equal(faulty.reads, 8);

    fill(pages, 99);
    struct swap_write again = {.first = write.first + 60, .count = 1, .pages = {pages}};
    assert_int_equal(swap_write(swap, &again, &err), STATUS_OK);
    assert_slot(swap, write.first + 60, pages, page);

    uint64_t seed = 5;
    struct swap_stats before, after;
    for (unsigned i = 0; i < 200; i++)
        swap_read(swap, xorshift_next(&seed) % PAGES, page, &err);
    swap_get_stats(swap, &before);
    faulty.reads = 0;
    for (unsigned i = 0; i < 200; i++)
        swap_read(swap, xorshift_next(&seed) % PAGES, page, &err);
    swap_get_stats(swap, &after);
    assert_true(faulty.reads > 150);
    assert_true(after.bytes_read - before.bytes_read < 500 * PAGE_SIZE);
    assert_int_equal(after.read_errors, 0);
    munmap(pages, 65 << PAGE_SHIFT);
    swap_destroy(swap);
}

static void test_bad_slots(void **state)
{
    struct faulty faulty;
    struct swap *swap = make(&faulty, 64, queue_of(state));
    uint8_t *pages = make_pages(1);
    struct error err = {0};
    static const uint64_t bad[] = {0, 63, 64, UINT64_MAX, UINT64_MAX >> PAGE_SHIFT};
    for (unsigned i = 0; i < ARRAY_LENGTH(bad); i++) {
        struct swap_write write = {.first = bad[i], .count = 1, .pages = {pages}};
        assert_int_equal(swap_read(swap, bad[i], pages, &err), STATUS_INVALID);
        assert_int_equal(swap_write(swap, &write, &err), STATUS_IO);
        swap_free(swap, bad[i], 3);
    }
    uint64_t first;
    assert_int_equal(swap_allocate(swap, 64, &first), 64);
    struct swap_write write = {.first = 60, .count = 5, .pages = {pages, pages, pages, pages}};
    assert_int_equal(swap_write(swap, &write, &err), STATUS_IO);
    write.first = UINT64_MAX - 2;
    assert_int_equal(swap_write(swap, &write, &err), STATUS_IO);
    write.count = 0;
    assert_int_equal(swap_write(swap, &write, &err), STATUS_IO);
    write.count = SWAP_RUN_MAX + 1;
    assert_int_equal(swap_write(swap, &write, &err), STATUS_IO);
    munmap(pages, PAGE_SIZE);
    swap_destroy(swap);
}

/* Against an array of bools; runs are as long as they can be. */
static void test_slots_model(void **state)
{
    (void)state;
    enum { SLOTS = 500, STEPS = 40000 };
    bool taken[SLOTS] = {0};
    struct faulty faulty;
    struct swap *swap = make(&faulty, SLOTS, SWAP_QUEUE_NONE);
    uint64_t seed = 4711, used = 0, full = 0;
    for (unsigned step = 0; step < STEPS; step++) {
        /* Phases of more taking and of more freeing. */
        if (xorshift_next(&seed) % 100 < (step / 2000 % 2 == 0 ? 60 : 30)) {
            unsigned want = 1 + (unsigned)(xorshift_next(&seed) % SWAP_RUN_MAX);
            uint64_t first;
            unsigned got = swap_allocate(swap, want, &first);
            full += got == 0;
            assert_true(got <= want && (got > 0 || used == SLOTS));
            for (unsigned i = 0; i < got; i++) {
                assert_true(first + i < SLOTS && !taken[first + i]);
                taken[first + i] = true;
            }
            if (got < want && got > 0)
                assert_true(first + got == SLOTS || taken[first + got]);
            used += got;
        } else {
            uint64_t first = xorshift_next(&seed) % SLOTS;
            unsigned count = (unsigned)(xorshift_next(&seed) % 40);
            swap_free(swap, first, count);
            for (uint64_t i = first; i < first + count && i < SLOTS; i++) {
                used -= taken[i];
                taken[i] = false;
            }
        }
        if (step % 97 == 0)
            swap_trim(swap);
        struct swap_stats stats;
        swap_get_stats(swap, &stats);
        assert_int_equal(stats.used, used);
    }
    assert_true(full > 100);
    swap_clear(swap);
    uint64_t first;
    assert_int_equal(swap_allocate(swap, 1000, &first), SWAP_RUN_MAX);
    assert_int_equal(first, 0);
    swap_destroy(swap);
}

/* What was paged out and came back takes no disk space in the end; what is used again keeps it. */
static void test_space_goes_back(void **state)
{
    enum { SLOTS = 2 * SWAP_PIECE_SLOTS + 40 };
    struct faulty faulty;
    struct swap *swap = make(&faulty, SLOTS, queue_of(state));
    uint8_t *pages = make_pages(2);
    struct swap_write write = {.count = 1, .pages = {pages}};
    struct error err = {0};
    struct swap_stats stats;
    uint64_t first;
    fill(pages, 1);
    for (unsigned taken = 0; taken < SLOTS;)
        taken += swap_allocate(swap, SWAP_RUN_MAX, &first);
    for (write.first = 0; write.first < SLOTS; write.first += SWAP_PIECE_SLOTS)
        assert_int_equal(swap_write(swap, &write, &err), STATUS_OK);
    swap_free(swap, 1, SLOTS);
    swap_trim(swap);
    assert_int_equal(faulty.discarded, 0);
    faulty.no_discard = true;
    swap_trim(swap);
    swap_get_stats(swap, &stats);
    assert_int_equal(stats.disk_bytes, 3 * MIB);
    faulty.no_discard = false;
    swap_trim(swap); /* free once more since the last, which took them for a moment */
    swap_trim(swap);
    swap_get_stats(swap, &stats);
    assert_int_equal(faulty.discarded, (SLOTS - SWAP_PIECE_SLOTS) * PAGE_SIZE);
    assert_int_equal(stats.disk_bytes, MIB);
    assert_int_equal(stats.used, 1);
    assert_slot(swap, 0, pages, pages + PAGE_SIZE);
    munmap(pages, 2 << PAGE_SHIFT);
    swap_destroy(swap);
}

struct worker {
    struct swap *swap;
    uint8_t *pages;
    uint64_t seed;
    unsigned wrong;
};

static void *work(void *context)
{
    struct worker *worker = context;
    struct error err = {0};
    for (unsigned step = 0; step < 150; step++) {
        struct swap_write write = {0};
        write.count = swap_allocate(worker->swap, 1 + (unsigned)(xorshift_next(&worker->seed) % 8),
                                    &write.first);
        if (write.count == 0)
            continue;
        for (unsigned i = 0; i < write.count; i++) {
            fill(worker->pages + (i << PAGE_SHIFT), xorshift_next(&worker->seed));
            write.pages[i] = worker->pages + (i << PAGE_SHIFT);
        }
        uint8_t *page = worker->pages + (8 << PAGE_SHIFT);
        worker->wrong += swap_write(worker->swap, &write, &err) != STATUS_OK;
        for (unsigned i = 0; i < write.count; i++)
            worker->wrong += swap_read(worker->swap, write.first + i, page, &err) != STATUS_OK ||
                             memcmp(page, write.pages[i], PAGE_SIZE) != 0;
        swap_free(worker->swap, write.first, write.count);
        if (step % 4 == 0)
            swap_trim(worker->swap);
    }
    return NULL;
}

static void test_threads(void **state)
{
    enum { THREADS = 4 };
    struct faulty faulty;
    struct swap *swap = make(&faulty, 24, queue_of(state));
    uint8_t *pages = make_pages(THREADS * 9);
    struct worker workers[THREADS];
    pthread_t threads[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){
            .swap = swap, .pages = pages + ((i * 9) << PAGE_SHIFT), .seed = 100 + i};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].wrong, 0);
    }
    struct swap_stats stats;
    swap_get_stats(swap, &stats);
    assert_int_equal(stats.used, 0);
    munmap(pages, (THREADS * 9) << PAGE_SHIFT);
    swap_destroy(swap);
}

static void test_the_folder(void **state)
{
    (void)state;
    struct swap_file file;
    struct error err = {0};
    assert_int_equal(swap_file_open(&file, "/nonexistent", MIB, SWAP_QUEUE_IF_ANY, &err),
                     STATUS_INVALID);
    assert_true(strstr(err.text, "/nonexistent") != NULL);
    assert_int_equal(swap_file_open(&file, "/proc", MIB, SWAP_QUEUE_IF_ANY, &err), STATUS_INVALID);

    /* Nothing is left behind, not even while it is open. */
    char dir[] = "/tmp/aerostat-test-XXXXXX";
    assert_non_null(mkdtemp(dir));
    assert_int_equal(swap_file_open(&file, dir, MIB, SWAP_QUEUE_IF_ANY, &err), STATUS_OK);
    assert_int_equal(rmdir(dir), 0);
    file.ops->close(file.context);

    struct swap *swap;
    assert_int_equal(swap_file_open(&file, faulty_swap_dir(), MIB, SWAP_QUEUE_IF_ANY, &err),
                     STATUS_OK);
    assert_int_equal(swap_create(&swap, &file, 100, &err), STATUS_INVALID);
}

#define BOTH_WAYS(test)                                                                            \
    {"ring: " #test, test, NULL, NULL, (void *)SWAP_QUEUE_IF_ANY},                                 \
    {                                                                                              \
        "plain: " #test, test, NULL, NULL, (void *)SWAP_QUEUE_NONE                                 \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH_WAYS(test_round_trip),
        BOTH_WAYS(test_several_under_way),
        BOTH_WAYS(test_short_writes_are_finished),
        BOTH_WAYS(test_write_errors),
        BOTH_WAYS(test_no_wrong_byte_is_read),
        BOTH_WAYS(test_neighbours_come_along),
        BOTH_WAYS(test_bad_slots),
        BOTH_WAYS(test_threads),
        BOTH_WAYS(test_space_goes_back),
        cmocka_unit_test(test_slots_model),
        cmocka_unit_test(test_the_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
