/* Messages of the link: what has the form is let through, with its descriptors; nothing else is. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/link.h"
#include "util/bits.h"

static const struct sample {
    enum link_type type;
    uint32_t count;
    unsigned descriptors;
    enum link_sender sender;
} samples[] = {
    {LINK_HELLO, 1, 1, LINK_VM},
    {LINK_HELLO, 1, 2, LINK_VM},
    {LINK_HOLDS, 1, 0, LINK_VM},
    {LINK_HOLDS, LINK_PAGES, 0, LINK_VM},
    {LINK_READY, 0, 0, LINK_VM},
    {LINK_OFFER, 1, 0, LINK_VM},
    {LINK_OFFER, LINK_PAGES, 0, LINK_VM},
    {LINK_DROP, 7, 0, LINK_VM},
    {LINK_REPORT, 1, 0, LINK_VM},
    {LINK_WELCOME, 1, 1, LINK_MANAGER},
    {LINK_ATTACH, LINK_PAGES, 0, LINK_MANAGER},
    {LINK_TARGET, 1, 0, LINK_MANAGER},
};

static uint64_t message[LINK_MOST / 8 + 2];

static uint64_t make(const struct sample *sample)
{
    struct link_head head = {.type = sample->type, .count = sample->count};
    memset(message, 0x5a, sizeof message);
    memcpy(message, &head, sizeof head);
    return link_size(sample->type, sample->count);
}

static enum status check(uint64_t length, unsigned descriptors, enum link_sender sender)
{
    struct error err = {0};
    /* Exactly as long, for the sanitizer's sake. */
    void *copy = malloc(length == 0 ? 1 : length);
    memcpy(copy, message, length);
    enum status status = link_check(copy, length, descriptors, sender, &err);
    free(copy);
    assert_int_equal(err.status, status);
    assert_int_equal(err.text[0] == '\0', status == STATUS_OK);
    return status;
}

static void test_form(void **state)
{
    for (size_t i = 0; i < ARRAY_LENGTH(samples); i++) {
        const struct sample *sample = &samples[i];
        uint64_t length = make(sample);
        assert_true(length <= LINK_MOST);
        assert_int_equal(check(length, sample->descriptors, sample->sender), STATUS_OK);
        /* too short by anything, too long */
        for (uint64_t shorter = 0; shorter < length; shorter++)
            assert_int_equal(check(shorter, sample->descriptors, sample->sender), STATUS_INVALID);
        assert_int_equal(check(length + 1, sample->descriptors, sample->sender), STATUS_INVALID);
        assert_int_equal(check(length + 8, sample->descriptors, sample->sender), STATUS_INVALID);
        /* the other side's, and descriptors that do not belong there */
        assert_int_equal(
            check(length, sample->descriptors, LINK_VM + LINK_MANAGER - sample->sender),
            STATUS_INVALID);
        assert_int_equal(check(length, sample->descriptors + 2, sample->sender), STATUS_INVALID);
        if (sample->descriptors == 1)
            assert_int_equal(check(length, 0, sample->sender), STATUS_INVALID);
    }
}

static void test_heads(void **state)
{
    static const struct link_head bad[] = {
        {0, 0},
        {0, 1},
        {LINK_TARGET + 1, 1},
        {UINT32_MAX, 1},
        {LINK_HELLO, 0},
        {LINK_HELLO, 2},
        {LINK_READY, 1},
        {LINK_OFFER, 0},
        {LINK_OFFER, LINK_PAGES + 1},
        {LINK_OFFER, UINT32_MAX},
        {LINK_DROP, 0x20000000}, /* times 8: nothing, in 32 bits */
        {LINK_REPORT, 0},
    };
    for (size_t i = 0; i < ARRAY_LENGTH(bad); i++) {
        memcpy(message, &bad[i], sizeof bad[i]);
        for (uint64_t length = 0; length <= 512; length += 8)
            assert_int_equal(check(length, 0, LINK_VM), STATUS_INVALID);
    }
}

