#include "cli/vm_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/vm_file_private.h"
#include "control/footprint.h"
#include "util/bits.h"

#define MEMORY_LEAST (1 * MIB)
#define MEMORY_MOST  ((uint64_t)1 << 50)

/* Takes the string over, also when there is no room to keep it. */
static const char *keep_string(struct vm_file *file, char *text)
{
    char **longer = text == NULL
                        ? NULL
                        : realloc(file->strings, (file->string_count + 1) * sizeof *file->strings);
    if (longer == NULL) {
        free(text);
        return NULL;
    }
    file->strings = longer;
    file->strings[file->string_count++] = text;
    return text;
}

const char *vm_file_keep(struct vm_file *file, const char *text)
{
    return keep_string(file, strdup(text));
}

const char *vm_file_path(struct vm_file *file, const char *path)
{
    char *joined;
    const char *slash = strrchr(file->path, '/');
    if (path[0] == '/' || slash == NULL)
        return vm_file_keep(file, path);
    int folder = (int)(slash + 1 - file->path);
    return keep_string(file,
                       asprintf(&joined, "%.*s%s", folder, file->path, path) < 0 ? NULL : joined);
}

/* Of other VMs and copies; `node` is the name in the file. */
static enum status add_vm(struct yaml_reader *reader, struct vm_file *file,
                          const struct vm_spec *spec, const yaml_node_t *node, unsigned copy)
{
    char name[CONTROL_NAME_MOST + 16];
    struct error why = {0};
    const char *stem = yaml_key(node);
    snprintf(name, sizeof name, copy == 0 ? "%s" : "%s-%u", stem, copy);
    if (strlen(stem) > CONTROL_NAME_MOST || control_name_check(name, &why) != STATUS_OK) {
        control_name_check("", &why);
        return yaml_mistake(reader, node, stem, "%s", why.text);
    }
    for (size_t i = 0; i < file->count; i++) {
        if (strcmp(file->vms[i].name, name) == 0)
            return yaml_mistake(reader, node, stem, "a VM named %s is there already, from line %u",
                                name, file->vms[i].line);
    }
    if (file->count == VM_FILE_VMS_MOST)
        return yaml_mistake(reader, node, stem, "more than %u VMs", VM_FILE_VMS_MOST);
    struct vm_spec *longer = realloc(file->vms, (file->count + 1) * sizeof *file->vms);
    if (longer == NULL)
        return error_set(reader->err, STATUS_NO_MEMORY, "out of memory");
    file->vms = longer;
    longer[file->count] = *spec;
    longer[file->count].line = yaml_line(node);
    strcpy(longer[file->count].name, name);
    file->count++;
    return STATUS_OK;
}

struct file_keys {
    struct vm_file *file;
    struct vm_spec defaults;
    const yaml_node_t *vms; /* read when the defaults are known */
};

/* What keys say together. */
static enum status check_vm(struct yaml_reader *reader, const struct vm_keys *keys,
                            const yaml_node_t *name)
{
    const struct vm_spec *spec = keys->spec;
    if (spec->kernel == NULL)
        return yaml_mistake(reader, name, yaml_key(name), "kernel is missing");
    if (spec->max == 0)
        return yaml_mistake(reader, name, yaml_key(name), "max is missing");
    if (spec->min > spec->max)
        return yaml_mistake(reader,
                            keys->min_node != NULL   ? keys->min_node
                            : keys->max_node != NULL ? keys->max_node
                                                     : name,
                            "min", "is more than max, %lluM",
                            (unsigned long long)(spec->max / MIB));
    if (keys->copies > 1 && spec->net != NULL && strstr(spec->net, "hostfwd=") != NULL)
        return yaml_mistake(reader, keys->net_node != NULL ? keys->net_node : keys->copies_node,
                            "net", "%u copies cannot all have one port of this machine",
                            keys->copies);
    return STATUS_OK;
}

static enum status take_vm(struct yaml_reader *reader, void *context, unsigned number,
                           const yaml_node_t *name, const yaml_node_t *value)
{
    (void)number;
    struct file_keys *file_keys = context;
    struct vm_spec spec = file_keys->defaults;
    struct vm_keys keys = {.file = file_keys->file, .spec = &spec};
    enum status status = vm_keys_read(reader, &keys, value, yaml_key(name));
    if (status == STATUS_OK)
        status = check_vm(reader, &keys, name);
    if (keys.copies == 0 && status == STATUS_OK)
        return add_vm(reader, keys.file, &spec, name, 0);
    for (unsigned copy = 1; status == STATUS_OK && copy <= keys.copies; copy++)
        status = add_vm(reader, keys.file, &spec, name, copy);
    return status;
}

static enum status take_swap(struct yaml_reader *reader, void *context, unsigned number,
                             const yaml_node_t *key, const yaml_node_t *value)
{
    struct vm_file *file = context;
    const char *dir;
    if (number == 1)
        return yaml_size(reader, value, yaml_key(key), 0, MEMORY_MOST, "at most 1024T",
                         &file->swap_size);
    enum status status = yaml_text(reader, value, yaml_key(key), &dir);
    if (status == STATUS_OK && *dir == '\0')
        return yaml_mistake(reader, value, yaml_key(key), "needs a folder");
    if (status == STATUS_OK && (file->swap_dir = vm_file_path(file, dir)) == NULL)
        return error_set(reader->err, STATUS_NO_MEMORY, "out of memory");
    return status;
}

