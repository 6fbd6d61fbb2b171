/* Measures what VMs take, has the policy divide the host's memory, and tells VMs what they may
 * have. */

#include <stdlib.h>
#include <string.h>

#include "hostd/manager.h"
#include "util/bits.h"
#include "util/clock.h"
#include "util/log.h"

#define STEP_NS   NS_PER_SECOND
#define LOOK_NS   (NS_PER_SECOND / 5) /* where memory is short, or nearly so */
#define RESCAN_NS (10 * NS_PER_SECOND)

/* VMs are looked at closely when their link is up, then one at a time where it is wanted: so often
 * at least, and where what they take has moved. */
#define LOOK_AGAIN_NS (60 * NS_PER_SECOND)

/* Parts of frames are counted anew for at most this part of the time: 1 in 100. */
#define DIVIDE_COST 100u

/* A change of a target that is smaller than both is not worth a message. */
#define WORTH_BYTES (256 * KIB)
#define WORTH_PART  256u

/* As enum balloon_state has them (dev/virtio/balloon.h). */
enum { BALLOON_STEADY = 1, BALLOON_MOVING = 2 };

/* ---- measuring ---- */

static uint64_t shared_bytes(const struct vm *vm)
{
    return vm->sharer == NULL ? 0 : vm->sharer->mirror.frames * PAGE_SIZE;
}

/* What it costs the manager to have it, which is counted as the VM's. */
static uint64_t metadata_bytes(const struct vm *vm)
{
    return vm->sharer == NULL ? 0
                              : mirror_bytes(&vm->sharer->mirror) + 16 * vm->sharer->mirror.hints;
}

static void vm_measure(struct vm *vm)
{
    const struct charge *charge = &vm->charge;
    const struct link_report *report = &vm->report;
    struct policy_vm *policy = &vm->policy;
    uint64_t ram = charge->ram_bytes, rest = charge->rest_bytes;
    if (charge->ram < 0) { /* not shown yet: what is more than it said beside it */
        ram = rest - least(rest, vm->overhead);
        rest -= ram;
    }
    /* Its compressed pages are in memory of the process, and can be taken as private pages can. */
    uint64_t compressed = least(report->compressed_size, rest);
    policy->min = vm->min;
    policy->max = vm->max;
    policy->shares = vm->shares != 0 ? vm->shares : policy_default_shares(vm->max);
    policy->swap = vm->swap;
    policy->resident = ram + compressed;
    policy->overhead = rest - compressed + metadata_bytes(vm);
    policy->frames = vm->sharer == NULL ? 0 : least(vm->sharer->part, shared_bytes(vm));
    policy->active =
        vm->has_reported && report->sample_periods != 0 ? least(report->active, vm->max) : vm->max;
    policy->balloon = least(report->balloon, vm->max);
    policy->spare = report->spare;
    policy->balloon_works = vm->has_reported && (report->balloon_state == BALLOON_STEADY ||
                                                 report->balloon_state == BALLOON_MOVING);
    policy->is_paused = report->is_paused != 0;
    policy->faults_in = report->faults_in;
    policy->stall_ns = report->stall_ns;
    policy->pages_scanned = report->pages_scanned;
    policy->pages_shared = report->pages_shared;
}

static void look_at(struct vm *vm, uint64_t now)
{
    uint64_t held = shared_bytes(vm);
    charge_look(&vm->charge, vm->pid, held, (ino_t)vm->record->facts.inode);
    charge_measure(&vm->charge, held); /* one that has ended goes at the next step */
    vm_measure(vm);
    vm->look_at = now + LOOK_AGAIN_NS;
}

static void look_closer(struct manager *manager, uint64_t now)
{
    struct vm *vm;
    TAILQ_FOREACH(vm, &manager->vms, entry)
    {
        if (vm->look_at == 0 || (now < vm->look_at && !charge_has_moved(&vm->charge)))
            continue;
        look_at(vm, now);
        break;
    }
}

void balance_meet(struct vm *vm)
{
    charge_measure(&vm->charge, shared_bytes(vm));
    look_at(vm, clock_monotonic_ns());
}

