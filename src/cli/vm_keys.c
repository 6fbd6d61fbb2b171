/* The keys of one VM in a VM file. */

#include <stdlib.h>
#include <string.h>

#include "cli/vm_file_private.h"
#include "dev/virtio/forward.h"
#include "util/bits.h"

#define MAX_LEAST        (2 * MIB)
#define MAX_MOST         (256 * GIB)
#define CODE_CACHE_LEAST (2 * MIB)
#define CODE_CACHE_MOST  (512 * MIB)
#define CPUS_MOST        16u
#define SHARES_MOST      UINT32_MAX
#define RULE_MOST        128u

enum vm_key {
    KEY_KERNEL,
    KEY_INITRD,
    KEY_APPEND,
    KEY_DISKS,
    KEY_NET,
    KEY_CPUS,
    KEY_CODE_CACHE,
    KEY_MAX,
    KEY_MIN,
    KEY_SHARES,
    KEY_GROUP,
    KEY_COUNT,
    KEY_END,
};

static const char *const key_names[KEY_END] = {
    "kernel",     "initrd", "append", "disks",  "net",   "cpus",
    "code_cache", "max",    "min",    "shares", "group", "count",
};

static enum status out_of_memory(struct yaml_reader *reader)
{
    return error_set(reader->err, STATUS_NO_MEMORY, "out of memory");
}

static enum status take_text(struct yaml_reader *reader, struct vm_keys *keys, const char *key,
                             const yaml_node_t *value, const char **text)
{
    const char *found;
    enum status status = yaml_text(reader, value, key, &found);
    if (status != STATUS_OK)
        return status;
    *text = vm_file_keep(keys->file, found);
    return *text == NULL ? out_of_memory(reader) : STATUS_OK;
}

static enum status take_path(struct yaml_reader *reader, struct vm_keys *keys, const char *key,
                             const yaml_node_t *value, const char **path)
{
    const char *found;
    enum status status = yaml_text(reader, value, key, &found);
    if (status != STATUS_OK)
        return status;
    if (*found == '\0')
        return yaml_mistake(reader, value, key, "needs a file name");
    *path = vm_file_path(keys->file, found);
    return *path == NULL ? out_of_memory(reader) : STATUS_OK;
}

static bool cut_end(char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    if (length < end_length || strcmp(text + length - end_length, end) != 0)
        return false;
    text[length - end_length] = '\0';
    return true;
}

/* As --disk has it: FILE, FILE,ro or FILE,overlay. */
static enum status take_disk(struct yaml_reader *reader, struct vm_keys *keys,
                             const yaml_node_t *value)
{
    struct vm_spec *spec = keys->spec;
    const char *found;
    enum status status = yaml_text(reader, value, "disks", &found);
    if (status != STATUS_OK)
        return status;
    if (spec->disk_count == VM_FILE_DISKS_MOST)
        return yaml_mistake(reader, value, "disks", "more than %u", VM_FILE_DISKS_MOST);
    char *path = strdup(found);
    if (path == NULL)
        return out_of_memory(reader);
    struct vm_disk disk = {.line = yaml_line(value)};
    disk.read_only = cut_end(path, ",ro");
    disk.overlay = !disk.read_only && cut_end(path, ",overlay");
    if (*path == '\0') {
        status = yaml_mistake(reader, value, "disks", "needs a file name");
    } else {
        disk.path = vm_file_path(keys->file, path);
        status = disk.path == NULL ? out_of_memory(reader) : STATUS_OK;
        spec->disks[spec->disk_count++] = disk;
    }
    free(path);
    return status;
}

static enum status take_disks(struct yaml_reader *reader, struct vm_keys *keys,
                              const yaml_node_t *value)
{
    enum status status = STATUS_OK;
    keys->spec->disk_count = 0; /* instead of the defaults' */
    if (value->type != YAML_SEQUENCE_NODE)
        return take_disk(reader, keys, value);
    const yaml_node_item_t *item = value->data.sequence.items.start;
    for (; status == STATUS_OK && item < value->data.sequence.items.top; item++)
        status = take_disk(reader, keys, yaml_document_get_node(&reader->document, *item));
    return status;
}

