/*
 * A pin's way: an edge is sent at once, if the pin is not masked; a level is sent, marked "remote
 * IRR" until the local APIC's end of interrupt comes back, and then sent again while the line is
 * still asserted. The lock is held while sending: it comes before the locks of local APICs, and
 * none of those is ever held by whoever calls in here.
 */
#include "dev/ioapic.h"

#include <pthread.h>
#include <stdlib.h>

#include "dev/platform.h"
#include "util/bits.h"

#define REGISTER_SELECT 0x00u
#define REGISTER_WINDOW 0x10u
#define REGISTER_EOI    0x40u
#define IOAPIC_SIZE     0x1000u

/* Behind the window. */
#define INDEX_ID          0x00u
#define INDEX_VERSION     0x01u
#define INDEX_ARBITRATION 0x02u
#define INDEX_ENTRIES     0x10u

#define VERSION (0x20u | (PLATFORM_IOAPIC_PINS - 1) << 16)

#define ENTRY_VECTOR     0xffull
#define ENTRY_LOGICAL    (1ull << 11)
#define ENTRY_REMOTE_IRR (1ull << 14)
#define ENTRY_LEVEL      (1ull << 15)
#define ENTRY_MASKED     (1ull << 16)
/* Vector, delivery mode, destination mode, polarity, trigger, mask; destination. */
#define ENTRY_WRITABLE (0xff0000000001afffull)

struct ioapic {
    struct apic_bus *bus;
    pthread_mutex_t lock;
    uint8_t select;
    uint32_t id;    /* bits 27-24 */
    uint32_t lines; /* a bit a pin: asserted */
    uint64_t entries[PLATFORM_IOAPIC_PINS];
};

static bool send_pin(struct ioapic *ioapic, unsigned pin)
{
    uint64_t entry = ioapic->entries[pin];
    struct apic_message message = {
        .destination = (uint32_t)(entry >> 56),
        .logical = (entry & ENTRY_LOGICAL) != 0,
        .delivery = (enum apic_delivery)(entry >> 8 & 7),
        .vector = (uint8_t)(entry & ENTRY_VECTOR),
        .level = (entry & ENTRY_LEVEL) != 0,
    };
    if (message.destination == 0xff && !message.logical)
        message.destination = APIC_BROADCAST;
    return apic_bus_deliver(ioapic->bus, &message);
}

/* Sends a level-triggered pin where its line asks for it and nothing is under way. */
static void service_level(struct ioapic *ioapic, unsigned pin)
{
    uint64_t entry = ioapic->entries[pin];
    bool wanted = (ioapic->lines >> pin & 1) != 0 && (entry & ENTRY_LEVEL) != 0;
    if (wanted && (entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR)) == 0 && send_pin(ioapic, pin))
        ioapic->entries[pin] |= ENTRY_REMOTE_IRR;
}

static void line_set(void *context, unsigned pin, bool level)
{
    struct ioapic *ioapic = context;
    if (pin >= PLATFORM_IOAPIC_PINS)
        return;
    pthread_mutex_lock(&ioapic->lock);
    bool before = (ioapic->lines >> pin & 1) != 0;
    if (level)
        ioapic->lines |= 1u << pin;
    else
        ioapic->lines &= ~(1u << pin);
    if (level && !before) {
        if (ioapic->entries[pin] & ENTRY_LEVEL)
            service_level(ioapic, pin);
        else if ((ioapic->entries[pin] & ENTRY_MASKED) == 0)
            send_pin(ioapic, pin);
    }
    pthread_mutex_unlock(&ioapic->lock);
}

bool ioapic_pin_is_open(struct ioapic *ioapic, unsigned pin)
{
    if (pin >= PLATFORM_IOAPIC_PINS)
        return false;
    pthread_mutex_lock(&ioapic->lock);
    bool open = (ioapic->entries[pin] & ENTRY_MASKED) == 0;
    pthread_mutex_unlock(&ioapic->lock);
    return open;
}

static void end_of_interrupt(struct ioapic *ioapic, uint8_t vector)
{
    for (unsigned pin = 0; pin < PLATFORM_IOAPIC_PINS; pin++) {
        uint64_t entry = ioapic->entries[pin];
        if ((entry & ENTRY_REMOTE_IRR) != 0 && (entry & ENTRY_VECTOR) == vector) {
            ioapic->entries[pin] &= ~ENTRY_REMOTE_IRR;
            service_level(ioapic, pin);
        }
    }
}

