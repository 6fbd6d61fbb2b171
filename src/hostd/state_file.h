#ifndef AEROSTAT_HOSTD_STATE_FILE_H
#define AEROSTAT_HOSTD_STATE_FILE_H

/*
 * What the next manager must know if this one dies: the groups with their keys and pools, and the
 * VMs that may hold pages of them, with what was set for them. `manager.state` in the folder, one
 * JSON object, always a whole one. Who can write it is the user; it is checked all the same.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "control/folder.h"
#include "proto/link.h"
#include "util/status.h"

#define STATE_FILE_NAME "manager.state"
#define STATE_MOST      10000u /* groups, and VMs */

struct state_group {
    char name[LINK_NAME_SIZE]; /* "": of one VM alone */
    uint64_t key;              /* not 0 */
    uint64_t device, inode;    /* of the pool */
};

struct state_vm {
    char name[LINK_NAME_SIZE];
    int64_t pid;
    uint64_t started; /* charge_process_started */
    uint32_t group;   /* index */
    uint64_t min, max, shares, swap, overhead;
};

struct state {
    uint64_t memory; /* host memory that was set; 0: it was left to the manager */
    uint64_t spare;  /* what the manager took for it, then */
    struct state_group *groups;
    struct state_vm *vms;
    uint32_t group_count, vm_count;
};

/* The text, which the caller frees; NULL: out of memory. */
char *state_encode(const struct state *state);
/* INVALID, NO_MEMORY: *state is empty. */
enum status state_decode(const char *text, size_t length, struct state *state, struct error *err);
void state_free(struct state *state);

/* NOT_FOUND: there is none. */
enum status state_load(const struct control_folder *folder, struct state *state, struct error *err);
/* Replaces the file, at once or not at all. */
enum status state_save(const struct control_folder *folder, const struct state *state,
                       struct error *err);
void state_remove(const struct control_folder *folder);

#endif
