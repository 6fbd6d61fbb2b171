/* The command line of `aerostat run`: what it means, and that every mistake is refused. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../support/command_line.h"
#include "util/bits.h"
#include "util/clock.h"
#include "vm/options.h"

/* The strings are good until the next call. */
static enum status parse(const char *line, struct vm_options *options, struct error *err)
{
    static struct command_line command;
    command_line_split(&command, "run", line);
    *err = (struct error){0};
    return options_parse(command.argc, command.argv, options, err);
}

static void test_defaults(void **state)
{
    struct vm_options options;
    struct error err;
    assert_int_equal(parse("--kernel k", &options, &err), STATUS_OK);
    assert_string_equal(options.kernel, "k");
    assert_null(options.initrd);
    assert_string_equal(options.append, "");
    assert_null(options.name);
    assert_int_equal(options.memory, 256 * MIB);
    assert_int_equal(options.resident, options.memory);
    assert_int_equal(options.balloon, 0);
    assert_null(options.swap_dir);
    assert_true(options.swap_size == OPTIONS_SWAP_DEFAULT);
    assert_false(options.chaos || options.detach);
    assert_int_equal(options.cpus, 1);
    assert_int_equal(options.code_cache, 64 * MIB);
    assert_int_equal(options.sample_period_ns, 30 * NS_PER_SECOND);
    assert_ptr_equal(options.engine, &translate_engine);
    assert_int_equal(options.disk_count, 0);
    assert_int_equal(options.net_count, 0);
    assert_null(options.console);
    assert_null(options.stats);
    assert_false(options.debug_exit || options.no_reboot || options.help);
    options_free(&options);
}

static void test_everything(void **state)
{
    struct vm_options options;
    struct error err;
    assert_int_equal(
        parse("--kernel k --initrd i --append a=b --memory 1G --cpus 4 --disk d,ro "
              "--disk e,x --disk f,ro,overlay --net user,hostfwd=tcp:1-2,hostfwd=tcp:3-4 --name "
              "n-1 --engine interp "
              "--code-cache 2M --mmu nested --console c --debug-exit --no-reboot --stats s "
              "--sample-period 2",
              &options, &err),
        STATUS_OK);
    assert_string_equal(options.initrd, "i");
    assert_string_equal(options.append, "a=b");
    assert_int_equal(options.memory, GIB);
    assert_int_equal(options.cpus, 4);
    assert_int_equal(options.disk_count, 3);
    assert_string_equal(options.disks[0].path, "d");
    assert_true(options.disks[0].read_only);
    assert_string_equal(options.disks[1].path, "e,x");
    assert_false(options.disks[1].read_only || options.disks[1].overlay);
    assert_string_equal(options.disks[2].path, "f,ro");
    assert_true(options.disks[2].overlay && !options.disks[2].read_only);
    assert_int_equal(options.net_count, 1);
    assert_int_equal(options.nets[0].forward_count, 2);
    assert_int_equal(options.nets[0].forwards[1].host_port, 3);
    assert_int_equal(options.nets[0].forwards[1].guest_port, 4);
    assert_ptr_equal(options.engine, &interp_engine);
    assert_int_equal(options.code_cache, 2 * MIB);
    assert_string_equal(options.name, "n-1");
    assert_string_equal(options.console, "c");
    assert_string_equal(options.stats, "s");
    assert_true(options.debug_exit && options.no_reboot);
    assert_int_equal(options.sample_period_ns, 2 * NS_PER_SECOND);
    options_free(&options);
}

static void test_memory_that_is_taken_back(void **state)
{
    struct vm_options options;
    struct error err;
    /* Before --memory and after it: what they say together counts. */
    assert_int_equal(parse("--kernel k --resident 65537K --memory 512M --balloon 300M --swap-dir d "
                           "--swap-size 2G --chaos 18446744073709551615 --detach",
                           &options, &err),
                     STATUS_OK);
    assert_int_equal(options.resident, 64 * MIB);
    assert_int_equal(options.balloon, 300 * MIB);
    assert_string_equal(options.swap_dir, "d");
    assert_int_equal(options.swap_size, 2 * GIB);
    assert_true(options.chaos && options.chaos_seed == UINT64_MAX);
    assert_true(options.detach);

    assert_int_equal(
        parse("--kernel k --swap-size 0 --balloon 0 --memory 1G --resident 1G", &options, &err),
        STATUS_OK);
    assert_int_equal(options.swap_size, 0);
}

