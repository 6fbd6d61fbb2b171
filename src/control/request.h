#ifndef AEROSTAT_CONTROL_REQUEST_H
#define AEROSTAT_CONTROL_REQUEST_H

/* What can be asked of a VM, and of the manager, through their control sockets: one JSON object a
 * line. docs/control.md, docs/protocol.md. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/name.h"
#include "util/status.h"

#define CONTROL_VERSION   1
#define CONTROL_LINE_MOST 4096u /* bytes of a request, with its newline */

enum control_kind {
    /* of a VM */
    CONTROL_STATS,
    CONTROL_BALLOON,  /* size */
    CONTROL_RESIDENT, /* size */
    CONTROL_PAUSE,
    CONTROL_RESUME,
    CONTROL_STOP,    /* [force] */
    CONTROL_CONSOLE, /* the connection becomes another thing */
    CONTROL_ADOPT,   /* a descriptor */
    /* of the manager */
    CONTROL_ADMIT, /* name, max, [min, shares, group, swap, overhead] */
    CONTROL_STATUS,
    CONTROL_SET,    /* name, [shares, min, group] */
    CONTROL_MEMORY, /* size */
    CONTROL_QUIT,
};

/* Members of requests, beside "request" and "version"; as bits. */
enum control_member {
    CONTROL_HAS_SIZE = 1 << 0, /* bytes, as min, max, swap and overhead */
    CONTROL_HAS_FORCE = 1 << 1,
    CONTROL_HAS_NAME = 1 << 2,
    CONTROL_HAS_GROUP = 1 << 3,
    CONTROL_HAS_MIN = 1 << 4,
    CONTROL_HAS_MAX = 1 << 5,
    CONTROL_HAS_SHARES = 1 << 6,
    CONTROL_HAS_SWAP = 1 << 7,
    CONTROL_HAS_OVERHEAD = 1 << 8,
};

struct control_request {
    enum control_kind kind;
    unsigned has; /* which of the following were given; the others are 0 */
    uint64_t size, min, max, shares, swap, overhead; /* at most INT64_MAX */
    bool force;
    char name[CONTROL_NAME_MOST + 1];  /* as control_name_check wants it */
    char group[CONTROL_NAME_MOST + 1]; /* likewise, or "" */
    int descriptor; /* of adopt; -1: none. The server's to close, unless the answerer sets -1 */
};

struct control_verb {
    const char *name;
    enum control_kind kind;
    unsigned needs, may_have; /* members; what it needs it may have as well */
    bool needs_descriptor;    /* comes with the request, by SCM_RIGHTS */
    bool takes_connection;    /* the reply is the connection's last */
};

/* Who understands which requests. */
struct control_language {
    const char *speaker; /* "this VM" */
    const struct control_verb *verbs;
    size_t count;
};

extern const struct control_language control_vm_language, control_manager_language;

/* `line` without its newline. What is not exactly a request is STATUS_INVALID (STATUS_UNSUPPORTED
 * for another version), with a line that repeats nothing of what was sent. *verb becomes the
 * request's. */
enum status control_request_parse(const struct control_language *language, const char *line,
                                  size_t length, struct control_request *request,
                                  const struct control_verb **verb, struct error *err);

#endif