static void divide_groups(struct manager *manager, uint64_t now)
{
    struct group_record *record;
    if (now < manager->divide_at)
        return;
    TAILQ_FOREACH(record, &manager->groups, entry)
    {
        if (record->group != NULL && record->group->changes != record->group->divided)
            group_divide(record->group);
    }
    manager->divide_at = now + DIVIDE_COST * (clock_monotonic_ns() - now);
}

/* Of all VMs and groups. VMs that have ended go. */
static void measure(struct manager *manager, uint64_t now)
{
    struct group_record *record;
    uint64_t frames = 0, own = charge_own(), attributed = 0;
    for (struct vm *vm = TAILQ_FIRST(&manager->vms), *next; vm != NULL; vm = next) {
        next = TAILQ_NEXT(vm, entry);
        if (!charge_measure(&vm->charge, shared_bytes(vm)))
            registry_end(vm);
    }
    divide_groups(manager, now);
    TAILQ_FOREACH(record, &manager->groups, entry)
    {
        if (record->group == NULL)
            continue;
        group_tidy(record->group);
        frames += pool_used(&record->group->pool);
    }
    struct vm *vm;
    TAILQ_FOREACH(vm, &manager->vms, entry)
    {
        vm_measure(vm);
        attributed += metadata_bytes(vm);
    }
    manager->host.frames = frames;
    manager->host.overhead = own - least(own, attributed);
}

/* ---- targets ---- */

static bool differs(uint64_t a, uint64_t b)
{
    uint64_t difference = a > b ? a - b : b - a;
    if (a == POLICY_NO_LIMIT || b == POLICY_NO_LIMIT)
        return a != b;
    return difference >= WORTH_BYTES || difference > b / WORTH_PART;
}

/* Rates within an eighth are as good as the same. */
static bool rate_differs(uint64_t a, uint64_t b)
{
    uint64_t difference = a > b ? a - b : b - a;
    return difference > b / 8;
}

static bool is_worth_telling(const struct link_target *target, const struct link_target *sent)
{
    return differs(target->resident, sent->resident) || differs(target->balloon, sent->balloon) ||
           target->block != sent->block || rate_differs(target->scan_pages, sent->scan_pages) ||
           rate_differs(target->scan_ppm, sent->scan_ppm);
}

static void tell(struct vm *vm)
{
    const struct policy_ask *ask = &vm->policy.ask;
    struct {
        struct link_head head;
        struct link_target body;
    } message = {
        .head = {.type = LINK_TARGET, .count = 1},
        .body = {.resident = ask->resident,
                 .balloon = ask->balloon,
                 .scan_pages = ask->scan_pages,
                 .scan_ppm = ask->scan_ppm,
                 .block = ask->block},
    };
    if (vm->stage != VM_MANAGED ||
        (vm->has_target && !is_worth_telling(&message.body, &vm->target)) ||
        link_send(vm->fd, &message, sizeof message, NULL, 0, NULL) != STATUS_OK)
        return; /* if it did not read, it is told at the next step */
    vm->has_target = true;
    vm->target = message.body;
}

/* ---- the step ---- */

/* All VMs of which sizes are known; the caller frees it. */
static struct policy_vm **list_vms(struct manager *manager, size_t *count)
{
    struct vm *vm;
    size_t most = 0;
    TAILQ_FOREACH(vm, &manager->vms, entry)
    most++;
    struct policy_vm **list = calloc(most + 1, sizeof(void *));
    *count = 0;
    TAILQ_FOREACH(vm, &manager->vms, entry)
    {
        if (list != NULL && vm->is_known)
            list[(*count)++] = &vm->policy;
    }
    return list;
}

static void divide(struct manager *manager, uint64_t now)
{
    size_t count;
    struct policy_vm **list = list_vms(manager, &count);
    struct vm *vm;
    if (list == NULL)
        return;
    policy_step(&manager->host, list, count,
                (double)(now - manager->stepped_at) / (double)NS_PER_SECOND);
    manager->stepped_at = now;
    free(list);
    TAILQ_FOREACH(vm, &manager->vms, entry)
    tell(vm);
}

