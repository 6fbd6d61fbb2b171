/*
 * A channel is its reload value and the clock ticks since it was loaded ("ticks"): its count and
 * its output follow from those two and the mode. The gate of channel 2 can stop it, then
 * `ticks_before` keeps what had passed.
 *
 * Only channel 0's output has an effect by itself: the host timer is armed for its next rising
 * edge. Simplifications: a new count takes effect at once in every mode, and the tick that loads a
 * counter is not counted.
 */
#include "dev/pit.h"

#include <pthread.h>
#include <stdlib.h>

#include "dev/platform.h"
#include "util/bits.h"
#include "util/clock.h"

#define CHANNELS           3u
#define REFRESH_NS         15085u /* port 0x61 bit 4 changes this often */
#define SYSTEM_GATE        0x01u
#define SYSTEM_SPEAKER     0x02u
#define SYSTEM_REFRESH     0x10u
#define SYSTEM_OUT         0x20u
#define STATUS_OUT         0x80u
#define STATUS_NO_COUNT    0x40u
#define READBACK_NO_COUNT  0x20u
#define READBACK_NO_STATUS 0x10u

enum pit_mode {
    MODE_INTERRUPT,       /* 0: out rises at terminal count */
    MODE_ONE_SHOT,        /* 1: out low from the gate's edge to terminal count */
    MODE_RATE,            /* 2: out low for the last tick of each period */
    MODE_SQUARE,          /* 3: out high for the first half of each period */
    MODE_STROBE,          /* 4: out low for the tick at terminal count */
    MODE_HARDWARE_STROBE, /* 5: the same, started by the gate */
};

enum pit_access { ACCESS_LATCH, ACCESS_LOW, ACCESS_HIGH, ACCESS_BOTH };

struct pit_channel {
    enum pit_mode mode;
    enum pit_access access;
    bool bcd, gate;
    bool loaded;     /* a count was written since the control word */
    bool running;    /* time passes: ticks = ticks_before + since start */
    uint32_t reload; /* 1 to 65536 */
    uint64_t start, ticks_before;

    bool write_high, read_high; /* ACCESS_BOTH: the next byte is the high one */
    uint8_t written_low;
    uint16_t latch;
    uint8_t latched_bytes; /* still to be read */
    bool status_latched;
    uint8_t status;
};

struct pit {
    pthread_mutex_t lock;
    struct device_time time;
    struct device_timer *timer;
    struct irq_line irq;
    struct pit_channel channels[CHANNELS];
    bool speaker;
    bool armed;
    uint64_t edge; /* what the timer is armed for */
};

static uint64_t pit_now(const struct pit *pit)
{
    return pit->time.now(pit->time.context);
}

static uint64_t channel_ticks(const struct pit_channel *channel, uint64_t now)
{
    if (!channel->running)
        return channel->ticks_before;
    unsigned __int128 elapsed = (unsigned __int128)(now - channel->start) * PIT_HZ;
    return channel->ticks_before + (uint64_t)(elapsed / NS_PER_SECOND);
}

static bool is_periodic(const struct pit_channel *channel)
{
    return channel->mode == MODE_RATE || channel->mode == MODE_SQUARE;
}

static bool needs_trigger(const struct pit_channel *channel)
{
    return channel->mode == MODE_ONE_SHOT || channel->mode == MODE_HARDWARE_STROBE;
}

static bool channel_out(const struct pit_channel *channel, uint64_t now)
{
    if (!channel->loaded)
        return channel->mode != MODE_INTERRUPT;
    uint64_t ticks = channel_ticks(channel, now);
    switch (channel->mode) {
    case MODE_INTERRUPT:
        return ticks >= channel->reload;
    case MODE_ONE_SHOT:
        return !channel->running || ticks >= channel->reload;
    case MODE_RATE:
        return !channel->gate || ticks % channel->reload != channel->reload - 1;
    case MODE_SQUARE:
        return !channel->gate || ticks % channel->reload < (channel->reload + 1) / 2;
    case MODE_STROBE:
    case MODE_HARDWARE_STROBE:
        return ticks != channel->reload;
    }
    return true;
}

static uint16_t to_bcd(uint64_t value)
{
    return (uint16_t)(value / 1000 % 10 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 |
                      value % 10);
}

/* What the counter shows. */
static uint16_t channel_count(const struct pit_channel *channel, uint64_t now)
{
    if (!channel->loaded)
        return 0;
    uint64_t ticks = channel_ticks(channel, now);
    uint64_t modulus = channel->bcd ? 10000 : 65536;
    uint64_t count;
    if (channel->mode == MODE_RATE)
        count = channel->reload - ticks % channel->reload;
    else if (channel->mode == MODE_SQUARE) /* goes down by two, twice a period */
        count = (channel->reload - 2 * ticks % channel->reload) & ~1ull;
    else
        count = channel->reload + modulus - ticks % modulus; /* goes on below 0 */
    return channel->bcd ? to_bcd(count % 10000) : (uint16_t)count;
}

