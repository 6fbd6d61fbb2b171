/*
 * What the guest sees of its local APIC: 32-bit registers at multiples of 16 in the register page
 * (xAPIC), or the same registers as MSRs (x2APIC), and IA32_APIC_BASE, which chooses. The two faces
 * differ in the id, the ICR and in how they refuse: the page ignores nonsense and notes it in ESR,
 * an MSR gives #GP and does nothing.
 */
#include "dev/lapic_internal.h"

#define VERSION_REGISTER (0x14u | (LVT_COUNT - 1) << 16)

#define ICR_LOW_WRITABLE 0x000ccfffu

/* What the guest can write of each LVT entry. */
static const uint32_t lvt_writable[LVT_COUNT] = {
    [LVT_TIMER] = LVT_MODE | LVT_MASKED | LVT_VECTOR,
    [LVT_THERMAL] = LVT_MASKED | LVT_DELIVERY | LVT_VECTOR,
    [LVT_PERFORMANCE] = LVT_MASKED | LVT_DELIVERY | LVT_VECTOR,
    [LVT_LINT0] = LVT_MASKED | LVT_LEVEL | LVT_POLARITY | LVT_DELIVERY | LVT_VECTOR,
    [LVT_LINT1] = LVT_MASKED | LVT_LEVEL | LVT_POLARITY | LVT_DELIVERY | LVT_VECTOR,
    [LVT_ERROR] = LVT_MASKED | LVT_VECTOR,
};

static bool is_lvt(unsigned reg)
{
    return reg >= LAPIC_LVT && reg < LAPIC_LVT + LVT_COUNT;
}

static uint32_t lvt_mask(const struct lapic *lapic, unsigned entry)
{
    uint32_t mask = lvt_writable[entry];
    return entry == LVT_TIMER && !lapic->deadline_offered ? mask & ~LVT_DEADLINE : mask;
}

/* False: there is no such register, or it cannot be read. */
static bool register_read(struct lapic *lapic, unsigned reg, uint32_t *value)
{
    bool x2apic = lapic_mode(lapic) == LAPIC_X2APIC;
    bool found = true;
    *value = 0;
    pthread_mutex_lock(&lapic->lock);
    if (reg >= LAPIC_ISR && reg < LAPIC_ISR + 8) {
        *value = lapic->isr[reg - LAPIC_ISR];
    } else if (reg >= LAPIC_TMR && reg < LAPIC_TMR + 8) {
        *value = atomic_load(&lapic->tmr[reg - LAPIC_TMR]);
    } else if (reg >= LAPIC_IRR && reg < LAPIC_IRR + 8) {
        *value = atomic_load(&lapic->irr[reg - LAPIC_IRR]);
    } else if (is_lvt(reg)) {
        *value = atomic_load(&lapic->lvt[reg - LAPIC_LVT]);
    } else {
        switch (reg) {
        case LAPIC_ID:
            *value = x2apic ? lapic->id : lapic->id << 24;
            break;
        case LAPIC_VERSION:
            *value = VERSION_REGISTER;
            break;
        case LAPIC_TPR:
            *value = lapic->tpr;
            break;
        case LAPIC_PPR:
            *value = atomic_load(&lapic->ppr);
            break;
        case LAPIC_LDR:
            *value = atomic_load(&lapic->ldr);
            break;
        case LAPIC_SVR:
            *value = atomic_load(&lapic->svr);
            break;
        case LAPIC_ESR:
            *value = lapic->esr;
            break;
        case LAPIC_ICR:
            *value = (uint32_t)lapic->icr;
            break;
        case LAPIC_TIMER_INITIAL:
            *value = lapic->timer.initial;
            break;
        case LAPIC_TIMER_CURRENT:
            *value = lapic_timer_current(lapic);
            break;
        case LAPIC_TIMER_DIVIDE:
            *value = lapic->timer.divide;
            break;
        case LAPIC_DFR:
            *value = atomic_load(&lapic->dfr);
            found = !x2apic;
            break;
        case LAPIC_ICR_HIGH:
            *value = (uint32_t)(lapic->icr >> 32);
            found = !x2apic;
            break;
        case LAPIC_APR:
        case LAPIC_EOI: /* write-only; the page reads 0 */
        case LAPIC_REMOTE_READ:
            found = !x2apic;
            break;
        default:
            found = false;
        }
    }
    pthread_mutex_unlock(&lapic->lock);
    return found;
}

