#ifndef AEROSTAT_UTIL_CLOCK_H
#define AEROSTAT_UTIL_CLOCK_H

/* Host time. Nothing else in the tree calls clock_gettime. */

#include <stdint.h>
#include <time.h>

#define NS_PER_SECOND 1000000000ull

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t clock_monotonic_ns(void);

/* CLOCK_REALTIME in nanoseconds since the epoch. */
uint64_t clock_realtime_ns(void);

/* CPU time that the whole process has used, in nanoseconds. */
uint64_t clock_process_cpu_ns(void);

/* CPU time that a thread has used, by the clock that pthread_getcpuclockid names; 0 when the thread
 * is gone. */
uint64_t clock_thread_cpu_ns(clockid_t clock);

/* The host's time-stamp counter. */
uint64_t clock_tsc(void);

/* Frequency of clock_tsc in kHz, measured once against CLOCK_MONOTONIC (takes some milliseconds at
 * the first call; thread safe). Never 0. */
uint64_t clock_tsc_khz(void);

#endif
