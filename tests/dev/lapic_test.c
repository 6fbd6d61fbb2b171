/* The local APIC against SDM vol. 3, "APIC": registers, priorities, end of interrupt, IPI routing,
 * the two modes, errors. */

#include "fixture.h"

#include "dev/platform.h"

#define TPR       0x80
#define PPR       0xa0
#define EOI       0xb0
#define LDR       0xd0
#define DFR       0xe0
#define SVR       0xf0
#define ISR       0x100
#define TMR       0x180
#define IRR       0x200
#define ESR       0x280
#define ICR       0x300
#define ICR_HIGH  0x310
#define LVT_LINT0 0x350
#define LVT_ERROR 0x370

static void send_fixed(struct apic_set *set, uint32_t destination, uint8_t vector, bool level)
{
    struct apic_message message = {
        .destination = destination, .delivery = APIC_FIXED, .vector = vector, .level = level};
    apic_bus_deliver(set->bus, &message);
}

static void test_reset_state(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 2);
    for (unsigned i = 0; i < 2; i++) {
        struct apic_cpu *cpu = &set.cpus[i];
        assert_int_equal(apic_read(cpu, 0x20), i << 24);
        assert_int_equal(apic_read(cpu, 0x30), 0x00050014);
        assert_int_equal(apic_read(cpu, TPR), 0);
        assert_int_equal(apic_read(cpu, LDR), 0);
        assert_int_equal(apic_read(cpu, DFR), 0xffffffff);
        assert_int_equal(apic_read(cpu, SVR), 0xff);
        assert_int_equal(apic_read(cpu, 0x320), 0x10000);
        assert_int_equal(apic_read(cpu, 0x360), 0x10000);
        assert_int_equal(apic_read(cpu, LVT_LINT0), i == 0 ? 0x700 : 0x10000);
        assert_int_equal(msr_read(cpu, MSR_APIC_BASE), 0xfee00800 | (i == 0 ? 0x100 : 0));
        assert_int_equal(lapic_pending(cpu->lapic), -1);
        assert_int_equal(lapic_acknowledge(cpu->lapic), -1);
    }
    apic_set_destroy(&set);
}

static void test_bus_limits(void **state)
{
    struct apic_bus *bus;
    struct error err;
    assert_int_equal(apic_bus_create(&bus, 0, &err), STATUS_INVALID);
    assert_int_equal(apic_bus_create(&bus, 256, &err), STATUS_INVALID);
    assert_int_equal(apic_bus_create(&bus, 2, &err), STATUS_OK);
    struct fake_time time;
    struct lapic_config config = {.bus = bus, .id = 255, .time = fake_time_init(&time)};
    struct lapic *lapics[2], *more;
    assert_int_equal(lapic_create(&more, &config, &err), STATUS_INVALID);
    config.id = 7;
    assert_int_equal(lapic_create(&lapics[0], &config, &err), STATUS_OK);
    assert_int_equal(lapic_create(&more, &config, &err), STATUS_INVALID); /* taken */
    config.id = 8;
    assert_int_equal(lapic_create(&lapics[1], &config, &err), STATUS_OK);
    config.id = 9;
    assert_int_equal(lapic_create(&more, &config, &err), STATUS_NO_SPACE);
    lapic_destroy(lapics[0]);
    lapic_destroy(lapics[1]);
    apic_bus_destroy(bus);
    assert_null(time.timers);
}