static void timer_disarm(struct pit *pit)
{
    if (pit->armed)
        pit->time.timer_disarm(pit->timer);
    pit->armed = false;
}

/* Arms the timer for the next rising edge of channel 0's output. */
static void schedule_edge(struct pit *pit, uint64_t now)
{
    const struct pit_channel *channel = &pit->channels[0];
    uint64_t ticks = channel_ticks(channel, now);
    uint64_t edge;
    if (is_periodic(channel))
        edge = (ticks / channel->reload + 1) * channel->reload;
    else
        edge = channel->reload + (channel->mode == MODE_STROBE ? 1 : 0);
    if (!channel->loaded || needs_trigger(channel) || edge <= ticks) {
        timer_disarm(pit);
        return;
    }
    unsigned __int128 ns = (unsigned __int128)edge * NS_PER_SECOND + PIT_HZ - 1;
    pit->edge = channel->start + (uint64_t)(ns / PIT_HZ);
    if (is_periodic(channel) && pit->edge < now + DEVICE_TIMER_MIN_NS)
        pit->edge = now + DEVICE_TIMER_MIN_NS;
    pit->armed = true;
    pit->time.timer_arm(pit->timer, pit->edge);
}

static void timer_callback(void *context)
{
    struct pit *pit = context;
    pthread_mutex_lock(&pit->lock);
    uint64_t now = pit_now(pit);
    if (pit->armed && pit->edge <= now) { /* else reprogrammed while this call was coming */
        pit->armed = false;
        irq_set(&pit->irq, false);
        irq_set(&pit->irq, true);
        schedule_edge(pit, now);
    }
    pthread_mutex_unlock(&pit->lock);
}

static void load_count(struct pit *pit, unsigned index, uint16_t written)
{
    struct pit_channel *channel = &pit->channels[index];
    uint32_t count = written;
    if (channel->bcd)
        count = (written >> 12) * 1000u + (written >> 8 & 15) * 100u + (written >> 4 & 15) * 10u +
                (written & 15);
    if (count == 0)
        count = channel->bcd ? 10000 : 65536;
    channel->reload = count;
    channel->loaded = true;
    uint64_t now = pit_now(pit);
    if (!needs_trigger(channel)) {
        channel->ticks_before = 0;
        channel->start = now;
        channel->running = channel->gate;
    }
    if (index != 0)
        return;
    if (channel->mode == MODE_INTERRUPT)
        irq_set(&pit->irq, false);
    schedule_edge(pit, now);
}

static void write_counter(struct pit *pit, unsigned index, uint8_t value)
{
    struct pit_channel *channel = &pit->channels[index];
    if (channel->access == ACCESS_LOW) {
        load_count(pit, index, value);
    } else if (channel->access == ACCESS_HIGH) {
        load_count(pit, index, (uint16_t)(value << 8));
    } else if (!channel->write_high) {
        channel->written_low = value;
        channel->write_high = true;
    } else {
        channel->write_high = false;
        load_count(pit, index, (uint16_t)(value << 8 | channel->written_low));
    }
}

static void latch_count(struct pit_channel *channel, uint64_t now)
{
    if (channel->latched_bytes != 0)
        return; /* the first stays until it is read */
    channel->latch = channel_count(channel, now);
    channel->latched_bytes = channel->access == ACCESS_BOTH ? 2 : 1;
}

static void latch_status(struct pit_channel *channel, uint64_t now)
{
    if (channel->status_latched)
        return;
    channel->status_latched = true;
    channel->status =
        (uint8_t)((channel_out(channel, now) ? STATUS_OUT : 0) |
                  (channel->loaded ? 0 : STATUS_NO_COUNT) | (unsigned)channel->access << 4 |
                  (unsigned)channel->mode << 1 | (channel->bcd ? 1u : 0));
}

static uint8_t read_counter(struct pit_channel *channel, uint64_t now)
{
    if (channel->status_latched) {
        channel->status_latched = false;
        return channel->status;
    }
    bool both = channel->access == ACCESS_BOTH;
    if (channel->latched_bytes != 0) {
        bool high = both ? channel->latched_bytes == 1 : channel->access == ACCESS_HIGH;
        channel->latched_bytes--;
        return (uint8_t)(high ? channel->latch >> 8 : channel->latch);
    }
    uint16_t count = channel_count(channel, now);
    bool high = both ? channel->read_high : channel->access == ACCESS_HIGH;
    if (both)
        channel->read_high = !channel->read_high;
    return (uint8_t)(high ? count >> 8 : count);
}

static void read_back(struct pit *pit, uint8_t value)
{
    uint64_t now = pit_now(pit);
    for (unsigned i = 0; i < CHANNELS; i++) {
        if ((value >> (i + 1) & 1) == 0)
            continue;
        if ((value & READBACK_NO_COUNT) == 0)
            latch_count(&pit->channels[i], now);
        if ((value & READBACK_NO_STATUS) == 0)
            latch_status(&pit->channels[i], now);
    }
}