void ioapic_eoi(void *context, uint8_t vector)
{
    struct ioapic *ioapic = context;
    pthread_mutex_lock(&ioapic->lock);
    end_of_interrupt(ioapic, vector);
    pthread_mutex_unlock(&ioapic->lock);
}

static uint32_t window_read(const struct ioapic *ioapic)
{
    unsigned index = ioapic->select;
    if (index == INDEX_ID || index == INDEX_ARBITRATION)
        return ioapic->id;
    if (index == INDEX_VERSION)
        return VERSION;
    if (index < INDEX_ENTRIES || index >= INDEX_ENTRIES + 2 * PLATFORM_IOAPIC_PINS)
        return UINT32_MAX;
    uint64_t entry = ioapic->entries[(index - INDEX_ENTRIES) / 2];
    return (uint32_t)(index & 1 ? entry >> 32 : entry);
}

static void window_write(struct ioapic *ioapic, uint32_t value)
{
    unsigned index = ioapic->select;
    if (index == INDEX_ID)
        ioapic->id = value & 0x0f000000;
    if (index < INDEX_ENTRIES || index >= INDEX_ENTRIES + 2 * PLATFORM_IOAPIC_PINS)
        return;
    unsigned pin = (index - INDEX_ENTRIES) / 2;
    unsigned shift = index & 1 ? 32 : 0;
    uint64_t mask = ENTRY_WRITABLE & (uint64_t)UINT32_MAX << shift;
    uint64_t entry = (ioapic->entries[pin] & ~mask) | ((uint64_t)value << shift & mask);
    if ((entry & ENTRY_LEVEL) == 0)
        entry &= ~ENTRY_REMOTE_IRR; /* how kernels without the EOI register clear it */
    ioapic->entries[pin] = entry;
    service_level(ioapic, pin);
}

/* Registers are 32 bits wide at multiples of 16; a read elsewhere gives 0. */
static uint64_t mmio_read(void *context, uint64_t offset, unsigned size)
{
    struct ioapic *ioapic = context;
    unsigned byte = (unsigned)(offset & 0xf);
    uint32_t value = 0;
    pthread_mutex_lock(&ioapic->lock);
    switch (offset & ~(uint64_t)0xf) {
    case REGISTER_SELECT:
        value = ioapic->select;
        break;
    case REGISTER_WINDOW:
        value = window_read(ioapic);
        break;
    }
    pthread_mutex_unlock(&ioapic->lock);
    return byte >= 4 ? 0 : bits_truncate(value >> (8 * byte), size);
}

/* The select register may be written as a byte; the window only whole. */
static void mmio_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct ioapic *ioapic = context;
    pthread_mutex_lock(&ioapic->lock);
    if (offset == REGISTER_SELECT)
        ioapic->select = (uint8_t)value;
    else if (offset == REGISTER_WINDOW && size >= 4)
        window_write(ioapic, (uint32_t)value);
    else if (offset == REGISTER_EOI)
        end_of_interrupt(ioapic, (uint8_t)value);
    pthread_mutex_unlock(&ioapic->lock);
}

static const struct bus_ops ioapic_ops = {.read = mmio_read, .write = mmio_write};

enum status ioapic_create(struct ioapic **result, struct apic_bus *bus, struct error *err)
{
    struct ioapic *ioapic = calloc(1, sizeof *ioapic);
    *result = ioapic;
    if (ioapic == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the I/O APIC");
    ioapic->bus = bus;
    pthread_mutex_init(&ioapic->lock, NULL);
    ioapic_reset(ioapic);
    return STATUS_OK;
}

void ioapic_destroy(struct ioapic *ioapic)
{
    if (ioapic == NULL)
        return;
    pthread_mutex_destroy(&ioapic->lock);
    free(ioapic);
}

void ioapic_reset(struct ioapic *ioapic)
{
    pthread_mutex_lock(&ioapic->lock);
    ioapic->select = 0;
    ioapic->id = 0;
    for (unsigned pin = 0; pin < PLATFORM_IOAPIC_PINS; pin++)
        ioapic->entries[pin] = ENTRY_MASKED;
    pthread_mutex_unlock(&ioapic->lock); /* the lines are the devices' and stay as they are */
}

enum status ioapic_attach(struct ioapic *ioapic, struct bus *mmio, struct error *err)
{
    return bus_add(mmio, PLATFORM_IOAPIC_BASE, IOAPIC_SIZE, &ioapic_ops, ioapic, err);
}

struct irq_line ioapic_line(struct ioapic *ioapic, unsigned pin)
{
    return (struct irq_line){.set = line_set, .context = ioapic, .pin = pin};
}