static void test_priority_and_eoi(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 1);
    struct apic_cpu *cpu = &set.cpus[0];
    send_fixed(&set, 0, 0x40, false);
    assert_int_equal(lapic_pending(cpu->lapic), -1); /* software-disabled: not accepted */
    apic_enable(cpu);

    send_fixed(&set, 0, 0x41, false);
    assert_int_equal(cpu->irq_kicks, 1);
    send_fixed(&set, 0, 0x41, false); /* merges: no second kick */
    assert_int_equal(cpu->irq_kicks, 1);
    send_fixed(&set, 0, 0x85, false);
    assert_int_equal(apic_read(cpu, IRR + 0x20), 1u << 1);
    assert_int_equal(apic_read(cpu, IRR + 0x40), 1u << 5);
    assert_int_equal(lapic_pending(cpu->lapic), 0x85);
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0x85);
    assert_int_equal(apic_read(cpu, ISR + 0x40), 1u << 5);
    assert_int_equal(apic_read(cpu, IRR + 0x40), 0);
    assert_int_equal(apic_read(cpu, PPR), 0x80);

    /* Lower and the same class wait; a higher class nests. */
    assert_int_equal(lapic_pending(cpu->lapic), -1);
    send_fixed(&set, 0, 0x8f, false);
    assert_int_equal(lapic_pending(cpu->lapic), -1);
    send_fixed(&set, 0, 0x90, false);
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0x90);
    assert_int_equal(apic_read(cpu, PPR), 0x90);

    /* Ends come from the highest; each kicks where something became deliverable. */
    unsigned kicks = cpu->irq_kicks;
    apic_write(cpu, EOI, 0);
    assert_int_equal(apic_read(cpu, ISR + 0x40), 1u << 5);
    assert_int_equal(cpu->irq_kicks, kicks);
    apic_write(cpu, EOI, 0);
    assert_int_equal(cpu->irq_kicks, kicks + 1);
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0x8f);
    apic_write(cpu, EOI, 0);
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0x41);
    apic_write(cpu, EOI, 0);
    assert_int_equal(lapic_pending(cpu->lapic), -1);
    apic_write(cpu, EOI, 0); /* nothing in service */
    assert_int_equal(apic_read(cpu, PPR), 0);
    apic_set_destroy(&set);
}

/* Every vector goes in and comes out, highest first. */
static void test_all_vectors(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 1);
    struct apic_cpu *cpu = &set.cpus[0];
    apic_enable(cpu);
    for (unsigned vector = 16; vector < 256; vector++)
        send_fixed(&set, 0, (uint8_t)vector, false);
    for (int vector = 255; vector >= 16; vector--) {
        assert_int_equal(lapic_pending(cpu->lapic), vector);
        assert_int_equal(lapic_acknowledge(cpu->lapic), vector);
        apic_write(cpu, EOI, 0);
    }
    assert_int_equal(lapic_pending(cpu->lapic), -1);
    apic_set_destroy(&set);
}

static void test_tpr(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 1);
    struct apic_cpu *cpu = &set.cpus[0];
    apic_enable(cpu);
    lapic_write_tpr(cpu->lapic, 5);
    assert_int_equal(apic_read(cpu, TPR), 0x50);
    apic_write(cpu, TPR, 0x5a);
    assert_int_equal(lapic_read_tpr(cpu->lapic), 5);
    assert_int_equal(apic_read(cpu, PPR), 0x5a);
    send_fixed(&set, 0, 0x5f, false);
    assert_int_equal(lapic_pending(cpu->lapic), -1);
    send_fixed(&set, 0, 0x60, false);
    assert_int_equal(lapic_pending(cpu->lapic), 0x60);
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0x60);
    assert_int_equal(apic_read(cpu, PPR), 0x60); /* in service above the task */
    apic_write(cpu, EOI, 0);
    unsigned kicks = cpu->irq_kicks;
    lapic_write_tpr(cpu->lapic, 4);
    assert_int_equal(cpu->irq_kicks, kicks + 1);
    assert_int_equal(lapic_pending(cpu->lapic), 0x5f);
    lapic_write_tpr(cpu->lapic, 0xfff5); /* only four bits count */
    assert_int_equal(lapic_read_tpr(cpu->lapic), 5);
    apic_set_destroy(&set);
}

static void record_eoi(void *context, uint8_t vector)
{
    unsigned *eois = context;
    eois[vector]++;
}

static void test_eoi_broadcast_of_level(void **state)
{
    struct apic_set set;
    unsigned eois[256] = {0};
    apic_set_create(&set, 1);
    struct apic_cpu *cpu = &set.cpus[0];
    apic_bus_set_eoi_hook(set.bus, record_eoi, eois);
    apic_enable(cpu);
    send_fixed(&set, 0, 0x33, true);
    assert_int_equal(apic_read(cpu, TMR + 0x10), 1u << 19);
    lapic_acknowledge(cpu->lapic);
    apic_write(cpu, EOI, 0);
    assert_int_equal(eois[0x33], 1);
    send_fixed(&set, 0, 0x33, false); /* the same vector as an edge */
    assert_int_equal(apic_read(cpu, TMR + 0x10), 0);
    lapic_acknowledge(cpu->lapic);
    apic_write(cpu, EOI, 0);
    assert_int_equal(eois[0x33], 1);
    apic_set_destroy(&set);
}

