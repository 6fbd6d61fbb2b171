/*
 * What the page map, pins and the balloon take beside the guest's memory, as the kernel has it: at
 * most 0.6 % of it, whatever the pages' states. The guest's memory itself is a file's, so that all
 * anonymous memory that comes between two looks is theirs.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "mem/pmap.h"
#include "util/bits.h"

#define MAX    GIB
#define PAGES  (MAX / PAGE_SIZE)
#define PINNED (64 * MIB / PAGE_SIZE) /* every other page of the first 128 MiB */

static uint64_t anonymous_bytes(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *stream = fopen("/proc/self/smaps_rollup", "re");
    if (stream == NULL)
        skip(); /* a kernel without it */
    while (fgets(line, sizeof line, stream) != NULL && sscanf(line, "Anonymous: %llu", &kib) != 1)
        ;
    fclose(stream);
    assert_int_not_equal(kib, 0);
    return kib * KIB;
}

static void overhead_is_small(void **state)
{
    static const struct ram_range ram = {0, MAX};
    struct pmap *map;
    struct iovec *iov = calloc(PINNED, sizeof *iov);
    assert_non_null(iov);
    for (unsigned i = 0; i < PINNED; i++)
        iov[i].iov_len = 1; /* its own memory is not to be counted */
    uint64_t before = anonymous_bytes();
    assert_int_equal(pmap_create(&map, &ram, 1, NULL), STATUS_OK);
    unsigned count = 0;
    for (uint64_t ppn = 0; count < PINNED; ppn += 2)
        assert_int_equal(
            pmap_pin(map, ppn * PAGE_SIZE, PAGE_SIZE, PIN_OVERWRITE, iov, &count, PINNED),
            STATUS_OK);
    /* All others are in the balloon. */
    assert_int_equal(pmap_balloon_take(map, 0, PAGES), PAGES - PINNED);
    uint64_t taken = anonymous_bytes() - before;
    assert_true(taken >= PAGES * 4); /* it has been seen at all */
    assert_true(taken * 1000 <= MAX * 6);

    struct error err = {0};
    for (uint64_t ppn = 0; ppn < 2 * PINNED; ppn += 2)
        pmap_unpin(map, ppn * PAGE_SIZE, PAGE_SIZE, false);
    if (pmap_check(map, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    pmap_destroy(map);
    free(iov);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(overhead_is_small)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
