#include "control/client.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/request.h"

#define REPLY_MOST (16u << 20) /* what a manager says of 20,000 VMs */
#define CHUNK      4096u

enum status client_send(struct control_folder *folder, const char *name, json_t *request,
                        unsigned seconds, int *fd, struct error *err)
{
    char line[CONTROL_LINE_MOST];
    size_t length = request == NULL ? 0 : json_dumpb(request, line, sizeof line - 1, JSON_COMPACT);
    json_decref(request);
    *fd = -1;
    if (length == 0 || length >= sizeof line)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    line[length++] = '\n';
    enum status status = control_folder_connect(folder, name, seconds, fd, err);
    if (status != STATUS_OK)
        return status;
    struct timeval limit = {.tv_sec = seconds};
    setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (send(*fd, line, length, MSG_NOSIGNAL) == (ssize_t)length)
        return STATUS_OK;
    status = error_set(err, STATUS_IO, "%s does not listen: %s", name, strerror(errno));
    close(*fd);
    *fd = -1;
    return status;
}

/* One line without its newline, which the caller frees; NULL with errno (0: hung up). */
static char *read_line(int fd, size_t *length)
{
    char *line = NULL;
    *length = 0;
    for (;;) {
        char *longer = realloc(line, *length + CHUNK);
        if (longer == NULL)
            break;
        line = longer;
        ssize_t count = recv(fd, line + *length, CHUNK, MSG_PEEK);
        if (count == 0)
            errno = 0;
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            break;
        const char *end = memchr(line + *length, '\n', (size_t)count);
        size_t used = end == NULL ? (size_t)count : (size_t)(end + 1 - (line + *length));
        if (recv(fd, line + *length, used, 0) != (ssize_t)used)
            break;
        *length += used;
        if (end != NULL) {
            --*length;
            return line;
        }
        if (*length > REPLY_MOST) {
            errno = EMSGSIZE;
            break;
        }
    }
    int failure = errno;
    free(line);
    errno = failure;
    return NULL;
}

/* The VM's own words, without what a terminal would obey. */
static enum status refused(const json_t *reply, const char *name, struct error *err)
{
    static const enum status statuses[] = {STATUS_INVALID,     STATUS_NOT_FOUND, STATUS_BUSY,
                                           STATUS_UNSUPPORTED, STATUS_NO_SPACE,  STATUS_NO_MEMORY};
    const char *code = json_string_value(json_object_get(reply, "code"));
    const char *text = json_string_value(json_object_get(reply, "error"));
    enum status status = STATUS_INTERNAL;
    for (size_t i = 0; code != NULL && i < sizeof statuses / sizeof statuses[0]; i++) {
        if (strcmp(code, status_name(statuses[i])) == 0)
            status = statuses[i];
    }
    error_set(err, status, "%s: %s", name, text == NULL ? "refused" : text);
    for (char *at = err->text; *at != '\0'; at++) {
        if (iscntrl((unsigned char)*at))
            *at = '?';
    }
    return status;
}

enum status client_receive(int fd, const char *name, json_t **reply, struct error *err)
{
    size_t length;
    *reply = NULL;
    char *line = read_line(fd, &length);
    if (line == NULL && errno == 0)
        return error_set(err, STATUS_IO, "%s has ended, or had too much to do", name);
    if (line == NULL)
        return error_set(err, STATUS_IO, "%s does not answer: %s", name,
                         errno == EAGAIN ? "it takes too long" : strerror(errno));
    json_t *object = json_loadb(line, length, 0, NULL);
    free(line);
    const json_t *ok = json_object_get(object, "ok");
    enum status status = STATUS_OK;
    if (json_integer_value(json_object_get(object, "version")) != CONTROL_VERSION ||
        !json_is_boolean(ok))
        status =
            error_set(err, STATUS_IO, "%s answers what this aerostat does not understand", name);
    else if (!json_is_true(ok))
        status = refused(object, name, err);
    if (status != STATUS_OK) {
        json_decref(object);
        return status;
    }
    *reply = object;
    return STATUS_OK;
}

enum status client_ask(const char *name, json_t *request, json_t **reply, struct error *err)
{
    struct control_folder folder;
    int fd;
    *reply = NULL;
    enum status status = control_folder_open(&folder, err);
    if (status != STATUS_OK) {
        json_decref(request);
        return status;
    }
    status = client_send(&folder, name, request, CLIENT_SECONDS, &fd, err);
    control_folder_close(&folder);
    if (status != STATUS_OK)
        return status;
    status = client_receive(fd, name, reply, err);
    close(fd);
    return status;
}