/* Sends what the ICR says. */
static void send_ipi(struct lapic *lapic, uint64_t icr)
{
    struct apic_message message = {
        .logical = (icr & ICR_LOGICAL) != 0,
        .delivery = (enum apic_delivery)(icr >> 8 & 7),
        .vector = (uint8_t)icr,
    };
    if (message.delivery == APIC_INIT && (icr & (ICR_LEVEL | ICR_ASSERT)) == ICR_LEVEL)
        return; /* INIT level de-assert: only arbitration ids, long ago */
    if ((message.delivery == APIC_FIXED || message.delivery == APIC_LOWEST_PRIORITY) &&
        message.vector < 16) {
        lapic_error(lapic, ESR_SEND_ILLEGAL_VECTOR);
        return;
    }
    switch (icr & ICR_SHORTHAND) {
    case ICR_SELF:
        lapic_accept(lapic, message.delivery, message.vector, false);
        return;
    case ICR_ALL:
        apic_bus_deliver_all(lapic->bus, NULL, &message);
        return;
    case ICR_ALL_BUT_SELF:
        apic_bus_deliver_all(lapic->bus, lapic, &message);
        return;
    }
    message.destination = (uint32_t)(icr >> 32);
    if (lapic_mode(lapic) != LAPIC_X2APIC) {
        message.destination >>= 24;
        if (message.destination == 0xff && !message.logical)
            message.destination = APIC_BROADCAST;
    }
    apic_bus_deliver(lapic->bus, &message);
}

/* bits: what is replaced by value. `send`: the write is the one that sends. */
static void write_icr(struct lapic *lapic, uint64_t bits, uint64_t value, bool send)
{
    pthread_mutex_lock(&lapic->lock);
    lapic->icr = (lapic->icr & ~bits) | (value & bits);
    uint64_t icr = lapic->icr;
    pthread_mutex_unlock(&lapic->lock);
    if (send)
        send_ipi(lapic, icr);
}

static void write_svr(struct lapic *lapic, uint32_t value)
{
    pthread_mutex_lock(&lapic->lock);
    atomic_store(&lapic->svr, value & 0x3ff);
    if ((value & SVR_ENABLED) == 0) {
        for (unsigned entry = 0; entry < LVT_COUNT; entry++)
            atomic_fetch_or(&lapic->lvt[entry], LVT_MASKED);
        lapic_timer_lvt_changed(lapic, atomic_load(&lapic->lvt[LVT_TIMER]));
    }
    pthread_mutex_unlock(&lapic->lock);
}

static void write_lvt(struct lapic *lapic, unsigned entry, uint32_t value)
{
    pthread_mutex_lock(&lapic->lock);
    value &= lvt_mask(lapic, entry);
    if ((atomic_load(&lapic->svr) & SVR_ENABLED) == 0)
        value |= LVT_MASKED;
    uint32_t before = atomic_exchange(&lapic->lvt[entry], value);
    if (entry == LVT_TIMER)
        lapic_timer_lvt_changed(lapic, before);
    pthread_mutex_unlock(&lapic->lock);
    if (entry == LVT_LINT0)
        lapic_kick_if_pending(lapic);
}

static void write_timer(struct lapic *lapic, unsigned reg, uint32_t value)
{
    pthread_mutex_lock(&lapic->lock);
    if (reg == LAPIC_TIMER_INITIAL)
        lapic_timer_set_initial(lapic, value);
    else
        lapic_timer_set_divide(lapic, value);
    pthread_mutex_unlock(&lapic->lock);
}

/* A write of ESR shows what errors came since the last one. */
static void write_esr(struct lapic *lapic)
{
    pthread_mutex_lock(&lapic->lock);
    lapic->esr = lapic->esr_new;
    lapic->esr_new = 0;
    pthread_mutex_unlock(&lapic->lock);
}

