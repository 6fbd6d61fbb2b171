#ifndef AEROSTAT_TESTS_POLICY_SIMULATION_H
#define AEROSTAT_TESTS_POLICY_SIMULATION_H

/*
 * A host of VMs as the policy sees them, second by second, with no VM behind it. A guest has
 * content that grows to what it would like to have, and that shrinks as its balloon grows; a part
 * of it is its working set, touched all the time. Content is resident or paged out; touched content
 * that was paged out comes back, and costs a fault. Everything follows from the seed.
 */

#include "policy/policy.h"

/* What a guest does; all in bytes and bytes a second. */
struct guest {
    uint64_t wants;       /* content that it fills up to, by and by */
    uint64_t working_set; /* of that, what it touches */
    uint64_t growth;      /* at most, a second */
    uint64_t balloon_speed;
    bool has_balloon;
    bool is_noisy; /* its working set is measured with the error of 100 samples */
    /* what it is like now */
    uint64_t content;       /* resident and paged out */
    uint64_t before;        /* resident, a second ago */
    uint64_t pages_read;    /* brought back in the last second, in bytes */
    int direction;          /* its memory was last going up (1) or down (-1) */
    unsigned turns;         /* changes of that */
    uint64_t turning_point; /* the furthest that its memory has been in that direction */
};

struct simulation {
    struct policy_host host;
    struct policy_vm *vm;
    struct guest *guest;
    struct policy_vm **list;
    size_t count;
    uint64_t seed, seconds;
};

/* `memory` bytes for `count` VMs of `max` each, all alike, asleep and empty. */
void simulation_init(struct simulation *simulation, size_t count, uint64_t memory, uint64_t max,
                     uint64_t min, uint64_t seed);
void simulation_free(struct simulation *simulation);

/* Guests go on for a second, and then there is one step of the policy; simulation_live is without
 * that. */
void simulation_step(struct simulation *simulation);
void simulation_live(struct simulation *simulation);

/* Forgets the turns until now. */
void simulation_count_turns(struct simulation *simulation);

struct simulation_view {
    double free_percent;
    double moved;   /* come and gone in the last second, part of the host's memory */
    double paged;   /* brought back in the last second, part of the host's memory */
    unsigned turns; /* since they were counted: of all VMs, and of one at most */
    unsigned turns_most;
};
struct simulation_view simulation_view(const struct simulation *simulation);

#endif
