#include "window_probe.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static int ends[2]; /* of a pipe */

bool window_probe_open(void)
{
    return pipe(ends) == 0;
}

uint8_t *window_place(uint64_t linear)
{
    return (uint8_t *)(uintptr_t)window_flip(linear);
}

enum window_reach window_reach_of(uint64_t linear)
{
    uint8_t byte, *place = window_place(linear);
    if (write(ends[1], place, 1) != 1) {
        assert_int_equal(errno, EFAULT);
        return HIDDEN;
    }
    if (read(ends[0], place, 1) == 1)
        return WRITABLE;
    assert_int_equal(errno, EFAULT);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    return READABLE;
}
