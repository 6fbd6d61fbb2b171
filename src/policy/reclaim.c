/*
 * What to ask of each VM so that it comes to what it is allowed.
 *
 * Nothing is taken while the host's state is high: free memory above 6 % and below is a band in
 * which nothing needs to move, and in which VMs that have less than they may are given back their
 * balloons. When free memory falls below 4 %, VMs above what they are allowed yield until it is
 * well above 6 %: by their balloons, and by paging what a balloon cannot give. Below 2 % they are
 * paged as well, below 1 % they stand still until they have yielded. Taking is limited in time,
 * giving by what is free alone.
 *
 * Two things stop taking for a while, longer each time: a balloon that does not grow (then its VM
 * is paged instead), and a VM that has to wait for pages (then others yield, if that is enough).
 * But for what the guest itself says that it can spare: a guest that fills its page cache is paged
 * for it all the time, and waits, until its balloon has made it use less.
 */

#include "policy/policy_private.h"

/* Percent of a VM's max that is taken in a second, in state soft and hard. In low there is no time.
 */
#define TAKE_SOFT_PERCENT 5.0
#define TAKE_HARD_PERCENT 10.0
#define TAKE_LEAST        (1u << 20) /* in a second: a small VM is not worth patience */

/* A guest that is left with less than this has no use of what it has. ESX's limit as well. */
#define BALLOON_MOST_PERCENT 65.0
/* A suffering guest's balloon grows as long as this part of its max is left of what it can spare:
 * what it says is a second old, and its programs are in what it calls spare. */
#define SPARE_LEAST_PERCENT 12.5
/* A balloon that has not grown by this in this many seconds is stuck. */
#define BALLOON_GROWTH   (256u << 10)
#define BALLOON_PATIENCE 5.0

/* A VM suffers if it has this part of its max brought back in a second, or waits for this part of
 * the time; looked at no more often than this, for reports come once a second. */
#define FAULTS_PERCENT 0.4
#define STALL_PART     0.05
#define LOOK_SECONDS   0.9

/* Seconds of holding still: the first time, and doubled to at most the last. */
#define HOLD_FIRST         4.0
#define HOLD_LAST          64.0
#define BALLOON_HOLD_FIRST 8.0
#define BALLOON_HOLD_LAST  128.0

/* Percent of the host's memory that stay free when VMs grow: those that are above what they are
 * allowed, and others; and when balloons are given back: so little that others have to yield, if it
 * is used. */
#define GROW_ABOVE_PERCENT 3.0
#define GROW_PERCENT       1.0
#define GIVE_PERCENT       3.0

/* A VM that has grown by this since the last step will go on, and so will one that is so near to
 * its limit. */
#define GROWS (1u << 20)

/* For how long memory that was given back and is not used counts as if it were. */
#define UNUSED_SECONDS 60.0

/* A VM that is to keep what it has is not held to exactly that, or its pager would be at work for a
 * margin below (src/mem/reclaim.c): as much as before, within this part of what it has and so many
 * bytes. */
#define SLACK_PART  64u
#define SLACK_BYTES (512u << 10)

/* Less than this part of max is not worth giving back, unless it is all. */
#define GIVE_LEAST_PERCENT 0.4

/* ---- Whether to take ---- */

static double longer(double backoff, double first, double last)
{
    double next = backoff * 2 > first ? backoff * 2 : first;
    return next < last ? next : last;
}

/* Trust comes back more slowly than it goes. */
static void count_down(double *hold, double *backoff, double seconds)
{
    double *counter = *hold > 0 ? hold : backoff;
    double by = *hold > 0 ? seconds : seconds / 4;
    *counter = *counter > by ? *counter - by : 0;
}

static bool is_suffering(const struct policy_vm *vm)
{
    const struct policy_past *past = &vm->past;
    double brought = (double)above(vm->faults_in, past->faults_in) * PAGE_SIZE;
    double waited = (double)above(vm->stall_ns, past->stall_ns) / 1e9;
    return brought > past->watched * (double)percent_of(FAULTS_PERCENT, vm->max) ||
           waited > past->watched * STALL_PART;
}

