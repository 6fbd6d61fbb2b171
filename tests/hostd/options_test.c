/* The command line of aerostatd: what it means, and that every mistake is refused. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../support/command_line.h"
#include "hostd/options.h"
#include "policy/policy.h"
#include "util/bits.h"

/* The strings are good until the next call. */
static enum status parse(const char *line, struct hostd_options *options, struct error *err)
{
    static struct command_line command;
    command_line_split(&command, "aerostatd", line);
    *err = (struct error){0};
    return hostd_options_parse(command.argc, command.argv, options, err);
}

static void test_defaults(void **state)
{
    (void)state;
    struct hostd_options options;
    struct error err;
    assert_int_equal(parse("", &options, &err), STATUS_OK);
    assert_int_equal(options.memory, 0);
    assert_true(options.swap == POLICY_NO_LIMIT);
    assert_true(options.tax == POLICY_TAX_DEFAULT);
    assert_int_equal(options.scan_ppm, POLICY_SCAN_DEFAULT);
    assert_false(options.scan_always);
    assert_null(options.swap_dir);
    assert_null(options.socket);
    assert_false(options.help);
}

static void test_everything(void **state)
{
    (void)state;
    struct hostd_options options;
    struct error err;
    assert_int_equal(parse("--memory 512M --swap-size 1G --swap-dir d --tax 0.5 --scan-cpu 0.125 "
                           "--scan-always --socket s",
                           &options, &err),
                     STATUS_OK);
    assert_int_equal(options.memory, 512 * MIB);
    assert_int_equal(options.swap, GIB);
    assert_string_equal(options.swap_dir, "d");
    assert_true(options.tax == 0.5);
    assert_int_equal(options.scan_ppm, 125000);
    assert_true(options.scan_always);
    assert_string_equal(options.socket, "s");

    assert_int_equal(parse("--tax 0 --scan-cpu 0", &options, &err), STATUS_OK);
    assert_true(options.tax == 0 && options.scan_ppm == 0);
    assert_int_equal(parse("--tax 0.99 --scan-cpu 1", &options, &err), STATUS_OK);
    assert_true(options.tax == POLICY_TAX_MOST);
    assert_int_equal(options.scan_ppm, 1000000);
    assert_int_equal(parse("--tax nan --help", &options, &err), STATUS_INVALID);
    assert_int_equal(parse("--help", &options, &err), STATUS_OK);
    assert_true(options.help);
}

static void test_mistakes(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "extra",      "--nonsense",   "--memory",     "--memory 1M",      "--memory 1Q",
        "--tax",      "--tax 1",      "--tax 0.991",  "--tax -0.1",       "--tax 75%",
        "--tax nan",  "--tax inf",    "--tax 1e-3",   "--tax .",          "--tax 0.5.5",
        "--scan-cpu", "--scan-cpu 2", "--scan-cpu x", "--scan-cpu 1.001",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(lines); i++) {
        struct hostd_options options;
        struct error err;
        if (parse(lines[i], &options, &err) != STATUS_INVALID || err.text[0] == '\0')
            fail_msg("\"%s\" is taken", lines[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
