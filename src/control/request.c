#include "control/request.h"

#include <jansson.h>
#include <string.h>

#include "util/bits.h"

enum type { TYPE_NUMBER, TYPE_TRUTH, TYPE_NAME, TYPE_NAME_OR_EMPTY };

/* By the number of their bit. */
static const struct member {
    const char *name;
    enum type type;
    size_t offset; /* in struct control_request */
} members[] = {
    {"size", TYPE_NUMBER, offsetof(struct control_request, size)},
    {"force", TYPE_TRUTH, offsetof(struct control_request, force)},
    {"name", TYPE_NAME, offsetof(struct control_request, name)},
    {"group", TYPE_NAME_OR_EMPTY, offsetof(struct control_request, group)},
    {"min", TYPE_NUMBER, offsetof(struct control_request, min)},
    {"max", TYPE_NUMBER, offsetof(struct control_request, max)},
    {"shares", TYPE_NUMBER, offsetof(struct control_request, shares)},
    {"swap", TYPE_NUMBER, offsetof(struct control_request, swap)},
    {"overhead", TYPE_NUMBER, offsetof(struct control_request, overhead)},
};
_Static_assert(1 << (ARRAY_LENGTH(members) - 1) == CONTROL_HAS_OVERHEAD, "one for each bit");

static enum status value_take(const struct member *member, const json_t *value,
                              struct control_request *request, struct error *err)
{
    void *place = (char *)request + member->offset;
    const char *text = json_string_value(value); /* NULL for what is no string */
    switch (member->type) {
    case TYPE_NUMBER:
        if (!json_is_integer(value) || json_integer_value(value) < 0)
            return error_set(err, STATUS_INVALID, "\"%s\" must be a number%s", member->name,
                             strcmp(member->name, "shares") == 0 ? "" : " of bytes");
        *(uint64_t *)place = (uint64_t)json_integer_value(value);
        break;
    case TYPE_TRUTH:
        if (!json_is_boolean(value))
            return error_set(err, STATUS_INVALID, "\"%s\" must be true or false", member->name);
        *(bool *)place = json_is_true(value);
        break;
    case TYPE_NAME:
    case TYPE_NAME_OR_EMPTY:
        /* A string with a NUL in it never gets here: jansson refuses it. */
        if (text == NULL)
            return error_set(err, STATUS_INVALID, "\"%s\" must be a name", member->name);
        if (member->type == TYPE_NAME || text[0] != '\0') {
            enum status status = control_name_check(text, err);
            if (status != STATUS_OK)
                return status;
        }
        strcpy(place, text);
        break;
    }
    return STATUS_OK;
}

/* Takes all members of the object but the request itself and the version, which go to *kind and
 * *version. None but the known ones, and each with a value of its type. */
static enum status members_take(json_t *object, struct control_request *request,
                                const json_t **kind, const json_t **version, struct error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        unsigned i = 0;
        if (strcmp(key, "request") == 0) {
            *kind = value;
            continue;
        }
        if (strcmp(key, "version") == 0) {
            *version = value;
            continue;
        }
        while (i < ARRAY_LENGTH(members) && strcmp(key, members[i].name) != 0)
            i++;
        if (i == ARRAY_LENGTH(members))
            return error_set(err, STATUS_INVALID, "a member of the request is not known");
        enum status status = value_take(&members[i], value, request, err);
        if (status != STATUS_OK)
            return status;
        request->has |= 1u << i;
    }
    return STATUS_OK;
}

static const struct control_verb *verb_find(const struct control_language *language,
                                            const json_t *request)
{
    const char *name = json_string_value(request);
    for (size_t i = 0; name != NULL && i < language->count; i++) {
        if (strcmp(name, language->verbs[i].name) == 0)
            return &language->verbs[i];
    }
    return NULL;
}

static const char *first_of(unsigned bits)
{
    return members[__builtin_ctz(bits)].name;
}

static enum status request_take(const struct control_language *language, json_t *object,
                                struct control_request *request, const struct control_verb **verb,
                                struct error *err)
{
    const json_t *kind = NULL, *version = NULL;
    enum status status = members_take(object, request, &kind, &version, err);
    if (status != STATUS_OK)
        return status;
    if (version != NULL && !json_is_integer(version))
        return error_set(err, STATUS_INVALID, "\"version\" must be a number");
    if (version != NULL && json_integer_value(version) != CONTROL_VERSION)
        return error_set(err, STATUS_UNSUPPORTED, "%s understands version %d", language->speaker,
                         CONTROL_VERSION);
    const struct control_verb *found = verb_find(language, kind);
    if (found == NULL)
        return error_set(err, STATUS_INVALID, "\"request\" is missing or names none");
    unsigned missing = found->needs & ~request->has;
    unsigned surplus = request->has & ~(found->needs | found->may_have);
    if (missing != 0)
        return error_set(err, STATUS_INVALID, "\"%s\" needs \"%s\"", found->name,
                         first_of(missing));
    if (surplus != 0)
        return error_set(err, STATUS_INVALID, "\"%s\" has no \"%s\"", found->name,
                         first_of(surplus));
    request->kind = found->kind;
    *verb = found;
    return STATUS_OK;
}

enum status control_request_parse(const struct control_language *language, const char *line,
                                  size_t length, struct control_request *request,
                                  const struct control_verb **verb, struct error *err)
{
    json_error_t where;
    json_t *object = length < CONTROL_LINE_MOST
                         ? json_loadb(line, length, JSON_REJECT_DUPLICATES, &where)
                         : NULL;
    enum status status;
    *request = (struct control_request){.descriptor = -1};
    *verb = NULL;
    if (!json_is_object(object))
        status = error_set(err, STATUS_INVALID, "a request is one JSON object in one line");
    else
        status = request_take(language, object, request, verb, err);
    json_decref(object);
    return status;
}
