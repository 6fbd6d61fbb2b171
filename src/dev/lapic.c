/*
 * The heart of the local APIC: requests, the processor priority, acknowledge and end of interrupt.
 * The essay on threads and locks is in lapic_internal.h.
 *
 * The way of an interrupt: lapic_accept sets its bit in IRR and kicks the vCPU; at a safepoint that
 * asks lapic_pending, and when it can take interrupts calls lapic_acknowledge, which moves the bit
 * to ISR and so raises the processor priority; the guest's EOI clears the highest bit of ISR.
 */
#include "dev/lapic.h"

#include <stdlib.h>

#include "dev/lapic_internal.h"

static int highest_bit(const uint32_t words[8])
{
    for (int word = 7; word >= 0; word--) {
        if (words[word] != 0)
            return word * 32 + 31 - __builtin_clz(words[word]);
    }
    return -1;
}

static int highest_request(struct lapic *lapic)
{
    uint32_t words = atomic_load(&lapic->irr_words);
    while (words != 0) {
        int word = 31 - __builtin_clz(words);
        uint32_t requests = atomic_load(&lapic->irr[word]);
        if (requests != 0)
            return word * 32 + 31 - __builtin_clz(requests);
        words &= ~(1u << word);
    }
    return -1;
}

static void clear_request(struct lapic *lapic, uint8_t vector)
{
    unsigned word = vector / 32;
    uint32_t mask = 1u << (vector % 32);
    if ((atomic_fetch_and(&lapic->irr[word], ~mask) & ~mask) != 0)
        return;
    atomic_fetch_and(&lapic->irr_words, ~(1u << word));
    if (atomic_load(&lapic->irr[word]) != 0) /* one came in between */
        atomic_fetch_or(&lapic->irr_words, 1u << word);
}

/* Processor priority: the task's, or that of the interrupt in service where its class is higher.
 * With the lock held. */
static void update_ppr(struct lapic *lapic)
{
    int in_service = highest_bit(lapic->isr);
    uint8_t class = in_service < 0 ? 0 : (uint8_t)(in_service & 0xf0);
    atomic_store(&lapic->ppr, (lapic->tpr & 0xf0) >= class ? lapic->tpr : class);
}

/* The request that the processor priority lets through, or -1. */
static int deliverable_request(struct lapic *lapic)
{
    int vector = highest_request(lapic);
    if (vector < 0 || (vector >> 4) <= (atomic_load(&lapic->ppr) >> 4))
        return -1;
    return lapic_mode(lapic) == LAPIC_DISABLED ? -1 : vector;
}

/* LINT0 as the PIC's interrupt request: so configured, or the APIC switched off altogether, which
 * leaves the pin to the processor core. */
static bool extint_requested(const struct lapic *lapic)
{
    if (!atomic_load_explicit(&lapic->lint0, memory_order_acquire))
        return false;
    if (lapic_mode(lapic) == LAPIC_DISABLED)
        return true;
    uint32_t lvt = atomic_load(&lapic->lvt[LVT_LINT0]);
    return (lvt & (LVT_MASKED | LVT_DELIVERY)) == (uint32_t)APIC_EXTINT << 8;
}

int lapic_pending(void *context)
{
    struct lapic *lapic = context;
    if (unlikely(extint_requested(lapic))) {
        int vector = apic_bus_pic_pending(lapic->bus);
        if (vector >= 0)
            return vector;
    }
    return deliverable_request(lapic);
}

int lapic_acknowledge(void *context)
{
    struct lapic *lapic = context;
    if (unlikely(extint_requested(lapic))) {
        int vector = apic_bus_pic_acknowledge(lapic->bus);
        if (vector >= 0) {
            lapic_kick_if_pending(lapic); /* of its own accord nobody says what is left */
            return vector;
        }
    }
    pthread_mutex_lock(&lapic->lock);
    int vector = deliverable_request(lapic);
    if (vector >= 0) {
        clear_request(lapic, (uint8_t)vector);
        lapic->isr[vector / 32] |= 1u << (vector % 32);
        update_ppr(lapic);
    }
    pthread_mutex_unlock(&lapic->lock);
    return vector;
}

void lapic_kick_if_pending(struct lapic *lapic)
{
    if (lapic_pending(lapic) >= 0)
        lapic->hooks.kick(lapic->hooks.context, LAPIC_KICK_IRQ, 0);
}

