/* What the next manager reads is what this one wrote, or nothing. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hostd/state_file.h"
#include "util/bits.h"

static struct control_folder folder;
static char path[] = "/tmp/aerostat-state-XXXXXX";

static int setup(void **state)
{
    assert_non_null(mkdtemp(path));
    strcpy(folder.path, path);
    folder.fd = open(path, O_RDONLY | O_DIRECTORY);
    return folder.fd >= 0 ? 0 : -1;
}

static int teardown(void **state)
{
    state_remove(&folder);
    close(folder.fd);
    return rmdir(path);
}

static void test_there_and_back(void **state)
{
    struct state_group groups[] = {
        {.name = "g", .key = UINT64_MAX, .device = 1, .inode = UINT64_MAX},
        {.name = "", .key = 1, .device = 0, .inode = 0},
        {.name = "", .key = 2, .device = 3, .inode = 4},
    };
    struct state_vm vms[] = {
        {.name = "a", .pid = 1, .started = 2, .group = 2, .max = 3, .swap = INT64_MAX},
        {.name = "b-2.c", .pid = INT32_MAX, .group = 0, .min = 4096, .max = 4096, .shares = 9},
    };
    struct state written = {.memory = 5,
                            .spare = INT64_MAX,
                            .groups = groups,
                            .group_count = 3,
                            .vms = vms,
                            .vm_count = 2},
                 read;
    struct error err;
    assert_int_equal(state_load(&folder, &read, &err), STATUS_NOT_FOUND);
    assert_int_equal(state_save(&folder, &written, &err), STATUS_OK);
    for (unsigned i = 0; i < 2; i++) { /* and again, over what is there */
        assert_int_equal(state_load(&folder, &read, &err), STATUS_OK);
        assert_int_equal(read.memory, 5);
        assert_int_equal(read.spare, INT64_MAX);
        assert_int_equal(read.group_count, 3);
        assert_int_equal(read.vm_count, 2);
        assert_memory_equal(read.groups, groups, sizeof groups);
        assert_memory_equal(read.vms, vms, sizeof vms);
        assert_int_equal(state_save(&folder, &read, &err), STATUS_OK);
        state_free(&read);
    }
    struct stat info;
    assert_int_equal(fstatat(folder.fd, STATE_FILE_NAME, &info, 0), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    state_remove(&folder);
    assert_int_equal(state_load(&folder, &read, &err), STATUS_NOT_FOUND);
}

#define GROUP                                                                                      \
    "{\"name\":\"g\",\"key\":\"0123456789abcdef\",\"device\":\"0000000000000001\","                \
    "\"inode\":\"0000000000000001\"}"
#define VM(name, pid, group, min, max)                                                             \
    "{\"name\":\"" name "\",\"pid\":" pid ",\"started\":1,\"group\":" group ",\"min\":" min        \
    ",\"max\":" max ",\"shares\":0,\"swap\":0,\"overhead\":0}"
#define STATE(groups, vms)                                                                         \
    "{\"version\":1,\"memory\":0,\"spare\":0,\"groups\":[" groups "],\"vms\":[" vms "]}"

static void test_what_is_none(void **state)
{
    static const char *const bad[] = {
        "",
        "[]",
        "{}",
        STATE("", "") "x",
        "{\"version\":2,\"memory\":0,\"spare\":0,\"groups\":[],\"vms\":[]}",
        "{\"version\":1,\"memory\":-1,\"spare\":0,\"groups\":[],\"vms\":[]}",
        "{\"version\":1,\"memory\":0,\"spare\":0,\"groups\":{},\"vms\":[]}",
        STATE("7", ""),
        STATE("{\"name\":\"g\",\"key\":\"0000000000000000\",\"device\":\"0000000000000001\","
              "\"inode\":\"0000000000000001\"}",
              ""),
        STATE("{\"name\":\"g\",\"key\":\"123\",\"device\":\"0000000000000001\","
              "\"inode\":\"0000000000000001\"}",
              ""),
        STATE(GROUP "," GROUP, ""),
        STATE(GROUP, VM("", "1", "0", "0", "1")),
        STATE(GROUP, VM("../a", "1", "0", "0", "1")),
        STATE(GROUP, VM("a", "0", "0", "0", "1")),
        STATE(GROUP, VM("a", "-1", "0", "0", "1")),
        STATE(GROUP, VM("a", "99999999999", "0", "0", "1")),
        STATE(GROUP, VM("a", "1", "1", "0", "1")),
        STATE(GROUP, VM("a", "1", "0", "2", "1")),
        STATE(GROUP, VM("a", "1", "0", "0", "1") "," VM("a", "2", "0", "0", "1")),
        STATE("", VM("a", "1", "0", "0", "1")),
    };
    struct state read;
    struct error err;
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        if (state_decode(bad[i], strlen(bad[i]), &read, &err) != STATUS_INVALID)
            fail_msg("accepted: %s", bad[i]);
        assert_null(read.groups);
    }
    static const char good[] = STATE(GROUP, VM("a", "1", "0", "0", "1"));
    assert_int_equal(state_decode(good, strlen(good), &read, &err), STATUS_OK);
    state_free(&read);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_there_and_back, setup, teardown),
        cmocka_unit_test(test_what_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
