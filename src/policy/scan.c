/*
 * How fast each VM looks for pages that it could share. All together have a budget of CPU time, of
 * which so much is used as memory is short: all of it from state soft on, next to nothing on a host
 * that has half of its memory free; and less where scanning yields little: pages shared, of pages
 * looked at. (Those that are written again count too, for in the long run that is as many as are
 * shared; what is written again at once VMs do not name, mem/scan.h.) VMs get parts of it by their
 * memory and their yield. A VM that has not been scanned counts as if every page could be shared;
 * one that yields nothing keeps a small part, to notice when that changes. What a VM looks at
 * first, what was loaded at its start, it looks at as if memory were short: VMs that boot the same
 * share it from then on.
 *
 * CPU time is what limits. Pages are limited only so that no VM is scanned over and over: a limit
 * of pages that followed from the CPU time of pages before would make a scanner slow for ever that
 * has been slow once, for what it costs to wake it does not fall.
 *
 * Who wants it (scan_always) has all of the budget used, whatever memory there is and whatever is
 * found.
 */

#include "policy/policy_private.h"

/* Free memory, in percent, at which the pressure is 0; and at which it is 1. */
#define IDLE_PERCENT 50.0
#define FULL_PERCENT 6.5
/* Of the budget, on a host without pressure. */
#define PRESSURE_LEAST 0.02
/* Pages that a VM looks at before that goes for it: a kernel and an initrd, twice. Where nothing is
 * found they take some 20 ms of CPU time. */
#define FIRST_PAGES 32768u

#define YIELD_LEAST 0.02
/* The mean yield from which on all of the budget is worth it: to find and share a page costs 60 us
 * then, which is less than to page it out and in again. And the least part that is used: what it
 * costs the guests to look for what is not there must not be seen. */
#define YIELD_FULL  0.1
#define WORTH_LEAST 0.04
/* Of a VM's memory: after so much of it the estimate is as good as new. */
#define YIELD_MEMORY 0.25

/* All of a VM's memory is scanned once in so many seconds at most, or it would be the same pages
 * again; where they are not the same, five times as often: a guest at work makes and forgets pages
 * that others have within less. From a yield of a tenth on, what is looked at in vain costs less
 * than the sharing. */
#define PASS_SECONDS 10.0
#define PASS_FASTER  5.0
#define PASS_YIELD   0.1
/* And with scan_always: the CPU time limits, long before this. */
#define PASS_ALWAYS 0.1

static double within(double value, double bottom, double top)
{
    return value > bottom ? (value < top ? value : top) : bottom;
}

void policy_scan_meet(struct policy_vm *vm)
{
    struct policy_past *past = &vm->past;
    past->scanned = vm->pages_scanned;
    past->shared = vm->pages_shared;
    past->yield = 1;
}

static double pages_of(const struct policy_vm *vm)
{
    return (double)pages_in(least(vm->resident, vm->max)) + 1;
}

static void vm_learn(struct policy_vm *vm)
{
    struct policy_past *past = &vm->past;
    double scanned = (double)above(vm->pages_scanned, past->scanned);
    double shared = (double)above(vm->pages_shared, past->shared);
    if (scanned > 0) {
        double gain = within(scanned / (pages_of(vm) * YIELD_MEMORY), 0, 1);
        past->yield += (within(shared / scanned, 0, 1) - past->yield) * gain;
    }
    past->scanned = vm->pages_scanned;
    past->shared = vm->pages_shared;
}

static double pressure_of(const struct policy_host *host)
{
    double percent = host->memory == 0 ? 0 : 100.0 * (double)host->free / (double)host->memory;
    double pressure = (IDLE_PERCENT - percent) / (IDLE_PERCENT - FULL_PERCENT);
    if (host->state != POLICY_HIGH || host->scan_always)
        pressure = 1;
    return within(pressure, PRESSURE_LEAST, 1);
}

static double pass_seconds(const struct policy_host *host, const struct policy_vm *vm)
{
    if (host->scan_always)
        return PASS_ALWAYS;
    return PASS_SECONDS / (1 + (PASS_FASTER - 1) * within(vm->past.yield / PASS_YIELD, 0, 1));
}

static double pressure_for(const struct policy_vm *vm, double pressure)
{
    return vm->pages_scanned < FIRST_PAGES ? 1 : pressure;
}

void policy_scan(const struct policy_host *host, struct policy_vm *const *vms, size_t count)
{
    double weights = 0, pages = 0, pressure = pressure_of(host);
    for (size_t i = 0; i < count; i++) {
        struct policy_past *past = &vms[i]->past;
        vm_learn(vms[i]);
        past->weight = pages_of(vms[i]) * within(past->yield, YIELD_LEAST, 1);
        weights += past->weight;
        pages += pages_of(vms[i]);
    }
    double worth = (weights / pages - YIELD_LEAST) / (YIELD_FULL - YIELD_LEAST);
    worth = host->scan_always ? 1 : within(worth, WORTH_LEAST, 1);
    for (size_t i = 0; i < count; i++) {
        struct policy_vm *vm = vms[i];
        double wish = pressure_for(vm, pressure);
        double ppm = host->scan_ppm * wish * worth * vm->past.weight / weights;
        vm->ask.scan_ppm = (uint32_t)(within(ppm, 0, 1e6) + 0.5);
        vm->ask.scan_pages = (uint64_t)(pages_of(vm) * wish / pass_seconds(host, vm) + 1);
    }
}
