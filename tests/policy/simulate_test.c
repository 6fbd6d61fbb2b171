/*
 * Ten thousand VMs, second by second: memory goes where it is used, the host never runs out, and
 * what has settled stands still. Whatever the seed.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fixture.h"
#include "scenario.h"

#define VMS 10000

/* What has been seen over some seconds. */
struct record {
    double free_least, moved, paged; /* percent; mean percent of memory a second */
    enum policy_state worst;
    unsigned changes; /* of the state */
    struct simulation_view last;
    struct scenario_sums sums;
};

static struct record run(struct simulation *simulation, unsigned seconds)
{
    struct record record = {.free_least = 100};
    simulation_count_turns(simulation);
    for (unsigned second = 0; second < seconds; second++) {
        enum policy_state before = simulation->host.state;
        simulation_step(simulation);
        record.last = simulation_view(simulation);
        if (record.last.free_percent < record.free_least)
            record.free_least = record.last.free_percent;
        if (simulation->host.state > record.worst)
            record.worst = simulation->host.state;
        record.changes += simulation->host.state != before;
        record.moved += 100 * record.last.moved / seconds;
        record.paged += 100 * record.last.paged / seconds;
    }
    record.sums = scenario_sums(simulation);
    return record;
}

/* What the kinds of VMs would have if each had all it wants, and memory were then divided. */
static struct scenario_sums ideal_of(const struct simulation *simulation)
{
    struct simulation ideal;
    struct policy_host host = simulation->host;
    simulation_init(&ideal, simulation->count, host.memory, 0, 0, 1);
    for (size_t i = 0; i < ideal.count; i++) {
        ideal.guest[i] = simulation->guest[i];
        ideal.vm[i] = simulation->vm[i];
        ideal.vm[i].max = ideal.guest[i].wants; /* so much and no more */
        ideal.vm[i].active = ideal.guest[i].working_set;
        ideal.vm[i].past.is_known = false;
    }
    policy_divide(&host, ideal.list, ideal.count);
    for (size_t i = 0; i < ideal.count; i++)
        ideal.vm[i].resident = ideal.vm[i].target;
    struct scenario_sums sums = scenario_sums(&ideal);
    simulation_free(&ideal);
    return sums;
}

static void assert_still(const struct record *record, size_t count)
{
    assert_true(record->worst <= POLICY_SOFT);
    assert_true(record->moved < 0.03);
    assert_true(record->paged < 0.01);
    assert_true(record->last.turns < count / 50 + 1);
    assert_true(record->last.turns_most <= 3);
}

static void assert_near_ideal(const struct record *record, struct scenario_sums ideal)
{
    assert_true(record->sums.busy > 0.93 * ideal.busy);
    assert_true(record->sums.idle < 1.20 * ideal.idle);
}

static void run_scenario(size_t count, uint64_t seed)
{
    struct simulation simulation;
    scenario_init(&simulation, count, seed);
    struct record boots = run(&simulation, 180);
    assert_true(boots.free_least > 0.5);
    struct record settled = run(&simulation, 420);
    assert_still(&settled, count);
    assert_near_ideal(&settled, ideal_of(&simulation));

    scenario_change_places(&simulation);
    struct record changes = run(&simulation, 300);
    assert_true(changes.free_least > 0.5);
    settled = run(&simulation, 600);
    assert_still(&settled, count);
    assert_near_ideal(&settled, ideal_of(&simulation));
    simulation_free(&simulation);
}

static void test_ten_thousand(void **state)
{
    (void)state;
    run_scenario(VMS, 1);
}

static void test_other_seeds_and_sizes(void **state)
{
    (void)state;
    for (uint64_t seed = 2; seed < 12; seed++)
        run_scenario(40 * seed, seed);
}

