#ifndef AEROSTAT_HOSTD_MANAGER_H
#define AEROSTAT_HOSTD_MANAGER_H

/*
 * The manager's own state, and what its parts do with it. All of it runs on the thread of one event
 * loop; nothing here is locked.
 *
 *   registry.c    the VMs and groups there are, and what the state file says of them
 *   adoption.c    finding VMs, and putting a link to each
 *   vm_link.c     what VMs send, and its order
 *   balance.c     measuring, the policy, targets
 *   answer.c      the control socket's requests
 */

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#include "control/folder.h"
#include "control/request.h"
#include "hostd/charge.h"
#include "hostd/group.h"
#include "hostd/state_file.h"
#include "policy/policy.h"
#include "proto/link.h"
#include "util/io_loop.h"

struct manager;

/* A group as it is named, whether its pool is here already or not. */
struct group_record {
    TAILQ_ENTRY(group_record) entry;
    struct state_group facts;
    struct group *group;   /* NULL: its pool is still to be handed back */
    unsigned vms;          /* that are of it */
    unsigned unsettled;    /* of those, how many may hold frames and have not said so yet */
    uint32_t index;        /* in the state, while it is written */
    uint64_t waited_until; /* for the pool; clock_monotonic_ns */
};
TAILQ_HEAD(group_list, group_record);

enum vm_stage {
    VM_APART,    /* no link: not adopted yet, or it has been lost. The process lives */
    VM_GREETING, /* HELLO is due */
    VM_TELLING,  /* HOLDS and READY are due */
    VM_WAITING,  /* READY, but its group has no pool yet */
    VM_MANAGED,  /* WELCOME has been sent */
    VM_CUT_OFF,  /* after a breach: it keeps what it holds until its process ends */
};

struct vm {
    TAILQ_ENTRY(vm) entry;
    struct manager *manager;
    char name[LINK_NAME_SIZE];
    pid_t pid;
    enum vm_stage stage;
    bool is_known;     /* has greeted once, or is named in the state: the following is good */
    bool is_settled;   /* of its group's unsettled no more */
    uint64_t tried_at; /* to adopt it, last; clock_monotonic_ns */
    bool refuses;      /* does not know how to be adopted */
    bool has_said_so;  /* what is wrong with it is in the log */
    uint64_t min, max, shares, swap, overhead; /* shares 0: the default */
    struct group_record *record;
    struct charge charge;
    uint64_t look_at;                 /* when to look closer, clock_monotonic_ns */
    struct io_source *process_source; /* NULL: its end shows at the next step */

    /* the link */
    int fd; /* -1: none */
    struct io_source *source;
    int control; /* where it was asked to be adopted; -1: answered */
    struct io_source *control_source;
    uint64_t span;         /* PPNs are below it */
    bool same_pool;        /* what it holds is of its group's pool */
    int64_t tokens;        /* CPU time that it may still use, ns */
    uint64_t tokens_at;    /* clock_monotonic_ns */
    bool is_paced;         /* not read until it has tokens again */
    struct sharer *sharer; /* NULL: none yet */
    struct sharer *former; /* of the link before, until this one has said what it holds; NULL */
    struct group_record *former_record;
    struct link_report report;
    bool has_reported;
    bool has_target;
    struct link_target target; /* as it was sent */

    struct policy_vm policy;
};
TAILQ_HEAD(vm_list, vm);

/* A VM that is about to start. */
struct reservation {
    TAILQ_ENTRY(reservation) entry;
    struct control_request request;
    uint64_t until; /* clock_monotonic_ns */
};
TAILQ_HEAD(reservation_list, reservation);

struct manager {
    struct control_folder folder;
    struct io_loop *loop;
    const char *swap_dir; /* NULL: VMs choose */
    uint64_t memory_set;  /* 0: the host's spare memory is taken */
    void (*quit)(void *context);
    void *quit_context;

    struct vm_list vms;
    struct group_list groups;
    struct reservation_list reservations;
    struct policy_host host;
    bool is_ending;
    bool state_failed; /* it could not be written, and that was said */

