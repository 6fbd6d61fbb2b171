#ifndef AEROSTAT_TESTS_DEV_FIXTURE_H
#define AEROSTAT_TESTS_DEV_FIXTURE_H

/* What device tests share: a clock that the test moves, lines and hooks that remember, and accesses
 * through a real bus. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "dev/apic_bus.h"
#include "dev/device_time.h"
#include "dev/irq.h"
#include "dev/lapic.h"
#include "mem/bus.h"
#include "util/bits.h"
#include "util/clock.h"

/* Starts at `now` = 1 s, `wall` = 2024-02-29 12:34:56 UTC, and a TSC of 2 GHz. Single-threaded. */
struct fake_time {
    uint64_t now, wall, tsc;
    struct device_timer *timers;
    unsigned armed_calls; /* how often a timer was armed */
};

#define FAKE_TSC_KHZ 2000000u
#define FAKE_WALL    1709210096u

struct device_time fake_time_init(struct fake_time *time);
/* Moves all clocks by ns and runs timers on the way, each at its own time. */
void fake_time_advance(struct fake_time *time, uint64_t ns);
/* Timers that are armed now. */
unsigned fake_time_armed(const struct fake_time *time);

/* The far end of an interrupt line. */
struct irq_probe {
    bool level;
    unsigned rises;
};

struct irq_line irq_probe_line(struct irq_probe *probe);

struct bus *test_bus(void);
void out8(struct bus *ports, uint64_t port, uint8_t value);
uint8_t in8(struct bus *ports, uint64_t port);

/* Local APICs with ids 0 to count-1 on one bus, each with its own memory bus, as vCPUs have. */
#define APIC_SET_MAX 4u

struct apic_cpu {
    struct lapic *lapic;
    struct bus *mmio;
    unsigned irq_kicks, nmis, inits, sipis;
    uint8_t sipi_vector;
    int64_t tsc_offset;
};

struct apic_set {
    struct fake_time time;
    struct device_time source; /* of `time`, for more devices */
    struct apic_bus *bus;
    unsigned count;
    struct apic_cpu cpus[APIC_SET_MAX];
};

void apic_set_create(struct apic_set *set, unsigned count);
void apic_set_destroy(struct apic_set *set);

/* Registers by MMIO offset (xAPIC). */
uint32_t apic_read(struct apic_cpu *cpu, uint32_t offset);
void apic_write(struct apic_cpu *cpu, uint32_t offset, uint32_t value);
/* Software-enabled with spurious vector 0xff, timer masked. */
void apic_enable(struct apic_cpu *cpu);
void apic_to_x2apic(struct apic_cpu *cpu);
uint64_t msr_read(struct apic_cpu *cpu, uint32_t msr);
void msr_write(struct apic_cpu *cpu, uint32_t msr, uint64_t value);

#endif