/* Registers that both faces have, with checked values. False: none such. */
static bool register_write(struct lapic *lapic, unsigned reg, uint32_t value)
{
    if (is_lvt(reg)) {
        write_lvt(lapic, reg - LAPIC_LVT, value);
        return true;
    }
    switch (reg) {
    case LAPIC_TPR:
        lapic_set_tpr(lapic, (uint8_t)value);
        return true;
    case LAPIC_EOI:
        lapic_end_of_interrupt(lapic);
        return true;
    case LAPIC_SVR:
        write_svr(lapic, value);
        return true;
    case LAPIC_ESR:
        write_esr(lapic);
        return true;
    case LAPIC_TIMER_INITIAL:
    case LAPIC_TIMER_DIVIDE:
        write_timer(lapic, reg, value);
        return true;
    }
    return false;
}

static bool is_read_only(unsigned reg)
{
    return reg == LAPIC_ID || reg == LAPIC_VERSION || reg == LAPIC_APR || reg == LAPIC_PPR ||
           reg == LAPIC_REMOTE_READ || reg == LAPIC_TIMER_CURRENT ||
           (reg >= LAPIC_ISR && reg < LAPIC_IRR + 8);
}

/* A register is the low 4 of its 16 bytes; the others read 0. */
static uint64_t mmio_read(void *context, uint64_t offset, unsigned size)
{
    struct lapic *lapic = context;
    if (lapic_mode(lapic) != LAPIC_XAPIC) /* nothing is decoded here */
        return bits_truncate(UINT64_MAX, size);
    unsigned byte = (unsigned)(offset & 0xf);
    if (byte >= 4)
        return 0;
    uint32_t value;
    if (!register_read(lapic, (unsigned)(offset >> 4), &value))
        lapic_error(lapic, ESR_ILLEGAL_REGISTER);
    return bits_truncate(value >> (8 * byte), size);
}

/* Only whole, aligned writes count, as the SDM demands. */
static void mmio_write(void *context, uint64_t offset, unsigned size, uint64_t wide)
{
    struct lapic *lapic = context;
    if (lapic_mode(lapic) != LAPIC_XAPIC || size != 4 || (offset & 0xf) != 0)
        return;
    unsigned reg = (unsigned)(offset >> 4);
    uint32_t value = (uint32_t)wide;
    switch (reg) {
    case LAPIC_LDR:
        atomic_store(&lapic->ldr, value & 0xff000000);
        return;
    case LAPIC_DFR:
        atomic_store(&lapic->dfr, value | 0x0fffffff);
        return;
    case LAPIC_ICR:
        write_icr(lapic, UINT32_MAX, value & ICR_LOW_WRITABLE, true);
        return;
    case LAPIC_ICR_HIGH:
        write_icr(lapic, (uint64_t)0xff000000 << 32, (uint64_t)value << 32, false);
        return;
    }
    if (!register_write(lapic, reg, value) && !is_read_only(reg))
        lapic_error(lapic, ESR_ILLEGAL_REGISTER);
}

const struct bus_ops lapic_mmio_ops = {.read = mmio_read, .write = mmio_write};

enum status lapic_attach(struct lapic *lapic, struct bus *mmio, struct error *err)
{
    return bus_add(mmio, PLATFORM_LAPIC_BASE, PLATFORM_LAPIC_SIZE, &lapic_mmio_ops, lapic, err);
}

static bool x2apic_read(struct lapic *lapic, unsigned reg, uint64_t *value)
{
    uint32_t low;
    if (!register_read(lapic, reg, &low))
        return false;
    *value = low;
    if (reg == LAPIC_ICR) {
        pthread_mutex_lock(&lapic->lock);
        *value = lapic->icr;
        pthread_mutex_unlock(&lapic->lock);
    }
    return true;
}

/* What may be set in a register's MSR; anything else, and registers not named here, is #GP. */
static bool x2apic_writable(const struct lapic *lapic, unsigned reg, uint64_t *mask)
{
    if (is_lvt(reg)) {
        *mask = lvt_mask(lapic, reg - LAPIC_LVT);
        return true;
    }
    switch (reg) {
    case LAPIC_TPR:
    case LAPIC_SELF_IPI:
        *mask = 0xff;
        return true;
    case LAPIC_EOI:
    case LAPIC_ESR:
        *mask = 0;
        return true;
    case LAPIC_SVR:
        *mask = 0x3ff;
        return true;
    case LAPIC_ICR:
        *mask = (uint64_t)UINT32_MAX << 32 | ICR_LOW_WRITABLE;
        return true;
    case LAPIC_TIMER_INITIAL:
        *mask = UINT32_MAX;
        return true;
    case LAPIC_TIMER_DIVIDE:
        *mask = 0xb;
        return true;
    }
    return false;
}

