#include "fixture.h"

#include <stdlib.h>
#include <string.h>

#include "dev/platform.h"

struct device_timer {
    struct fake_time *time;
    struct device_timer *next;
    io_timer_fn *fn;
    void *context;
    bool armed;
    uint64_t deadline;
};

static uint64_t fake_now(void *context)
{
    return ((struct fake_time *)context)->now;
}

static uint64_t fake_wall(void *context)
{
    return ((struct fake_time *)context)->wall;
}

static uint64_t fake_tsc(void *context)
{
    return ((struct fake_time *)context)->tsc;
}

static enum status fake_timer_create(void *context, struct device_timer **timer, io_timer_fn *fn,
                                     void *fn_context, struct error *err)
{
    struct fake_time *time = context;
    *timer = calloc(1, sizeof **timer);
    assert_non_null(*timer);
    (*timer)->time = time;
    (*timer)->fn = fn;
    (*timer)->context = fn_context;
    (*timer)->next = time->timers;
    time->timers = *timer;
    return STATUS_OK;
}

static void fake_timer_arm(struct device_timer *timer, uint64_t deadline)
{
    timer->armed = true;
    timer->deadline = deadline;
    timer->time->armed_calls++;
}

static void fake_timer_disarm(struct device_timer *timer)
{
    timer->armed = false;
}

static void fake_timer_destroy(struct device_timer *timer)
{
    if (timer == NULL)
        return;
    struct device_timer **link = &timer->time->timers;
    while (*link != timer)
        link = &(*link)->next;
    *link = timer->next;
    free(timer);
}

struct device_time fake_time_init(struct fake_time *time)
{
    *time = (struct fake_time){
        .now = NS_PER_SECOND,
        .wall = FAKE_WALL * NS_PER_SECOND,
        .tsc = 1000000,
    };
    return (struct device_time){
        .context = time,
        .now = fake_now,
        .wall = fake_wall,
        .tsc = fake_tsc,
        .tsc_khz = FAKE_TSC_KHZ,
        .timer_create = fake_timer_create,
        .timer_arm = fake_timer_arm,
        .timer_disarm = fake_timer_disarm,
        .timer_destroy = fake_timer_destroy,
    };
}

static void fake_time_move(struct fake_time *time, uint64_t ns)
{
    time->now += ns;
    time->wall += ns;
    time->tsc += ns * (FAKE_TSC_KHZ / 1000000);
}

void fake_time_advance(struct fake_time *time, uint64_t ns)
{
    uint64_t end = time->now + ns;
    for (unsigned fired = 0; fired < 1000000; fired++) {
        struct device_timer *first = NULL;
        for (struct device_timer *timer = time->timers; timer != NULL; timer = timer->next) {
            if (timer->armed && timer->deadline <= end &&
                (first == NULL || timer->deadline < first->deadline))
                first = timer;
        }
        if (first == NULL) {
            fake_time_move(time, end - time->now);
            return;
        }
        if (first->deadline > time->now)
            fake_time_move(time, first->deadline - time->now);
        first->armed = false;
        first->fn(first->context);
    }
    fail_msg("a timer fires for ever");
}

unsigned fake_time_armed(const struct fake_time *time)
{
    unsigned count = 0;
    for (const struct device_timer *timer = time->timers; timer != NULL; timer = timer->next)
        count += timer->armed;
    return count;
}

static void irq_probe_set(void *context, unsigned pin, bool level)
{
    struct irq_probe *probe = context;
    if (level && !probe->level)
        probe->rises++;
    probe->level = level;
}

struct irq_line irq_probe_line(struct irq_probe *probe)
{
    return (struct irq_line){.set = irq_probe_set, .context = probe, .pin = 0};
}

struct bus *test_bus(void)
{
    struct bus *bus;
    assert_int_equal(bus_create(&bus, NULL, NULL), STATUS_OK);
    return bus;
}

void out8(struct bus *ports, uint64_t port, uint8_t value)
{
    bus_write(ports, port, 1, value);
}

uint8_t in8(struct bus *ports, uint64_t port)
{
    return (uint8_t)bus_read(ports, port, 1);
}

static void record_kick(void *context, enum lapic_kick what, uint8_t vector)
{
    struct apic_cpu *cpu = context;
    switch (what) {
    case LAPIC_KICK_IRQ:
        cpu->irq_kicks++;
        break;
    case LAPIC_KICK_NMI:
        cpu->nmis++;
        break;
    case LAPIC_KICK_INIT:
        cpu->inits++;
        break;
    case LAPIC_KICK_SIPI:
        cpu->sipis++;
        cpu->sipi_vector = vector;
        break;
    }
}

static int64_t give_tsc_offset(void *context)
{
    return ((struct apic_cpu *)context)->tsc_offset;
}

void apic_set_create(struct apic_set *set, unsigned count)
{
    memset(set, 0, sizeof *set);
    set->source = fake_time_init(&set->time);
    set->count = count;
    assert_int_equal(apic_bus_create(&set->bus, count, NULL), STATUS_OK);
    for (unsigned i = 0; i < count; i++) {
        struct apic_cpu *cpu = &set->cpus[i];
        struct lapic_config config = {
            .bus = set->bus,
            .id = i,
            .boot_processor = i == 0,
            .x2apic = true,
            .tsc_deadline = true,
            .time = set->source,
            .hooks = {.context = cpu, .kick = record_kick, .tsc_offset = give_tsc_offset},
        };
        assert_int_equal(lapic_create(&cpu->lapic, &config, NULL), STATUS_OK);
        cpu->mmio = test_bus();
        assert_int_equal(lapic_attach(cpu->lapic, cpu->mmio, NULL), STATUS_OK);
    }
}

void apic_set_destroy(struct apic_set *set)
{
    for (unsigned i = 0; i < set->count; i++) {
        lapic_destroy(set->cpus[i].lapic);
        bus_destroy(set->cpus[i].mmio);
    }
    apic_bus_destroy(set->bus);
    assert_null(set->time.timers);
}

uint32_t apic_read(struct apic_cpu *cpu, uint32_t offset)
{
    return (uint32_t)bus_read(cpu->mmio, PLATFORM_LAPIC_BASE + offset, 4);
}

void apic_write(struct apic_cpu *cpu, uint32_t offset, uint32_t value)
{
    bus_write(cpu->mmio, PLATFORM_LAPIC_BASE + offset, 4, value);
}

void apic_enable(struct apic_cpu *cpu)
{
    apic_write(cpu, 0xf0, 0x1ff);
}

void apic_to_x2apic(struct apic_cpu *cpu)
{
    msr_write(cpu, MSR_APIC_BASE, msr_read(cpu, MSR_APIC_BASE) | 0xc00);
}

uint64_t msr_read(struct apic_cpu *cpu, uint32_t msr)
{
    uint64_t value;
    assert_true(lapic_read_msr(cpu->lapic, msr, &value));
    return value;
}

void msr_write(struct apic_cpu *cpu, uint32_t msr, uint64_t value)
{
    assert_true(lapic_write_msr(cpu->lapic, msr, value));
}