static void write_control(struct pit *pit, uint8_t value)
{
    unsigned index = value >> 6;
    if (index == 3) {
        read_back(pit, value);
        return;
    }
    struct pit_channel *channel = &pit->channels[index];
    enum pit_access access = (enum pit_access)(value >> 4 & 3);
    if (access == ACCESS_LATCH) {
        latch_count(channel, pit_now(pit));
        return;
    }
    unsigned mode = value >> 1 & 7;
    bool gate = channel->gate;
    *channel = (struct pit_channel){
        .mode = (enum pit_mode)(mode > 5 ? mode & 3 : mode),
        .access = access,
        .bcd = (value & 1) != 0,
        .gate = gate,
        .reload = 65536,
    };
    if (index == 0) {
        timer_disarm(pit);
        if (channel->mode == MODE_INTERRUPT)
            irq_set(&pit->irq, false);
    }
}

static void set_gate(struct pit *pit, struct pit_channel *channel, bool gate)
{
    if (gate == channel->gate)
        return;
    uint64_t now = pit_now(pit);
    bool stops = !needs_trigger(channel); /* those only start by it */
    if (!gate && stops) {
        channel->ticks_before = channel_ticks(channel, now);
        channel->running = false;
    } else if (gate && channel->loaded) {
        if (channel->mode != MODE_INTERRUPT && channel->mode != MODE_STROBE)
            channel->ticks_before = 0; /* the edge starts afresh */
        channel->start = now;
        channel->running = true;
    }
    channel->gate = gate;
}

/* The registers are bytes; the rest of a wider access is lost. */
static uint64_t ports_read(void *context, uint64_t offset, unsigned size)
{
    struct pit *pit = context;
    if (offset >= CHANNELS)
        return bits_truncate(UINT64_MAX, size); /* the control register is write-only */
    pthread_mutex_lock(&pit->lock);
    uint8_t value = read_counter(&pit->channels[offset], pit_now(pit));
    pthread_mutex_unlock(&pit->lock);
    return value;
}

static void ports_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit *pit = context;
    pthread_mutex_lock(&pit->lock);
    if (offset < CHANNELS)
        write_counter(pit, (unsigned)offset, (uint8_t)value);
    else
        write_control(pit, (uint8_t)value);
    pthread_mutex_unlock(&pit->lock);
}

static uint64_t system_read(void *context, uint64_t offset, unsigned size)
{
    struct pit *pit = context;
    pthread_mutex_lock(&pit->lock);
    uint64_t now = pit_now(pit);
    uint64_t value = (pit->channels[2].gate ? SYSTEM_GATE : 0) |
                     (pit->speaker ? SYSTEM_SPEAKER : 0) |
                     (now / REFRESH_NS % 2 != 0 ? SYSTEM_REFRESH : 0) |
                     (channel_out(&pit->channels[2], now) ? SYSTEM_OUT : 0);
    pthread_mutex_unlock(&pit->lock);
    return value;
}

static void system_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct pit *pit = context;
    pthread_mutex_lock(&pit->lock);
    set_gate(pit, &pit->channels[2], (value & SYSTEM_GATE) != 0);
    pit->speaker = (value & SYSTEM_SPEAKER) != 0;
    pthread_mutex_unlock(&pit->lock);
}

enum status pit_create(struct pit **result, const struct device_time *time, struct irq_line irq,
                       struct error *err)
{
    *result = NULL;
    struct pit *pit = calloc(1, sizeof *pit);
    if (pit == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the interval timer");
    pthread_mutex_init(&pit->lock, NULL);
    pit->time = *time;
    pit->irq = irq;
    enum status status = time->timer_create(time->context, &pit->timer, timer_callback, pit, err);
    if (status != STATUS_OK) {
        pit_destroy(pit);
        return status;
    }
    pit_reset(pit);
    *result = pit;
    return STATUS_OK;
}

void pit_destroy(struct pit *pit)
{
    if (pit == NULL)
        return;
    pit->time.timer_destroy(pit->timer);
    pthread_mutex_destroy(&pit->lock);
    free(pit);
}

void pit_reset(struct pit *pit)
{
    pthread_mutex_lock(&pit->lock);
    timer_disarm(pit);
    irq_set(&pit->irq, false);
    for (unsigned i = 0; i < CHANNELS; i++) {
        pit->channels[i] = (struct pit_channel){
            .mode = MODE_SQUARE,
            .access = ACCESS_BOTH,
            .gate = i != 2, /* of the others it is tied high */
            .reload = 65536,
        };
    }
    pit->speaker = false;
    pthread_mutex_unlock(&pit->lock);
}

enum status pit_attach(struct pit *pit, struct bus *ports, struct error *err)
{
    static const struct bus_ops pit_ops = {.read = ports_read, .write = ports_write};
    static const struct bus_ops system_ops = {.read = system_read, .write = system_write};
    enum status status = bus_add(ports, PLATFORM_PORT_PIT, 4, &pit_ops, pit, err);
    if (status == STATUS_OK)
        status = bus_add(ports, PLATFORM_PORT_SYSTEM, 1, &system_ops, pit, err);
    return status;
}
