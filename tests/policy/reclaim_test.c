/* What is asked of VMs in each state: what is taken and how fast, what is given, who is spared. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fixture.h"

/* Two VMs of 256 MiB with what `percent` free leaves of 320 MiB: an idle one with all of it but 60
 * MiB, and a busy one with these and a balloon that it would like to have back. */
static void fixture_idle_and_busy(struct fixture *f, double percent)
{
    fixture_init(f, 320 * MIB);
    fixture_add(f, 32 * MIB, 256 * MIB)->active = 0;
    fixture_add(f, 32 * MIB, 256 * MIB);
    fixture_fill(f, percent);
    f->vm[0].resident += f->vm[1].resident - 60 * MIB;
    f->vm[1].resident = 60 * MIB;
    f->vm[1].balloon = 100 * MIB;
}

/* One page and what rounding to bytes makes of percentages. */
static void assert_about(uint64_t actual, uint64_t expected)
{
    assert_in_range(actual, expected < 8 * KIB ? 0 : expected - 8 * KIB, expected + 8 * KIB);
}

static void test_high_takes_nothing(void **state)
{
    (void)state;
    struct fixture f;
    fixture_idle_and_busy(&f, 5);
    fixture_step(&f, 1);
    assert_int_equal(f.host.state, POLICY_HIGH);
    assert_true(f.vm[0].resident > f.vm[0].target);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(f.vm[i].ask.balloon <= f.vm[i].balloon);
        assert_true(f.vm[i].ask.resident >= f.vm[i].resident);
        assert_false(f.vm[i].ask.block);
    }
}

static void test_soft_takes_by_balloon(void **state)
{
    (void)state;
    struct fixture f;
    fixture_idle_and_busy(&f, 3.5);
    f.vm[0].balloon = 10 * MIB;
    fixture_step(&f, 1);
    assert_int_equal(f.host.state, POLICY_SOFT);
    assert_about(f.vm[0].ask.balloon, (uint64_t)(10 * MIB + 0.05 * 256 * MIB)); /* 5 % of max */
    assert_true(f.vm[0].ask.resident >= f.vm[0].resident);
    assert_false(f.vm[0].ask.block);
    assert_true(f.vm[1].ask.balloon <= 100 * MIB);

    fixture_idle_and_busy(&f, 3.5);
    fixture_step(&f, 0.5); /* half of the time, half of the memory */
    assert_about(f.vm[0].ask.balloon, (uint64_t)(0.025 * 256 * MIB));

    fixture_idle_and_busy(&f, 3.5);
    f.vm[1].balloon = 0;
    fixture_step(&f, 10); /* no more than is too much */
    assert_true(f.vm[0].ask.balloon == f.vm[0].resident - f.vm[0].past.allowed);
}

static void test_soft_pages_who_has_no_balloon(void **state)
{
    (void)state;
    for (unsigned reason = 0; reason < 3; reason++) {
        struct fixture f;
        fixture_idle_and_busy(&f, 3.5);
        if (reason == 0)
            f.vm[0].balloon_works = false;
        else if (reason == 1)
            f.vm[0].is_paused = true;
        else
            f.vm[0].balloon = 200 * MIB; /* at its limit */
        fixture_step(&f, 1);
        assert_int_equal(f.vm[0].ask.balloon, f.vm[0].balloon);
        assert_about(f.vm[0].ask.resident, (uint64_t)((double)f.vm[0].resident - 0.05 * 256 * MIB));
    }
}

static void test_hard_pages_as_well(void **state)
{
    (void)state;
    struct fixture f;
    fixture_idle_and_busy(&f, 1.5);
    fixture_step(&f, 1);
    assert_int_equal(f.host.state, POLICY_HARD);
    assert_about(f.vm[0].ask.balloon, (uint64_t)(0.1 * 256 * MIB));
    assert_about(f.vm[0].ask.resident, (uint64_t)((double)f.vm[0].resident - 0.1 * 256 * MIB));
    assert_false(f.vm[0].ask.block);
    /* Who is below may grow, to no more than it is allowed. */
    assert_true(f.vm[1].ask.resident > f.vm[1].resident);
    assert_true(f.vm[1].ask.resident <= f.vm[1].past.allowed);
}

static void test_low_blocks_who_is_above(void **state)
{
    (void)state;
    struct fixture f;
    fixture_idle_and_busy(&f, 0.5);
    fixture_step(&f, 0);
    assert_int_equal(f.host.state, POLICY_LOW);
    assert_true(f.vm[0].ask.block);
    assert_int_equal(f.vm[0].ask.resident, f.vm[0].past.allowed); /* at once */
    assert_false(f.vm[1].ask.block);
}