static void pair(int ends[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
}

static unsigned open_descriptors(void)
{
    unsigned count = 0;
    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static uint64_t got[LINK_MOST / 8];

static enum status receive(int fd, enum link_sender sender, uint64_t *length, int descriptors[2],
                           unsigned *count)
{
    struct error err;
    return link_receive(fd, sender, got, length, descriptors, count, &err);
}

static void test_over_a_socket(void **state)
{
    int ends[2], passed[2];
    struct error err = {0};
    uint64_t length;
    unsigned count;
    pair(ends);
    unsigned before = open_descriptors();
    assert_int_equal(receive(ends[1], LINK_VM, &length, passed, &count), STATUS_BUSY);
    for (size_t i = 0; i < ARRAY_LENGTH(samples); i++) {
        const struct sample *sample = &samples[i];
        int sent[2] = {ends[0], ends[1]};
        uint64_t size = make(sample);
        assert_int_equal(link_send(ends[0], message, size, sent, sample->descriptors, &err),
                         STATUS_OK);
        assert_int_equal(receive(ends[1], sample->sender, &length, passed, &count), STATUS_OK);
        assert_int_equal(length, size);
        assert_memory_equal(got, message, size);
        assert_int_equal(count, sample->descriptors);
        for (unsigned d = 0; d < count; d++) {
            assert_int_equal(fcntl(passed[d], F_GETFD), FD_CLOEXEC);
            close(passed[d]);
        }
    }
    assert_int_equal(open_descriptors(), before);
    close(ends[0]);
    assert_int_equal(receive(ends[1], LINK_VM, &length, passed, &count), STATUS_NOT_FOUND);
    make(&samples[4]);
    assert_int_equal(link_send(ends[1], message, 8, NULL, 0, &err), STATUS_NOT_FOUND);
    close(ends[1]);
}

/* Nothing that is refused leaves a descriptor behind. */
static void test_refused_descriptors(void **state)
{
    int ends[2], passed[2], three[3];
    struct error err = {0};
    uint64_t length;
    unsigned count;
    pair(ends);
    unsigned before = open_descriptors();
    for (unsigned i = 0; i < 3; i++)
        three[i] = ends[0];

    make(&samples[4]); /* READY has none */
    assert_int_equal(link_send(ends[0], message, 8, three, 2, &err), STATUS_OK);
    assert_int_equal(receive(ends[1], LINK_VM, &length, passed, &count), STATUS_INVALID);
    assert_int_equal(link_send(ends[0], message, 7, three, 1, &err), STATUS_OK);
    assert_int_equal(receive(ends[1], LINK_VM, &length, passed, &count), STATUS_INVALID);
    /* longer than any */
    assert_int_equal(link_send(ends[0], message, LINK_MOST + 1, three, 1, &err), STATUS_OK);
    assert_int_equal(receive(ends[1], LINK_VM, &length, passed, &count), STATUS_INVALID);

    /* three with a message that may have two */
    uint64_t size = make(&samples[0]);
    union {
        char bytes[CMSG_SPACE(sizeof three)];
        struct cmsghdr align;
    } control = {0};
    struct iovec part = {message, size};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = &control,
                            .msg_controllen = sizeof control};
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&header);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof three);
    memcpy(CMSG_DATA(cmsg), three, sizeof three);
    assert_int_equal(sendmsg(ends[0], &header, 0), size);
    assert_int_equal(receive(ends[1], LINK_VM, &length, passed, &count), STATUS_INVALID);

    assert_int_equal(open_descriptors(), before);
    close(ends[0]);
    close(ends[1]);
}

/* Who does not read is waited for by nobody, and what was sent before is whole. */
static void test_full_queue(void **state)
{
    int ends[2], passed[2];
    struct error err = {0};
    uint64_t length;
    unsigned count, sent = 0;
    enum status status;
    pair(ends);
    uint64_t size = make(&samples[10]);
    while ((status = link_send(ends[0], message, size, NULL, 0, &err)) == STATUS_OK)
        sent++;
    assert_int_equal(status, STATUS_BUSY);
    assert_true(sent > 0);
    for (unsigned i = 0; i < sent; i++) {
        assert_int_equal(receive(ends[1], LINK_MANAGER, &length, passed, &count), STATUS_OK);
        assert_int_equal(length, size);
    }
    assert_int_equal(receive(ends[1], LINK_MANAGER, &length, passed, &count), STATUS_BUSY);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_form),          cmocka_unit_test(test_heads),
        cmocka_unit_test(test_over_a_socket), cmocka_unit_test(test_refused_descriptors),
        cmocka_unit_test(test_full_queue),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