void lapic_end_of_interrupt(struct lapic *lapic)
{
    pthread_mutex_lock(&lapic->lock);
    int vector = highest_bit(lapic->isr);
    bool level = false;
    if (vector >= 0) {
        uint32_t mask = 1u << (vector % 32);
        lapic->isr[vector / 32] &= ~mask;
        level = (atomic_load(&lapic->tmr[vector / 32]) & mask) != 0;
        update_ppr(lapic);
    }
    pthread_mutex_unlock(&lapic->lock);
    if (level)
        apic_bus_eoi(lapic->bus, (uint8_t)vector);
    lapic_kick_if_pending(lapic);
}

void lapic_set_tpr(struct lapic *lapic, uint8_t tpr)
{
    pthread_mutex_lock(&lapic->lock);
    lapic->tpr = tpr;
    update_ppr(lapic);
    pthread_mutex_unlock(&lapic->lock);
    lapic_kick_if_pending(lapic);
}

uint64_t lapic_read_tpr(void *context)
{
    struct lapic *lapic = context;
    pthread_mutex_lock(&lapic->lock);
    uint64_t cr8 = lapic->tpr >> 4;
    pthread_mutex_unlock(&lapic->lock);
    return cr8;
}

void lapic_write_tpr(void *context, uint64_t cr8)
{
    lapic_set_tpr(context, (uint8_t)((cr8 & 0xf) << 4));
}

bool lapic_matches(const struct lapic *lapic, const struct apic_message *message)
{
    enum lapic_mode mode = lapic_mode(lapic);
    uint32_t destination = message->destination;
    if (mode == LAPIC_DISABLED)
        return false;
    if (destination == APIC_BROADCAST)
        return true;
    if (!message->logical)
        return destination == lapic->id;

    uint32_t ldr = atomic_load_explicit(&lapic->ldr, memory_order_relaxed);
    if (mode == LAPIC_X2APIC)
        return ldr >> 16 == destination >> 16 && (ldr & destination & 0xffff) != 0;
    if (destination > 0xff)
        return false;
    uint32_t logical_id = ldr >> 24;
    if (atomic_load_explicit(&lapic->dfr, memory_order_relaxed) >> 28 == 0xf) /* flat */
        return (logical_id & destination) != 0;
    bool same_cluster = destination >> 4 == 0xf || destination >> 4 == logical_id >> 4;
    return same_cluster && (logical_id & destination & 0xf) != 0;
}

static bool accept_vector(struct lapic *lapic, uint8_t vector, bool level)
{
    if ((atomic_load(&lapic->svr) & SVR_ENABLED) == 0)
        return false;
    if (vector < 16) {
        lapic_error(lapic, ESR_RECEIVE_ILLEGAL_VECTOR);
        return false;
    }
    unsigned word = vector / 32;
    uint32_t mask = 1u << (vector % 32);
    if (level)
        atomic_fetch_or(&lapic->tmr[word], mask);
    else
        atomic_fetch_and(&lapic->tmr[word], ~mask);
    uint32_t before = atomic_fetch_or(&lapic->irr[word], mask);
    atomic_fetch_or(&lapic->irr_words, 1u << word);
    if ((before & mask) == 0) /* else whoever set it has kicked */
        lapic->hooks.kick(lapic->hooks.context, LAPIC_KICK_IRQ, 0);
    return true;
}

bool lapic_accept(struct lapic *lapic, enum apic_delivery delivery, uint8_t vector, bool level)
{
    if (lapic_mode(lapic) == LAPIC_DISABLED)
        return false;
    switch (delivery) {
    case APIC_FIXED:
    case APIC_LOWEST_PRIORITY:
        return accept_vector(lapic, vector, level);
    case APIC_NMI:
        lapic->hooks.kick(lapic->hooks.context, LAPIC_KICK_NMI, 0);
        return true;
    case APIC_INIT:
        lapic_reset(lapic, true);
        lapic->hooks.kick(lapic->hooks.context, LAPIC_KICK_INIT, 0);
        return true;
    case APIC_SIPI:
        lapic->hooks.kick(lapic->hooks.context, LAPIC_KICK_SIPI, vector);
        return true;
    case APIC_SMI:
    case APIC_EXTINT:
        break;
    }
    return false;
}