/* How much more all VMs may have until the next step, less the slack that each has. */
static uint64_t growth_of(const struct fixture *f)
{
    uint64_t growth = 0;
    for (size_t i = 0; i < f->count; i++) {
        const struct policy_vm *vm = &f->vm[i];
        uint64_t slack = vm->resident / 64 + 512 * KIB;
        uint64_t most = vm->ask.resident < vm->max ? vm->ask.resident : vm->max;
        growth += most > vm->resident + slack ? most - vm->resident : 0;
    }
    return growth;
}

/* In every state all that VMs may have until the next step is there: for one that begins to grow,
 * and for all that grow already. */
static void test_growth_fits(void **state)
{
    (void)state;
    for (unsigned free = 0; free < 1000; free++) {
        struct fixture f;
        fixture_idle_and_busy(&f, free / 10.0);
        fixture_step(&f, 1);
        assert_true(growth_of(&f) <= 2 * f.host.free);
        f.vm[0].resident += 2 * MIB;
        f.vm[1].resident += 2 * MIB;
        fixture_step(&f, 1);
        assert_true(growth_of(&f) <= f.host.free);
    }
}

/* A VM that does not grow is not paged bit by bit while nothing is to be taken, though little is
 * free and another one grows and shrinks: its pager works from a 128th below the limit, to a 64th
 * below. */
static void test_rest_is_rest(void **state)
{
    (void)state;
    struct fixture f;
    fixture_idle_and_busy(&f, 4.1);
    struct policy_vm *restless = fixture_add(&f, 0, 64 * MIB), *idle = &f.vm[0];
    restless->resident = 2 * MIB;
    idle->resident -= 2 * MIB;
    f.vm[1].balloon = 0;
    uint64_t before = idle->resident;
    for (unsigned second = 0; second < 100; second++) {
        fixture_step(&f, 1);
        assert_int_equal(f.host.state, POLICY_HIGH);
        uint64_t limit = idle->ask.resident;
        if (idle->resident > limit - limit / 128)
            idle->resident = limit - limit / 64;
        restless->resident = restless->resident == 2 * MIB ? MIB / 2 : 2 * MIB;
    }
    assert_int_equal(idle->resident, before);
}

static void test_gives_back_at_once(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, 4 * GIB);
    struct policy_vm *vm = fixture_add(&f, 0, GIB);
    vm->resident = 100 * MIB;
    vm->balloon = 900 * MIB;
    fixture_step(&f, 0); /* not even time has to pass */
    assert_int_equal(vm->ask.balloon, 0);
    assert_int_equal(vm->ask.resident, POLICY_NO_LIMIT);

    /* No more than is free beyond what would make memory short again. */
    fixture_idle_and_busy(&f, 20);
    f.vm[0].resident -= 100 * MIB;
    f.vm[0].balloon = 100 * MIB;
    fixture_fill(&f, 10);
    f.vm[1].balloon = 80 * MIB;
    fixture_step(&f, 1);
    assert_int_equal(f.host.state, POLICY_HIGH);
    uint64_t given = f.vm[0].balloon - f.vm[0].ask.balloon + f.vm[1].balloon - f.vm[1].ask.balloon;
    assert_true(given > 0 && given <= f.host.free - f.host.memory / 100 * 3);
}

/* A guest that fills slowly what it is given is not given the same again each second; one that does
 * not want it has all of it in the end. */
static void test_given_memory_is_filled_first(void **state)
{
    (void)state;
    for (unsigned fills = 0; fills < 2; fills++) {
        struct fixture f;
        fixture_init_for_targets(&f, 400 * MIB);
        struct policy_vm *vm = fixture_add(&f, 0, 256 * MIB);
        vm->resident = 100 * MIB;
        vm->balloon = 156 * MIB;
        struct policy_vm *other = fixture_add(&f, 0, 256 * MIB);
        other->resident = 256 * MIB;
        fixture_step(&f, 1);
        uint64_t allowed = vm->past.allowed;
        assert_true(allowed > 140 * MIB && allowed < 256 * MIB);
        for (unsigned second = 0; second < 240; second++) {
            vm->balloon = vm->ask.balloon;
            if (fills && vm->resident + vm->balloon < vm->max)
                vm->resident += 2 * MIB;
            if (fills) /* what it could fill in the end is never far above */
                assert_true(vm->max - vm->balloon <= allowed + 40 * MIB);
            fixture_step(&f, 1);
        }
        assert_true(fills ? vm->resident >= allowed - 2 * MIB : vm->balloon < 16 * MIB);
    }
}

