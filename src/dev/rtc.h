#ifndef AEROSTAT_DEV_RTC_H
#define AEROSTAT_DEV_RTC_H

/*
 * MC146818 real-time clock with 128 bytes of CMOS at ports 0x70 and 0x71; interrupt 8.
 *
 * It shows the host's wall clock in UTC plus an offset that starts at 0 and changes when the guest
 * sets the time. The century is the byte at 0x32, as ACPI's FADT says. Setting the day of the week
 * has no effect: it follows from the date.
 */

#include "dev/device_time.h"
#include "dev/irq.h"
#include "mem/bus.h"
#include "util/status.h"

#define RTC_CENTURY 0x32u

struct rtc;

enum status rtc_create(struct rtc **rtc, const struct device_time *time, struct irq_line irq,
                       struct error *err);
void rtc_destroy(struct rtc *rtc); /* NULL is allowed */
/* A machine reset: interrupts off; time and CMOS stay, they have a battery. */
void rtc_reset(struct rtc *rtc);
enum status rtc_attach(struct rtc *rtc, struct bus *ports, struct error *err);

#endif