    int watch; /* inotify; -1: none */
    struct io_source *watch_source;
    struct io_timer *step_timer, *pace_timer;
    bool pace_armed;
    bool is_due;                        /* a step, whatever the time */
    uint64_t stepped_at, look_again_at; /* for VMs in the folder */
    uint64_t divide_at;
};

/* ---- manager.c ---- */

/* memory: 0 for what the host can spare, and swap POLICY_NO_LIMIT for any. The folder is open, and
 * the caller has claimed the manager's name in it. Takes up what the state file says, and finds
 * VMs; nothing is heard of them before the loop runs. */
struct manager_config {
    const struct control_folder *folder;
    struct io_loop *loop;
    uint64_t memory, swap;
    double tax; /* as struct policy_host has them */
    uint32_t scan_ppm;
    bool scan_always;
    const char *swap_dir;
    void (*quit)(void *context); /* asked for; on the loop's thread */
    void *quit_context;
};
enum status manager_create(struct manager **manager, const struct manager_config *config,
                           struct error *err);
/* After the loop has stopped. VMs run on. NULL is allowed. */
void manager_destroy(struct manager *manager);

/* ---- registry.c ---- */

struct vm *registry_find(struct manager *manager, const char *name);
struct reservation *reservation_find(struct manager *manager, const char *name); /* or NULL */
/* NULL: out of memory, or no such process. */
struct vm *registry_add(struct manager *manager, const char *name, pid_t pid);
/* The process has ended: all that it held is given back. Frees vm. */
void registry_end(struct vm *vm);

/* For control requests, HELLO and the state: the record of a group by name, or one for a VM alone
 * (""), made where there is none. NULL: out of memory. */
struct group_record *registry_group(struct manager *manager, const char *name);
void registry_join(struct vm *vm, struct group_record *record);
/* What it holds over this link, if it holds anything, is what it held over the one before. */
enum status registry_move(struct vm *vm, struct group_record *record, struct error *err);
void registry_retire(struct vm *vm);
/* What it held over the link before it holds no more. */
void registry_end_former(struct vm *vm);
/* Records that nobody joined after all. */
void registry_forget_empty(struct manager *manager);
/* The VM has said all that it holds, or never will. */
void registry_settle(struct vm *vm);

/* Takes what a manager before has left. */
void registry_restore(struct manager *manager);
/* Writes the state. Failure is said once. */
enum status registry_save(struct manager *manager);

/* ---- adoption.c ---- */

enum status adoption_watch(struct manager *manager, struct error *err);
void adoption_look(struct manager *manager);               /* at all of the folder */
void adoption_try(struct manager *manager, struct vm *vm); /* again */
void adoption_end(struct vm *vm);                          /* the asking, if it is still going on */

/* ---- vm_link.c ---- */

/* vm->fd is the manager's end of a new link. */
enum status vm_link_open(struct vm *vm, struct error *err);
/* Takes what has come over it, within the VM's turn. May free vm, if its process has ended. */
void vm_link_read(struct vm *vm);
/* Closes it. What the VM holds it goes on to hold. */
void vm_link_close(struct vm *vm);
/* Its group has a pool now, or will have none of before. */
void vm_link_welcome(struct vm *vm);
void vm_link_refill(struct manager *manager);

/* ---- balance.c ---- */

/* Now and periodically. */
void balance_step(struct manager *manager);
/* A VM whose link is up: what it takes is known from now on. */
void balance_meet(struct vm *vm);
/* Something has changed that policy should know at once. */
void balance_soon(struct manager *manager);
/* Would a VM with these fit? As policy_admit. */
enum status balance_admit(struct manager *manager, const struct control_request *request,
                          struct error *err);
struct policy_vm balance_of_request(const struct control_request *request);

/* ---- answer.c, status.c ---- */

/* For control_server_config; context is the manager. */
json_t *answer_request(void *context, struct control_request *request, struct error *err);
json_t *status_report(struct manager *manager);

#endif
