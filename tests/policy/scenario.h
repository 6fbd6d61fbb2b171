#ifndef AEROSTAT_TESTS_POLICY_SCENARIO_H
#define AEROSTAT_TESTS_POLICY_SCENARIO_H

/*
 * The simulator's usual case. VMs of 256 MiB, min 32 MiB, on a host with memory for 45 % of them.
 * Of four VMs one is busy: it wants 240 MiB, and touches 180. One is idle, its memory full of what
 * it read long ago: it wants 240, and touches 12. Two are small: they want 48 and touch 24. One in
 * ten has no balloon. Working sets are measured with noise.
 */

#include "simulation.h"

void scenario_init(struct simulation *simulation, size_t count, uint64_t seed);

/* Who is busy becomes idle, and the other way round. */
void scenario_change_places(struct simulation *simulation);

struct scenario_sums {
    double busy, idle; /* mean resident memory of each kind, in bytes */
};
struct scenario_sums scenario_sums(const struct simulation *simulation);

#endif
