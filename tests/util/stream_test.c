/* Descriptors that never block, though the one they were made from would. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/stream.h"

enum kind { PIPE, TERMINAL, SOCKET, KINDS };

/* Two blocking ends. */
static void make_ends(enum kind kind, int *reader, int *writer)
{
    int ends[2];
    struct termios raw;
    switch (kind) {
    case PIPE:
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        break;
    case TERMINAL:
        cfmakeraw(memset(&raw, 0, sizeof raw));
        assert_int_equal(openpty(&ends[0], &ends[1], NULL, &raw, NULL), 0);
        break;
    case SOCKET:
    case KINDS:
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
        break;
    }
    *reader = ends[0];
    *writer = ends[1];
}

static void assert_would_block(ssize_t result)
{
    int reason = errno;
    assert_int_equal(result, -1);
    assert_int_equal(reason, EAGAIN);
}

/* Nothing to read, later nothing more to write: each is said, not waited for. */
static void test_never_blocks(void **state)
{
    for (enum kind kind = PIPE; kind < KINDS; kind++) {
        static const uint8_t bytes[64 * KIB];
        uint8_t back[16];
        struct stream in, out;
        int reader, writer;

        make_ends(kind, &reader, &writer);
        assert_int_equal(stream_open(&in, reader, O_RDONLY, NULL), STATUS_OK);
        assert_int_equal(stream_open(&out, writer, O_WRONLY, NULL), STATUS_OK);
        if (kind != TERMINAL) /* the master's end of a terminal cannot be opened again */
            assert_would_block(stream_read(&in, back, sizeof back));
        assert_int_equal(stream_write(&out, "x", 1), 1);
        assert_int_equal(stream_read(&in, back, sizeof back), 1);

        ssize_t written;
        do
            written = stream_write(&out, bytes, sizeof bytes);
        while (written > 0);
        assert_would_block(written);

        /* Others who have the same open files see no change. */
        assert_int_equal(fcntl(reader, F_GETFL) & O_NONBLOCK, 0);
        assert_int_equal(fcntl(writer, F_GETFL) & O_NONBLOCK, 0);
        stream_close(&in);
        stream_close(&out);
        stream_close(&out);
        assert_int_not_equal(fcntl(writer, F_GETFD), -1);
        close(reader);
        close(writer);
    }
}

static void test_far_end_closed(void **state)
{
    struct stream out;
    int reader, writer;
    signal(SIGPIPE, SIG_DFL); /* a socket's must not come at all */
    make_ends(SOCKET, &reader, &writer);
    assert_int_equal(stream_open(&out, writer, O_WRONLY, NULL), STATUS_OK);
    close(reader);
    assert_int_equal(stream_write(&out, "x", 1), -1);
    assert_int_equal(errno, EPIPE);
    stream_close(&out);
    close(writer);
}

static void test_bad_descriptor(void **state)
{
    struct stream stream;
    struct error err = {0};
    assert_int_equal(stream_open(&stream, 12345, O_RDONLY, &err), STATUS_IO);
    assert_int_equal(stream.fd, -1);
    assert_string_not_equal(err.text, "");
    stream_close(&stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never_blocks),
        cmocka_unit_test(test_far_end_closed),
        cmocka_unit_test(test_bad_descriptor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
