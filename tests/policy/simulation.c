/* See simulation.h. */

#include "simulation.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"

/* A guest that is short keeps this for itself, whatever its balloon is to be. */
#define GUEST_LEAST (40 * MIB)
/* What the VM process pages out in a second, and of that what was in use after all. */
#define PAGING_SPEED  (64 * MIB)
#define PAGING_ERRORS 0.05
/* A change of direction counts when it goes back by this part of max. */
#define TURN_PART 0.04

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t above(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

void simulation_init(struct simulation *simulation, size_t count, uint64_t memory, uint64_t max,
                     uint64_t min, uint64_t seed)
{
    *simulation = (struct simulation){
        .vm = calloc(count, sizeof *simulation->vm),
        .guest = calloc(count, sizeof *simulation->guest),
        .list = calloc(count, sizeof *simulation->list),
        .count = count,
        .seed = seed,
    };
    assert(simulation->vm != NULL && simulation->guest != NULL && simulation->list != NULL);
    policy_host_init(&simulation->host, memory);
    for (size_t i = 0; i < count; i++) {
        simulation->list[i] = &simulation->vm[i];
        simulation->vm[i] = (struct policy_vm){
            .min = min,
            .max = max,
            .shares = policy_default_shares(max),
            .swap = POLICY_NO_LIMIT,
            .balloon_works = true,
            .overhead = 2 * MIB,
        };
        simulation->guest[i] = (struct guest){
            .growth = 20 * MIB,
            .balloon_speed = 50 * MIB,
            .has_balloon = true,
        };
    }
}

void simulation_free(struct simulation *simulation)
{
    free(simulation->vm);
    free(simulation->guest);
    free(simulation->list);
}

/* Content that becomes resident is limited by ask.resident: beyond, as much is paged out for it. */
static void make_resident(struct policy_vm *vm, uint64_t bytes)
{
    vm->resident = least(vm->resident + bytes,
                         vm->resident > vm->ask.resident ? vm->resident : vm->ask.resident);
}

static void guest_balloon(struct guest *guest, struct policy_vm *vm)
{
    uint64_t room = vm->max - vm->balloon, ask = vm->ask.balloon;
    vm->balloon_works = guest->has_balloon;
    if (!guest->has_balloon)
        return;
    if (ask < vm->balloon) {
        vm->balloon = ask;
        return;
    }
    uint64_t grown =
        least(least(ask - vm->balloon, guest->balloon_speed), above(room, GUEST_LEAST));
    vm->balloon += grown;
    /* Free memory first, and then content, of which a part is paged out. */
    uint64_t lost = above(guest->content, vm->max - vm->balloon);
    if (lost == 0)
        return;
    uint64_t taken = (uint64_t)((double)lost * ((double)vm->resident / (double)guest->content));
    guest->content -= lost;
    vm->resident -= taken;
}

static void guest_page_out(struct guest *guest, struct policy_vm *vm)
{
    /* As src/mem/reclaim.c: it begins a little below the limit, and goes on a little more. */
    uint64_t limit = vm->ask.resident, slack = least(limit / 64, 8 * MIB), out = 0;
    if (vm->resident > limit - slack / 2)
        out = least(vm->resident - (limit - slack), PAGING_SPEED);
    out = least(out, vm->resident);
    vm->resident -= out;
    guest->pages_read = 0;
    uint64_t wanted = (uint64_t)((double)out * PAGING_ERRORS);
    uint64_t set = least(guest->working_set, guest->content);
    wanted = least(wanted + above(set, vm->resident), guest->growth);
    wanted = least(wanted, guest->content - vm->resident);
    if (vm->ask.block && vm->resident > vm->ask.resident)
        return;
    make_resident(vm, wanted);
    guest->pages_read = wanted;
    vm->faults_in += wanted / 4096;
    vm->stall_ns += wanted / 4096 * 100 * 1000;
}

static void guest_grow(struct guest *guest, struct policy_vm *vm)
{
    if (vm->ask.block && vm->resident > vm->ask.resident)
        return;
    uint64_t to = least(guest->wants, vm->max - vm->balloon);
    uint64_t grown = least(above(to, guest->content), guest->growth);
    guest->content += grown;
    make_resident(vm, grown);
    if (guest->wants < guest->content) { /* it frees what it does not want any more */
        vm->resident =
            (uint64_t)((double)vm->resident * (double)guest->wants / (double)guest->content);
        guest->content = guest->wants;
    }
}

static void guest_measure(const struct guest *guest, struct policy_vm *vm, uint64_t *seed)
{
    double part = (double)least(guest->working_set, guest->content) / (double)vm->max;
    if (guest->is_noisy) { /* of 100 pages so many were touched */
        double noise = 0;
        for (unsigned i = 0; i < 12; i++)
            noise += random_part(seed) - 0.5;
        part += noise * sqrt(part * (1 - part) / 100);
    }
    uint64_t active = (uint64_t)(fmin(fmax(part, 0), 1) * (double)vm->max);
    /* As src/mem/sample.c: quickly up, slowly down. */
    vm->active = active > vm->active ? (vm->active + active) / 2 : (vm->active * 7 + active) / 8;
}

/* What it could do without: free memory, and content that it does not touch. */
static void guest_tell(const struct guest *guest, struct policy_vm *vm)
{
    uint64_t set = guest->working_set > GUEST_LEAST ? guest->working_set : GUEST_LEAST;
    vm->spare = guest->has_balloon ? above(vm->max - vm->balloon, set) : 0;
}

static void guest_count_turns(struct guest *guest, const struct policy_vm *vm)
{
    uint64_t far = (uint64_t)(TURN_PART * (double)vm->max), now = vm->resident;
    uint64_t point = guest->turning_point;
    if (guest->direction >= 0 ? now > point : now < point) {
        guest->turning_point = now;
    } else if (above(now, point) > far || above(point, now) > far) {
        guest->turns += guest->direction != 0;
        guest->direction = now > point ? 1 : -1;
        guest->turning_point = now;
    }
}

void simulation_live(struct simulation *simulation)
{
    for (size_t i = 0; i < simulation->count; i++) {
        struct guest *guest = &simulation->guest[i];
        struct policy_vm *vm = &simulation->vm[i];
        guest->before = vm->resident;
        if (simulation->seconds > 0) {
            guest_balloon(guest, vm);
            guest_page_out(guest, vm);
            guest_grow(guest, vm);
        }
        guest_tell(guest, vm);
        if ((simulation->seconds + i) % 30 == 0)
            guest_measure(guest, vm, &simulation->seed);
        guest_count_turns(guest, vm);
    }
    simulation->seconds++;
}

void simulation_step(struct simulation *simulation)
{
    simulation_live(simulation);
    policy_step(&simulation->host, simulation->list, simulation->count, 1);
}

void simulation_count_turns(struct simulation *simulation)
{
    for (size_t i = 0; i < simulation->count; i++) {
        simulation->guest[i].turns = 0;
        simulation->guest[i].direction = 0;
        simulation->guest[i].turning_point = simulation->vm[i].resident;
    }
}

struct simulation_view simulation_view(const struct simulation *simulation)
{
    const struct policy_host *host = &simulation->host;
    struct simulation_view view = {0};
    uint64_t moved = 0, paged = 0, used = 0;
    for (size_t i = 0; i < simulation->count; i++) {
        const struct policy_vm *vm = &simulation->vm[i];
        const struct guest *guest = &simulation->guest[i];
        moved += above(vm->resident, guest->before) + above(guest->before, vm->resident);
        paged += guest->pages_read;
        used += vm->resident + vm->overhead;
        view.turns += guest->turns;
        view.turns_most = guest->turns > view.turns_most ? guest->turns : view.turns_most;
    }
    view.moved = (double)moved / (double)host->memory;
    view.paged = (double)paged / (double)host->memory;
    view.free_percent = 100 - 100 * (double)used / (double)host->memory;
    return view;
}
