#ifndef AEROSTAT_VM_OPTIONS_H
#define AEROSTAT_VM_OPTIONS_H

/* The command line of `aerostat run`. */

#include <stdbool.h>
#include <stdint.h>

#include "cpu/engine.h"
#include "dev/virtio/forward.h"
#include "mmu/mmu.h"
#include "util/status.h"

#define OPTIONS_MAX_DISKS    8u
#define OPTIONS_MAX_NETS     4u
#define OPTIONS_MAX_FORWARDS 16u /* of a network */
#define OPTIONS_MAX_CPUS     16u
#define OPTIONS_SWAP_DEFAULT UINT64_MAX

/* Least that may be resident: less makes no progress. */
#define OPTIONS_RESIDENT_LEAST (1u << 20)
#define OPTIONS_SHARES_MOST    1000000000u

struct disk_options {
    const char *path; /* owned */
    bool read_only;
    bool overlay; /* what is written goes to a temporary file */
};

struct net_options { /* a user-mode network */
    struct forward forwards[OPTIONS_MAX_FORWARDS];
    unsigned forward_count;
};

struct vm_options {
    const struct engine_ops *engine;
    const char *kernel, *initrd, *append;
    const char *name;     /* NULL: none was given */
    uint64_t memory;      /* bytes, a multiple of the page size, as the sizes below */
    uint64_t resident;    /* host memory that the guest's may take; `memory`: all of it */
    uint64_t min;         /* host memory that it is to be left in any case */
    uint32_t shares;      /* 0: in proportion to `memory` */
    const char *group;    /* of VMs that share pages, or NULL: with itself alone */
    uint64_t balloon;     /* what the balloon is to take from the start */
    const char *swap_dir; /* folder of temporary files, or NULL for the default */
    uint64_t swap_size;   /* most that the swap file may hold, or OPTIONS_SWAP_DEFAULT */
    uint64_t code_cache;  /* bytes */
    struct mmu_config mmu;
    unsigned cpus;
    struct disk_options disks[OPTIONS_MAX_DISKS];
    unsigned disk_count;
    struct net_options nets[OPTIONS_MAX_NETS];
    unsigned net_count;
    const char *console; /* path, or NULL for stdio */
    const char *stats;   /* path, or NULL */
    bool debug_exit, no_reboot, detach;
    bool chaos; /* with chaos_seed */
    uint64_t chaos_seed;
    bool double_paging; /* is not avoided */
    uint64_t sample_period_ns;
    bool help; /* --help was asked for: nothing else counts */
};

/* Fills *options from argv[1..]; strings point into argv, but for what options_free frees. Anything
 * malformed, out of range or unknown is STATUS_INVALID with the line to print. */
enum status options_parse(int argc, char *const *argv, struct vm_options *options,
                          struct error *err);
void options_free(struct vm_options *options);

/* The text of --help. */
extern const char options_help[];

#endif
