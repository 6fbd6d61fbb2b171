#ifndef AEROSTAT_DEV_LAPIC_INTERNAL_H
#define AEROSTAT_DEV_LAPIC_INTERNAL_H

/*
 * The local APIC from inside. lapic.c: requests, priorities, delivery; lapic_regs.c: what the guest
 * reads and writes; lapic_timer.c: the timer; apic_bus.c: who a message is for.
 *
 * Two kinds of state:
 *  - atomics, which other threads read (whom does this message match?) or set (a request in IRR),
 * so that delivering an interrupt and looking for one take no lock;
 *  - everything else, under `lock`. No function calls out of the local APIC (hooks, other local
 *    APICs, the I/O APIC, the PIC) with the lock held; only timers are armed under it.
 *
 * irr_words has bit w set where irr[w] may be non-zero: lapic_pending is one load when nothing is
 * requested. A deliverer sets IRR first and the summary after; the clearer clears the summary and
 * then looks at the word again, so that no request is ever without its summary bit for good.
 */

#include <pthread.h>
#include <stdatomic.h>

#include "dev/lapic.h"
#include "dev/platform.h"
#include "util/bits.h"

enum lapic_mode { LAPIC_DISABLED, LAPIC_XAPIC, LAPIC_X2APIC };

#define APIC_BASE_BSP  (1u << 8)
#define APIC_BASE_EXTD (1u << 10)
#define APIC_BASE_EN   (1u << 11)

/* Registers by their number: MMIO offset / 16, or MSR - 0x800. */
enum lapic_register {
    LAPIC_ID = 0x02,
    LAPIC_VERSION = 0x03,
    LAPIC_TPR = 0x08,
    LAPIC_APR = 0x09,
    LAPIC_PPR = 0x0a,
    LAPIC_EOI = 0x0b,
    LAPIC_REMOTE_READ = 0x0c,
    LAPIC_LDR = 0x0d,
    LAPIC_DFR = 0x0e,
    LAPIC_SVR = 0x0f,
    LAPIC_ISR = 0x10, /* 8 each */
    LAPIC_TMR = 0x18,
    LAPIC_IRR = 0x20,
    LAPIC_ESR = 0x28,
    LAPIC_ICR = 0x30,
    LAPIC_ICR_HIGH = 0x31,
    LAPIC_LVT = 0x32, /* LVT_COUNT of them */
    LAPIC_TIMER_INITIAL = 0x38,
    LAPIC_TIMER_CURRENT = 0x39,
    LAPIC_TIMER_DIVIDE = 0x3e,
    LAPIC_SELF_IPI = 0x3f,
};

/* In the order of their registers. */
enum lapic_lvt {
    LVT_TIMER,
    LVT_THERMAL,
    LVT_PERFORMANCE,
    LVT_LINT0,
    LVT_LINT1,
    LVT_ERROR,
    LVT_COUNT
};

#define LVT_VECTOR   0xffu
#define LVT_DELIVERY 0x700u
#define LVT_POLARITY (1u << 13)
#define LVT_LEVEL    (1u << 15)
#define LVT_MASKED   (1u << 16)
#define LVT_MODE     (3u << 17)
#define LVT_ONE_SHOT (0u << 17)
#define LVT_PERIODIC (1u << 17)
#define LVT_DEADLINE (2u << 17)

#define SVR_ENABLED (1u << 8)

#define ESR_SEND_ILLEGAL_VECTOR    (1u << 5)
#define ESR_RECEIVE_ILLEGAL_VECTOR (1u << 6)
#define ESR_ILLEGAL_REGISTER       (1u << 7)

#define ICR_LOGICAL      (1u << 11)
#define ICR_ASSERT       (1u << 14)
#define ICR_LEVEL        (1u << 15)
#define ICR_SHORTHAND    (3u << 18)
#define ICR_SELF         (1u << 18)
#define ICR_ALL          (2u << 18)
#define ICR_ALL_BUT_SELF (3u << 18)