void lapic_local_interrupt(struct lapic *lapic, enum lapic_lvt entry)
{
    uint32_t lvt = atomic_load(&lapic->lvt[entry]);
    if (lvt & LVT_MASKED)
        return;
    /* The timer's and the error entry have no delivery mode: these bits are 0, which is fixed. */
    enum apic_delivery delivery = (enum apic_delivery)((lvt & LVT_DELIVERY) >> 8);
    if (delivery == APIC_FIXED || delivery == APIC_NMI)
        lapic_accept(lapic, delivery, (uint8_t)(lvt & LVT_VECTOR), false);
}

void lapic_set_lint0(struct lapic *lapic, bool level)
{
    bool before = atomic_exchange(&lapic->lint0, level);
    if (before || !level)
        return;
    if (extint_requested(lapic))
        lapic->hooks.kick(lapic->hooks.context, LAPIC_KICK_IRQ, 0);
    else if (lapic_mode(lapic) != LAPIC_DISABLED)
        lapic_local_interrupt(lapic, LVT_LINT0);
}

void lapic_error(struct lapic *lapic, uint32_t bits)
{
    pthread_mutex_lock(&lapic->lock);
    lapic->esr_new |= bits;
    pthread_mutex_unlock(&lapic->lock);
    /* An error entry with an illegal vector would be an error again, and so on. */
    if ((atomic_load(&lapic->lvt[LVT_ERROR]) & LVT_VECTOR) >= 16)
        lapic_local_interrupt(lapic, LVT_ERROR);
}

void lapic_reset_registers(struct lapic *lapic)
{
    for (unsigned word = 0; word < 8; word++) {
        atomic_store(&lapic->irr[word], 0);
        atomic_store(&lapic->tmr[word], 0);
        lapic->isr[word] = 0;
    }
    atomic_store(&lapic->irr_words, 0);
    for (unsigned entry = 0; entry < LVT_COUNT; entry++)
        atomic_store(&lapic->lvt[entry], LVT_MASKED);
    atomic_store(&lapic->svr, 0xff);
    atomic_store(&lapic->dfr, UINT32_MAX);
    atomic_store(&lapic->ldr, lapic_mode(lapic) == LAPIC_X2APIC ? lapic_x2apic_ldr(lapic) : 0);
    lapic->tpr = 0;
    lapic->esr = 0;
    lapic->esr_new = 0;
    lapic->icr = 0;
    update_ppr(lapic);
    lapic_timer_reset(lapic);
}

void lapic_reset(struct lapic *lapic, bool init)
{
    pthread_mutex_lock(&lapic->lock);
    if (!init)
        atomic_store(&lapic->base, APIC_BASE_EN | (lapic->boot_processor ? APIC_BASE_BSP : 0));
    lapic_reset_registers(lapic);
    if (!init && lapic->boot_processor)
        atomic_store(&lapic->lvt[LVT_LINT0], (uint32_t)APIC_EXTINT << 8);
    pthread_mutex_unlock(&lapic->lock);
}

enum status lapic_create(struct lapic **result, const struct lapic_config *config,
                         struct error *err)
{
    *result = NULL;
    if (config->id > 254)
        return error_set(err, STATUS_INVALID, "local APIC id %u is above 254", config->id);
    struct lapic *lapic = calloc(1, sizeof *lapic);
    if (lapic == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a local APIC");
    lapic->bus = config->bus;
    lapic->id = config->id;
    lapic->boot_processor = config->boot_processor;
    lapic->x2apic_offered = config->x2apic;
    lapic->deadline_offered = config->tsc_deadline;
    lapic->time = config->time;
    lapic->hooks = config->hooks;
    pthread_mutex_init(&lapic->lock, NULL);

    enum status status = lapic->time.timer_create(lapic->time.context, &lapic->timer.host,
                                                  lapic_timer_callback, lapic, err);
    if (status == STATUS_OK) {
        lapic_reset(lapic, false);
        status = apic_bus_join(lapic->bus, lapic, err);
    }
    if (status != STATUS_OK) {
        lapic_destroy(lapic);
        return status;
    }
    *result = lapic;
    return STATUS_OK;
}

void lapic_destroy(struct lapic *lapic)
{
    if (lapic == NULL)
        return;
    apic_bus_leave(lapic->bus, lapic);
    lapic->time.timer_destroy(lapic->timer.host);
    pthread_mutex_destroy(&lapic->lock);
    free(lapic);
}
