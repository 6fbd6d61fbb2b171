#include "cli/admission.h"

#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/manager.h"
#include "control/folder.h"
#include "control/footprint.h"
#include "util/bits.h"
#include "util/size.h"

#define MEMORY_DEFAULT (256 * MIB) /* src/vm/options.c has it, too */
#define NAMES_MOST     10000u

enum {
    ID_NAME = 1,
    ID_MEMORY,
    ID_MIN,
    ID_SHARES,
    ID_GROUP,
    ID_SWAP_SIZE,
    ID_CODE_CACHE,
    ID_ENGINE,
    ID_HELP,
    ID_OTHER
};

/* Those that say what is asked for; and others with a value, lest it be taken for an option. */
static const struct option run_options[] = {
    {"name", required_argument, NULL, ID_NAME},
    {"memory", required_argument, NULL, ID_MEMORY},
    {"min", required_argument, NULL, ID_MIN},
    {"shares", required_argument, NULL, ID_SHARES},
    {"group", required_argument, NULL, ID_GROUP},
    {"swap-size", required_argument, NULL, ID_SWAP_SIZE},
    {"code-cache", required_argument, NULL, ID_CODE_CACHE},
    {"engine", required_argument, NULL, ID_ENGINE},
    {"help", no_argument, NULL, ID_HELP},
    {"kernel", required_argument, NULL, ID_OTHER},
    {"initrd", required_argument, NULL, ID_OTHER},
    {"append", required_argument, NULL, ID_OTHER},
    {"disk", required_argument, NULL, ID_OTHER},
    {"net", required_argument, NULL, ID_OTHER},
    {"console", required_argument, NULL, ID_OTHER},
    {"stats", required_argument, NULL, ID_OTHER},
    {"swap-dir", required_argument, NULL, ID_OTHER},
    {0},
};

/* False: the VM will have something to say about these options. argv's order changes: getopt takes
 * the values of options that are not in the list for operands. */
static bool take_options(int argc, char **argv, struct vm_spec *vm, uint64_t *swap)
{
    bool good = true, has_translator = true;
    opterr = 0;
    optind = 1;
    for (int id; (id = getopt_long(argc, argv, ":", run_options, NULL)) != -1;) {
        switch (id) {
        case ID_NAME:
            good &= control_name_check(optarg, NULL) == STATUS_OK;
            snprintf(vm->name, sizeof vm->name, "%s", optarg);
            break;
        case ID_MEMORY:
            good &= size_parse(optarg, &vm->max) == STATUS_OK;
            break;
        case ID_MIN:
            good &= size_parse(optarg, &vm->min) == STATUS_OK;
            break;
        case ID_SHARES:
            good &= number_parse(optarg, 0, UINT32_MAX, &vm->shares) == STATUS_OK;
            break;
        case ID_GROUP:
            vm->group = optarg;
            good &= control_name_check(optarg, NULL) == STATUS_OK;
            break;
        case ID_SWAP_SIZE:
            good &= size_parse(optarg, swap) == STATUS_OK;
            break;
        case ID_CODE_CACHE:
            good &= size_parse(optarg, &vm->code_cache) == STATUS_OK;
            break;
        case ID_ENGINE:
            has_translator = strcmp(optarg, "interp") != 0;
            break;
        case ID_HELP:
            return false;
        default:
            break;
        }
    }
    if (!has_translator)
        vm->code_cache = 0;
    return good && vm->max <= INT64_MAX && vm->min <= vm->max;
}

static bool is_taken(struct control_folder *folder, const char *name)
{
    struct error err;
    int fd;
    enum status status = control_folder_connect(folder, name, 0, &fd, &err);
    if (status == STATUS_OK)
        close(fd);
    return status != STATUS_NOT_FOUND;
}

/* Locks the name vmN against others that look for one: a byte of a file, for as long as this
 * process, which becomes the VM, lives. False: somebody has it. */
static bool lock_name(const struct control_folder *folder, unsigned number)
{
    int fd = openat(folder->fd, "names.lock", O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = number, .l_len = 1};
    if (fd < 0 || fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return true; /* where no file can be made, luck must do */
    close(fd);
    return false;
}

/* The first of vm1, vm2, ... that neither a VM has nor somebody is about to give one. */
static enum status admit_unnamed(struct control_folder *folder, struct vm_spec *vm, uint64_t swap,
                                 struct error *err)
{
    enum status status = STATUS_BUSY;
    error_set(err, status, "no name is free; give --name");
    for (unsigned i = 1; status == STATUS_BUSY && i <= NAMES_MOST; i++) {
        snprintf(vm->name, sizeof vm->name, "vm%u", i);
        if (!is_taken(folder, vm->name) && lock_name(folder, i))
            status = manager_admit(folder, vm->name, vm, swap, err);
    }
    return status;
}

enum status admission_ask(int argc, char *const *argv, char name[CONTROL_NAME_MOST + 1],
                          bool *is_named, struct error *err)
{
    struct vm_spec vm = {.max = MEMORY_DEFAULT, .code_cache = FOOTPRINT_CODE_CACHE};
    uint64_t swap = UINT64_MAX;
    struct control_folder folder;
    json_t *reply = NULL;
    *is_named = false;
    char **copy = calloc((size_t)argc + 1, sizeof *copy);
    if (copy == NULL)
        return error_set(err, STATUS_INTERNAL, "out of memory");
    memcpy(copy, argv, (size_t)argc * sizeof *copy);
    bool good = take_options(argc, copy, &vm, &swap);
    free(copy);
    if (!good)
        return STATUS_OK;
    if (swap > INT64_MAX)
        swap = vm.max;
    enum status status = control_folder_open(&folder, err);
    if (status != STATUS_OK)
        return status;
    status = manager_ask(&folder, json_pack("{s:s}", "request", "status"), &reply, err);
    json_decref(reply);
    if (status == STATUS_NOT_FOUND) {
        status = STATUS_OK;
    } else if (status == STATUS_OK && vm.name[0] != '\0') {
        status = manager_admit(&folder, vm.name, &vm, swap, err);
    } else if (status == STATUS_OK) {
        status = admit_unnamed(&folder, &vm, swap, err);
        *is_named = status == STATUS_OK;
        memcpy(name, vm.name, sizeof vm.name);
    }
    control_folder_close(&folder);
    return status;
}