/* A step right after another one, for whatever reason, takes back nothing of what is under way. */
static void test_steps_in_a_row(void **state)
{
    (void)state;
    struct fixture f;
    fixture_idle_and_busy(&f, 3.5);
    fixture_step(&f, 1);
    uint64_t asked = f.vm[0].ask.balloon;
    fixture_step(&f, 0);
    assert_int_equal(f.vm[0].ask.balloon, asked);
    fixture_step(&f, 0.01);
    assert_int_equal(f.vm[0].ask.balloon, asked);
    f.vm[0].balloon = asked / 2; /* half of it has come */
    f.vm[0].resident -= asked / 2;
    fixture_step(&f, 0.01);
    assert_in_range(f.vm[0].ask.balloon, asked - KIB, asked + MIB);
}

static void test_balloon_that_does_not_grow(void **state)
{
    (void)state;
    struct fixture f;
    fixture_idle_and_busy(&f, 3.5);
    for (unsigned second = 0; second < 5; second++) {
        fixture_step(&f, 1);
        assert_true(f.vm[0].ask.balloon > f.vm[0].balloon);
        assert_true(f.vm[0].ask.resident >= f.vm[0].resident);
    }
    fixture_step(&f, 1); /* patience is over: the same VM, by paging */
    assert_int_equal(f.vm[0].ask.balloon, f.vm[0].balloon);
    assert_true(f.vm[0].ask.resident < f.vm[0].resident);

    /* It is asked again, each time after a longer while. */
    unsigned pause = 0, pauses[3], found = 0;
    for (unsigned second = 0; second < 200 && found < 3; second++) {
        fixture_step(&f, 1);
        bool is_asked = f.vm[0].ask.balloon > f.vm[0].balloon;
        if (!is_asked)
            pause++;
        else if (pause > 0)
            pauses[found++] = pause, pause = 0;
    }
    assert_int_equal(found, 3);
    assert_true(pauses[1] > pauses[0] * 3 / 2 && pauses[2] > pauses[1] * 3 / 2);
}

/* A guest that is short of memory itself takes back what it has given, and gives it again. */
static void test_balloon_to_and_fro(void **state)
{
    (void)state;
    struct fixture f;
    fixture_idle_and_busy(&f, 3.5);
    struct policy_vm *vm = &f.vm[0];
    fixture_step(&f, 1);
    unsigned second;
    for (second = 0; second < 20 && vm->ask.balloon > vm->balloon; second++) {
        vm->balloon = second % 2 == 0 ? 4 * MIB : MIB;
        fixture_step(&f, 1);
    }
    assert_in_range(second, 5, 7); /* it is as good as one that does not grow */
    assert_true(vm->ask.resident < vm->resident);
}

static void test_balloon_that_grows_slowly(void **state)
{
    (void)state;
    struct fixture f;
    fixture_idle_and_busy(&f, 3.5);
    for (unsigned tenth = 0; tenth < 600; tenth++) { /* 1 MiB a second, in steps of a tenth */
        fixture_step(&f, 0.1);
        assert_true(f.vm[0].ask.balloon > f.vm[0].balloon);
        f.vm[0].balloon += MIB / 10;
    }
}

static void test_spares_who_suffers(void **state)
{
    (void)state;
    for (unsigned stalls = 0; stalls < 2; stalls++) {
        struct fixture f;
        fixture_idle_and_busy(&f, 3.5);
        fixture_step(&f, 1);
        assert_true(f.vm[0].ask.balloon > 0);
        unsigned spared = 0, taken_from = 0; /* in so many seconds */
        for (unsigned second = 0; second < 200; second++) {
            if (stalls)
                f.vm[0].stall_ns += 200 * 1000 * 1000;
            else
                f.vm[0].faults_in += 1000;
            fixture_step(&f, 1);
            *(f.vm[0].ask.balloon > f.vm[0].balloon ? &taken_from : &spared) += 1;
        }
        assert_true(spared > 190);
        taken_from = 0;
        for (unsigned second = 0; second < 65; second++) { /* it is well again */
            fixture_step(&f, 1);
            taken_from += f.vm[0].ask.balloon > f.vm[0].balloon;
        }
        assert_true(taken_from > 0);

        /* Where memory is really short it yields, slowly. */
        f.vm[0].faults_in += 1000;
        f.vm[0].stall_ns += 200 * 1000 * 1000;
        f.vm[1].resident += f.host.free - f.host.memory / 100 * 15 / 10;
        fixture_step(&f, 1);
        assert_int_equal(f.host.state, POLICY_HARD);
        assert_about(f.vm[0].ask.resident,
                     (uint64_t)((double)f.vm[0].resident - 0.025 * 256 * MIB));
    }
}

