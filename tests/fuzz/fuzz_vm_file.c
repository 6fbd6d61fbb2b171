/* Files of VMs: none may crash the parser; what it accepts is within what it promises, and what it
 * refuses has one line, with the file's name. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cli/vm_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void check_vm(const struct vm_file *file, size_t number)
{
    const struct vm_spec *vm = &file->vms[number];
    require(control_name_check(vm->name, NULL) == STATUS_OK);
    require(vm->kernel != NULL && vm->max != 0 && vm->min <= vm->max && vm->max % 4096 == 0);
    require(vm->cpus >= 1 && vm->cpus <= 16 && vm->line != 0);
    require(vm->group == NULL || control_name_check(vm->group, NULL) == STATUS_OK);
    require(vm->disk_count <= VM_FILE_DISKS_MOST);
    for (unsigned i = 0; i < vm->disk_count; i++)
        require(vm->disks[i].path[0] != '\0' && !(vm->disks[i].read_only && vm->disks[i].overlay));
    for (size_t other = 0; other < number; other++)
        require(strcmp(file->vms[other].name, vm->name) != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vm_file file;
    struct error err = {0};
    enum status status = vm_file_parse(&file, "dir/vms.yaml", (const char *)data, size, &err);
    if (status == STATUS_OK) {
        require(file.count >= 1 && file.count <= VM_FILE_VMS_MOST);
        for (size_t i = 0; i < file.count; i++)
            check_vm(&file, i);
        vm_file_close(&file);
    } else {
        require(err.status == status && strncmp(err.text, "dir/vms.yaml", 12) == 0);
        require(strchr(err.text, '\n') == NULL && strchr(err.text, '\033') == NULL);
    }
    return 0;
}
