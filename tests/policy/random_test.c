/*
 * Steps over random histories: VMs come and go, people change knobs, guests do as they are asked or
 * anything else, and some numbers are nonsense. Whatever happens, no step asks for what it must
 * not.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fixture.h"

#define PAGE 4096u

static uint64_t above(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void vm_make(struct policy_vm *vm, uint64_t *seed)
{
    uint64_t max = random_within(seed, 1, 1024) * MIB;
    *vm = (struct policy_vm){
        .max = max,
        .min = random_within(seed, 0, max / 2 / PAGE) * PAGE,
        .shares = random_within(seed, 1, 1000000),
        .swap = POLICY_NO_LIMIT,
        .active = max,
        .overhead = random_within(seed, 0, 8) * MIB,
        .balloon_works = xorshift_next(seed) % 4 != 0,
    };
}

/* A second of a guest's life: it may do what it was asked, in part, or something else. */
static void vm_live(struct policy_vm *vm, uint64_t *seed)
{
    uint64_t room = vm->max - vm->balloon;
    switch (xorshift_next(seed) % 9) {
    case 0:
        vm->resident = random_within(seed, 0, room);
        break;
    case 1:
        vm->balloon = random_within(seed, 0, vm->max);
        break;
    case 2:
        vm->active = random_within(seed, 0, vm->max);
        break;
    case 3:
        vm->faults_in += xorshift_next(seed) % 100000;
        break;
    case 4:
        vm->stall_ns += xorshift_next(seed) % 2000000000;
        break;
    case 5:
        vm->is_paused = xorshift_next(seed) % 4 == 0;
        break;
    case 6:
        vm->spare = random_within(seed, 0, vm->max);
        break;
    default:
        vm->balloon += (uint64_t)((double)above(vm->ask.balloon, vm->balloon) * random_part(seed));
        vm->balloon = vm->balloon > vm->ask.balloon ? vm->ask.balloon : vm->balloon;
    }
    vm->resident = least(least(vm->resident, vm->max - vm->balloon), vm->ask.resident);
    uint64_t scanned = vm->ask.scan_pages;
    vm->pages_scanned += scanned;
    vm->pages_shared += (uint64_t)((double)scanned * random_part(seed));
    if (xorshift_next(seed) % 500 == 0)
        vm->balloon_works = !vm->balloon_works;
}

static void vm_lie(struct policy_vm *vm, uint64_t *seed)
{
    uint64_t *const numbers[] = {
        &vm->active,       &vm->balloon, &vm->faults_in, &vm->stall_ns, &vm->pages_scanned,
        &vm->pages_shared, &vm->frames,  &vm->resident,  &vm->overhead, &vm->spare};
    *numbers[xorshift_next(seed) % (sizeof numbers / sizeof *numbers)] =
        xorshift_next(seed) >> xorshift_next(seed) % 64;
}

/* What holds of each VM after each step, whatever its numbers. `before` is its ask before that. */
static void assert_ask(const struct fixture *f, const struct policy_vm *vm,
                       const struct policy_ask *before, double seconds)
{
    uint64_t allowed = vm->past.allowed, excess = above(vm->resident, allowed);
    enum policy_state now = f->host.state;
    assert_true(allowed >= vm->target);
    assert_true(vm->target <= vm->max);

    /* The balloon: no more than is too much, no more than a guest can spare, and slowly. */
    uint64_t taken = above(vm->ask.balloon, vm->balloon);
    uint64_t last = above(before->balloon, vm->balloon);
    uint64_t limit = least(vm->max - vm->min, (uint64_t)(0.65 * (double)vm->max) + 1);
    assert_true(taken <= excess);
    if (taken > 0) {
        assert_true(now >= POLICY_SOFT && vm->balloon_works && !vm->is_paused);
        assert_true(vm->ask.balloon <= limit);
    }
    double rate = now == POLICY_SOFT ? 0.05 : 0.10;
    double speed = rate * (double)vm->max > (double)MIB ? rate * (double)vm->max : (double)MIB;
    if (now != POLICY_LOW)
        assert_true((double)taken <= speed * seconds + (double)last + PAGE);

    /* Paging: never below what it is allowed, and slowly. */
    uint64_t paged = above(vm->resident, vm->ask.resident);
    last = above(vm->resident, before->resident);
    assert_true(paged <= excess);
    if (now == POLICY_LOW)
        assert_true(paged == excess);
    else
        assert_true((double)paged <= speed * seconds + (double)last + PAGE);
    if (paged > 0)
        assert_true(now >= POLICY_SOFT);

    assert_true(!vm->ask.block || (now == POLICY_LOW && excess > 0));
    assert_true(vm->ask.scan_ppm <= 1000000);
    if (vm->is_paused)
        assert_true(vm->ask.balloon == vm->balloon);
}

