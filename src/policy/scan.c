/*
 * How fast each VM looks for pages that it could share. All together have a budget of CPU time, of
 * which so much is used as memory is short: all of it from state soft on, next to nothing on a host
 * that has half of its memory free. VMs get parts of it by their memory and by what scanning them
 * has yielded lately: pages shared, less those that were written again soon, of pages scanned. A VM
 * that has not been scanned counts as if every page could be shared; one that yields nothing keeps
 * a small part, to notice when that changes.
 */

#include "policy/policy_private.h"

/* Free memory, in percent, at which the pressure is 0; and at which it is 1. */
#define IDLE_PERCENT 50.0
#define FULL_PERCENT 6.5
/* Of the budget, on a host without pressure. */
#define PRESSURE_LEAST 0.02

#define YIELD_LEAST 0.02
/* Of a VM's memory: after so much of it the estimate is as good as new. */
#define YIELD_MEMORY 0.25

/* Pages in a second of CPU time: before it is known, and what is believed. */
#define SPEED_FIRST 500e3
#define SPEED_LEAST 20e3
#define SPEED_MOST  20e6
#define SPEED_GAIN  0.25

/* Scanning all of a VM more often than once in so many seconds finds the same pages again. */
#define PASS_SECONDS 10.0

static double within(double value, double bottom, double top)
{
    return value > bottom ? (value < top ? value : top) : bottom;
}

void policy_scan_meet(struct policy_vm *vm)
{
    struct policy_past *past = &vm->past;
    past->scanned = vm->pages_scanned;
    past->shared = vm->pages_shared;
    past->broken = vm->cow_breaks;
    past->scan_cpu_ns = vm->scan_cpu_ns;
    past->yield = 1;
    past->speed = SPEED_FIRST;
}

static double pages_of(const struct policy_vm *vm)
{
    return (double)pages_in(least(vm->resident, vm->max)) + 1;
}

static void vm_learn(struct policy_vm *vm)
{
    struct policy_past *past = &vm->past;
    double scanned = (double)above(vm->pages_scanned, past->scanned);
    double lasting =
        (double)above(vm->pages_shared, past->shared) - (double)above(vm->cow_breaks, past->broken);
    double cpu = (double)above(vm->scan_cpu_ns, past->scan_cpu_ns) / 1e9;
    if (scanned > 0) {
        double gain = within(scanned / (pages_of(vm) * YIELD_MEMORY), 0, 1);
        past->yield += (within(lasting / scanned, 0, 1) - past->yield) * gain;
        if (cpu > 0)
            past->speed +=
                (within(scanned / cpu, SPEED_LEAST, SPEED_MOST) - past->speed) * SPEED_GAIN;
    }
    past->scanned = vm->pages_scanned;
    past->shared = vm->pages_shared;
    past->broken = vm->cow_breaks;
    past->scan_cpu_ns = vm->scan_cpu_ns;
}

static double pressure_of(const struct policy_host *host)
{
    double percent = host->memory == 0 ? 0 : 100.0 * (double)host->free / (double)host->memory;
    double pressure = (IDLE_PERCENT - percent) / (IDLE_PERCENT - FULL_PERCENT);
    if (host->state != POLICY_HIGH)
        pressure = 1;
    return within(pressure, within(host->scan_pressure, PRESSURE_LEAST, 1), 1);
}

void policy_scan(const struct policy_host *host, struct policy_vm *const *vms, size_t count)
{
    double weights = 0;
    for (size_t i = 0; i < count; i++) {
        struct policy_past *past = &vms[i]->past;
        vm_learn(vms[i]);
        past->weight = pages_of(vms[i]) * within(past->yield, YIELD_LEAST, 1);
        weights += past->weight;
    }
    double budget = pressure_of(host) * host->scan_ppm;
    for (size_t i = 0; i < count; i++) {
        struct policy_vm *vm = vms[i];
        double ppm = within(budget * vm->past.weight / weights, 0, 1e6);
        double pages = within(ppm / 1e6 * vm->past.speed, 0, pages_of(vm) / PASS_SECONDS);
        vm->ask.scan_ppm = (uint32_t)(ppm + 0.5);
        vm->ask.scan_pages = (uint64_t)(pages + 0.5);
    }
}
