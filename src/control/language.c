/* The requests that each of the programs understands. */

#include "control/request.h"

#include "util/bits.h"

static const struct control_verb vm_verbs[] = {
    {.name = "stats", .kind = CONTROL_STATS},
    {.name = "balloon", .kind = CONTROL_BALLOON, .needs = CONTROL_HAS_SIZE},
    {.name = "resident", .kind = CONTROL_RESIDENT, .needs = CONTROL_HAS_SIZE},
    {.name = "pause", .kind = CONTROL_PAUSE},
    {.name = "resume", .kind = CONTROL_RESUME},
    {.name = "stop", .kind = CONTROL_STOP, .may_have = CONTROL_HAS_FORCE},
    {.name = "console", .kind = CONTROL_CONSOLE, .takes_connection = true},
    {.name = "adopt", .kind = CONTROL_ADOPT, .needs_descriptor = true},
};

static const struct control_verb manager_verbs[] = {
    {.name = "admit",
     .kind = CONTROL_ADMIT,
     .needs = CONTROL_HAS_NAME | CONTROL_HAS_MAX,
     .may_have = CONTROL_HAS_MIN | CONTROL_HAS_SHARES | CONTROL_HAS_GROUP | CONTROL_HAS_SWAP |
                 CONTROL_HAS_OVERHEAD},
    {.name = "status", .kind = CONTROL_STATUS},
    {.name = "set",
     .kind = CONTROL_SET,
     .needs = CONTROL_HAS_NAME,
     .may_have = CONTROL_HAS_SHARES | CONTROL_HAS_MIN | CONTROL_HAS_GROUP},
    {.name = "memory", .kind = CONTROL_MEMORY, .needs = CONTROL_HAS_SIZE},
    {.name = "quit", .kind = CONTROL_QUIT},
};

const struct control_language control_vm_language = {
    .speaker = "this VM", .verbs = vm_verbs, .count = ARRAY_LENGTH(vm_verbs)};

const struct control_language control_manager_language = {
    .speaker = "this manager", .verbs = manager_verbs, .count = ARRAY_LENGTH(manager_verbs)};
