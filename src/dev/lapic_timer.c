/*
 * The local APIC's timer. Nothing counts: the current count is computed from the time since the
 * initial count was loaded, and one host timer is armed for the next expiry that matters.
 *
 * A TSC deadline is turned into host time with the measured frequency, whose small error over a
 * long wait may ring the host timer early; then it is armed again for the rest.
 */
#include "dev/lapic_internal.h"

static uint32_t timer_mode(const struct lapic *lapic)
{
    return atomic_load(&lapic->lvt[LVT_TIMER]) & LVT_MODE;
}

static uint64_t timer_now(const struct lapic *lapic)
{
    return lapic->time.now(lapic->time.context);
}

static uint64_t timer_period(const struct lapic_timer *timer)
{
    return (uint64_t)timer->initial << timer->shift;
}

static void timer_arm(struct lapic *lapic, uint64_t deadline)
{
    lapic->timer.armed = true;
    lapic->timer.next = deadline;
    lapic->time.timer_arm(lapic->timer.host, deadline);
}

static void timer_disarm(struct lapic *lapic)
{
    if (lapic->timer.armed)
        lapic->time.timer_disarm(lapic->timer.host);
    lapic->timer.armed = false;
}

/* TSC ticks until the deadline; 0 when it has come. */
static uint64_t deadline_ticks_left(const struct lapic *lapic)
{
    uint64_t guest_tsc = lapic->time.tsc(lapic->time.context) + (uint64_t)lapic->timer.tsc_offset;
    return lapic->timer.deadline > guest_tsc ? lapic->timer.deadline - guest_tsc : 0;
}

/* Arms the host timer for what the registers say now. */
static void timer_schedule(struct lapic *lapic)
{
    struct lapic_timer *timer = &lapic->timer;
    uint64_t now = timer_now(lapic);
    switch (timer_mode(lapic)) {
    case LVT_ONE_SHOT:
        if (timer->running) {
            timer_arm(lapic, timer->start + timer_period(timer));
            return;
        }
        break;
    case LVT_PERIODIC:
        /* The count runs on while masked, but nobody needs to be woken for it. */
        if (timer->initial != 0 && (atomic_load(&lapic->lvt[LVT_TIMER]) & LVT_MASKED) == 0) {
            uint64_t period = timer_period(timer);
            uint64_t next = timer->start + ((now - timer->start) / period + 1) * period;
            uint64_t earliest = timer->last_expiry + DEVICE_TIMER_MIN_NS;
            timer_arm(lapic, next < earliest ? earliest : next);
            return;
        }
        break;
    case LVT_DEADLINE:
        if (timer->deadline != 0) {
            unsigned __int128 ns = (unsigned __int128)deadline_ticks_left(lapic) * 1000000;
            ns = (ns + lapic->time.tsc_khz - 1) / lapic->time.tsc_khz;
            uint64_t farthest = INT64_MAX - now; /* what the clock can say */
            timer_arm(lapic, now + (ns > farthest ? farthest : (uint64_t)ns));
            return;
        }
        break;
    }
    timer_disarm(lapic);
}

void lapic_timer_callback(void *context)
{
    struct lapic *lapic = context;
    struct lapic_timer *timer = &lapic->timer;
    bool expired = false;

    pthread_mutex_lock(&lapic->lock);
    uint64_t now = timer_now(lapic);
    if (timer->armed && timer->next <= now) { /* else reprogrammed while this call was coming */
        timer->armed = false;
        if (timer_mode(lapic) == LVT_DEADLINE) {
            expired = deadline_ticks_left(lapic) == 0;
            if (expired)
                timer->deadline = 0;
        } else {
            expired = true;
            timer->running = false;
            timer->last_expiry = now;
        }
        timer_schedule(lapic);
    }
    pthread_mutex_unlock(&lapic->lock);
    if (expired)
        lapic_local_interrupt(lapic, LVT_TIMER);
}

/* 0: divide by 2; ...; 6: by 128; 7: by 1. Bit 2 of the register is always 0. */
static uint8_t divide_shift(uint32_t divide)
{
    uint32_t code = (divide & 3) | (divide >> 1 & 4);
    return (uint8_t)((code + 1) & 7);
}

void lapic_timer_reset(struct lapic *lapic)
{
    struct device_timer *host = lapic->timer.host;
    timer_disarm(lapic);
    lapic->timer = (struct lapic_timer){.host = host, .shift = divide_shift(0)};
}

uint32_t lapic_timer_current(struct lapic *lapic)
{
    const struct lapic_timer *timer = &lapic->timer;
    uint32_t mode = timer_mode(lapic);
    if (timer->initial == 0 || mode == LVT_DEADLINE)
        return 0;
    uint64_t ticks = (timer_now(lapic) - timer->start) >> timer->shift;
    if (mode == LVT_PERIODIC)
        return timer->initial - (uint32_t)(ticks % timer->initial);
    return ticks >= timer->initial ? 0 : timer->initial - (uint32_t)ticks;
}

void lapic_timer_set_initial(struct lapic *lapic, uint32_t count)
{
    if (timer_mode(lapic) == LVT_DEADLINE)
        return;
    lapic->timer.initial = count;
    lapic->timer.running = count != 0;
    lapic->timer.start = timer_now(lapic);
    timer_schedule(lapic);
}

void lapic_timer_set_divide(struct lapic *lapic, uint32_t divide)
{
    /* What has been counted stays counted; the rest goes at the new rate. */
    struct lapic_timer *timer = &lapic->timer;
    uint64_t counted = timer->initial - lapic_timer_current(lapic);
    timer->divide = divide & 0xb;
    timer->shift = divide_shift(divide);
    timer->start = timer_now(lapic) - (counted << timer->shift);
    timer_schedule(lapic);
}

void lapic_timer_lvt_changed(struct lapic *lapic, uint32_t before)
{
    uint32_t mode = timer_mode(lapic);
    if ((mode == LVT_DEADLINE) != ((before & LVT_MODE) == LVT_DEADLINE)) {
        lapic->timer.initial = 0;
        lapic->timer.running = false;
        lapic->timer.deadline = 0;
    }
    timer_schedule(lapic);
}

uint64_t lapic_timer_deadline(struct lapic *lapic)
{
    return timer_mode(lapic) == LVT_DEADLINE ? lapic->timer.deadline : 0;
}

bool lapic_timer_set_deadline(struct lapic *lapic, uint64_t deadline, int64_t tsc_offset)
{
    if (timer_mode(lapic) != LVT_DEADLINE)
        return false;
    lapic->timer.deadline = deadline;
    lapic->timer.tsc_offset = tsc_offset;
    /* One that has passed need not go round by the host's timer. */
    bool expired = deadline != 0 && deadline_ticks_left(lapic) == 0;
    if (expired)
        lapic->timer.deadline = 0;
    timer_schedule(lapic);
    return expired;
}
