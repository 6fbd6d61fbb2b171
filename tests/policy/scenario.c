/* See scenario.h. */

#include "scenario.h"

#include "fixture.h"

static bool is_busy(const struct guest *guest)
{
    return guest->working_set >= 100 * MIB;
}

static bool is_idle(const struct guest *guest)
{
    return guest->wants >= 100 * MIB && !is_busy(guest);
}

void scenario_init(struct simulation *simulation, size_t count, uint64_t seed)
{
    static const uint64_t wants[] = {240, 240, 48, 48}, touches[] = {180, 12, 24, 24};
    uint64_t max = 256 * MIB, memory = max / 100 * 45 * count;
    simulation_init(simulation, count, memory, max, 32 * MIB, seed * 2 + 1);
    for (size_t i = 0; i < count; i++) {
        struct guest *guest = &simulation->guest[i];
        guest->wants = wants[i % 4] * MIB;
        guest->working_set = touches[i % 4] * MIB;
        guest->has_balloon = i / 4 % 10 != 9;
        guest->is_noisy = true;
        guest->growth =
            random_within(&simulation->seed, 2, 30) * MIB; /* they do not all start at once */
    }
}

void scenario_change_places(struct simulation *simulation)
{
    for (size_t i = 0; i < simulation->count; i++) {
        struct guest *guest = &simulation->guest[i];
        if (is_busy(guest))
            guest->working_set = 12 * MIB;
        else if (is_idle(guest))
            guest->working_set = 180 * MIB;
    }
}

struct scenario_sums scenario_sums(const struct simulation *simulation)
{
    double busy = 0, idle = 0, busy_count = 0, idle_count = 0;
    for (size_t i = 0; i < simulation->count; i++) {
        const struct guest *guest = &simulation->guest[i];
        double resident = (double)simulation->vm[i].resident;
        if (is_busy(guest))
            busy += resident, busy_count++;
        else if (is_idle(guest))
            idle += resident, idle_count++;
    }
    return (struct scenario_sums){
        .busy = busy_count > 0 ? busy / busy_count : 0,
        .idle = idle_count > 0 ? idle / idle_count : 0,
    };
}
