#include "mmu/auto.h"

#include "mmu/mmu.h"

_Static_assert(AUTO_SAMPLE == 8, "auto_samples takes 3 bits of 32");

void auto_init(struct auto_choice *choice)
{
    *choice = (struct auto_choice){.mode = MMU_NESTED, .interval = AUTO_INTERVAL_LEAST};
}

static enum mmu_mode other_than(enum mmu_mode mode)
{
    return mode == MMU_NESTED ? MMU_SHADOW : MMU_NESTED;
}

/* Cost of a miss, in 16ths of cycles; never 0. Where nearly all misses are writes to traced tables,
 * that an eighth would be there otherwise. */
static uint64_t window_cost(const struct auto_window *window)
{
    uint64_t traced = window->traced_writes, least = window->misses / 8 + 1;
    uint64_t own = traced + least < window->misses ? window->misses - traced : least;
    return 1 + window->cycles * 16 / window->samples * window->misses / own;
}

/* The mode is what counts from now on, up to the next trial. */
static void settle(struct auto_choice *choice, enum mmu_mode mode, unsigned interval)
{
    choice->mode = mode;
    choice->trying = false;
    choice->keeps = false;
    choice->windows = 0;
    unsigned most = mode == MMU_SHADOW ? AUTO_SHADOW_MOST : AUTO_INTERVAL_MOST;
    choice->interval = interval < most ? interval : most;
    choice->decided = choice->cost[mode];
}

/* Windows of the usual length, whose cost a trial may take. */
static unsigned price_of(const struct auto_choice *choice)
{
    if (choice->tried == MMU_NESTED)
        return AUTO_NESTED_PRICE;
    unsigned price = choice->interval / AUTO_PART;
    return price < AUTO_PRICE_MOST ? price : AUTO_PRICE_MOST;
}

/* Whether the trial goes into a shadow that is becoming complete. */
static bool is_growing(const struct auto_choice *choice)
{
    const struct auto_window *sums = &choice->sums;
    return choice->tried == MMU_SHADOW && sums->built >= sums->misses / 8 &&
           sums->changes < sums->built;
}

/* A window of a trial has ended: one of the mode that is tried, or one of the other beside it. */
static void trial_decide(struct auto_choice *choice, uint64_t cost)
{
    enum mmu_mode tried = choice->tried, old = other_than(tried);
    unsigned price = price_of(choice) * (AUTO_WINDOW / AUTO_TRIAL_WINDOW);
    if (choice->mode == tried) {
        uint64_t usual = choice->cost[old];
        choice->excess += (int64_t)(cost - usual);
        choice->cost[tried] = cost;
        choice->mode = old;
        if (choice->excess <= (int64_t)(price * usual) &&
            choice->windows < 2 * price * AUTO_TRIAL_MOST)
            return;
        bool grows = is_growing(choice);
        settle(choice, old, grows ? choice->interval : choice->interval * 2);
        choice->keeps = grows;
    } else {
        bool is_cheaper = choice->cost[tried] < cost - cost / 16;
        choice->cheaper = is_cheaper ? choice->cheaper + 1 : 0;
        choice->mode = tried;
        if (choice->cheaper < AUTO_PAIRS)
            return;
        choice->switches++;
        settle(choice, tried, AUTO_INTERVAL_LEAST);
    }
    choice->reason = choice->mode == MMU_NESTED && choice->tables ? AUTO_TABLES : AUTO_MISSES;
}

/* True: it is time for a trial. */
static bool watch(struct auto_choice *choice, uint64_t cost)
{
    enum mmu_mode mode = choice->mode;
    unsigned settling = mode == MMU_SHADOW ? AUTO_SHADOW_SETTLES : AUTO_SETTLING;
    uint64_t usual = choice->cost[mode];
    usual = usual == 0 ? cost : (usual * (settling - 1) + cost) / settling;
    choice->cost[mode] = usual;
    if (choice->decided == 0)
        choice->decided = usual;
    bool is_dearer = usual > choice->decided * 2;
    if (is_dearer || usual < choice->decided / 2) {
        choice->decided = usual;
        choice->interval = AUTO_INTERVAL_LEAST;
        choice->keeps = false;
        /* A trial is compared with the new cost, which has to be known by then. */
        unsigned known = AUTO_INTERVAL_LEAST - settling;
        if (choice->windows > known || (is_dearer && mode == MMU_SHADOW))
            choice->windows = known;
    }
    return choice->windows >= choice->interval;
}

enum mmu_mode auto_decide(struct auto_choice *choice)
{
    struct auto_window window = choice->window;
    choice->window = (struct auto_window){0};
    if (window.samples == 0)
        return choice->mode;
    uint64_t cost = window_cost(&window);
    if (choice->mode == MMU_SHADOW)
        choice->tables = window.changes > window.misses / 4;
    choice->windows++;
    if (choice->trying) {
        if (choice->mode == choice->tried) {
            choice->sums.misses += window.misses;
            choice->sums.built += window.built;
            choice->sums.changes += window.changes;
        }
        trial_decide(choice, cost);
    } else if (watch(choice, cost)) {
        choice->trying = choice->keeps = true;
        choice->trials++;
        choice->cheaper = 0;
        choice->windows = 0;
        choice->excess = 0;
        choice->sums = (struct auto_window){0};
        choice->tried = choice->mode = other_than(choice->mode);
    }
    return choice->mode;
}

void auto_use(struct mmu *mmu, enum mmu_mode mode, bool keep)
{
    bool is_shadowed = mode == MMU_SHADOW;
    /* What page faults took along meanwhile, it has not heard of. */
    if (is_shadowed && !mmu->is_shadowed)
        shadow_flush(mmu->shadow);
    if (!is_shadowed && !keep && shadow_bytes(mmu->shadow) != 0)
        shadow_clear(mmu->shadow);
    mmu->is_shadowed = is_shadowed;
}

void auto_end_window(struct mmu *mmu)
{
    struct auto_choice *choice = &mmu->choice;
    const struct shadow_stats *now = shadow_get_stats(mmu->shadow);
    struct shadow_stats then = choice->started;
    choice->window.built = now->hidden_faults - then.hidden_faults;
    choice->window.traced_writes = now->traced_writes - then.traced_writes;
    choice->window.changes = now->cleared - then.cleared + choice->window.traced_writes;
    enum mmu_mode mode = auto_decide(choice);
    auto_use(mmu, mode, choice->keeps);
    choice->started = *now;
}