static void assert_sums(const struct fixture *f)
{
    uint64_t targets = 0, minima = 0, taken = policy_reserve(f->host.memory) + f->host.overhead;
    uint64_t ppm = 0, frames = 0;
    for (size_t i = 0; i < f->count; i++) {
        const struct policy_vm *vm = f->list[i];
        targets += vm->target;
        minima += vm->min > vm->frames ? vm->min : vm->frames;
        frames += vm->frames;
        taken += vm->overhead;
        ppm += vm->ask.scan_ppm;
    }
    taken += f->host.frames > frames ? f->host.frames - frames : 0;
    if (taken + minima + f->count * PAGE <= f->host.memory)
        assert_true(taken + frames + targets <= f->host.memory);
    assert_true(ppm <= f->host.scan_ppm + f->count);
}

static void change_host(struct fixture *f, uint64_t *seed)
{
    switch (xorshift_next(seed) % 60) {
    case 0:
        f->host.memory = random_within(seed, 1, 16384) * MIB;
        break;
    case 1:
        f->host.tax = random_part(seed);
        break;
    case 2:
        if (f->count < FIXTURE_VMS)
            vm_make(f->list[f->count++], seed);
        break;
    case 3:
        if (f->count > 1) { /* its place is another one's, and its struct is used again later */
            size_t gone = xorshift_next(seed) % f->count;
            struct policy_vm *vm = f->list[gone];
            f->list[gone] = f->list[--f->count];
            f->list[f->count] = vm;
        }
        break;
    case 4:
        f->list[xorshift_next(seed) % f->count]->shares = 1 + xorshift_next(seed) % 1000000;
        break;
    default:
        break;
    }
}

static void run_history(uint64_t seed, bool with_lies)
{
    struct fixture f;
    fixture_init(&f, random_within(&seed, 64, 8192) * MIB);
    for (size_t i = 0; i < FIXTURE_VMS; i++)
        f.list[i] = &f.vm[i];
    while (f.count < 8)
        vm_make(f.list[f.count++], &seed);
    for (unsigned step = 0; step < 400; step++) {
        struct policy_ask before[FIXTURE_VMS];
        bool is_known[FIXTURE_VMS];
        change_host(&f, &seed);
        for (size_t i = 0; i < f.count; i++) {
            if (with_lies && xorshift_next(&seed) % 16 == 0)
                vm_lie(f.list[i], &seed);
            else if (!with_lies && f.list[i]->past.is_known)
                vm_live(f.list[i], &seed);
            is_known[i] = f.list[i]->past.is_known;
            before[i] = f.list[i]->ask;
        }
        f.host.frames = 0;
        for (size_t i = 0; i < f.count && !with_lies; i++) {
            f.list[i]->frames = least(f.list[i]->max - f.list[i]->resident, f.list[i]->max / 8);
            f.host.frames += f.list[i]->frames;
        }
        double seconds = xorshift_next(&seed) % 4 == 0 ? 0 : random_part(&seed) * 3;
        fixture_step(&f, seconds);
        if (with_lies)
            continue;
        for (size_t i = 0; i < f.count; i++) {
            if (!is_known[i])
                before[i] =
                    (struct policy_ask){.resident = POLICY_NO_LIMIT, .balloon = f.list[i]->balloon};
            assert_ask(&f, f.list[i], &before[i], seconds);
        }
        assert_sums(&f);
    }
}

static void test_random_histories(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 400; seed++)
        run_history(seed * 0x9e3779b97f4a7c15, false);
}

/* For the sanitizers: no number makes a step divide by zero, overflow or run for long. */
static void test_nonsense(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++)
        run_history(seed * 0x9e3779b97f4a7c15, true);
}

static void test_nobody(void **state)
{
    (void)state;
    struct fixture f;
    fixture_init(&f, GIB);
    fixture_step(&f, 1);
    assert_int_equal(f.host.free, GIB);
    assert_int_equal(f.host.state, POLICY_HIGH);
    fixture_init(&f, 0);
    fixture_add(&f, 0, GIB);
    fixture_step(&f, 1);
    assert_int_equal(f.host.state, POLICY_HIGH); /* no memory, none missing: not for long */
    f.vm[0].resident = MIB;
    fixture_step(&f, -1);
    assert_int_equal(f.vm[0].target, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_histories),
        cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
