/*
 * The clock's time is the host's wall clock plus `offset` whole seconds; nothing ticks. While the
 * guest holds SET (register B bit 7) the time bytes in `bytes` are plain memory; otherwise they are
 * computed when they are read.
 *
 * Flags (register C) are computed too: `checked` is the wall time up to which seconds, periods and
 * alarms were noticed; advance() notices what came since. The host timer is armed for the next
 * event of a kind that is enabled and whose flag is not yet set, so a guest that does not listen is
 * not shouted at.
 */
#include "dev/rtc.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "dev/platform.h"
#include "util/bits.h"
#include "util/clock.h"

#define CMOS_SIZE 128u
#define UPDATE_NS 2228000u /* "update in progress" before the second changes */

enum rtc_register {
    REG_SECONDS,
    REG_SECONDS_ALARM,
    REG_MINUTES,
    REG_MINUTES_ALARM,
    REG_HOURS,
    REG_HOURS_ALARM,
    REG_WEEKDAY,
    REG_DAY,
    REG_MONTH,
    REG_YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
};

#define A_UPDATING 0x80u
#define A_RATE     0x0fu
#define A_RESET    0x26u /* 32768 Hz crystal, 1024 Hz periodic rate */
#define B_SET      0x80u
#define B_UPDATE   0x10u
#define B_BINARY   0x04u
#define B_24_HOURS 0x02u
#define D_VALID    0x80u
#define C_IRQ      0x80u
/* The same bits are flags in C and enables in B. */
#define EVENT_PERIODIC 0x40u
#define EVENT_ALARM    0x20u
#define EVENT_UPDATE   0x10u
#define EVENTS         0x70u

#define HOURS_PM  0x80u
#define DONT_CARE 0xc0u
#define NEVER     INT64_MAX
#define DAY       86400

struct rtc {
    pthread_mutex_t lock;
    struct device_time time;
    struct device_timer *timer;
    struct irq_line irq;
    uint8_t index;
    uint8_t bytes[CMOS_SIZE];
    int64_t offset;
    uint64_t checked;
};

static int64_t floor_div(int64_t value, int64_t divisor)
{
    return value / divisor - (value % divisor < 0 ? 1 : 0);
}

static uint64_t rtc_wall(const struct rtc *rtc)
{
    return rtc->time.wall(rtc->time.context);
}

static int64_t guest_seconds(const struct rtc *rtc, uint64_t wall)
{
    return (int64_t)(wall / NS_PER_SECOND) + rtc->offset;
}

