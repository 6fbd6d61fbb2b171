/* Names of VMs, and the folder in which they are found. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/folder.h"
#include "util/bits.h"

#define SIXTY_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ01234567"

static void test_names(void **state)
{
    static const char *const good[] = {"a",   "0",  "vm1", "web-1.example_x",
                                       "A..", "a-", "9_",  (SIXTY_LETTERS "8901")};
    static const char *const bad[] = {"",
                                      ".",
                                      "..",
                                      ".a",
                                      "-a",
                                      "_a",
                                      "a/b",
                                      "/a",
                                      "../a",
                                      "a b",
                                      "a\n",
                                      "a\x1b[0m",
                                      "\xc3\xa4",
                                      "a\xff",
                                      "a*",
                                      "a,b",
                                      "a:b",
                                      "a@b",
                                      (SIXTY_LETTERS "89012")};
    struct error err;
    for (size_t i = 0; i < ARRAY_LENGTH(good); i++) {
        if (control_name_check(good[i], &err) != STATUS_OK)
            fail_msg("refused: %s", good[i]);
    }
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        if (control_name_check(bad[i], &err) != STATUS_INVALID)
            fail_msg("accepted: %s", bad[i]);
    }
}

/* A runtime folder of its own for each test. */
struct world {
    char runtime[64], file[128];
    struct control_folder folder;
};

