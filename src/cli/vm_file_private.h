#ifndef AEROSTAT_CLI_VM_FILE_PRIVATE_H
#define AEROSTAT_CLI_VM_FILE_PRIVATE_H

#include "cli/vm_file.h"
#include "cli/yaml_reader.h"

/* Fills `spec` from a VM's keys (or "defaults": `is_default`, which need not be complete), over
 * what it has already. *copies: what "count" says, if it is there. */
struct vm_keys {
    struct vm_file *file;
    struct vm_spec *spec;
    unsigned copies; /* 0: not given */
    const yaml_node_t *copies_node, *net_node, *max_node, *min_node;
};
enum status vm_keys_read(struct yaml_reader *reader, struct vm_keys *keys, const yaml_node_t *node,
                         const char *name);

/* A copy that the file keeps; NULL: out of memory. vm_file_path: made absolute, if it is not, by
 * the file's folder. */
const char *vm_file_keep(struct vm_file *file, const char *text);
const char *vm_file_path(struct vm_file *file, const char *path);

#endif
