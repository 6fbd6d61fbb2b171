#include "hostd/state_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_VERSION 1
#define NEW_NAME      STATE_FILE_NAME ".new"
#define FILE_MOST     ((off_t)64 << 20)

/* 64 bits do not fit JSON's integers. */
static json_t *pack_word(uint64_t word)
{
    char text[24];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)word);
    return json_string(text);
}

static json_t *pack_group(const struct state_group *group)
{
    return json_pack("{s:s, s:o, s:o, s:o}", "name", group->name, "key", pack_word(group->key),
                     "device", pack_word(group->device), "inode", pack_word(group->inode));
}

static json_t *pack_vm(const struct state_vm *vm)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name", vm->name, "pid",
                     (json_int_t)vm->pid, "started", (json_int_t)vm->started, "group",
                     (json_int_t)vm->group, "min", (json_int_t)vm->min, "max", (json_int_t)vm->max,
                     "shares", (json_int_t)vm->shares, "swap", (json_int_t)vm->swap, "overhead",
                     (json_int_t)vm->overhead);
}

char *state_encode(const struct state *state)
{
    json_t *groups = json_array(), *vms = json_array();
    bool done = true;
    for (uint32_t i = 0; i < state->group_count; i++)
        done &= json_array_append_new(groups, pack_group(&state->groups[i])) == 0;
    for (uint32_t i = 0; i < state->vm_count; i++)
        done &= json_array_append_new(vms, pack_vm(&state->vms[i])) == 0;
    json_t *object = json_pack("{s:i, s:I, s:I, s:o, s:o}", "version", STATE_VERSION, "memory",
                               (json_int_t)state->memory, "spare", (json_int_t)state->spare,
                               "groups", groups, "vms", vms);
    char *text = object == NULL || !done ? NULL : json_dumps(object, JSON_INDENT(1));
    json_decref(object);
    return text;
}

static bool take_number(const json_t *object, const char *key, uint64_t *number)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *number = (uint64_t)json_integer_value(value);
    return true;
}

static bool take_word(const json_t *object, const char *key, uint64_t *word)
{
    const char *text = json_string_value(json_object_get(object, key));
    if (text == NULL || strlen(text) != 16 || strspn(text, "0123456789abcdef") != 16)
        return false;
    *word = strtoull(text, NULL, 16);
    return true;
}

static bool take_name(const json_t *object, char name[LINK_NAME_SIZE], bool may_be_empty)
{
    const char *text = json_string_value(json_object_get(object, "name"));
    if (text == NULL ||
        !(text[0] == '\0' ? may_be_empty : control_name_check(text, NULL) == STATUS_OK))
        return false;
    strcpy(name, text);
    return true;
}

static bool take_group(const json_t *object, struct state_group *group)
{
    return take_name(object, group->name, true) && take_word(object, "key", &group->key) &&
           group->key != 0 && take_word(object, "device", &group->device) &&
           take_word(object, "inode", &group->inode);
}

static bool take_vm(const json_t *object, uint32_t groups, struct state_vm *vm)
{
    uint64_t pid, group;
    if (!take_name(object, vm->name, false) || !take_number(object, "pid", &pid) || pid == 0 ||
        pid > INT32_MAX || !take_number(object, "started", &vm->started) ||
        !take_number(object, "group", &group) || group >= groups ||
        !take_number(object, "min", &vm->min) || !take_number(object, "max", &vm->max) ||
        vm->min > vm->max || !take_number(object, "shares", &vm->shares) ||
        !take_number(object, "swap", &vm->swap) || !take_number(object, "overhead", &vm->overhead))
        return false;
    vm->pid = (int64_t)pid;
    vm->group = (uint32_t)group;
    return true;
}

static bool names_twice(const struct state *state)
{
    for (uint32_t i = 0; i < state->vm_count; i++) {
        for (uint32_t j = 0; j < i; j++) {
            if (strcmp(state->vms[i].name, state->vms[j].name) == 0)
                return true;
        }
    }
    for (uint32_t i = 0; i < state->group_count; i++) {
        for (uint32_t j = 0; j < i && state->groups[i].name[0] != '\0'; j++) {
            if (strcmp(state->groups[i].name, state->groups[j].name) == 0)
                return true;
        }
    }
    return false;
}