/* Has free memory come to where something else is to be done? */
static bool state_changes(struct manager *manager)
{
    size_t count;
    struct policy_vm **list = list_vms(manager, &count);
    uint64_t free_bytes =
        list == NULL ? manager->host.free : policy_free(&manager->host, list, count);
    enum policy_state state =
        policy_state_next(manager->host.state, free_bytes, manager->host.memory);
    free(list);
    return state != manager->host.state;
}

static void forget_reservations(struct manager *manager, uint64_t now)
{
    for (struct reservation *it = TAILQ_FIRST(&manager->reservations), *next; it != NULL;
         it = next) {
        next = TAILQ_NEXT(it, entry);
        if (it->until <= now) {
            TAILQ_REMOVE(&manager->reservations, it, entry);
            free(it);
        }
    }
}

/* VMs without a link get one, those who wait for a pool are told that there will be none. */
static void care_for_links(struct manager *manager, uint64_t now)
{
    if (now >= manager->look_again_at) {
        manager->look_again_at = now + RESCAN_NS;
        adoption_look(manager);
    }
    for (struct vm *vm = TAILQ_FIRST(&manager->vms), *next; vm != NULL; vm = next) {
        next = TAILQ_NEXT(vm, entry);
        if (vm->stage == VM_WAITING)
            vm_link_welcome(vm);
        else if (vm->stage == VM_APART)
            adoption_try(manager, vm);
    }
}

void balance_step(struct manager *manager)
{
    uint64_t now = clock_monotonic_ns();
    measure(manager, now);
    bool is_due = now >= manager->stepped_at + STEP_NS || manager->is_due;
    if (is_due) {
        forget_reservations(manager, now);
        care_for_links(manager, now);
        look_closer(manager, now);
    }
    if (is_due || state_changes(manager)) {
        manager->is_due = false;
        divide(manager, now);
    }
    bool is_short = manager->host.state != POLICY_HIGH ||
                    manager->host.free < policy_reserve(manager->host.memory) * 2;
    io_timer_arm(manager->step_timer,
                 clock_monotonic_ns() +
                     (is_short && !TAILQ_EMPTY(&manager->vms) ? LOOK_NS : STEP_NS));
}

void balance_soon(struct manager *manager)
{
    manager->is_due = true;
    io_timer_arm(manager->step_timer, 0);
}

/* ---- admission ---- */

struct policy_vm balance_of_request(const struct control_request *request)
{
    return (struct policy_vm){
        .min = request->min,
        .max = request->max,
        .shares = request->shares != 0 ? request->shares : policy_default_shares(request->max),
        .swap = (request->has & CONTROL_HAS_SWAP) != 0 ? request->swap : POLICY_NO_LIMIT,
        .overhead = request->overhead,
    };
}

enum status balance_admit(struct manager *manager, const struct control_request *request,
                          struct error *err)
{
    size_t count = 0, reserved = 0;
    const struct reservation *reservation;
    const struct vm *vm;
    struct policy_vm wanted = balance_of_request(request);
    TAILQ_FOREACH(reservation, &manager->reservations, entry)
    reserved++;
    TAILQ_FOREACH(vm, &manager->vms, entry)
    reserved++;
    struct policy_vm *copies = calloc(reserved + 1, sizeof *copies);
    struct policy_vm **list = calloc(reserved + 1, sizeof *list);
    enum status status = STATUS_NO_MEMORY;
    if (copies == NULL || list == NULL) {
        error_set(err, status, "out of memory");
        goto out;
    }
    TAILQ_FOREACH(vm, &manager->vms, entry)
    {
        if (!vm->is_known)
            continue;
        copies[count] = vm->policy;
        copies[count].min = vm->min;
        copies[count].max = vm->max;
        copies[count].swap = vm->swap;
        /* It may still grow to what it said that it may need. */
        if (copies[count].overhead < vm->overhead)
            copies[count].overhead = vm->overhead;
        list[count] = &copies[count];
        count++;
    }
    TAILQ_FOREACH(reservation, &manager->reservations, entry)
    {
        if (strcmp(reservation->request.name, request->name) == 0)
            continue; /* this one takes its place */
        copies[count] = balance_of_request(&reservation->request);
        list[count] = &copies[count];
        count++;
    }
    status = policy_admit(&manager->host, list, count, &wanted, err);
out:
    free(copies);
    free(list);
    return status;
}