static enum status take_defaults(struct yaml_reader *reader, struct file_keys *keys,
                                 const yaml_node_t *value)
{
    struct vm_keys defaults = {.file = keys->file, .spec = &keys->defaults};
    enum status status = vm_keys_read(reader, &defaults, value, "defaults");
    if (status == STATUS_OK && defaults.copies_node != NULL)
        status = yaml_mistake(reader, defaults.copies_node, "count", "is for one VM");
    return status;
}

enum { KEY_MEMORY, KEY_SWAP, KEY_DEFAULTS, KEY_VMS, KEY_COUNT };

static enum status take_file_key(struct yaml_reader *reader, void *context, unsigned number,
                                 const yaml_node_t *key, const yaml_node_t *value)
{
    static const char *const swap_keys[] = {"dir", "size"};
    struct file_keys *keys = context;
    switch (number) {
    case KEY_MEMORY:
        return yaml_size(reader, value, yaml_key(key), MEMORY_LEAST, MEMORY_MOST, "1M to 1024T",
                         &keys->file->memory);
    case KEY_SWAP:
        return yaml_mapping(reader, value, yaml_key(key), swap_keys, 2, take_swap, keys->file);
    case KEY_DEFAULTS:
        return take_defaults(reader, keys, value);
    default:
        keys->vms = value;
        return STATUS_OK;
    }
}

/* Where two have one image and one of them would write to it, each gets changes of its own. */
static void use_overlays(struct vm_file *file)
{
    for (size_t i = 0; i < file->count; i++) {
        for (unsigned disk = 0; disk < file->vms[i].disk_count; disk++) {
            struct vm_disk *mine = &file->vms[i].disks[disk];
            for (size_t j = 0; !mine->read_only && !mine->overlay && j < file->count; j++) {
                for (unsigned other = 0; other < file->vms[j].disk_count; other++)
                    mine->overlay |= (i != j || disk != other) &&
                                     strcmp(mine->path, file->vms[j].disks[other].path) == 0;
            }
        }
    }
}

enum status vm_file_parse(struct vm_file *file, const char *path, const char *text, size_t length,
                          struct error *err)
{
    static const char *const file_keys[KEY_COUNT] = {"memory", "swap", "defaults", "vms"};
    struct yaml_reader reader;
    struct file_keys keys = {.file = file,
                             .defaults = {.cpus = 1, .code_cache = FOOTPRINT_CODE_CACHE}};
    *file = (struct vm_file){.path = path, .swap_size = UINT64_MAX};
    enum status status = yaml_open(&reader, path, text, length, err);
    if (status != STATUS_OK)
        return status;
    const yaml_node_t *root = yaml_document_get_root_node(&reader.document);
    status = yaml_mapping(&reader, root, "the file", file_keys, KEY_COUNT, take_file_key, &keys);
    if (status == STATUS_OK && keys.vms == NULL)
        status = yaml_mistake(&reader, root, "vms", "is missing");
    if (status == STATUS_OK)
        status = yaml_mapping(&reader, keys.vms, "vms", NULL, 0, take_vm, &keys);
    if (status == STATUS_OK && file->count == 0)
        status = yaml_mistake(&reader, keys.vms, "vms", "names none");
    yaml_close(&reader);
    if (status != STATUS_OK)
        vm_file_close(file);
    else
        use_overlays(file);
    return status;
}

enum status vm_file_read(struct vm_file *file, const char *path, struct error *err)
{
    *file = (struct vm_file){.path = path};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        enum status status = fd < 0 && errno == ENOENT ? STATUS_NOT_FOUND : STATUS_INVALID;
        error_set(err, status, "cannot read %s: %s", path,
                  fd < 0 ? strerror(errno) : "it is no regular file");
        if (fd >= 0)
            close(fd);
        return status;
    }
    size_t length = 0;
    ssize_t count = 0;
    char *text = malloc(YAML_FILE_MOST + 1);
    while (text != NULL && length <= YAML_FILE_MOST &&
           (count = read(fd, text + length, YAML_FILE_MOST + 1 - length)) > 0)
        length += (size_t)count;
    enum status status;
    if (text == NULL)
        status = error_set(err, STATUS_NO_MEMORY, "out of memory");
    else if (count < 0)
        status = error_set(err, STATUS_INVALID, "cannot read %s: %s", path, strerror(errno));
    else
        status = vm_file_parse(file, path, text, length, err);
    free(text);
    close(fd);
    return status;
}

void vm_file_close(struct vm_file *file)
{
    for (size_t i = 0; i < file->string_count; i++)
        free(file->strings[i]);
    free(file->strings);
    free(file->vms);
    *file = (struct vm_file){0};
}

static enum status check_file(const struct vm_file *file, unsigned line, const char *key,
                              const char *path, int mode, struct error *err)
{
    if (path == NULL || access(path, mode) == 0)
        return STATUS_OK;
    return error_set(err, STATUS_INVALID, "%s:%u: %s: cannot %s %s: %s", file->path, line, key,
                     mode == R_OK ? "read" : "write to", path, strerror(errno));
}

enum status vm_file_check_files(const struct vm_file *file, struct error *err)
{
    enum status status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < file->count; i++) {
        const struct vm_spec *vm = &file->vms[i];
        status = check_file(file, vm->kernel_line, "kernel", vm->kernel, R_OK, err);
        if (status == STATUS_OK)
            status = check_file(file, vm->initrd_line, "initrd", vm->initrd, R_OK, err);
        for (unsigned disk = 0; status == STATUS_OK && disk < vm->disk_count; disk++) {
            const struct vm_disk *one = &vm->disks[disk];
            status = check_file(file, one->line, "disks", one->path,
                                one->read_only || one->overlay ? R_OK : W_OK, err);
        }
    }
    return status;
}