static void hold_update(struct policy_vm *vm, double seconds)
{
    struct policy_past *past = &vm->past;
    bool was_held = past->hold > 0;
    count_down(&past->hold, &past->backoff, seconds);
    past->watched += seconds;
    if (past->watched < LOOK_SECONDS)
        return;
    if (is_suffering(vm) && !was_held) /* after each hold there is one step without */
        past->hold = past->backoff = longer(past->backoff, HOLD_FIRST, HOLD_LAST);
    past->watched = 0;
    past->faults_in = vm->faults_in;
    past->stall_ns = vm->stall_ns;
}

static void balloon_update(struct policy_vm *vm, double seconds)
{
    struct policy_past *past = &vm->past;
    bool is_wanted = vm->ask.balloon > plus(vm->balloon, BALLOON_GROWTH) && !vm->is_paused;
    /* Beyond what it has had: a guest that is short itself takes back what it gave, and gives it
     * again, and so on. */
    bool has_moved = vm->balloon > plus(past->balloon_grown, BALLOON_GROWTH);
    count_down(&past->balloon_hold, &past->balloon_backoff, seconds);
    past->stuck += seconds;
    if (!is_wanted || has_moved) {
        past->stuck = 0;
        past->balloon_grown = vm->balloon;
    }
    if (is_wanted && (past->stuck >= BALLOON_PATIENCE || !vm->balloon_works)) {
        past->stuck = 0;
        past->balloon_hold = past->balloon_backoff =
            longer(past->balloon_backoff, BALLOON_HOLD_FIRST, BALLOON_HOLD_LAST);
    }
}

/* How much more a balloon may be asked for. */
static uint64_t balloon_room(const struct policy_vm *vm)
{
    if (!vm->balloon_works || vm->is_paused || vm->past.balloon_hold > 0)
        return 0;
    uint64_t limit = least(above(vm->max, vm->min), percent_of(BALLOON_MOST_PERCENT, vm->max));
    return above(limit, vm->balloon);
}

/* ---- Taking ---- */

/* How much may be taken from a VM in so many seconds. */
static uint64_t take_most(const struct policy_vm *vm, enum policy_state state, double seconds)
{
    if (state == POLICY_LOW)
        return UINT64_MAX;
    double percent = state == POLICY_HARD ? TAKE_HARD_PERCENT : TAKE_SOFT_PERCENT;
    double bytes = (double)most(percent_of(percent, vm->max), TAKE_LEAST) * seconds;
    return bytes < 0x1p62 ? (uint64_t)bytes : 1ull << 62;
}

/* That of one that suffers; from all others `rate`. */
static uint64_t held_most(const struct policy_vm *vm, enum policy_state state, uint64_t rate)
{
    if (vm->past.hold <= 0 || state == POLICY_LOW)
        return rate;
    return state == POLICY_HARD ? rate / 4 : 0;
}

/* What is taken of what is wanted. What was asked before, and has not come yet, stands: so that a
 * step right after another one takes nothing back. */
static uint64_t taken(const struct policy_vm *vm, uint64_t want, uint64_t limit, uint64_t asked)
{
    return least(want, vm->past.hold > 0 ? limit : most(limit, asked));
}

/* From a VM that is above what it is allowed. Where nothing is paged, it may grow to `limit`. */
static void vm_take(struct policy_vm *vm, enum policy_state state, uint64_t limit, double seconds)
{
    uint64_t excess = vm->resident - vm->past.allowed, rate = take_most(vm, state, seconds);
    uint64_t held = held_most(vm, state, rate);
    uint64_t spare = least(rate, above(vm->spare, percent_of(SPARE_LEAST_PERCENT, vm->max)));
    uint64_t by_balloon = least(excess, balloon_room(vm));
    uint64_t by_paging = state >= POLICY_HARD ? excess : excess - by_balloon;
    uint64_t balloon_asked = above(vm->ask.balloon, vm->balloon);
    uint64_t paging_asked = above(vm->resident, vm->ask.resident);

    vm->ask.balloon = vm->balloon + taken(vm, by_balloon, most(held, spare), balloon_asked);
    uint64_t paged = taken(vm, by_paging, held, paging_asked);
    vm->ask.resident = paged != 0 || state >= POLICY_HARD ? vm->resident - paged : limit;
}

