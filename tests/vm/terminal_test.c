/* The escape key. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "vm/terminal.h"

static void count_quit(void *context)
{
    ++*(int *)context;
}

/* Feeds the text in pieces of `piece` bytes and gathers what is left. */
static size_t feed(struct terminal *terminal, const char *text, size_t piece, char *kept)
{
    size_t total = 0;
    for (size_t at = 0, length = strlen(text); at < length; at += piece) {
        uint8_t bytes[64];
        size_t count = length - at < piece ? length - at : piece;
        memcpy(bytes, text + at, count);
        size_t left = terminal_filter(terminal, bytes, count);
        memcpy(kept + total, bytes, left);
        total += left;
    }
    kept[total] = '\0';
    return total;
}

static void test_escape_key(void **state)
{
    for (size_t piece = 1; piece <= 16; piece++) {
        int quits = 0;
        char kept[64];
        struct terminal terminal = {.is_raw = true, .quit = count_quit, .quit_context = &quits};
        feed(&terminal,
             "ab\x1d\x1d"
             "c\x1dxq",
             piece, kept);
        assert_string_equal(kept, "ab\x1d"
                                  "cxq");
        assert_int_equal(quits, 0);
        feed(&terminal, "1\x1dq2", piece, kept);
        assert_string_equal(kept, "12");
        assert_int_equal(quits, 1);
    }
}

static void test_no_terminal_no_filter(void **state)
{
    int quits = 0;
    char kept[64];
    struct terminal terminal = {.is_raw = false, .quit = count_quit, .quit_context = &quits};
    feed(&terminal, "\x1dq\x1d\x1d", 2, kept);
    assert_string_equal(kept, "\x1dq\x1d\x1d");
    assert_int_equal(quits, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escape_key),
        cmocka_unit_test(test_no_terminal_no_filter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
