#include "proto/link.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util/bits.h"

static const struct form {
    enum link_sender sender;
    uint32_t each;                 /* bytes of one */
    uint32_t count_min, count_max; /* of what its head may say */
    unsigned descriptors_min, descriptors_max;
    bool known;
} forms[] = {
    [LINK_HELLO] = {LINK_VM, sizeof(struct link_hello), 1, 1, 1, 2, true},
    [LINK_HOLDS] = {LINK_VM, sizeof(struct link_ref), 1, LINK_PAGES, 0, 0, true},
    [LINK_READY] = {LINK_VM, 0, 0, 0, 0, 0, true},
    [LINK_OFFER] = {LINK_VM, sizeof(struct link_offer), 1, LINK_PAGES, 0, 0, true},
    [LINK_DROP] = {LINK_VM, sizeof(struct link_ref), 1, LINK_PAGES, 0, 0, true},
    [LINK_REPORT] = {LINK_VM, sizeof(struct link_report), 1, 1, 0, 0, true},
    [LINK_WELCOME] = {LINK_MANAGER, sizeof(struct link_welcome), 1, 1, 1, 1, true},
    [LINK_ATTACH] = {LINK_MANAGER, sizeof(struct link_ref), 1, LINK_PAGES, 0, 0, true},
    [LINK_TARGET] = {LINK_MANAGER, sizeof(struct link_target), 1, 1, 0, 0, true},
};

/* What is on the wire has no holes, in which memory of the sender's could travel along. */
_Static_assert(sizeof(struct link_hello) == 2 * 4 + 2 * LINK_NAME_SIZE + 2 + 4 + 5 * 8, "packed");
_Static_assert(sizeof(struct link_welcome) == 4 * 8, "packed");
_Static_assert(sizeof(struct link_target) == 4 * 8, "packed");
_Static_assert(sizeof(struct link_report) == 29 * 8, "packed");
_Static_assert(sizeof(struct link_head) + LINK_PAGES * sizeof(struct link_offer) == LINK_MOST,
               "the longest message");

const char *link_mmu_name(uint32_t mode)
{
    static const char *const names[] = {"nested", "mixed", "shadow"};
    return mode < ARRAY_LENGTH(names) ? names[mode] : "unknown";
}

uint64_t link_size(enum link_type type, uint32_t count)
{
    return sizeof(struct link_head) + (uint64_t)forms[type].each * count;
}

enum status link_check(const void *message, uint64_t length, unsigned descriptors,
                       enum link_sender sender, struct error *err)
{
    struct link_head head;
    if (length < sizeof head)
        return error_set(err, STATUS_INVALID, "a message without a head");
    memcpy(&head, message, sizeof head);
    if (head.type >= ARRAY_LENGTH(forms) || !forms[head.type].known ||
        forms[head.type].sender != sender)
        return error_set(err, STATUS_INVALID, "a message of type %u, which is not expected",
                         head.type);
    const struct form *form = &forms[head.type];
    if (head.count < form->count_min || head.count > form->count_max)
        return error_set(err, STATUS_INVALID, "a message of type %u with %u entries", head.type,
                         head.count);
    if (length != link_size((enum link_type)head.type, head.count))
        return error_set(err, STATUS_INVALID, "a message of type %u with a wrong length",
                         head.type);
    if (descriptors < form->descriptors_min || descriptors > form->descriptors_max)
        return error_set(err, STATUS_INVALID, "a message of type %u with %u descriptors", head.type,
                         descriptors);
    return STATUS_OK;
}

/* Room for LINK_DESCRIPTORS_MOST and not one more: the kernel drops the others, and says so. */
union control {
    char bytes[CMSG_SPACE(LINK_DESCRIPTORS_MOST * sizeof(int))];
    struct cmsghdr align;
};

enum status link_send(int fd, const void *message, uint64_t length, const int *descriptors,
                      unsigned descriptor_count, struct error *err)
{
    union control control = {0};
    struct iovec part = {.iov_base = (void *)message, .iov_len = length};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptor_count > LINK_DESCRIPTORS_MOST)
        return error_set(err, STATUS_INTERNAL, "too many descriptors for a message");
    if (descriptor_count != 0) {
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE(descriptor_count * sizeof(int));
        struct cmsghdr *passed = CMSG_FIRSTHDR(&header);
        passed->cmsg_level = SOL_SOCKET;
        passed->cmsg_type = SCM_RIGHTS;
        passed->cmsg_len = CMSG_LEN(descriptor_count * sizeof(int));
        memcpy(CMSG_DATA(passed), descriptors, descriptor_count * sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(fd, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent == (ssize_t)length)
        return STATUS_OK;
    if (sent < 0 && (errno == EAGAIN || errno == ENOBUFS))
        return error_set(err, STATUS_BUSY, "the other end of the link does not read");
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN))
        return error_set(err, STATUS_NOT_FOUND, "the other end of the link is gone");
    return error_set(err, STATUS_IO, "cannot send over the link: %s",
                     sent < 0 ? strerror(errno) : "cut short");
}

/* Takes what came along, at most LINK_DESCRIPTORS_MOST. */
static unsigned take_descriptors(struct msghdr *header, int descriptors[LINK_DESCRIPTORS_MOST])
{
    unsigned count = 0;
    for (struct cmsghdr *passed = CMSG_FIRSTHDR(header); passed != NULL;
         passed = CMSG_NXTHDR(header, passed)) {
        if (passed->cmsg_level != SOL_SOCKET || passed->cmsg_type != SCM_RIGHTS)
            continue;
        size_t bytes = passed->cmsg_len - CMSG_LEN(0);
        for (size_t at = 0; at + sizeof(int) <= bytes; at += sizeof(int)) {
            int fd;
            memcpy(&fd, CMSG_DATA(passed) + at, sizeof fd);
            if (count < LINK_DESCRIPTORS_MOST)
                descriptors[count++] = fd;
            else
                close(fd);
        }
    }
    return count;
}

enum status link_receive(int fd, enum link_sender sender, void *message, uint64_t *length,
                         int descriptors[LINK_DESCRIPTORS_MOST], unsigned *descriptor_count,
                         struct error *err)
{
    union control control;
    struct iovec part = {.iov_base = message, .iov_len = LINK_MOST};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = &control,
                            .msg_controllen = sizeof control};
    *length = 0;
    *descriptor_count = 0;
    ssize_t received;
    do
        received = recvmsg(fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (received < 0 && errno == EINTR);
    if (received < 0 && errno == EAGAIN)
        return error_set(err, STATUS_BUSY, "nothing has come over the link");
    if (received < 0 && errno != ECONNRESET)
        return error_set(err, STATUS_IO, "cannot receive over the link: %s", strerror(errno));

    unsigned count = received < 0 ? 0 : take_descriptors(&header, descriptors);
    enum status status;
    if (received <= 0) /* an empty message, which nobody sends in earnest, looks like the end */
        status = error_set(err, STATUS_NOT_FOUND, "the other end of the link is gone");
    else if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
        status = error_set(err, STATUS_INVALID, "a message that is too long");
    else
        status = link_check(message, (uint64_t)received, count, sender, err);
    if (status == STATUS_OK) {
        *length = (uint64_t)received;
        *descriptor_count = count;
        return STATUS_OK;
    }
    for (unsigned i = 0; i < count; i++)
        close(descriptors[i]);
    return status;
}
