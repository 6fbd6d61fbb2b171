#ifndef AEROSTAT_TESTS_GUEST_APIC_H
#define AEROSTAT_TESTS_GUEST_APIC_H

/* The local APIC through its memory window, and waiting without hanging. */

#include "guest.h"

enum {
    APIC_ID = 0x20,
    APIC_VERSION = 0x30,
    APIC_TPR = 0x80,
    APIC_EOI = 0xb0,
    APIC_SVR = 0xf0,
    APIC_IRR = 0x200,
    APIC_ICR_LOW = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_LINT0 = 0x350,
    APIC_INITIAL = 0x380,
    APIC_CURRENT = 0x390,
    APIC_DIVIDE = 0x3e0,
    APIC_SPURIOUS_VECTOR = 0xff,
};

static inline volatile uint32_t *apic_register(unsigned offset)
{
    return (volatile uint32_t *)(0xfee00000ul + offset);
}

static inline uint32_t apic_read(unsigned offset)
{
    return *apic_register(offset);
}

static inline void apic_write(unsigned offset, uint32_t value)
{
    *apic_register(offset) = value;
}

static inline void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}

static inline void apic_send(uint32_t destination, uint32_t command)
{
    while (apic_read(APIC_ICR_LOW) & 1 << 12)
        __asm__ volatile("pause");
    apic_write(APIC_ICR_HIGH, destination << 24);
    apic_write(APIC_ICR_LOW, command);
}

/* Waits with interrupts on until *counter reaches `wanted`. False after a long time: tens of
 * seconds at any clock. */
static inline bool wait_for(volatile unsigned *counter, unsigned wanted)
{
    uint64_t start = rdtsc();
    __asm__ volatile("sti");
    while (*counter < wanted && rdtsc() - start < 60000000000)
        __asm__ volatile("pause");
    __asm__ volatile("cli");
    return *counter >= wanted;
}

#endif
