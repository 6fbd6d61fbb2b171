/*
 * How long a step of the policy takes: `step VMS SECONDS` simulates so many VMs (tests/policy) for
 * so many seconds, half of them booting and settling, half after busy and idle ones have changed
 * places, and prints the nanoseconds of each step, one a line. Between two steps the guests' turn
 * takes the VMs' numbers out of the nearer caches or leaves them there, as a manager's work does.
 */

#include <stdio.h>
#include <stdlib.h>

#include "scenario.h"
#include "util/clock.h"

int main(int argc, char **argv)
{
    unsigned long vms = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;
    unsigned long seconds = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    if (vms == 0 || vms > 1000000 || seconds == 0) {
        fprintf(stderr, "usage: step VMS SECONDS\n");
        return 2;
    }
    struct simulation simulation;
    scenario_init(&simulation, vms, 1);
    for (unsigned long second = 0; second < seconds; second++) {
        if (second == seconds / 2)
            scenario_change_places(&simulation);
        simulation_live(&simulation);
        uint64_t start = clock_monotonic_ns();
        policy_step(&simulation.host, simulation.list, simulation.count, 1);
        printf("%llu\n", (unsigned long long)(clock_monotonic_ns() - start));
    }
    simulation_free(&simulation);
    return 0;
}
