/*
 * Targets by shares and use. The paper takes one page after another from the VM whose price is
 * least, until all fit:
 *
 *     price = S / (active + k * idle),    k = 1 / (1 - tax)
 *
 * for S shares and the pages it has now, `idle` being what it has above `active`. All those that
 * have not come to their minimum end at one price, 1 / level; so each has
 *
 *     pages(level) = S * level                             up to the active ones, and then
 *                    active + (S * level - active) * (1 - tax)
 *
 * within its limits: straight pieces, never falling. Their sum is the memory there is at one level,
 * which is found by Newton's method: exact, in closed form, as soon as the level is on the right
 * piece of each VM.
 */

#include <math.h>

#include "policy/policy_private.h"

/* Far more than needed: every fourth halves the range, and the others have it right before that. */
#define ROUNDS_MOST 400
/* In pages: what a VM's part is rounded up by at most; all together far below one. And how near
 * their sum has to come: it is a sum of doubles, wrong by about its last digits. */
#define CLOSE     1e-6
#define SUM_CLOSE 1e-12
#define SUM_FAR   0.25

/* What one VM may have, in pages, its part of the frames included. */
struct claim {
    double shares, active, least, most;
};

static uint64_t pages_up(uint64_t bytes)
{
    return pages_in(bytes) + (bytes % PAGE_SIZE != 0);
}

static struct claim claim_of(const struct policy_vm *vm, bool is_of_used)
{
    uint64_t bottom = most(least(vm->min, vm->max), vm->frames);
    uint64_t top = most(vm->max, bottom);
    if (is_of_used) {
        uint64_t used = plus(plus(vm->resident, vm->frames), vm->is_paused ? 0 : vm->balloon);
        top = least(top, used);
        bottom = least(bottom, top);
    }
    struct claim claim = {
        .shares = vm->shares == 0 ? 1.0 : (double)vm->shares,
        .active = vm->is_paused ? 0 : (double)pages_in(least(vm->active, vm->max)),
        .least = (double)pages_up(bottom),
    };
    claim.most = fmax((double)pages_in(top), claim.least);
    return claim;
}

static double tax_of(const struct policy_host *host)
{
    return host->tax >= 0 ? fmin(host->tax, POLICY_TAX_MOST) : 0;
}

/* Pages at a level, and how many more for each unit of it. */
static double pages_at(const struct claim *claim, double keep, double level, double *slope)
{
    double worth = claim->shares * level, pages = worth;
    *slope = claim->shares;
    if (worth > claim->active) {
        pages = claim->active + (worth - claim->active) * keep;
        *slope *= keep;
    }
    if (pages > claim->least && pages < claim->most)
        return pages;
    *slope = 0;
    return pages <= claim->least ? claim->least : claim->most;
}

/* From which level on it has all that it may. */
static double level_of_most(const struct claim *claim, double keep)
{
    double worth = claim->most;
    if (worth > claim->active)
        worth = claim->active + (worth - claim->active) / keep;
    return worth / claim->shares;
}

/* The level at which all have `memory` pages together; HUGE_VAL where there is enough for what all
 * may have, 0 where there is not for what they must. */
static double level_of(struct policy_vm *const *vms, size_t count, bool is_of_used, double keep,
                       double memory)
{
    double all = 0, none = 0, low = 0, high = 0, shares = 0;
    for (size_t i = 0; i < count; i++) {
        struct claim claim = claim_of(vms[i], is_of_used);
        all += claim.most;
        none += claim.least;
        shares += claim.shares;
        high = fmax(high, level_of_most(&claim, keep));
    }
    if (all <= memory)
        return HUGE_VAL;
    if (none >= memory)
        return 0;

    double close = fmin(fmax(memory * SUM_CLOSE, CLOSE), SUM_FAR);
    double level = fmin(memory / shares, high);
    for (unsigned round = 0; round < ROUNDS_MOST; round++) {
        double sum = 0, rise = 0;
        for (size_t i = 0; i < count; i++) {
            struct claim claim = claim_of(vms[i], is_of_used);
            double slope;
            sum += pages_at(&claim, keep, level, &slope);
            rise += slope;
        }
        if (fabs(sum - memory) < close)
            return level;
        *(sum < memory ? &low : &high) = level;
        level = rise > 0 ? level + (memory - sum) / rise : high;
        if (!(level > low && level < high) || round % 4 == 3)
            level = low + (high - low) / 2;
        if (level == low || level == high) /* there is no number between them */
            break;
    }
    return low;
}

/* For VMs' resident memory and their frames, in whole pages. */
static double memory_of(const struct policy_host *host, struct policy_vm *const *vms, size_t count)
{
    uint64_t taken = plus(policy_reserve(host->memory), host->overhead), frames = 0;
    for (size_t i = 0; i < count; i++) {
        taken = plus(taken, vms[i]->overhead);
        frames = plus(frames, vms[i]->frames);
    }
    taken = plus(taken, above(host->frames, frames)); /* nobody's */
    return (double)pages_in(above(host->memory, taken));
}

static void divide(const struct policy_host *host, struct policy_vm *const *vms, size_t count,
                   bool is_of_used)
{
    double keep = 1 - tax_of(host);
    double level = level_of(vms, count, is_of_used, keep, memory_of(host, vms, count));
    for (size_t i = 0; i < count; i++) {
        struct policy_vm *vm = vms[i];
        struct claim claim = claim_of(vm, is_of_used);
        double slope, pages = floor(pages_at(&claim, keep, level, &slope) + CLOSE);
        uint64_t bytes = least((uint64_t)pages * PAGE_SIZE, most(vm->max, vm->frames));
        bytes = above(bytes, vm->frames);
        if (is_of_used)
            vm->past.allowed = most(vm->target, bytes);
        else
            vm->target = bytes;
    }
}

void policy_divide(const struct policy_host *host, struct policy_vm *const *vms, size_t count)
{
    divide(host, vms, count, false);
}

void policy_divide_used(const struct policy_host *host, struct policy_vm *const *vms, size_t count)
{
    divide(host, vms, count, true);
}