static int setup(void **state)
{
    struct world *world = calloc(1, sizeof *world);
    strcpy(world->runtime, "/tmp/aerostat-test-XXXXXX");
    assert_non_null(mkdtemp(world->runtime));
    setenv("XDG_RUNTIME_DIR", world->runtime, 1);
    struct error err = {0};
    if (control_folder_open(&world->folder, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    *state = world;
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;
    char command[128];
    control_folder_close(&world->folder);
    snprintf(command, sizeof command, "rm -rf '%s'", world->runtime);
    assert_int_equal(system(command), 0);
    free(world);
    return 0;
}

static bool has_file(struct world *world, const char *name)
{
    struct stat info;
    return fstatat(world->folder.fd, name, &info, AT_SYMLINK_NOFOLLOW) == 0;
}

static int claim(struct world *world, const char *name, const char *expected)
{
    char taken[CONTROL_NAME_MOST + 1];
    int fd;
    struct error err = {0};
    if (control_folder_claim(&world->folder, name, taken, &fd, &err) != STATUS_OK)
        fail_msg("%s", err.text);
    assert_string_equal(taken, expected);
    return fd;
}

static void test_names_are_taken_once(void **state)
{
    struct world *world = *state;
    char taken[CONTROL_NAME_MOST + 1];
    int fd;
    struct error err;
    int web = claim(world, "web", "web");
    assert_int_equal(control_folder_claim(&world->folder, "web", taken, &fd, &err), STATUS_BUSY);
    assert_non_null(strstr(err.text, "web"));
    assert_int_equal(fd, -1);
    int first = claim(world, NULL, "vm1"), second = claim(world, NULL, "vm2");
    int third = claim(world, "vm3", "vm3"), fourth = claim(world, NULL, "vm4");

    /* Dead VMs' names are free, and what they left is no obstacle. */
    close(first);
    close(web);
    assert_true(has_file(world, "web.sock"));
    web = claim(world, "web", "web");
    first = claim(world, NULL, "vm1");

    char **names;
    size_t count;
    assert_int_equal(control_folder_list(&world->folder, &names, &count, &err), STATUS_OK);
    static const char *const sorted[] = {"vm1", "vm2", "vm3", "vm4", "web"};
    assert_int_equal(count, ARRAY_LENGTH(sorted));
    for (size_t i = 0; i < count; i++) {
        assert_string_equal(names[i], sorted[i]);
        free(names[i]);
    }
    free(names);
    close(web), close(first), close(second), close(third), close(fourth);
}

static void test_connecting(void **state)
{
    struct world *world = *state;
    struct error err;
    int fd;
    assert_int_equal(control_folder_connect(&world->folder, "none", 1, &fd, &err),
                     STATUS_NOT_FOUND);
    assert_int_equal(control_folder_connect(&world->folder, "../x", 1, &fd, &err), STATUS_INVALID);
    int vm = claim(world, "web", "web");
    assert_int_equal(control_folder_connect(&world->folder, "web", 1, &fd, &err), STATUS_OK);
    pid_t pid;
    uid_t uid;
    assert_true(control_peer(fd, &pid, &uid));
    assert_int_equal(pid, getpid());
    assert_int_equal(uid, geteuid());
    close(fd);

    /* One that does not accept: at some point there is no more room to wait in, but it is alive. */
    int waiting[64];
    unsigned count = 0;
    while (count < ARRAY_LENGTH(waiting) &&
           control_folder_connect(&world->folder, "web", 1, &waiting[count], &err) == STATUS_OK)
        count++;
    assert_in_range(count, 1, ARRAY_LENGTH(waiting) - 1);
    assert_int_equal(err.status, STATUS_IO);
    char taken[CONTROL_NAME_MOST + 1];
    assert_int_equal(control_folder_claim(&world->folder, "web", taken, &fd, &err), STATUS_BUSY);
    while (count > 0)
        close(waiting[--count]);
    close(vm);

    /* Dead: who comes across it cleans up, the log only where it says nothing. */
    int log;
    assert_int_equal(control_folder_open_log(&world->folder, "web", &log, &err), STATUS_OK);
    close(log);
    assert_int_equal(control_folder_connect(&world->folder, "web", 1, &fd, &err), STATUS_NOT_FOUND);
    assert_false(has_file(world, "web.sock") || has_file(world, "web.log"));

    close(claim(world, "web", "web"));
    assert_int_equal(control_folder_open_log(&world->folder, "web", &log, &err), STATUS_OK);
    assert_int_equal(write(log, "x", 1), 1);
    close(log);
    control_folder_tidy(&world->folder, "web");
    assert_false(has_file(world, "web.sock"));
    assert_true(has_file(world, "web.log"));
}

/* One that is about to end is found by nobody, and another may have its name. */
static void test_leaving(void **state)
{
    struct world *world = *state;
    struct error err;
    int fd, leaving = claim(world, "web", "web");
    control_folder_leave(&world->folder, "web");
    assert_int_equal(control_folder_connect(&world->folder, "web", 1, &fd, &err), STATUS_NOT_FOUND);
    int next = claim(world, "web", "web");
    assert_int_equal(control_folder_connect(&world->folder, "web", 1, &fd, &err), STATUS_OK);
    close(fd);
    close(leaving);
    assert_int_equal(control_folder_connect(&world->folder, "web", 1, &fd, &err), STATUS_OK);
    close(fd);
    close(next);
}

/* Whoever sees a socket can connect to it: it is made elsewhere, and named when it listens. */
static void test_socket_listens_when_it_has_its_name(void **state)
{
    struct world *world = *state;
    char events[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    close(openat(world->folder.fd, ".unready.sock", O_CREAT | O_WRONLY, 0600)); /* of a dead one */
    int watch = inotify_init1(IN_NONBLOCK);
    assert_true(inotify_add_watch(watch, world->folder.path, IN_CREATE | IN_MOVED_TO) >= 0);
    close(claim(world, "web", "web"));
    ssize_t size = read(watch, events, sizeof events);
    unsigned seen = 0;
    for (ssize_t at = 0; at < size;) {
        const struct inotify_event *event = (const void *)(events + at);
        if (strcmp(event->name, "web.sock") == 0) {
            assert_int_equal(event->mask, IN_MOVED_TO);
            seen++;
        }
        at += (ssize_t)(sizeof *event + event->len);
    }
    assert_int_equal(seen, 1);
    assert_false(has_file(world, ".unready.sock"));
    close(watch);
}

static void test_what_else_lies_there(void **state)
{
    struct world *world = *state;
    static const char *const others[] = {".sock",   "-x.sock",      "a b.sock",
                                         "web.log", "web.sock.old", "..sock"};
    struct error err;
    for (size_t i = 0; i < ARRAY_LENGTH(others); i++)
        close(openat(world->folder.fd, others[i], O_CREAT | O_WRONLY, 0600));
    char **names;
    size_t count;
    assert_int_equal(control_folder_list(&world->folder, &names, &count, &err), STATUS_OK);
    assert_int_equal(count, 0);
    free(names);

    /* A folder of that name cannot be taken, and is not removed. */
    assert_int_equal(mkdirat(world->folder.fd, "dir.sock", 0700), 0);
    char taken[CONTROL_NAME_MOST + 1];
    int fd;
    assert_int_not_equal(control_folder_claim(&world->folder, "dir", taken, &fd, &err), STATUS_OK);
    assert_true(has_file(world, "dir.sock"));
    /* A symbolic link as a log is not followed. */
    assert_int_equal(symlinkat("/tmp/x", world->folder.fd, "link.log"), 0);
    assert_int_not_equal(control_folder_open_log(&world->folder, "link", &fd, &err), STATUS_OK);
}

static void test_folders_that_others_get_into(void **state)
{
    struct world *world = *state;
    struct control_folder again;
    struct error err;
    assert_int_equal(fchmod(world->folder.fd, 0750), 0);
    assert_int_equal(control_folder_open(&again, &err), STATUS_INVALID);
    assert_int_equal(fchmod(world->folder.fd, 0700), 0);
    assert_int_equal(control_folder_open(&again, &err), STATUS_OK);
    control_folder_close(&again);

    /* Through a link, which may lead anywhere. */
    snprintf(world->file, sizeof world->file, "%s/real", world->runtime);
    assert_int_equal(rename(world->folder.path, world->file), 0);
    assert_int_equal(symlink(world->file, world->folder.path), 0);
    assert_int_equal(control_folder_open(&again, &err), STATUS_INVALID);
}

/* Where the variable names nothing of use, the folder is in /tmp. */
static void test_without_a_runtime_folder(void **state)
{
    static const char *const useless[] = {"", "relative", "/nonexistent", "/dev/null"};
    char expected[64];
    snprintf(expected, sizeof expected, "/tmp/aerostat-%u", (unsigned)geteuid());
    for (size_t i = 0; i <= ARRAY_LENGTH(useless); i++) {
        struct control_folder folder;
        struct error err;
        if (i < ARRAY_LENGTH(useless))
            setenv("XDG_RUNTIME_DIR", useless[i], 1);
        else
            unsetenv("XDG_RUNTIME_DIR");
        assert_int_equal(control_folder_open(&folder, &err), STATUS_OK);
        assert_string_equal(folder.path, expected);
        control_folder_close(&folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test_setup_teardown(test_names_are_taken_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_connecting, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leaving, setup, teardown),
        cmocka_unit_test_setup_teardown(test_socket_listens_when_it_has_its_name, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_else_lies_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_folders_that_others_get_into, setup, teardown),
        cmocka_unit_test(test_without_a_runtime_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
