/*
 * Interrupts from several threads to one local APIC, with a real clock and loop. Each sender waits
 * until its vector was taken before it sends it again, so a request that is lost hangs the test,
 * and one that comes twice is counted. For ThreadSanitizer and the lock-free path of requests.
 */

#include "fixture.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "dev/guest_clock.h"
#include "dev/ioapic.h"
#include "dev/platform.h"

#define SENDERS 3u
#define ROUNDS  4000u

struct machine {
    struct guest_clock *clock;
    struct io_loop *loop;
    struct apic_bus *bus;
    struct lapic *lapic;
    struct bus *mmio;
    struct ioapic *ioapic;
    _Atomic unsigned kicks;
    _Atomic unsigned sent[256], taken[256];
};

static void on_kick(void *context, enum lapic_kick what, uint8_t vector)
{
    struct machine *machine = context;
    machine->kicks++;
}

static int64_t no_offset(void *context)
{
    return 0;
}

static void machine_create(struct machine *machine)
{
    assert_int_equal(io_loop_create(&machine->loop, "timers", NULL), STATUS_OK);
    assert_int_equal(io_loop_start(machine->loop, NULL), STATUS_OK);
    assert_int_equal(guest_clock_create(&machine->clock, machine->loop, NULL), STATUS_OK);
    assert_int_equal(apic_bus_create(&machine->bus, 1, NULL), STATUS_OK);
    struct lapic_config config = {
        .bus = machine->bus,
        .boot_processor = true,
        .tsc_deadline = true,
        .time = guest_clock_time(machine->clock),
        .hooks = {.context = machine, .kick = on_kick, .tsc_offset = no_offset},
    };
    assert_int_equal(lapic_create(&machine->lapic, &config, NULL), STATUS_OK);
    assert_int_equal(ioapic_create(&machine->ioapic, machine->bus, NULL), STATUS_OK);
    apic_bus_set_eoi_hook(machine->bus, ioapic_eoi, machine->ioapic);
    machine->mmio = test_bus();
    assert_int_equal(lapic_attach(machine->lapic, machine->mmio, NULL), STATUS_OK);
    assert_int_equal(ioapic_attach(machine->ioapic, machine->mmio, NULL), STATUS_OK);
    bus_write(machine->mmio, PLATFORM_LAPIC_BASE + 0xf0, 4, 0x1ff);
}

static void machine_destroy(struct machine *machine)
{
    ioapic_destroy(machine->ioapic);
    lapic_destroy(machine->lapic);
    apic_bus_destroy(machine->bus);
    guest_clock_destroy(machine->clock);
    io_loop_destroy(machine->loop);
    bus_destroy(machine->mmio);
}

struct sender {
    struct machine *machine;
    uint8_t vector;
};

/* Vectors of one word of IRR, so that setting and clearing meet. */
static void *send_vectors(void *context)
{
    struct sender *sender = context;
    struct machine *machine = sender->machine;
    uint8_t vector = sender->vector;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct apic_message message = {.delivery = APIC_FIXED, .vector = vector};
        machine->sent[vector]++;
        assert_true(apic_bus_deliver(machine->bus, &message));
        while (machine->taken[vector] != machine->sent[vector])
            sched_yield();
    }
    return NULL;
}

/* The vCPU: takes what there is until `total` interrupts came. */
static void consume(struct machine *machine, unsigned total)
{
    for (unsigned count = 0; count < total;) {
        if (lapic_pending(machine->lapic) < 0) {
            sched_yield();
            continue;
        }
        int vector = lapic_acknowledge(machine->lapic);
        assert_true(vector >= 16);
        bus_write(machine->mmio, PLATFORM_LAPIC_BASE + 0xb0, 4, 0);
        machine->taken[vector]++;
        count++;
    }
    assert_int_equal(lapic_pending(machine->lapic), -1);
}

static void test_messages(void **state)
{
    struct machine machine = {0};
    machine_create(&machine);
    pthread_t threads[SENDERS];
    struct sender senders[SENDERS];
    for (unsigned i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){.machine = &machine, .vector = (uint8_t)(0x41 + i)};
        assert_int_equal(pthread_create(&threads[i], NULL, send_vectors, &senders[i]), 0);
    }
    consume(&machine, SENDERS * ROUNDS);
    for (unsigned i = 0; i < SENDERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(machine.taken[0x41 + i], ROUNDS);
    }
    assert_true(machine.kicks >= SENDERS * ROUNDS);
    machine_destroy(&machine);
}

/* A device that holds its line until the guest served it. */
static void *raise_line(void *context)
{
    struct machine *machine = context;
    struct irq_line line = ioapic_line(machine->ioapic, 7);
    for (unsigned round = 0; round < ROUNDS; round++) {
        irq_set(&line, true);
        while (machine->taken[0x77] == round)
            sched_yield();
    }
    return NULL;
}

static void test_level_line(void **state)
{
    struct machine machine = {0};
    machine_create(&machine);
    bus_write(machine.mmio, PLATFORM_IOAPIC_BASE, 4, 0x10 + 2 * 7);
    bus_write(machine.mmio, PLATFORM_IOAPIC_BASE + 0x10, 4, 0x8077);
    struct irq_line line = ioapic_line(machine.ioapic, 7);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, raise_line, &machine), 0);
    for (unsigned count = 0; count < ROUNDS;) {
        if (lapic_acknowledge(machine.lapic) != 0x77) {
            sched_yield();
            continue;
        }
        irq_set(&line, false);
        bus_write(machine.mmio, PLATFORM_LAPIC_BASE + 0xb0, 4, 0);
        machine.taken[0x77] = ++count;
    }
    pthread_join(thread, NULL);
    assert_int_equal(lapic_acknowledge(machine.lapic), -1);
    machine_destroy(&machine);
}

/* Deadlines on the host's real TSC and timers: all come, none before its time. */
static void test_real_deadlines(void **state)
{
    struct machine machine = {0};
    machine_create(&machine);
    bus_write(machine.mmio, PLATFORM_LAPIC_BASE + 0x320, 4, 0x40000 | 0x55);
    uint64_t khz = clock_tsc_khz();
    for (unsigned i = 0; i < 200; i++) {
        uint64_t deadline = clock_tsc() + khz / 1000 * (i % 50); /* 0 to 50 us */
        assert_true(lapic_write_msr(machine.lapic, MSR_TSC_DEADLINE, deadline));
        while (lapic_pending(machine.lapic) < 0)
            sched_yield();
        assert_true(clock_tsc() >= deadline);
        assert_int_equal(lapic_acknowledge(machine.lapic), 0x55);
        bus_write(machine.mmio, PLATFORM_LAPIC_BASE + 0xb0, 4, 0);
    }
    machine_destroy(&machine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_level_line),
        cmocka_unit_test(test_real_deadlines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