/* Nobody has a balloon: all goes by paging, and to as good an end. */
static void test_without_balloons(void **state)
{
    (void)state;
    struct simulation simulation;
    scenario_init(&simulation, 2000, 1);
    for (size_t i = 0; i < simulation.count; i++)
        simulation.guest[i].has_balloon = false;
    struct record boots = run(&simulation, 180), settled = run(&simulation, 420);
    assert_true(boots.free_least > 0.5);
    assert_still(&settled, simulation.count);
    assert_true(settled.sums.busy > 180 * MIB); /* their working sets */
    scenario_change_places(&simulation);
    struct record changes = run(&simulation, 300);
    assert_true(changes.free_least > 0.5);
    settled = run(&simulation, 600);
    assert_still(&settled, simulation.count);
    assert_true(settled.sums.busy > 0.99 * 180 * MIB);
    simulation_free(&simulation);
}

/* More in use than there is: all suffer alike, and nothing swings. */
static void test_too_much_in_use(void **state)
{
    (void)state;
    for (unsigned balloons = 0; balloons < 2; balloons++) {
        struct simulation simulation;
        scenario_init(&simulation, 2000, 1);
        for (size_t i = 0; i < simulation.count; i++) {
            simulation.guest[i].wants = 240 * MIB;
            simulation.guest[i].working_set = 180 * MIB;
            simulation.guest[i].has_balloon = balloons;
        }
        struct record boots = run(&simulation, 180), settled = run(&simulation, 420);
        assert_true(boots.free_least > 0.5 && settled.free_least > 0.5);
        assert_true(settled.moved < 0.25); /* a try now and then whether some can be spared */
        assert_true(settled.changes < 10);
        assert_true(settled.last.turns < simulation.count / 5);
        double mean = settled.sums.busy;
        for (size_t i = 0; i < simulation.count; i++)
            assert_in_range(simulation.vm[i].resident, (uint64_t)(0.8 * mean),
                            (uint64_t)(1.2 * mean));
        simulation_free(&simulation);
    }
}

/* Enough for all: nobody is asked for anything, nor held up. */
static void test_enough(void **state)
{
    (void)state;
    struct simulation simulation;
    scenario_init(&simulation, 2000, 1);
    simulation.host.memory = 280 * MIB * simulation.count;
    struct record record = run(&simulation, 300);
    assert_int_equal(record.worst, POLICY_HIGH);
    assert_true(record.paged == 0);
    for (size_t i = 0; i < simulation.count; i++) {
        assert_int_equal(simulation.vm[i].balloon, 0);
        assert_int_equal(simulation.vm[i].resident, simulation.guest[i].wants);
    }
    simulation_free(&simulation);
}

/* Figure 7 over time: two VMs of 256 MB in 358 MB, equal shares, one idle. The tax is raised from 0
 * to 75 % after ten minutes, and the idle one's memory goes to the other one. */
static void test_figure_7(void **state)
{
    (void)state;
    struct simulation simulation;
    simulation_init(&simulation, 2, 389 * MIB, 256 * MIB, 0, 1);
    for (size_t i = 0; i < 2; i++) {
        simulation.guest[i].wants = 250 * MIB;
        simulation.guest[i].working_set = i == 0 ? 10 * MIB : 220 * MIB;
    }
    simulation.host.tax = 0;
    run(&simulation, 600);
    assert_in_range(simulation.vm[0].resident, 165 * MIB, 190 * MIB);
    assert_in_range(simulation.vm[1].resident, 165 * MIB, 190 * MIB);
    simulation.host.tax = 0.75;
    run(&simulation, 180);
    assert_in_range(simulation.vm[0].resident, 95 * MIB, 125 * MIB);
    assert_in_range(simulation.vm[1].resident, 225 * MIB, 256 * MIB);
    simulation_free(&simulation);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ten_thousand),     cmocka_unit_test(test_other_seeds_and_sizes),
        cmocka_unit_test(test_without_balloons), cmocka_unit_test(test_too_much_in_use),
        cmocka_unit_test(test_enough),           cmocka_unit_test(test_figure_7),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
