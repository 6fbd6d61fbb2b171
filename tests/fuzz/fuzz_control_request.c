/* Requests as anybody may send them to a VM's control socket, line by line: none may crash the
 * parser, and what it accepts is within what it promises. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "control/request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const char *line, size_t length)
{
    struct control_request request;
    struct error err = {0};
    enum status status = control_request_parse(line, length, &request, &err);
    if (status == STATUS_OK) {
        bool sized = request.kind == CONTROL_BALLOON || request.kind == CONTROL_RESIDENT;
        if ((unsigned)request.kind > CONTROL_CONSOLE || request.size > INT64_MAX ||
            (request.size != 0 && !sized) || (request.force && request.kind != CONTROL_STOP))
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
        check(at, (size_t)(stop - at));
        at = stop + 1;
    }
    return 0;
}
