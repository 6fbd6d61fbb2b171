#ifndef AEROSTAT_HOSTD_GROUP_H
#define AEROSTAT_HOSTD_GROUP_H

/*
 * A group of VMs that share pages with each other, and what it has for that: a key, a pool, a
 * table, and a mirror of each member. docs/protocol.md, docs/sharing.md.
 *
 * Members may lie. Whatever they send changes counts of what they hold themselves alone: a member
 * gives back what its own mirror has, or nothing. A page becomes a frame by being copied out of the
 * member's memory first and hashed then, so what it does to the page later is too late; and what is
 * in a frame does not change before the last reference to it has gone.
 */

#include <stdbool.h>
#include <stdint.h>

#include "hostd/mirror.h"
#include "hostd/pool.h"
#include "hostd/share_table.h"
#include "proto/link.h"

#define GROUP_MEMBERS_MOST 65535u

/* One VM as a member of a group. */
struct sharer {
    /* set by the VM's owner, before it joins */
    int ram; /* its memory, to be read from; not owned. -1: its pages can be no hints */
    /* Sends ATTACH for all of them, or for none: false. Called from within group_offer and
     * group_flush; it must not call back. */
    bool (*send)(void *context, const struct link_ref *refs, uint32_t count);
    void *context;
    /* the group's own */
    struct group *group; /* NULL: of none */
    uint16_t id;
    struct mirror mirror;
    uint64_t part; /* of the group's frames, in bytes, as of the last group_divide */
    uint64_t hints_most;
    uint64_t attached; /* ATTACHes that were sent, ever */
    uint64_t stale;    /* hints of its pages that had changed, ever */
    uint32_t pending_count;
    struct link_ref pending[LINK_PAGES]; /* recorded, and to be sent */
};

struct group {
    uint64_t key;
    struct pool pool;
    struct share_table table;
    struct sharer **members; /* by id */
    uint32_t member_room, member_count;
    uint32_t unsettled; /* VMs that may hold frames and have not said so yet: none is freed */
    uint64_t changes;   /* of counts, ever */
    uint64_t divided;   /* changes when group_divide ran last */
};

/* With a pool of its own and the key given, or, for 0, a new one. */
enum status group_create(struct group **group, uint64_t key, struct error *err);
/* With a pool of before: its pages are hashed anew, and wait for those who hold them. */
enum status group_restore(struct group **group, uint64_t key, int pool_fd, dev_t device,
                          ino_t inode, struct error *err);
void group_destroy(struct group *group); /* no member is left. NULL is allowed */

/* span: PPNs are below it. INVALID, NO_MEMORY, NO_SPACE: it has not joined. */
enum status group_join(struct group *group, struct sharer *sharer, uint64_t span,
                       struct error *err);
/* All that it holds is given back. Harmless where it is in none. */
void group_leave(struct sharer *sharer);
/* Nobody reads its memory any more; what it holds it goes on to hold. */
void group_forget_hints(struct sharer *sharer);

/* What members send. INVALID is a breach: nothing has changed. */
enum status group_hold(struct sharer *sharer, struct link_ref ref, struct error *err);
enum status group_offer(struct sharer *sharer, const struct link_offer *offer, struct error *err);
enum status group_drop(struct sharer *sharer, struct link_ref ref, struct error *err);

/* To be called after each message: sends what is pending, to all members. What cannot be sent has
 * not happened. */
void group_flush(struct group *group);

/* One of the unsettled has said what it holds, or has ended. */
void group_settle(struct group *group);
/* Gives the memory of freed frames back; now and then. */
void group_tidy(struct group *group);
/* Sets each member's part: of a frame that n pages hold, 1/n for each. Looks at all mirrors. */
void group_divide(struct group *group);

/* Bytes of table and mirrors. */
uint64_t group_metadata(const struct group *group);
/* Recounts everything; aborts where it does not fit together. For tests. */
void group_check(const struct group *group);

#endif
