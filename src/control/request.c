#include "control/request.h"

#include <jansson.h>
#include <string.h>

#include "util/bits.h"

enum member { MEMBER_VERSION, MEMBER_REQUEST, MEMBER_SIZE, MEMBER_FORCE, MEMBER_COUNT };

static const char *const member_names[MEMBER_COUNT] = {"version", "request", "size", "force"};

static const struct kind {
    const char *name;
    enum control_kind kind;
    enum member needs, may_have; /* beside the request itself, which says none */
} kinds[] = {
    {"stats", CONTROL_STATS, MEMBER_REQUEST, MEMBER_REQUEST},
    {"balloon", CONTROL_BALLOON, MEMBER_SIZE, MEMBER_SIZE},
    {"resident", CONTROL_RESIDENT, MEMBER_SIZE, MEMBER_SIZE},
    {"pause", CONTROL_PAUSE, MEMBER_REQUEST, MEMBER_REQUEST},
    {"resume", CONTROL_RESUME, MEMBER_REQUEST, MEMBER_REQUEST},
    {"stop", CONTROL_STOP, MEMBER_REQUEST, MEMBER_FORCE},
    {"console", CONTROL_CONSOLE, MEMBER_REQUEST, MEMBER_REQUEST},
};

/* Sorts the members of the object; none but the known ones. */
static enum status members_take(json_t *object, json_t *members[MEMBER_COUNT], struct error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        unsigned i = 0;
        while (i < MEMBER_COUNT && strcmp(key, member_names[i]) != 0)
            i++;
        if (i == MEMBER_COUNT)
            return error_set(err, STATUS_INVALID, "a member of the request is not known");
        members[i] = value;
    }
    return STATUS_OK;
}

static const struct kind *kind_find(const json_t *request)
{
    const char *name = json_string_value(request); /* NULL for what is no string */
    for (size_t i = 0; name != NULL && i < ARRAY_LENGTH(kinds); i++) {
        if (strcmp(name, kinds[i].name) == 0)
            return &kinds[i];
    }
    return NULL;
}

static enum status values_take(json_t *members[MEMBER_COUNT], struct control_request *request,
                               struct error *err)
{
    const json_t *version = members[MEMBER_VERSION];
    if (version != NULL && !json_is_integer(version))
        return error_set(err, STATUS_INVALID, "\"version\" must be a number");
    if (version != NULL && json_integer_value(version) != CONTROL_VERSION)
        return error_set(err, STATUS_UNSUPPORTED, "this VM understands version %d",
                         CONTROL_VERSION);
    const struct kind *kind = kind_find(members[MEMBER_REQUEST]);
    if (kind == NULL)
        return error_set(err, STATUS_INVALID, "\"request\" is missing or names none");
    if (members[kind->needs] == NULL)
        return error_set(err, STATUS_INVALID, "\"%s\" needs \"%s\"", kind->name,
                         member_names[kind->needs]);
    for (unsigned i = MEMBER_SIZE; i < MEMBER_COUNT; i++) {
        if (members[i] != NULL && i != kind->may_have)
            return error_set(err, STATUS_INVALID, "\"%s\" has no \"%s\"", kind->name,
                             member_names[i]);
    }
    const json_t *size = members[MEMBER_SIZE], *force = members[MEMBER_FORCE];
    if (size != NULL && (!json_is_integer(size) || json_integer_value(size) < 0))
        return error_set(err, STATUS_INVALID, "\"size\" must be a number of bytes");
    if (force != NULL && !json_is_boolean(force))
        return error_set(err, STATUS_INVALID, "\"force\" must be true or false");
    *request = (struct control_request){
        .kind = kind->kind,
        .size = size == NULL ? 0 : (uint64_t)json_integer_value(size),
        .force = json_is_true(force),
    };
    return STATUS_OK;
}

enum status control_request_parse(const char *line, size_t length, struct control_request *request,
                                  struct error *err)
{
    json_error_t where;
    json_t *object = length < CONTROL_LINE_MOST
                         ? json_loadb(line, length, JSON_REJECT_DUPLICATES, &where)
                         : NULL;
    json_t *members[MEMBER_COUNT] = {0};
    enum status status;
    if (!json_is_object(object))
        status = error_set(err, STATUS_INVALID, "a request is one JSON object in one line");
    else
        status = members_take(object, members, err);
    if (status == STATUS_OK)
        status = values_take(members, request, err);
    json_decref(object);
    return status;
}