static void test_mistakes(void **state)
{
    static const char *const lines[] = {
        "",
        "--kernel",
        "--kernel _",
        "--kernel k extra",
        "--kernel k --nonsense",
        "--kernel k --memory",
        "--kernel k --memory _",
        "--kernel k --memory 12Q",
        "--kernel k --memory -1",
        "--kernel k --memory 0",
        "--kernel k --memory 1M",
        "--kernel k --memory 257G",
        "--kernel k --sample-period 0",
        "--kernel k --sample-period 3601",
        "--kernel k --memory 99999999999999999999",
        "--kernel k --memory 17179869184G",
        "--kernel k --cpus 0",
        "--kernel k --cpus 17",
        "--kernel k --cpus two",
        "--kernel k --cpus 1x",
        "--kernel k --disk _",
        "--kernel k --disk ,ro",
        "--kernel k --disk ,overlay",
        ("--kernel k --disk 1 --disk 2 --disk 3 --disk 4 --disk 5 --disk 6 --disk 7 --disk 8 "
         "--disk 9"),
        "--kernel k --net tap",
        "--kernel k --net userx",
        "--kernel k --net user,",
        "--kernel k --net user,hostfwd=",
        "--kernel k --net user,hostfwd=tcp:1",
        "--kernel k --net user,hostfwd=tcp:99999-1",
        "--kernel k --net user,hostfwd=tcp:1-2,",
        "--kernel k --net user,restrict=on",
        "--kernel k --name _",
        "--kernel k --name a/b",
        "--kernel k --name .",
        "--kernel k --name ..",
        "--kernel k --name .a",
        "--kernel k --name -a",
        "--kernel k --resident _",
        "--kernel k --resident 1023K",
        "--kernel k --resident 257M",
        "--kernel k --resident 64M --memory 32M",
        "--kernel k --resident some",
        "--kernel k --balloon _",
        "--kernel k --balloon 256M",
        "--kernel k --balloon -1",
        "--kernel k --swap-dir _",
        "--kernel k --swap-size _",
        "--kernel k --swap-size 5000G",
        "--kernel k --chaos _",
        "--kernel k --chaos -1",
        "--kernel k --chaos 18446744073709551616",
        "--kernel k --chaos 1x",
        "--kernel k --detach=yes",
        "--kernel k --engine fast",
        "--kernel k --code-cache _",
        "--kernel k --code-cache 1M",
        "--kernel k --code-cache 513M",
        "--kernel k --code-cache lots",
        "--kernel k --code-cache 2M --cpus 9",
        "--kernel k --cpus 9 --code-cache 2M",
        "--kernel k --mmu x",
        "--kernel k --shadow-memory 1K",
        "--kernel k --large-pages yes",
        "--kernel k --walk-caches 1",
        "--kernel k --console _",
        "--kernel k --stats _",
        "--kernel k --debug-exit=1",
    };
    for (size_t i = 0; i < ARRAY_LENGTH(lines); i++) {
        struct vm_options options;
        struct error err;
        if (parse(lines[i], &options, &err) == STATUS_OK)
            fail_msg("accepted: %s", lines[i]);
        assert_true(strlen(err.text) > 0);
        assert_null(strchr(err.text, '\n'));
    }
}

static void test_help_needs_nothing_else(void **state)
{
    struct vm_options options;
    struct error err;
    assert_int_equal(parse("--help", &options, &err), STATUS_OK);
    assert_true(options.help);
    options_free(&options);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_memory_that_is_taken_back),
        cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_help_needs_nothing_else),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