/* Which of four local APICs have vector 0x50 requested; takes it. */
static unsigned taken_by(struct apic_set *set)
{
    unsigned mask = 0;
    for (unsigned i = 0; i < set->count; i++) {
        if (lapic_acknowledge(set->cpus[i].lapic) == 0x50) {
            mask |= 1u << i;
            if (msr_read(&set->cpus[i], MSR_APIC_BASE) & 0x400)
                msr_write(&set->cpus[i], 0x80b, 0);
            else
                apic_write(&set->cpus[i], EOI, 0);
        }
    }
    return mask;
}

static void send_ipi(struct apic_cpu *cpu, uint8_t destination, uint32_t icr)
{
    apic_write(cpu, ICR_HIGH, (uint32_t)destination << 24);
    apic_write(cpu, ICR, icr);
}

static void test_ipi_destinations(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 4);
    for (unsigned i = 0; i < 4; i++) {
        apic_enable(&set.cpus[i]);
        apic_write(&set.cpus[i], LDR, 1u << (24 + i));
    }
    struct apic_cpu *cpu = &set.cpus[1];
    send_ipi(cpu, 2, 0x4050);
    assert_int_equal(taken_by(&set), 1 << 2);
    send_ipi(cpu, 9, 0x4050);
    assert_int_equal(taken_by(&set), 0);
    send_ipi(cpu, 0xff, 0x4050); /* physical broadcast */
    assert_int_equal(taken_by(&set), 0xf);
    send_ipi(cpu, 0xff, 0x44050); /* self */
    assert_int_equal(taken_by(&set), 1 << 1);
    send_ipi(cpu, 0, 0x84050); /* all */
    assert_int_equal(taken_by(&set), 0xf);
    send_ipi(cpu, 0, 0xc4050); /* all but self */
    assert_int_equal(taken_by(&set), 0xd);
    send_ipi(cpu, 0x05, 0x4850); /* logical, flat */
    assert_int_equal(taken_by(&set), 0x5);
    send_ipi(cpu, 0x00, 0x4850);
    assert_int_equal(taken_by(&set), 0);

    /* Cluster model: two clusters of two. */
    for (unsigned i = 0; i < 4; i++) {
        apic_write(&set.cpus[i], DFR, 0);
        apic_write(&set.cpus[i], LDR, (i / 2) << 28 | 1u << (24 + i % 2));
    }
    assert_int_equal(apic_read(cpu, DFR), 0x0fffffff);
    send_ipi(cpu, 0x03, 0x4850);
    assert_int_equal(taken_by(&set), 0x3);
    send_ipi(cpu, 0x12, 0x4850);
    assert_int_equal(taken_by(&set), 0x8);
    send_ipi(cpu, 0xf1, 0x4850); /* bit 0 of every cluster */
    assert_int_equal(taken_by(&set), 0x5);
    assert_int_equal(apic_read(cpu, ICR), 0x4850);
    assert_int_equal(apic_read(cpu, ICR_HIGH), 0xf1000000);
    apic_set_destroy(&set);
}

static void test_lowest_priority(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 4);
    for (unsigned i = 0; i < 4; i++) {
        if (i != 3) /* the idlest is not enabled */
            apic_enable(&set.cpus[i]);
        apic_write(&set.cpus[i], TPR, i == 1 ? 0x20 : i == 3 ? 0 : 0x30);
    }
    send_ipi(&set.cpus[0], 0xff, 0x4150);
    assert_int_equal(taken_by(&set), 1 << 1);
    /* Among equals it goes round. */
    apic_write(&set.cpus[1], TPR, 0x30);
    unsigned all = 0;
    for (unsigned i = 0; i < 12; i++) {
        send_ipi(&set.cpus[0], 0xff, 0x4150);
        unsigned one = taken_by(&set);
        assert_int_equal(__builtin_popcount(one), 1);
        all |= one;
    }
    assert_int_equal(all, 0x7);
    apic_set_destroy(&set);
}