/* As --net has it: none, or user[,hostfwd=RULE]... */
static enum status net_check(struct yaml_reader *reader, const yaml_node_t *value, const char *net)
{
    static const char user[] = "user", hostfwd[] = "hostfwd=";
    if (strcmp(net, "none") == 0)
        return STATUS_OK;
    const char *at = net + strlen(user);
    if (strncmp(net, user, strlen(user)) != 0 || (*at != '\0' && *at != ','))
        return yaml_mistake(reader, value, "net",
                            "%.60s is not known; give none or user[,hostfwd=tcp:HOST-GUEST]", net);
    while (*at == ',') {
        char rule[RULE_MOST];
        struct forward forward;
        struct error why = {0};
        size_t length = strcspn(++at, ",");
        if (length < strlen(hostfwd) || length - strlen(hostfwd) >= sizeof rule ||
            strncmp(at, hostfwd, strlen(hostfwd)) != 0)
            return yaml_mistake(reader, value, "net",
                                "%.*s is not known; give hostfwd=tcp:HOST-GUEST",
                                length > 60 ? 60 : (int)length, at);
        memcpy(rule, at + strlen(hostfwd), length - strlen(hostfwd));
        rule[length - strlen(hostfwd)] = '\0';
        if (forward_parse(&forward, rule, &why) != STATUS_OK)
            return yaml_mistake(reader, value, "net", "%s", why.text);
        at += length;
    }
    return STATUS_OK;
}

static enum status take_net(struct yaml_reader *reader, struct vm_keys *keys,
                            const yaml_node_t *value)
{
    enum status status = take_text(reader, keys, "net", value, &keys->spec->net);
    keys->net_node = value;
    return status == STATUS_OK ? net_check(reader, value, keys->spec->net) : status;
}

static enum status take_group(struct yaml_reader *reader, struct vm_keys *keys,
                              const yaml_node_t *value)
{
    enum status status = take_text(reader, keys, "group", value, &keys->spec->group);
    if (status == STATUS_OK && control_name_check(keys->spec->group, NULL) != STATUS_OK)
        status = yaml_mistake(reader, value, "group",
                              "a group's name is 1 to %u letters, digits, '-', '_' or '.', the "
                              "first a letter or digit",
                              CONTROL_NAME_MOST);
    return status;
}

static enum status take_key(struct yaml_reader *reader, void *context, unsigned number,
                            const yaml_node_t *key, const yaml_node_t *value)
{
    struct vm_keys *keys = context;
    struct vm_spec *spec = keys->spec;
    const char *name = key_names[number];
    uint64_t value_number = 0;
    enum status status = STATUS_OK;
    switch ((enum vm_key)number) {
    case KEY_KERNEL:
        spec->kernel_line = yaml_line(value);
        return take_path(reader, keys, name, value, &spec->kernel);
    case KEY_INITRD:
        spec->initrd_line = yaml_line(value);
        return take_path(reader, keys, name, value, &spec->initrd);
    case KEY_APPEND:
        return take_text(reader, keys, name, value, &spec->append);
    case KEY_DISKS:
        return take_disks(reader, keys, value);
    case KEY_NET:
        return take_net(reader, keys, value);
    case KEY_CPUS:
        status = yaml_number(reader, value, name, 1, CPUS_MOST, &value_number);
        spec->cpus = (unsigned)value_number;
        return status;
    case KEY_CODE_CACHE:
        return yaml_size(reader, value, name, CODE_CACHE_LEAST, CODE_CACHE_MOST, "2M to 512M",
                         &spec->code_cache);
    case KEY_MAX:
        keys->max_node = value;
        status = yaml_size(reader, value, name, MAX_LEAST, MAX_MOST, "2M to 256G", &spec->max);
        spec->max = align_down(spec->max, PAGE_SIZE);
        return status;
    case KEY_MIN:
        keys->min_node = value;
        status = yaml_size(reader, value, name, 0, MAX_MOST, "0 to what max says", &spec->min);
        spec->min = align_down(spec->min, PAGE_SIZE);
        return status;
    case KEY_SHARES:
        return yaml_number(reader, value, name, 1, SHARES_MOST, &spec->shares);
    case KEY_GROUP:
        return take_group(reader, keys, value);
    case KEY_COUNT:
        keys->copies_node = value;
        status = yaml_number(reader, value, name, 1, VM_FILE_VMS_MOST, &value_number);
        keys->copies = (unsigned)value_number;
        return status;
    case KEY_END:
        break;
    }
    return yaml_mistake(reader, key, name, "no such key");
}

enum status vm_keys_read(struct yaml_reader *reader, struct vm_keys *keys, const yaml_node_t *node,
                         const char *name)
{
    return yaml_mapping(reader, node, name, key_names, KEY_END, take_key, keys);
}