/* ---- Growing and giving ---- */

/* A guest that is given memory fills it by and by. Until then, or until it evidently has no use for
 * it, it counts as if it were filled: or it would be given far more than it may have. */
static void unused_update(struct policy_vm *vm, double seconds)
{
    struct policy_past *past = &vm->past;
    uint64_t free = plus(past->unused, plus(past->balloon, past->resident));
    free = least(above(free, plus(vm->balloon, vm->resident)), vm->max);
    past->unused = (uint64_t)((double)free * (1 - seconds / (seconds + UNUSED_SECONDS)));
}

/* What VMs may have more of, until the next step. */
struct room {
    double give;           /* of what is wanted of balloons: the part that is given */
    uint64_t growth;       /* for each */
    uint64_t growth_above; /* for each that is above what it is allowed */
};

static uint64_t given_most(const struct policy_host *host, const struct policy_vm *vm)
{
    uint64_t up_to = host->state == POLICY_HIGH ? vm->past.allowed : vm->target;
    uint64_t has = plus(vm->resident, vm->past.unused);
    uint64_t bytes = least(above(up_to, has), vm->balloon);
    bool is_little = bytes < percent_of(GIVE_LEAST_PERCENT, vm->max) && bytes < vm->balloon;
    return host->state > POLICY_SOFT || vm->is_paused || is_little ? 0 : bytes;
}

static bool is_growing(const struct policy_vm *vm)
{
    return above(vm->resident, vm->past.resident) > GROWS ||
           plus(vm->resident, GROWS) > vm->ask.resident;
}

static struct room room_of(const struct policy_host *host, struct policy_vm *const *vms,
                           size_t count)
{
    uint64_t growing = 0, wanted = 0;
    for (size_t i = 0; i < count; i++) {
        growing += is_growing(vms[i]);
        wanted = plus(wanted, given_most(host, vms[i]));
    }
    uint64_t free = host->free, memory = host->memory;
    uint64_t give = above(free, percent_of(GIVE_PERCENT, memory));
    return (struct room){
        .give = wanted > give ? (double)give / (double)wanted : 1,
        .growth = above(free, percent_of(GROW_PERCENT, memory)) / (growing + 1),
        .growth_above = above(free, percent_of(GROW_ABOVE_PERCENT, memory)) / (growing + 1),
    };
}

/* Up to where it may grow until the next step. */
static uint64_t limit_of(const struct policy_host *host, const struct room *room,
                         const struct policy_vm *vm, bool is_above)
{
    uint64_t limit = plus(vm->resident, is_above ? room->growth_above : room->growth);
    uint64_t slack = vm->resident / SLACK_PART + SLACK_BYTES;
    limit = most(limit, least(vm->ask.resident, plus(vm->resident, slack)));
    if (host->state >= POLICY_HARD)
        limit = least(limit, most(vm->past.allowed, vm->resident));
    return plus(limit, vm->frames) >= vm->max ? POLICY_NO_LIMIT : limit;
}

static void vm_ask(const struct policy_host *host, const struct room *room, struct policy_vm *vm,
                   double seconds)
{
    bool is_above = vm->resident > vm->past.allowed;
    uint64_t limit = limit_of(host, room, vm, is_above);
    if (is_above && host->state >= POLICY_SOFT) {
        vm_take(vm, host->state, limit, seconds);
    } else {
        uint64_t given = (uint64_t)((double)given_most(host, vm) * room->give);
        vm->ask.balloon = above(vm->balloon, given);
        vm->ask.resident = limit;
    }
    vm->ask.block = is_above && host->state == POLICY_LOW;
}

void policy_reclaim(const struct policy_host *host, struct policy_vm *const *vms, size_t count,
                    double seconds)
{
    policy_divide_used(host, vms, count);
    for (size_t i = 0; i < count; i++) {
        hold_update(vms[i], seconds);
        balloon_update(vms[i], seconds);
        unused_update(vms[i], seconds);
    }
    struct room room = room_of(host, vms, count);
    for (size_t i = 0; i < count; i++)
        vm_ask(host, &room, vms[i], seconds);
}