static bool x2apic_write(struct lapic *lapic, unsigned reg, uint64_t value)
{
    uint64_t mask;
    if (!x2apic_writable(lapic, reg, &mask) || (value & ~mask) != 0)
        return false;
    if (reg == LAPIC_ICR)
        write_icr(lapic, UINT64_MAX, value, true);
    else if (reg == LAPIC_SELF_IPI)
        send_ipi(lapic, ICR_SELF | value);
    else
        register_write(lapic, reg, (uint32_t)value);
    return true;
}

static bool write_base(struct lapic *lapic, uint64_t value)
{
    uint32_t known = APIC_BASE_EN | APIC_BASE_BSP | (lapic->x2apic_offered ? APIC_BASE_EXTD : 0);
    if ((value & ~(uint64_t)known) != PLATFORM_LAPIC_BASE)
        return false;
    uint32_t before = atomic_load(&lapic->base);
    uint32_t modes = APIC_BASE_EN | APIC_BASE_EXTD;
    uint32_t from = before & modes;
    uint32_t to = (uint32_t)value & modes;
    /* SDM: x2APIC is entered from xAPIC alone and left to disabled alone. */
    if (to == APIC_BASE_EXTD || (from == 0 && to == modes) || (from == modes && to == APIC_BASE_EN))
        return false;
    if (from == to)
        return true;

    pthread_mutex_lock(&lapic->lock);
    atomic_store(&lapic->base, (before & APIC_BASE_BSP) | to);
    if (to == modes) {
        atomic_store(&lapic->ldr, lapic_x2apic_ldr(lapic));
        lapic->icr &= UINT32_MAX;
    } else if (to == 0) {
        lapic_reset_registers(lapic);
    }
    pthread_mutex_unlock(&lapic->lock);
    return true;
}

bool lapic_read_msr(void *context, uint32_t msr, uint64_t *value)
{
    struct lapic *lapic = context;
    if (msr == MSR_APIC_BASE) {
        *value = PLATFORM_LAPIC_BASE | atomic_load(&lapic->base);
        return true;
    }
    if (msr == MSR_TSC_DEADLINE) {
        pthread_mutex_lock(&lapic->lock);
        *value = lapic_timer_deadline(lapic);
        pthread_mutex_unlock(&lapic->lock);
        return lapic->deadline_offered;
    }
    if (msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST || lapic_mode(lapic) != LAPIC_X2APIC)
        return false;
    return x2apic_read(lapic, msr - MSR_X2APIC_FIRST, value);
}

static void write_deadline(struct lapic *lapic, uint64_t deadline)
{
    int64_t offset = lapic->hooks.tsc_offset(lapic->hooks.context);
    pthread_mutex_lock(&lapic->lock);
    bool expired = lapic_timer_set_deadline(lapic, deadline, offset);
    pthread_mutex_unlock(&lapic->lock);
    if (expired)
        lapic_local_interrupt(lapic, LVT_TIMER);
}

bool lapic_write_msr(void *context, uint32_t msr, uint64_t value)
{
    struct lapic *lapic = context;
    if (msr == MSR_APIC_BASE)
        return write_base(lapic, value);
    if (msr == MSR_TSC_DEADLINE) {
        if (lapic->deadline_offered)
            write_deadline(lapic, value);
        return lapic->deadline_offered;
    }
    if (msr < MSR_X2APIC_FIRST || msr > MSR_X2APIC_LAST || lapic_mode(lapic) != LAPIC_X2APIC)
        return false;
    return x2apic_write(lapic, msr - MSR_X2APIC_FIRST, value);
}

void lapic_tsc_changed(void *context)
{
    struct lapic *lapic = context;
    pthread_mutex_lock(&lapic->lock);
    uint64_t deadline = lapic_timer_deadline(lapic);
    pthread_mutex_unlock(&lapic->lock);
    if (deadline != 0)
        write_deadline(lapic, deadline);
}
