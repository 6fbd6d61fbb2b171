/* The server of control sockets: descriptors that come with requests, and connections that are
 * handed on. What goes over the wire otherwise is tested with a VM (test_control.py). */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/server.h"
#include "util/bits.h"

static struct fixture {
    struct io_loop *loop;
    struct control_server *server;
    int listener, client;
    struct sockaddr_un address;
    socklen_t address_size;
    ino_t adopted; /* of the descriptor that came */
    unsigned adoptions, unwanted;
} fixture;

static json_t *answer(void *context, struct control_request *request, struct error *err)
{
    struct fixture *self = context;
    struct stat info;
    if (request->kind == CONTROL_ADOPT) {
        assert_int_equal(fstat(request->descriptor, &info), 0);
        assert_int_equal(fcntl(request->descriptor, F_GETFD), FD_CLOEXEC);
        self->adopted = info.st_ino;
        self->adoptions++;
    } else {
        self->unwanted += request->descriptor != -1;
    }
    if (request->kind == CONTROL_STOP) {
        error_set(err, STATUS_BUSY, "no");
        return NULL;
    }
    return json_object();
}

static void take(void *context, const struct control_request *request, int fd, const char *greeting,
                 const char *typed, size_t length)
{
    dprintf(fd, "%s|%.*s", greeting, (int)length, typed);
    close(fd);
}

static void say(const char *text, const int *descriptors, unsigned count)
{
    union {
        char bytes[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec part = {(void *)text, strlen(text)};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (count != 0) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        struct cmsghdr *passed = CMSG_FIRSTHDR(&header);
        passed->cmsg_level = SOL_SOCKET;
        passed->cmsg_type = SCM_RIGHTS;
        passed->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(passed), descriptors, count * sizeof(int));
    }
    assert_int_equal(sendmsg(fixture.client, &header, 0), strlen(text));
}

/* The next line, or "" where the server has hung up. */
static const char *hear(void)
{
    static char line[256];
    size_t length = 0;
    while (length + 1 < sizeof line && recv(fixture.client, line + length, 1, 0) == 1 &&
           line[length] != '\n')
        length++;
    line[length] = '\0';
    return line;
}

#define OK "{\"version\":1,\"ok\":true}"

/* Connects, and returns when the server has taken the connection. */
static void client_connect(void)
{
    fixture.client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(
        connect(fixture.client, (struct sockaddr *)&fixture.address, fixture.address_size), 0);
    say("{\"request\":\"resume\"}\n", NULL, 0);
    assert_string_equal(hear(), OK);
}

static int setup(void **state)
{
    struct error err;
    fixture = (struct fixture){.address = {.sun_family = AF_UNIX}};
    /* in the abstract name space, under a name of the kernel's choice */
    fixture.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(
        bind(fixture.listener, (struct sockaddr *)&fixture.address, sizeof(sa_family_t)), 0);
    fixture.address_size = sizeof fixture.address;
    getsockname(fixture.listener, (struct sockaddr *)&fixture.address, &fixture.address_size);
    assert_int_equal(listen(fixture.listener, 8), 0);
    assert_int_equal(io_loop_create(&fixture.loop, "test", &err), STATUS_OK);
    struct control_server_config config = {
        .loop = fixture.loop,
        .listener = fixture.listener,
        .language = &control_vm_language,
        .answer = answer,
        .take = take,
        .context = &fixture,
    };
    assert_int_equal(control_server_create(&fixture.server, &config, &err), STATUS_OK);
    assert_int_equal(io_loop_start(fixture.loop, &err), STATUS_OK);
    client_connect();
    return 0;
}

static int teardown(void **state)
{
    close(fixture.client);
    io_loop_stop(fixture.loop);
    control_server_destroy(fixture.server);
    io_loop_destroy(fixture.loop);
    close(fixture.listener);
    return 0;
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static void test_a_descriptor(void **state)
{
    int ends[2];
    struct stat info;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    fstat(ends[0], &info);
    unsigned before = open_descriptors();
    say("{\"request\":\"adopt\"}\n", ends, 1);
    assert_string_equal(hear(), OK);
    assert_int_equal(fixture.adopted, info.st_ino);
    say("{\"request\":\"adopt\"}\n", NULL, 0);
    assert_non_null(strstr(hear(), "\"adopt\\\" needs a descriptor"));
    say("{\"request\":\"pause\"}\n", ends, 1);
    assert_non_null(strstr(hear(), "has no use for a descriptor"));
    say("{\"request\":\"nonsense\"}\n", ends, 1);
    assert_non_null(strstr(hear(), "invalid"));
    say("{\"request\":\"resume\"}\n", NULL, 0); /* what nobody wanted is with nobody */
    assert_string_equal(hear(), OK);
    assert_int_equal(fixture.adoptions, 1);
    assert_int_equal(fixture.unwanted, 0);
    assert_int_equal(open_descriptors(), before);
    /* with a part of the line */
    say("{\"request\":", NULL, 0);
    say("\"adopt\"", ends, 1);
    say("}\n", NULL, 0);
    assert_string_equal(hear(), OK);
    assert_int_equal(fixture.adoptions, 2);
    assert_int_equal(open_descriptors(), before);
    close(ends[0]);
    close(ends[1]);
}

static void test_too_many(void **state)
{
    for (unsigned count = 2; count <= 4; count++) {
        int four[4] = {fixture.client, fixture.client, fixture.client, fixture.client};
        unsigned before = open_descriptors();
        say("{\"request\":\"adopt\"}\n", four, count);
        assert_string_equal(hear(), "");
        assert_int_equal(open_descriptors(), before - 1); /* the server's end is closed */
        close(fixture.client);
        client_connect();
    }
    int one[1] = {fixture.client};
    say("{\"request\":", one, 1); /* one with each half */
    say("\"adopt\"}\n", one, 1);
    assert_string_equal(hear(), "");
    assert_int_equal(fixture.adoptions, 0);
}

/* A client that hangs up with a descriptor in its half request. */
static void test_half(void **state)
{
    int one[1] = {fixture.client};
    unsigned before = open_descriptors();
    say("{\"request\":\"resume\"}\n{\"request\":", one,
        1); /* goes with the first, and is refused */
    assert_non_null(strstr(hear(), "has no use"));
    say("\"resume\"}\n", NULL, 0);
    assert_string_equal(hear(), OK);
    say("{", one, 1);
    shutdown(fixture.client, SHUT_WR);
    assert_string_equal(hear(), "");
    assert_int_equal(open_descriptors(), before - 1);
}

static void test_taken(void **state)
{
    say("{\"request\":\"stop\"}\n{\"request\":\"console\"}\ntyped", NULL, 0);
    assert_non_null(strstr(hear(), "busy"));
    assert_string_equal(hear(), OK "|typed");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_descriptor, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half, setup, teardown),
        cmocka_unit_test_setup_teardown(test_taken, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
