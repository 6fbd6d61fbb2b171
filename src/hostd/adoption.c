/*
 * Finding VMs by their sockets, and putting a link to each. Nothing here waits for a VM: it is
 * connected to at once or later, asked in one small message, and its answer is read when it comes.
 */

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hostd/manager.h"
#include "util/clock.h"
#include "util/log.h"

#define REPLY_MOST 4096u

void adoption_end(struct vm *vm)
{
    io_source_destroy(vm->control_source);
    vm->control_source = NULL;
    if (vm->control >= 0)
        close(vm->control);
    vm->control = -1;
}

static void refused(struct vm *vm, const json_t *reply)
{
    const char *code = json_string_value(json_object_get(reply, "code"));
    vm->refuses = code == NULL || strcmp(code, "unsupported") == 0 || strcmp(code, "invalid") == 0;
    if (vm->refuses && !vm->has_said_so)
        log_warning("%s cannot be managed", vm->name);
    vm->has_said_so |= vm->refuses;
    vm_link_close(vm);
}

/* The answer to `adopt`. A VM that hangs up before it has ended or is busy. */
static void on_reply(void *context, uint32_t events)
{
    struct vm *vm = context;
    char line[REPLY_MOST];
    ssize_t length = recv(vm->control, line, sizeof line, MSG_DONTWAIT);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    json_t *reply =
        length > 0 ? json_loadb(line, (size_t)length, JSON_DISABLE_EOF_CHECK, NULL) : NULL;
    adoption_end(vm);
    if (length > 0 && !json_is_true(json_object_get(reply, "ok")))
        refused(vm, reply);
    json_decref(reply);
}

/* Sends the request with one end of the link. */
static bool ask(int control, int link)
{
    static const char request[] = "{\"version\":1,\"request\":\"adopt\"}\n";
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } passing = {0};
    struct iovec part = {(void *)request, sizeof request - 1};
    struct msghdr header = {.msg_iov = &part,
                            .msg_iovlen = 1,
                            .msg_control = &passing,
                            .msg_controllen = sizeof passing};
    struct cmsghdr *passed = CMSG_FIRSTHDR(&header);
    passed->cmsg_level = SOL_SOCKET;
    passed->cmsg_type = SCM_RIGHTS;
    passed->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(passed), &link, sizeof link);
    return sendmsg(control, &header, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof request - 1;
}

/* Over a connection to its socket, which it takes. */
static void adopt(struct vm *vm, int control)
{
    int ends[2];
    struct error err;
    enum status status = STATUS_IO;
    vm->control = control;
    vm->tried_at = clock_monotonic_ns();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
        adoption_end(vm);
        return;
    }
    vm->fd = ends[0];
    if (ask(control, ends[1]))
        status = vm_link_open(vm, &err);
    close(ends[1]);
    if (status == STATUS_OK)
        status = io_source_create(&vm->control_source, vm->manager->loop, control, EPOLLIN,
                                  on_reply, vm, &err);
    if (status != STATUS_OK) {
        vm_link_close(vm);
        adoption_end(vm);
    }
}

static bool is_wanted(const struct vm *vm)
{
    return vm->stage == VM_APART && !vm->refuses && vm->control < 0;
}

/* The process behind a socket is another than it was: the name has a new VM. */
static struct vm *vm_behind(struct manager *manager, const char *name, pid_t pid)
{
    struct vm *vm = registry_find(manager, name);
    if (vm != NULL && (vm->pid != pid || vm->charge.started != charge_process_started(pid))) {
        registry_end(vm);
        vm = NULL;
    }
    return vm != NULL ? vm : registry_add(manager, name, pid);
}

static void try_name(struct manager *manager, const char *name)
{
    struct error err;
    int control = -1;
    pid_t pid;
    uid_t uid;
    const struct vm *known = registry_find(manager, name);
    if (known != NULL && !is_wanted(known) && known->stage != VM_CUT_OFF)
        return;
    enum status status = control_folder_connect(&manager->folder, name, 0, &control, &err);
    if (status ==
        STATUS_NOT_FOUND) /* it may have been about to listen; by now it does, or is dead */
        status = control_folder_connect(&manager->folder, name, 0, &control, &err);
    if (status != STATUS_OK)
        return;
    struct vm *vm = NULL;
    if (control_peer(control, &pid, &uid) && uid == geteuid())
        vm = vm_behind(manager, name, pid);
    if (vm != NULL && is_wanted(vm))
        adopt(vm, control);
    else
        close(control);
}

void adoption_try(struct manager *manager, struct vm *vm)
{
    char name[LINK_NAME_SIZE];
    memcpy(name, vm->name, sizeof name);
    /* However often a VM closes its link, it gets a new one once a second. */
    if (is_wanted(vm) && clock_monotonic_ns() >= vm->tried_at + NS_PER_SECOND)
        try_name(manager, name);
}

void adoption_look(struct manager *manager)
{
    char **names;
    size_t count;
    struct error err;
    control_folder_list(&manager->folder, &names, &count, &err);
    for (size_t i = 0; i < count; i++) {
        try_name(manager, names[i]);
        free(names[i]);
    }
    free(names);
}

static void on_change(void *context, uint32_t events)
{
    struct manager *manager = context;
    char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t length = read(manager->watch, buffer, sizeof buffer);
    for (ssize_t at = 0; at < length;) {
        struct inotify_event *event = (struct inotify_event *)(void *)(buffer + at);
        at += (ssize_t)(sizeof *event + event->len);
        if ((event->mask & IN_Q_OVERFLOW) != 0)
            adoption_look(manager);
        else if (event->len != 0 && control_folder_is_socket(event->name))
            try_name(manager, event->name);
    }
}

enum status adoption_watch(struct manager *manager, struct error *err)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", manager->folder.fd);
    manager->watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (manager->watch < 0 ||
        inotify_add_watch(manager->watch, path, IN_CREATE | IN_MOVED_TO | IN_ONLYDIR) < 0)
        return error_set(err, STATUS_IO, "cannot watch %s: %s", manager->folder.path,
                         strerror(errno));
    return io_source_create(&manager->watch_source, manager->loop, manager->watch, EPOLLIN,
                            on_change, manager, err);
}