static uint8_t encode(const struct rtc *rtc, unsigned value)
{
    value %= 100;
    return (uint8_t)(rtc->bytes[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static unsigned decode(const struct rtc *rtc, uint8_t byte)
{
    return rtc->bytes[REG_B] & B_BINARY ? byte : (byte >> 4) * 10u + (byte & 15u);
}

static uint8_t encode_hours(const struct rtc *rtc, unsigned hours)
{
    if (rtc->bytes[REG_B] & B_24_HOURS)
        return encode(rtc, hours);
    unsigned twelve = hours % 12 == 0 ? 12 : hours % 12;
    return (uint8_t)(encode(rtc, twelve) | (hours >= 12 ? HOURS_PM : 0));
}

static unsigned decode_hours(const struct rtc *rtc, uint8_t byte)
{
    if (rtc->bytes[REG_B] & B_24_HOURS)
        return decode(rtc, byte);
    return decode(rtc, byte & 0x7f) % 12 + (byte & HOURS_PM ? 12 : 0);
}

/*
 * Days since 1970-01-01 of a date in the Gregorian calendar, and back. Years are counted from
 * March, so that the leap day is the last; 400 of them have 146097 days, five months from March on
 * 153.
 */
static int64_t days_from_date(int64_t year, int64_t month, int64_t day)
{
    year += floor_div(month - 1, 12);
    month = month - 1 - floor_div(month - 1, 12) * 12; /* 0 to 11 */
    int64_t from_march = (month + 10) % 12;
    if (month < 2)
        year--;
    int64_t era = floor_div(year, 400);
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * from_march + 2) / 5 + day - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year -
           719468;
}

static void date_from_days(int64_t days, int64_t *year, unsigned *month, unsigned *day)
{
    days += 719468;
    int64_t era = floor_div(days, 146097);
    int64_t day_of_era = days - era * 146097;
    int64_t year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    int64_t from_march = (5 * day_of_year + 2) / 153;
    *day = (unsigned)(day_of_year - (153 * from_march + 2) / 5 + 1);
    *month = (unsigned)((from_march + 2) % 12 + 1);
    *year = year_of_era + era * 400 + (*month <= 2 ? 1 : 0);
}

/* Puts a time into the time bytes. */
static void store_time(struct rtc *rtc, int64_t seconds)
{
    int64_t days = floor_div(seconds, DAY), year;
    unsigned second_of_day = (unsigned)(seconds - days * DAY), month, day;
    date_from_days(days, &year, &month, &day);
    int64_t century = floor_div(year, 100);
    rtc->bytes[REG_SECONDS] = encode(rtc, second_of_day % 60);
    rtc->bytes[REG_MINUTES] = encode(rtc, second_of_day / 60 % 60);
    rtc->bytes[REG_HOURS] = encode_hours(rtc, second_of_day / 3600);
    rtc->bytes[REG_WEEKDAY] = encode(rtc, (unsigned)(days + 4 - floor_div(days + 4, 7) * 7 + 1));
    rtc->bytes[REG_DAY] = encode(rtc, day);
    rtc->bytes[REG_MONTH] = encode(rtc, month);
    rtc->bytes[REG_YEAR] = encode(rtc, (unsigned)(year - century * 100));
    rtc->bytes[RTC_CENTURY] = encode(rtc, (unsigned)(century - floor_div(century, 100) * 100));
}

/* The time that the time bytes say. Nonsense (month 13) counts on, as dates do. */
static int64_t load_time(const struct rtc *rtc)
{
    const uint8_t *bytes = rtc->bytes;
    int64_t year = decode(rtc, bytes[RTC_CENTURY]) * 100 + decode(rtc, bytes[REG_YEAR]);
    int64_t days = days_from_date(year, decode(rtc, bytes[REG_MONTH]), decode(rtc, bytes[REG_DAY]));
    return days * DAY + decode_hours(rtc, bytes[REG_HOURS]) * 3600 +
           decode(rtc, bytes[REG_MINUTES]) * 60 + decode(rtc, bytes[REG_SECONDS]);
}

static bool alarm_field_matches(const struct rtc *rtc, unsigned reg, unsigned value)
{
    uint8_t alarm = rtc->bytes[reg];
    if (alarm >= DONT_CARE)
        return true;
    return value == (reg == REG_HOURS_ALARM ? decode_hours(rtc, alarm) : decode(rtc, alarm));
}

/* Could a time of day ever have this in it? A second 99 could not. */
static bool alarm_is_possible(const struct rtc *rtc)
{
    uint8_t seconds = rtc->bytes[REG_SECONDS_ALARM], minutes = rtc->bytes[REG_MINUTES_ALARM];
    uint8_t hours = rtc->bytes[REG_HOURS_ALARM];
    return (seconds >= DONT_CARE || decode(rtc, seconds) < 60) &&
           (minutes >= DONT_CARE || decode(rtc, minutes) < 60) &&
           (hours >= DONT_CARE || decode_hours(rtc, hours) < 24);
}

/* The first second after `after` that the alarm is set for. Skips hours and minutes that do not
 * match as a whole, so that it takes at most some 150 steps. */
static int64_t next_alarm(const struct rtc *rtc, int64_t after)
{
    if (!alarm_is_possible(rtc))
        return NEVER;
    int64_t at = after + 1;
    while (at <= after + DAY) {
        unsigned second = (unsigned)(at - floor_div(at, DAY) * DAY);
        if (!alarm_field_matches(rtc, REG_HOURS_ALARM, second / 3600))
            at += 3600 - second % 3600;
        else if (!alarm_field_matches(rtc, REG_MINUTES_ALARM, second / 60 % 60))
            at += 60 - second % 60;
        else if (!alarm_field_matches(rtc, REG_SECONDS_ALARM, second % 60))
            at++;
        else
            return at;
    }
    return NEVER;
}

/* Periodic interrupts a second; 0: none. Rates 1 and 2 are 8 and 9 over again. */
static unsigned periodic_hz(const struct rtc *rtc)
{
    unsigned rate = rtc->bytes[REG_A] & A_RATE;
    if (rate == 0)
        return 0;
    return 32768u >> ((rate <= 2 ? rate + 7 : rate) - 1);
}

static uint64_t periods_until(uint64_t wall, unsigned hz)
{
    return (uint64_t)((unsigned __int128)wall * hz / NS_PER_SECOND);
}

/* Notices what happened since the last time, and drives the line. */
static void advance(struct rtc *rtc, uint64_t wall)
{
    uint64_t before = rtc->checked;
    rtc->checked = wall;
    if (wall > before) { /* else the host's clock was set back */
        unsigned hz = periodic_hz(rtc);
        if (hz != 0 && periods_until(wall, hz) != periods_until(before, hz))
            rtc->bytes[REG_C] |= EVENT_PERIODIC;
        if (wall / NS_PER_SECOND != before / NS_PER_SECOND && (rtc->bytes[REG_B] & B_SET) == 0) {
            rtc->bytes[REG_C] |= EVENT_UPDATE;
            if (next_alarm(rtc, guest_seconds(rtc, before)) <= guest_seconds(rtc, wall))
                rtc->bytes[REG_C] |= EVENT_ALARM;
        }
    }
    if (rtc->bytes[REG_C] & rtc->bytes[REG_B] & EVENTS)
        rtc->bytes[REG_C] |= C_IRQ;
    irq_set(&rtc->irq, (rtc->bytes[REG_C] & C_IRQ) != 0);
}

/* Arms the timer for the next event that would interrupt. After advance(). */
static void schedule(struct rtc *rtc)
{
    uint64_t wall = rtc->checked, next = UINT64_MAX;
    uint8_t wanted = rtc->bytes[REG_B] & (uint8_t)~rtc->bytes[REG_C] & EVENTS;
    if (rtc->bytes[REG_B] & B_SET)
        wanted &= EVENT_PERIODIC;
    unsigned hz = periodic_hz(rtc);
    if ((wanted & EVENT_PERIODIC) != 0 && hz != 0) {
        unsigned __int128 ns = (unsigned __int128)(periods_until(wall, hz) + 1) * NS_PER_SECOND;
        next = (uint64_t)((ns + hz - 1) / hz);
    }
    uint64_t next_second = (wall / NS_PER_SECOND + 1) * NS_PER_SECOND;
    if ((wanted & EVENT_UPDATE) != 0 && next_second < next)
        next = next_second;
    if ((wanted & EVENT_ALARM) != 0) {
        int64_t now = guest_seconds(rtc, wall), alarm = next_alarm(rtc, now);
        if (alarm != NEVER) {
            uint64_t at = next_second + (uint64_t)(alarm - now - 1) * NS_PER_SECOND;
            next = at < next ? at : next;
        }
    }
    if (next == UINT64_MAX)
        rtc->time.timer_disarm(rtc->timer);
    else
        rtc->time.timer_arm(rtc->timer, rtc->time.now(rtc->time.context) + (next - wall));
}

static void timer_callback(void *context)
{
    struct rtc *rtc = context;
    pthread_mutex_lock(&rtc->lock);
    advance(rtc, rtc_wall(rtc));
    schedule(rtc); /* too early, by a clock that was set: armed again */
    pthread_mutex_unlock(&rtc->lock);
}

static bool is_time(unsigned index)
{
    return index == RTC_CENTURY || index == REG_SECONDS || index == REG_MINUTES ||
           index == REG_HOURS || (index >= REG_WEEKDAY && index <= REG_YEAR);
}

static uint8_t data_read(struct rtc *rtc)
{
    uint64_t wall = rtc_wall(rtc);
    advance(rtc, wall);
    bool set = (rtc->bytes[REG_B] & B_SET) != 0;
    if (is_time(rtc->index) && !set)
        store_time(rtc, guest_seconds(rtc, wall));
    uint8_t value = rtc->bytes[rtc->index];
    if (rtc->index == REG_A && !set && wall % NS_PER_SECOND >= NS_PER_SECOND - UPDATE_NS)
        value |= A_UPDATING;
    if (rtc->index == REG_C) {
        rtc->bytes[REG_C] = 0;
        irq_set(&rtc->irq, false);
        schedule(rtc);
    }
    return value;
}

static void write_b(struct rtc *rtc, uint8_t value, uint64_t wall)
{
    bool was_set = (rtc->bytes[REG_B] & B_SET) != 0, set = (value & B_SET) != 0;
    if (was_set && !set) /* in the format it was written in */
        rtc->offset = load_time(rtc) - (int64_t)(wall / NS_PER_SECOND);
    rtc->bytes[REG_B] = set ? value & (uint8_t)~B_UPDATE : value;
    if (set && !was_set)
        store_time(rtc, guest_seconds(rtc, wall));
}

static void data_write(struct rtc *rtc, uint8_t value)
{
    uint64_t wall = rtc_wall(rtc);
    advance(rtc, wall);
    if (is_time(rtc->index)) {
        bool set = (rtc->bytes[REG_B] & B_SET) != 0;
        if (!set)
            store_time(rtc, guest_seconds(rtc, wall));
        rtc->bytes[rtc->index] = value;
        if (!set)
            rtc->offset = load_time(rtc) - (int64_t)(wall / NS_PER_SECOND);
    } else if (rtc->index == REG_A) {
        rtc->bytes[REG_A] = value & (uint8_t)~A_UPDATING;
    } else if (rtc->index == REG_B) {
        write_b(rtc, value, wall);
    } else if (rtc->index != REG_C && rtc->index != REG_D) {
        rtc->bytes[rtc->index] = value;
    }
    advance(rtc, wall); /* an event whose flag was set may just have been enabled */
    schedule(rtc);
}

/* The index port is write-only; its bit 7 would mask NMIs, which nothing here sends. */
static uint64_t ports_read(void *context, uint64_t offset, unsigned size)
{
    struct rtc *rtc = context;
    uint64_t value = offset == 0 ? 0xff : 0;
    if (offset + size > 1) {
        pthread_mutex_lock(&rtc->lock);
        value |= (uint64_t)data_read(rtc) << (offset == 0 ? 8 : 0);
        pthread_mutex_unlock(&rtc->lock);
    }
    return value;
}

static void ports_write(void *context, uint64_t offset, unsigned size, uint64_t value)
{
    struct rtc *rtc = context;
    pthread_mutex_lock(&rtc->lock);
    if (offset == 0) {
        rtc->index = (uint8_t)(value & (CMOS_SIZE - 1));
        if (size > 1)
            data_write(rtc, (uint8_t)(value >> 8));
    } else {
        data_write(rtc, (uint8_t)value);
    }
    pthread_mutex_unlock(&rtc->lock);
}

enum status rtc_create(struct rtc **result, const struct device_time *time, struct irq_line irq,
                       struct error *err)
{
    *result = NULL;
    struct rtc *rtc = calloc(1, sizeof *rtc);
    if (rtc == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the real-time clock");
    pthread_mutex_init(&rtc->lock, NULL);
    rtc->time = *time;
    rtc->irq = irq;
    rtc->bytes[REG_A] = A_RESET;
    rtc->bytes[REG_B] = B_24_HOURS;
    rtc->bytes[REG_D] = D_VALID;
    rtc->checked = rtc_wall(rtc);
    enum status status = time->timer_create(time->context, &rtc->timer, timer_callback, rtc, err);
    if (status != STATUS_OK) {
        rtc_destroy(rtc);
        return status;
    }
    *result = rtc;
    return STATUS_OK;
}

void rtc_destroy(struct rtc *rtc)
{
    if (rtc == NULL)
        return;
    rtc->time.timer_destroy(rtc->timer);
    pthread_mutex_destroy(&rtc->lock);
    free(rtc);
}

void rtc_reset(struct rtc *rtc)
{
    pthread_mutex_lock(&rtc->lock);
    write_b(rtc, rtc->bytes[REG_B] & (B_BINARY | B_24_HOURS), rtc_wall(rtc));
    rtc->bytes[REG_C] = 0;
    rtc->index = 0;
    rtc->time.timer_disarm(rtc->timer);
    irq_set(&rtc->irq, false);
    pthread_mutex_unlock(&rtc->lock);
}

enum status rtc_attach(struct rtc *rtc, struct bus *ports, struct error *err)
{
    static const struct bus_ops ops = {.read = ports_read, .write = ports_write};
    return bus_add(ports, PLATFORM_PORT_RTC, 2, &ops, rtc, err);
}
