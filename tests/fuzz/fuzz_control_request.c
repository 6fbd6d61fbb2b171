/* Requests as anybody may send them to a control socket, line by line: none may crash the
 * parser, and what it accepts is within what it promises. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "control/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct control_language *language, const char *line, size_t length)
{
    struct control_request request;
    const struct control_verb *verb;
    struct error err = {0};
    enum status status = control_request_parse(language, line, length, &request, &verb, &err);
    if (status == STATUS_OK) {
        uint64_t numbers = request.size | request.min | request.max | request.shares |
                           request.swap | request.overhead;
        if (verb == NULL || verb->kind != request.kind || numbers > INT64_MAX ||
            (verb->needs & ~request.has) != 0 ||
            (request.has & ~(verb->needs | verb->may_have)) != 0 || request.descriptor != -1 ||
            memchr(request.name, '\0', sizeof request.name) == NULL ||
            memchr(request.group, '\0', sizeof request.group) == NULL)
            abort();
    } else if (err.status != status || err.text[0] == '\0' || strchr(err.text, '\n') != NULL) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *at = (const char *)data, *end = at + size;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline != NULL ? newline : end;
        check(&control_vm_language, at, (size_t)(stop - at));
        check(&control_manager_language, at, (size_t)(stop - at));
        at = stop + 1;
    }
    return 0;
}