/* A guest that waits for pages of its cache: what it says that it can spare is no loss. */
static void test_suffering_gives_what_it_can_spare(void **state)
{
    (void)state;
    struct fixture f;
    fixture_idle_and_busy(&f, 3.5);
    struct policy_vm *vm = &f.vm[0];
    fixture_step(&f, 1);
    uint64_t rate = vm->ask.balloon, spare = 100 * MIB, least = 32 * MIB; /* an eighth */
    assert_about(rate, (uint64_t)(0.05 * 256 * MIB));
    for (unsigned second = 0; second < 60; second++) {
        bool has_enough = second % 2 == 0;
        vm->stall_ns += 200 * 1000 * 1000;
        vm->spare = has_enough ? spare : least;
        fixture_step(&f, 1);
        if (has_enough || vm->past.hold <= 0)
            assert_about(vm->ask.balloon - vm->balloon, rate);
        else
            assert_int_equal(vm->ask.balloon, vm->balloon);
        assert_true(vm->ask.resident >= vm->resident); /* it is not paged for that */
    }
    vm->spare = least + MIB;
    vm->stall_ns += 200 * 1000 * 1000;
    fixture_step(&f, 1);
    assert_about(vm->ask.balloon - vm->balloon, MIB);

    /* In hard as much as from others, of that. */
    vm->spare = spare;
    f.vm[1].resident += f.host.free - f.host.memory / 100 * 15 / 10;
    fixture_step(&f, 1);
    assert_int_equal(f.host.state, POLICY_HARD);
    assert_about(vm->ask.balloon - vm->balloon, 2 * rate);
    assert_about(vm->resident - vm->ask.resident, rate / 2);
}

/* Faults that are told once a second are no storm when steps are a hundredth apart. */
static void test_suffering_is_over_time(void **state)
{
    (void)state;
    struct fixture f;
    fixture_idle_and_busy(&f, 3.5);
    for (unsigned step = 0; step < 1000; step++) {
        if (step % 100 == 0)
            f.vm[0].faults_in += 100;
        fixture_step(&f, 0.01);
        assert_true(f.vm[0].ask.balloon > 0);
    }
}

/* What nobody needs is not taken, and what others leave may be used. */
static void test_slack_is_used(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init_for_targets(&f, 300 * MIB);
    struct policy_vm *user = fixture_add(&f, 0, 256 * MIB);
    struct policy_vm *modest = fixture_add(&f, 0, 256 * MIB);
    user->resident = 200 * MIB;
    user->balloon = 56 * MIB;
    modest->resident = 20 * MIB;
    fixture_step(&f, 1);
    assert_about(user->target, 150 * MIB);
    assert_about(modest->target, 150 * MIB);
    assert_int_equal(user->ask.balloon, 0);         /* though it is above its target */
    assert_true(modest->ask.resident >= 100 * MIB); /* nearly all that is free */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_high_takes_nothing),
        cmocka_unit_test(test_soft_takes_by_balloon),
        cmocka_unit_test(test_soft_pages_who_has_no_balloon),
        cmocka_unit_test(test_hard_pages_as_well),
        cmocka_unit_test(test_low_blocks_who_is_above),
        cmocka_unit_test(test_growth_fits),
        cmocka_unit_test(test_rest_is_rest),
        cmocka_unit_test(test_gives_back_at_once),
        cmocka_unit_test(test_given_memory_is_filled_first),
        cmocka_unit_test(test_steps_in_a_row),
        cmocka_unit_test(test_balloon_that_does_not_grow),
        cmocka_unit_test(test_balloon_to_and_fro),
        cmocka_unit_test(test_balloon_that_grows_slowly),
        cmocka_unit_test(test_spares_who_suffers),
        cmocka_unit_test(test_suffering_gives_what_it_can_spare),
        cmocka_unit_test(test_suffering_is_over_time),
        cmocka_unit_test(test_slack_is_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
