/* Status texts, the log, the clocks, and the arithmetic of bits.h. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/clock.h"
#include "util/log.h"
#include "util/status.h"

static void test_error_set(void **state)
{
    struct error err = {0};
    assert_int_equal(error_set(&err, STATUS_BUSY, "disk %s: %d", "a", 7), STATUS_BUSY);
    assert_int_equal(err.status, STATUS_BUSY);
    assert_string_equal(err.text, "disk a: 7");
    assert_int_equal(error_set(NULL, STATUS_IO, "nobody %s", "listens"), STATUS_IO);

    /* Over-long text is cut, and ends. */
    char text[2 * ERROR_TEXT_SIZE];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    error_set(&err, STATUS_INVALID, "%s", text);
    assert_int_equal(strlen(err.text), ERROR_TEXT_SIZE - 1);
}

static void test_status_names(void **state)
{
    for (int status = STATUS_OK; status <= STATUS_INTERNAL; status++) {
        assert_string_not_equal(status_name((enum status)status), "unknown");
        for (int other = STATUS_OK; other < status; other++)
            assert_string_not_equal(status_name((enum status)status),
                                    status_name((enum status)other));
    }
    assert_string_equal(status_name((enum status)1000), "unknown");
}

/* What the log writes while `level` is set, through a pipe in place of standard error. */
static size_t capture_log(enum log_level level, char *buffer, size_t size)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    int saved = dup(STDERR_FILENO);
    dup2(fds[1], STDERR_FILENO);
    log_set_level(level);
    char text[2000];
    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = 0;
    log_error("disk %d", 5);
    log_warning("odd");
    log_info("fine");
    log_debug("%s", text);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(fds[1]);
    size_t used = 0;
    ssize_t count;
    while ((count = read(fds[0], buffer + used, size - 1 - used)) > 0)
        used += (size_t)count;
    buffer[used] = 0;
    close(fds[0]);
    log_set_level(LOG_WARNING);
    return used;
}

static void test_log_levels(void **state)
{
    char buffer[4096];
    capture_log(LOG_ERROR, buffer, sizeof buffer);
    assert_string_equal(buffer, "aerostat: error: disk 5\n");
    capture_log(LOG_INFO, buffer, sizeof buffer);
    assert_string_equal(buffer,
                        "aerostat: error: disk 5\naerostat: warning: odd\naerostat: info: fine\n");
    assert_true(log_enabled(LOG_WARNING));
    assert_false(log_enabled(LOG_INFO));

    /* A line that is too long is cut and still one line. */
    size_t used = capture_log(LOG_DEBUG, buffer, sizeof buffer);
    const char *last = strstr(buffer, "aerostat: debug: y");
    assert_non_null(last);
    assert_int_equal(buffer[used - 1], '\n');
    assert_ptr_equal(strchr(last, '\n'), buffer + used - 1);
    assert_true(strlen(last) <= 1024);
}

static void test_clocks(void **state)
{
    uint64_t before = clock_monotonic_ns(), tsc = clock_tsc();
    uint64_t khz = clock_tsc_khz();
    assert_int_equal(khz, clock_tsc_khz());
    assert_true(khz > 100000 && khz < 20000000); /* 0.1 to 20 GHz */
    assert_true(clock_monotonic_ns() >= before);
    assert_true(clock_tsc() > tsc);
    assert_true(clock_realtime_ns() / NS_PER_SECOND > 1600000000);
    uint64_t cpu = clock_process_cpu_ns();
    assert_true(cpu > 0);
    assert_true(clock_process_cpu_ns() >= cpu);
}

static void test_bits(void **state)
{
    assert_int_equal(bits_extract(0xabcd, 15, 12), 0xa);
    assert_true(bits_extract(UINT64_MAX, 63, 0) == UINT64_MAX);
    assert_int_equal(bits_truncate(0x1ff, 1), 0xff);
    assert_true(bits_truncate(UINT64_MAX, 8) == UINT64_MAX);
    assert_true(bits_sign_extend(0x80, 1) == 0xffffffffffffff80);
    assert_true(bits_sign_extend(0x7fffffff, 4) == 0x7fffffff);
    assert_int_equal(align_down(0x1fff, PAGE_SIZE), 0x1000);
    assert_int_equal(align_up(0x1001, PAGE_SIZE), 0x2000);
    assert_true(align_up(UINT64_MAX, PAGE_SIZE) == 0);
    assert_true(range_fits(0, 10, 10));
    assert_true(range_fits(10, 0, 10));
    assert_false(range_fits(1, 10, 10));
    assert_false(range_fits(UINT64_MAX, 2, UINT64_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_set),  cmocka_unit_test(test_status_names),
        cmocka_unit_test(test_log_levels), cmocka_unit_test(test_clocks),
        cmocka_unit_test(test_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
