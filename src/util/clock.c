#include "util/clock.h"

#include <pthread.h>
#include <time.h>
#include <x86intrin.h>

#include "util/bits.h"

/* Long enough that the error of reading both clocks together (some 20 ns) is a few millionths. */
#define CALIBRATION_NS (10 * NS_PER_SECOND / 1000)

/* A fact about the host, not about a VM: measured once and never changed. */
static pthread_once_t tsc_once = PTHREAD_ONCE_INIT;
static uint64_t tsc_khz;

static uint64_t clock_read_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

uint64_t clock_monotonic_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}

uint64_t clock_realtime_ns(void)
{
    return clock_read_ns(CLOCK_REALTIME);
}

uint64_t clock_process_cpu_ns(void)
{
    return clock_read_ns(CLOCK_PROCESS_CPUTIME_ID);
}

uint64_t clock_thread_cpu_ns(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now) != 0)
        return 0;
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

uint64_t clock_tsc(void)
{
    return __rdtsc();
}

/* Both clocks at nearly the same moment: of several tries the one that took least, so that being
 * scheduled away between the reads does not count. */
static void clock_sample(uint64_t *ns, uint64_t *tsc)
{
    uint64_t best = UINT64_MAX;
    *ns = *tsc = 0;
    for (unsigned try = 0; try < 16; try++) {
        uint64_t before = clock_tsc();
        uint64_t now = clock_monotonic_ns();
        uint64_t width = clock_tsc() - before;
        if (width < best) {
            best = width;
            *ns = now;
            *tsc = before + width / 2;
        }
    }
}

static void tsc_calibrate(void)
{
    uint64_t ns_start, tsc_start, ns_end, tsc_end;
    clock_sample(&ns_start, &tsc_start);
    do {
        struct timespec pause = {.tv_nsec = CALIBRATION_NS};
        nanosleep(&pause, NULL); /* a signal may end it early */
        clock_sample(&ns_end, &tsc_end);
    } while (ns_end - ns_start < CALIBRATION_NS);

    uint64_t ns = ns_end - ns_start;
    tsc_khz = (uint64_t)(((unsigned __int128)(tsc_end - tsc_start) * 1000000 + ns / 2) / ns);
    if (unlikely(tsc_khz == 0))
        tsc_khz = 1;
}

uint64_t clock_tsc_khz(void)
{
    pthread_once(&tsc_once, tsc_calibrate);
    return tsc_khz;
}
