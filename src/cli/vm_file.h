#ifndef AEROSTAT_CLI_VM_FILE_H
#define AEROSTAT_CLI_VM_FILE_H

/*
 * A file that names VMs, for `aerostat up`, `down` and `plan`. docs/commands.md has an example with
 * every key. Reading checks all that can be told from the text alone; relative paths in it are
 * relative to the file's folder.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "control/name.h"
#include "util/status.h"

#define VM_FILE_DEFAULT    "aerostat.yaml"
#define VM_FILE_DISKS_MOST 8u
#define VM_FILE_VMS_MOST   1024u /* copies counted */

struct vm_disk {
    const char *path;
    bool read_only, overlay;
    unsigned line;
};

struct vm_spec {
    char name[CONTROL_NAME_MOST + 1];
    unsigned line;                                      /* where it stands in the file */
    const char *kernel, *initrd, *append, *net, *group; /* NULL: not given, but for kernel */
    unsigned kernel_line, initrd_line;
    struct vm_disk disks[VM_FILE_DISKS_MOST];
    unsigned disk_count;
    unsigned cpus;
    uint64_t code_cache; /* bytes of the translator's */
    uint64_t max, min;   /* bytes; min <= max */
    uint64_t shares;     /* 0: the default */
};

struct vm_file {
    const char *path;
    uint64_t memory;      /* of the host, for all VMs; 0: not given */
    const char *swap_dir; /* or NULL */
    uint64_t swap_size;   /* for all VMs; UINT64_MAX: not given */
    struct vm_spec *vms;  /* copies are VMs of their own */
    size_t count;
    char **strings; /* that the above points into */
    size_t string_count;
};

/* Reads the file at `path` (for vm_file_parse: `text`, of that file). INVALID, with a line of the
 * form "vms.yaml:12: max: ...", for a mistake; NOT_FOUND for no such file. To be closed after
 * STATUS_OK. */
enum status vm_file_read(struct vm_file *file, const char *path, struct error *err);
enum status vm_file_parse(struct vm_file *file, const char *path, const char *text, size_t length,
                          struct error *err);
void vm_file_close(struct vm_file *file);

/* Whether the kernels, initial RAM disks and disk images that it names are there to be read. */
enum status vm_file_check_files(const struct vm_file *file, struct error *err);

#endif