static void test_startup_ipis(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 3);
    struct apic_cpu *cpu = &set.cpus[0], *target = &set.cpus[2];
    apic_enable(cpu);
    apic_enable(target);
    apic_write(target, TPR, 0x20);
    send_ipi(cpu, 2, 0xc500); /* INIT, level, assert */
    assert_int_equal(target->inits, 1);
    assert_int_equal(apic_read(target, SVR), 0xff); /* it has reset itself */
    assert_int_equal(apic_read(target, TPR), 0);
    assert_int_equal(apic_read(target, 0x20), 2u << 24);
    send_ipi(cpu, 2, 0x8500); /* de-assert: nothing */
    assert_int_equal(target->inits, 1);
    send_ipi(cpu, 2, 0x4608 | 0x91);
    assert_int_equal(target->sipis, 1);
    assert_int_equal(target->sipi_vector, 0x99);
    send_ipi(cpu, 2, 0x4400);
    assert_int_equal(target->nmis, 1);
    send_ipi(cpu, 0, 0xc4500); /* all but self; edge INIT */
    assert_int_equal(cpu->inits, 0);
    assert_int_equal(set.cpus[1].inits, 1);
    assert_int_equal(target->inits, 2);
    apic_set_destroy(&set);
}

static void test_mode_transitions(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 2);
    struct apic_cpu *cpu = &set.cpus[1];
    const uint64_t base = PLATFORM_LAPIC_BASE, en = 0x800, extd = 0x400;
    assert_false(lapic_write_msr(cpu->lapic, MSR_APIC_BASE, base | extd));
    assert_false(lapic_write_msr(cpu->lapic, MSR_APIC_BASE, 0xfee01000 | en)); /* moves */
    assert_false(lapic_write_msr(cpu->lapic, MSR_APIC_BASE, base | en | 1));   /* reserved */
    assert_false(lapic_write_msr(cpu->lapic, MSR_APIC_BASE, base | en | 1ull << 52));

    /* xAPIC to disabled: the page is gone; straight to x2APIC is refused. */
    apic_enable(cpu);
    apic_write(cpu, TPR, 0x30);
    msr_write(cpu, MSR_APIC_BASE, base);
    assert_int_equal(apic_read(cpu, TPR), 0xffffffff);
    assert_false(lapic_write_msr(cpu->lapic, MSR_APIC_BASE, base | en | extd));
    msr_write(cpu, MSR_APIC_BASE, base | en);
    assert_int_equal(apic_read(cpu, TPR), 0);
    assert_int_equal(apic_read(cpu, SVR), 0xff);

    /* xAPIC to x2APIC keeps the state; back to xAPIC is refused. */
    apic_enable(cpu);
    apic_write(cpu, TPR, 0x30);
    uint64_t value;
    assert_false(lapic_read_msr(cpu->lapic, 0x802, &value));
    msr_write(cpu, MSR_APIC_BASE, base | en | extd);
    assert_int_equal(apic_read(cpu, TPR), 0xffffffff);
    assert_int_equal(msr_read(cpu, 0x808), 0x30);
    assert_int_equal(msr_read(cpu, 0x802), 1);
    assert_int_equal(msr_read(cpu, 0x80d), 2);
    assert_int_equal(msr_read(cpu, 0x80f), 0x1ff);
    assert_false(lapic_write_msr(cpu->lapic, MSR_APIC_BASE, base | en));
    assert_false(lapic_write_msr(cpu->lapic, MSR_APIC_BASE, base | extd));

    /* INIT keeps the mode. */
    send_ipi(&set.cpus[0], 1, 0x4500);
    assert_int_equal(msr_read(cpu, MSR_APIC_BASE), base | en | extd);
    assert_int_equal(msr_read(cpu, 0x80d), 2);
    assert_int_equal(msr_read(cpu, 0x80f), 0xff);
    msr_write(cpu, MSR_APIC_BASE, base);
    assert_false(lapic_read_msr(cpu->lapic, 0x802, &value));
    apic_set_destroy(&set);
}