static enum status take_state(const json_t *object, struct state *state)
{
    uint64_t version;
    const json_t *groups = json_object_get(object, "groups"), *vms = json_object_get(object, "vms");
    if (!take_number(object, "version", &version) || version != STATE_VERSION ||
        !take_number(object, "memory", &state->memory) ||
        !take_number(object, "spare", &state->spare) || !json_is_array(groups) ||
        !json_is_array(vms) || json_array_size(groups) > STATE_MOST ||
        json_array_size(vms) > STATE_MOST)
        return STATUS_INVALID;
    uint32_t group_count = (uint32_t)json_array_size(groups);
    uint32_t vm_count = (uint32_t)json_array_size(vms);
    state->groups = calloc((size_t)group_count + 1, sizeof *state->groups);
    state->vms = calloc((size_t)vm_count + 1, sizeof *state->vms);
    if (state->groups == NULL || state->vms == NULL)
        return STATUS_NO_MEMORY;
    for (; state->group_count < group_count; state->group_count++) {
        if (!take_group(json_array_get(groups, state->group_count),
                        &state->groups[state->group_count]))
            return STATUS_INVALID;
    }
    for (; state->vm_count < vm_count; state->vm_count++) {
        if (!take_vm(json_array_get(vms, state->vm_count), group_count,
                     &state->vms[state->vm_count]))
            return STATUS_INVALID;
    }
    return names_twice(state) ? STATUS_INVALID : STATUS_OK;
}

enum status state_decode(const char *text, size_t length, struct state *state, struct error *err)
{
    *state = (struct state){0};
    json_t *object = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    enum status status = json_is_object(object) ? take_state(object, state) : STATUS_INVALID;
    json_decref(object);
    if (status == STATUS_OK)
        return STATUS_OK;
    state_free(state);
    return error_set(err, status, STATE_FILE_NAME " is not what a manager has left");
}

void state_free(struct state *state)
{
    free(state->groups);
    free(state->vms);
    *state = (struct state){0};
}

enum status state_load(const struct control_folder *folder, struct state *state, struct error *err)
{
    struct stat info;
    *state = (struct state){0};
    int fd = openat(folder->fd, STATE_FILE_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return error_set(err, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO,
                         "cannot open %s/%s: %s", folder->path, STATE_FILE_NAME, strerror(errno));
    enum status status;
    char *text = NULL;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > FILE_MOST ||
        (text = malloc((size_t)info.st_size + 1)) == NULL ||
        read(fd, text, (size_t)info.st_size) != info.st_size)
        status = error_set(err, STATUS_IO, "cannot read %s/%s", folder->path, STATE_FILE_NAME);
    else
        status = state_decode(text, (size_t)info.st_size, state, err);
    free(text);
    close(fd);
    return status;
}

enum status state_save(const struct control_folder *folder, const struct state *state,
                       struct error *err)
{
    char *text = state_encode(state);
    if (text == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %s", STATE_FILE_NAME);
    size_t length = strlen(text);
    int fd =
        openat(folder->fd, NEW_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool done = fd >= 0 && write(fd, text, length) == (ssize_t)length;
    int failure = errno;
    if (fd >= 0)
        close(fd);
    free(text);
    /* Not synchronized with the disk: what it speaks of is gone with the host as well. */
    if (done && renameat(folder->fd, NEW_NAME, folder->fd, STATE_FILE_NAME) == 0)
        return STATUS_OK;
    return error_set(err, STATUS_IO, "cannot write %s/%s: %s", folder->path, STATE_FILE_NAME,
                     strerror(done ? errno : failure));
}

void state_remove(const struct control_folder *folder)
{
    unlinkat(folder->fd, STATE_FILE_NAME, 0);
}