struct lapic_timer {
    struct device_timer *host;
    uint32_t initial;
    uint8_t shift;  /* log2 of the divider */
    bool running;   /* one-shot: not yet expired */
    uint64_t start; /* when `initial` was loaded, ns; modular: may lie "before" 0 */
    uint64_t next;  /* what the host timer is armed for */
    bool armed;
    uint64_t last_expiry;
    uint32_t divide;    /* the register */
    uint64_t deadline;  /* guest TSC; 0: none */
    int64_t tsc_offset; /* as it was when the deadline was set */
};

struct lapic {
    struct apic_bus *bus;
    uint32_t id;
    bool boot_processor, x2apic_offered, deadline_offered;
    struct device_time time;
    struct lapic_hooks hooks;

    _Atomic uint32_t base; /* low half of IA32_APIC_BASE without the address */
    _Atomic uint32_t ldr, dfr, svr;
    _Atomic uint32_t lvt[LVT_COUNT];
    _Atomic uint32_t irr[8], tmr[8];
    _Atomic uint32_t irr_words;
    _Atomic uint8_t ppr;
    _Atomic bool lint0;

    pthread_mutex_t lock;
    uint32_t isr[8];
    uint8_t tpr;
    uint32_t esr, esr_new; /* as last latched by a write of ESR; errors since */
    uint64_t icr;
    struct lapic_timer timer;
};

static inline enum lapic_mode lapic_mode(const struct lapic *lapic)
{
    uint32_t base = atomic_load_explicit(&lapic->base, memory_order_relaxed);
    return (base & APIC_BASE_EN) == 0 ? LAPIC_DISABLED
           : (base & APIC_BASE_EXTD)  ? LAPIC_X2APIC
                                      : LAPIC_XAPIC;
}

/* The logical id in x2APIC mode follows from the id: 16 APICs a cluster, a bit each. */
static inline uint32_t lapic_x2apic_ldr(const struct lapic *lapic)
{
    return (lapic->id & ~0xfu) << 12 | 1u << (lapic->id & 0xf);
}

/* lapic.c. Without the lock, except where it says otherwise. */

/* True where the local APIC takes this message's destination. */
bool lapic_matches(const struct lapic *lapic, const struct apic_message *message);
/* Any thread. False where it cannot take it now. */
bool lapic_accept(struct lapic *lapic, enum apic_delivery delivery, uint8_t vector, bool level);
/* Does what an LVT entry says, if it is not masked. */
void lapic_local_interrupt(struct lapic *lapic, enum lapic_lvt entry);
void lapic_set_lint0(struct lapic *lapic, bool level);
void lapic_error(struct lapic *lapic, uint32_t bits);
void lapic_end_of_interrupt(struct lapic *lapic);
void lapic_set_tpr(struct lapic *lapic, uint8_t tpr);
/* Asks the vCPU to look, where something is deliverable. */
void lapic_kick_if_pending(struct lapic *lapic);
/* With the lock held. */
void lapic_reset_registers(struct lapic *lapic);

/* lapic_timer.c. All with the lock held, except the callback; `true`: the caller raises the LVT
 * timer interrupt when it has released the lock. */
void lapic_timer_reset(struct lapic *lapic);
uint32_t lapic_timer_current(struct lapic *lapic);
void lapic_timer_set_initial(struct lapic *lapic, uint32_t count);
void lapic_timer_set_divide(struct lapic *lapic, uint32_t divide);
/* After the LVT entry changed from `before`. */
void lapic_timer_lvt_changed(struct lapic *lapic, uint32_t before);
uint64_t lapic_timer_deadline(struct lapic *lapic);
bool lapic_timer_set_deadline(struct lapic *lapic, uint64_t deadline, int64_t tsc_offset);
void lapic_timer_callback(void *context);

/* apic_bus.c */
enum status apic_bus_join(struct apic_bus *bus, struct lapic *lapic, struct error *err);
void apic_bus_leave(struct apic_bus *bus, struct lapic *lapic);
void apic_bus_eoi(struct apic_bus *bus, uint8_t vector);
int apic_bus_pic_pending(struct apic_bus *bus);
int apic_bus_pic_acknowledge(struct apic_bus *bus);
/* To all, or to all but one (`except` may be NULL). */
void apic_bus_deliver_all(struct apic_bus *bus, struct lapic *except,
                          const struct apic_message *message);

#endif
