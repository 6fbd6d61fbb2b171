/*
 * Shows what the policy does with many VMs over time: `policy_simulate [VMS]` (default 10,000). A
 * quarter is busy and wants all it has, a quarter is idle and full, the rest is small; after ten
 * minutes busy and idle ones change places. docs/policy.md has the output.
 */

#include <stdio.h>
#include <stdlib.h>

#include "fixture.h"
#include "scenario.h"

int main(int argc, char **argv)
{
    size_t count = argc > 1 ? strtoul(argv[1], NULL, 10) : 10000;
    if (count == 0 || count > 100000) {
        fprintf(stderr, "usage: policy_simulate [VMS]      1 to 100000\n");
        return 2;
    }
    struct simulation simulation;
    scenario_init(&simulation, count, 1);
    printf("%6s %-5s %6s %9s %9s %9s %9s %8s\n", "second", "state", "free", "busy", "idle", "moved",
           "paged in", "turns");
    for (unsigned second = 0; second <= 1200; second++) {
        if (second == 600)
            scenario_change_places(&simulation);
        simulation_step(&simulation);
        unsigned every = second % 600 < 60 ? 5 : 60;
        if (second % every != 0)
            continue;
        struct simulation_view view = simulation_view(&simulation);
        struct scenario_sums sums = scenario_sums(&simulation);
        printf("%6u %-5s %5.1f%% %5.0f MiB %5.0f MiB %6.2f%%/s %6.2f%%/s %5u of %u\n", second,
               policy_state_name(simulation.host.state), view.free_percent, sums.busy / (double)MIB,
               sums.idle / (double)MIB, 100 * view.moved, 100 * view.paged, view.turns,
               view.turns_most);
    }
    simulation_free(&simulation);
    return 0;
}