static void test_x2apic_registers(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 4);
    for (unsigned i = 0; i < 4; i++) {
        apic_enable(&set.cpus[i]);
        apic_to_x2apic(&set.cpus[i]);
    }
    struct apic_cpu *cpu = &set.cpus[2];
    uint64_t value;
    /* No such register, or not in this direction. */
    static const uint32_t unreadable[] = {0x800, 0x809, 0x80b, 0x80c, 0x80e, 0x831, 0x83f, 0x8ff};
    for (unsigned i = 0; i < ARRAY_LENGTH(unreadable); i++)
        assert_false(lapic_read_msr(cpu->lapic, unreadable[i], &value));
    static const uint32_t unwritable[] = {0x802, 0x803, 0x80a, 0x80d, 0x80e,
                                          0x810, 0x820, 0x831, 0x839, 0x8ff};
    for (unsigned i = 0; i < ARRAY_LENGTH(unwritable); i++)
        assert_false(lapic_write_msr(cpu->lapic, unwritable[i], 0));
    /* Reserved bits. */
    assert_false(lapic_write_msr(cpu->lapic, 0x808, 0x100));
    assert_false(lapic_write_msr(cpu->lapic, 0x80b, 1));
    assert_false(lapic_write_msr(cpu->lapic, 0x828, 1));
    assert_false(lapic_write_msr(cpu->lapic, 0x830, 1u << 12));
    assert_false(lapic_write_msr(cpu->lapic, 0x832, 1u << 14));
    assert_false(lapic_write_msr(cpu->lapic, 0x838, 1ull << 32));
    assert_false(lapic_write_msr(cpu->lapic, 0x83f, 0x100));

    msr_write(cpu, 0x830, 3ull << 32 | 0x50);
    assert_int_equal(msr_read(cpu, 0x830), 3ull << 32 | 0x50);
    assert_int_equal(taken_by(&set), 1 << 3);
    msr_write(cpu, 0x830, 0xffffffffull << 32 | 0x50);
    assert_int_equal(taken_by(&set), 0xf);
    msr_write(cpu, 0x830, 0xffull << 32 | 0x50); /* 255 is an id like any other */
    assert_int_equal(taken_by(&set), 0);
    msr_write(cpu, 0x830, 0x0000000aull << 32 | 0x850); /* logical, cluster 0 */
    assert_int_equal(taken_by(&set), 0xa);
    msr_write(cpu, 0x830, 0x0001000aull << 32 | 0x850); /* cluster 1 */
    assert_int_equal(taken_by(&set), 0);
    msr_write(cpu, 0x83f, 0x50);
    assert_int_equal(taken_by(&set), 1 << 2);
    /* An I/O APIC's 8-bit broadcast reaches x2APICs. */
    send_fixed(&set, APIC_BROADCAST, 0x50, false);
    assert_int_equal(taken_by(&set), 0xf);
    apic_set_destroy(&set);
}

static void test_x2apic_not_offered(void **state)
{
    struct apic_bus *bus;
    struct fake_time time;
    struct lapic *lapic;
    assert_int_equal(apic_bus_create(&bus, 1, NULL), STATUS_OK);
    struct lapic_config config = {.bus = bus, .time = fake_time_init(&time)};
    assert_int_equal(lapic_create(&lapic, &config, NULL), STATUS_OK);
    uint64_t value;
    assert_false(lapic_write_msr(lapic, MSR_APIC_BASE, PLATFORM_LAPIC_BASE | 0xc00));
    assert_false(lapic_write_msr(lapic, MSR_TSC_DEADLINE, 0));
    assert_false(lapic_read_msr(lapic, MSR_TSC_DEADLINE, &value));
    lapic_destroy(lapic);
    apic_bus_destroy(bus);
}

static void test_errors(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 1);
    struct apic_cpu *cpu = &set.cpus[0];
    apic_enable(cpu);
    apic_write(cpu, LVT_ERROR, 0xe0);
    send_ipi(cpu, 0, 0x4005); /* an illegal vector is not sent */
    assert_int_equal(apic_read(cpu, ESR), 0);
    apic_write(cpu, ESR, 0);
    assert_int_equal(apic_read(cpu, ESR), 0x20);
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0xe0);
    apic_write(cpu, EOI, 0);
    send_fixed(&set, 0, 0x0f, false); /* nor accepted */
    apic_read(cpu, 0x3a0);            /* no such register */
    apic_write(cpu, ESR, 0);
    assert_int_equal(apic_read(cpu, ESR), 0xc0);
    apic_write(cpu, ESR, 0);
    assert_int_equal(apic_read(cpu, ESR), 0);
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0xe0);

    /* An error entry with an illegal vector ends there. */
    apic_write(cpu, LVT_ERROR, 0x05);
    send_fixed(&set, 0, 0x0f, false);
    apic_write(cpu, ESR, 0);
    assert_int_equal(apic_read(cpu, ESR), 0x40);
    apic_set_destroy(&set);
}

static void test_software_disable(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 1);
    struct apic_cpu *cpu = &set.cpus[0];
    apic_write(cpu, 0x360, 0x400);
    assert_int_equal(apic_read(cpu, 0x360), 0x10400); /* cannot be unmasked while disabled */
    apic_enable(cpu);
    apic_write(cpu, 0x360, 0x400);
    assert_int_equal(apic_read(cpu, 0x360), 0x400);
    send_fixed(&set, 0, 0x50, false);
    apic_write(cpu, SVR, 0xff);
    assert_int_equal(apic_read(cpu, 0x360), 0x10400);
    assert_int_equal(lapic_pending(cpu->lapic), 0x50); /* what was requested stays */
    apic_set_destroy(&set);
}

static int fake_pic_vector(void *context)
{
    return *(int *)context;
}

static void test_lint0(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 2);
    struct apic_cpu *cpu = &set.cpus[0];
    int vector = 0x23;
    apic_bus_set_pic(set.bus, fake_pic_vector, fake_pic_vector, &vector);

    /* Virtual wire mode: the boot processor gets it, even software-disabled; not the others. */
    apic_bus_set_lint0(set.bus, 0, true);
    assert_int_equal(cpu->irq_kicks, 1);
    assert_int_equal(lapic_pending(cpu->lapic), 0x23);
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0x23);
    assert_int_equal(lapic_pending(set.cpus[1].lapic), -1);
    assert_int_equal(set.cpus[1].irq_kicks, 0);
    assert_int_equal(apic_read(cpu, PPR), 0); /* not in the APIC's service */
    apic_bus_set_lint0(set.bus, 0, false);
    assert_int_equal(lapic_pending(cpu->lapic), -1);

    /* Masked, and unmasked while asserted. */
    apic_enable(cpu);
    apic_write(cpu, LVT_LINT0, 0x10700);
    apic_bus_set_lint0(set.bus, 0, true);
    assert_int_equal(lapic_pending(cpu->lapic), -1);
    unsigned kicks = cpu->irq_kicks;
    apic_write(cpu, LVT_LINT0, 0x700);
    assert_true(cpu->irq_kicks > kicks);
    assert_int_equal(lapic_pending(cpu->lapic), 0x23);
    apic_bus_set_lint0(set.bus, 0, false);

    /* As an edge with a vector of its own, and as NMI. */
    apic_write(cpu, LVT_LINT0, 0x66);
    apic_bus_set_lint0(set.bus, 0, true);
    assert_int_equal(lapic_acknowledge(cpu->lapic), 0x66);
    apic_bus_set_lint0(set.bus, 0, false);
    apic_write(cpu, LVT_LINT0, 0x400);
    apic_bus_set_lint0(set.bus, 0, true);
    assert_int_equal(cpu->nmis, 1);
    apic_bus_set_lint0(set.bus, 0, false);

    /* Switched off altogether, the pin is the processor's. */
    msr_write(cpu, MSR_APIC_BASE, PLATFORM_LAPIC_BASE);
    apic_bus_set_lint0(set.bus, 0, true);
    assert_int_equal(lapic_pending(cpu->lapic), 0x23);
    apic_set_destroy(&set);
}

static void test_odd_accesses(void **state)
{
    struct apic_set set;
    apic_set_create(&set, 1);
    struct apic_cpu *cpu = &set.cpus[0];
    const uint64_t base = PLATFORM_LAPIC_BASE;
    assert_int_equal(bus_read(cpu->mmio, base + 0x30, 1), 0x14);
    assert_int_equal(bus_read(cpu->mmio, base + 0x32, 2), 0x0005);
    assert_int_equal(bus_read(cpu->mmio, base + 0x30, 8), 0x00050014);
    assert_int_equal(bus_read(cpu->mmio, base + 0x34, 4), 0);
    bus_write(cpu->mmio, base + TPR, 1, 0x50); /* only whole registers */
    bus_write(cpu->mmio, base + TPR + 4, 4, 0x50);
    assert_int_equal(apic_read(cpu, TPR), 0);
    apic_set_destroy(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset_state),
        cmocka_unit_test(test_bus_limits),
        cmocka_unit_test(test_priority_and_eoi),
        cmocka_unit_test(test_all_vectors),
        cmocka_unit_test(test_tpr),
        cmocka_unit_test(test_eoi_broadcast_of_level),
        cmocka_unit_test(test_ipi_destinations),
        cmocka_unit_test(test_lowest_priority),
        cmocka_unit_test(test_startup_ipis),
        cmocka_unit_test(test_mode_transitions),
        cmocka_unit_test(test_x2apic_registers),
        cmocka_unit_test(test_x2apic_not_offered),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_software_disable),
        cmocka_unit_test(test_lint0),
        cmocka_unit_test(test_odd_accesses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
