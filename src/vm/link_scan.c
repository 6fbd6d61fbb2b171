#include "vm/link_scan.h"

#include "util/clock.h"

#define TICK_LEAST (NS_PER_SECOND / 10)
#define TICK_MOST  NS_PER_SECOND
#define IDLE_MOST  16u /* steps that find nothing before a tick ends */

/* Pages that are named as soon as they have changed, for each second of CPU time that the VM takes:
 * most of them change again soon, and sharing and copying back one costs some 40 us, which makes
 * 1 %. */
#define YOUNG_A_SECOND 250.0

uint64_t link_scan_cpu_ns(void)
{
    return clock_thread_cpu_ns(CLOCK_THREAD_CPUTIME_ID);
}

/* Until there is a message to fill: each tick wakes us, and what it finds costs vCPUs a safepoint.
 */
static uint64_t tick_ns(const struct link_scan *scan)
{
    uint64_t ns = LINK_PAGES * NS_PER_SECOND / scan->pages_a_second;
    return ns < TICK_LEAST ? TICK_LEAST : ns > TICK_MOST ? TICK_MOST : ns;
}

void link_scan_set(struct link_scan *scan, uint64_t pages_a_second, uint32_t ppm)
{
    bool was_on = scan->is_on;
    scan->pages_a_second = pages_a_second;
    scan->ppm = ppm;
    scan->is_on = pages_a_second != 0 && ppm != 0;
    if (!scan->is_on || was_on)
        return;
    scan->last_ns = clock_monotonic_ns();
    scan->next_ns = scan->last_ns + tick_ns(scan);
    scan->pages = scan->cpu_ns = 0;
    scan->cpu_before = link_scan_cpu_ns();
    scan->process_before = clock_process_cpu_ns();
    scan->young = 0;
}

void link_scan_stop(struct link_scan *scan)
{
    scan->is_on = false;
    scan->offer_count = 0;
}

static void add(double *allowance, double a_second, uint64_t ns)
{
    *allowance += a_second * (double)ns / (double)NS_PER_SECOND;
    if (*allowance > a_second)
        *allowance = a_second;
}

/* What the thread has done meanwhile for pages that are shared is paid for as well. */
static void pay(struct link_scan *scan)
{
    uint64_t now = link_scan_cpu_ns();
    scan->cpu_ns -= (double)(now - scan->cpu_before);
    scan->cpu_before = now;
}

void link_scan_begin(struct link_scan *scan, uint64_t now_ns)
{
    uint64_t ns = now_ns - scan->last_ns;
    scan->last_ns = now_ns;
    pay(scan);
    add(&scan->pages, (double)scan->pages_a_second, ns);
    add(&scan->cpu_ns, (double)scan->ppm / 1e6 * (double)NS_PER_SECOND, ns);
    uint64_t process = clock_process_cpu_ns();
    scan->young += YOUNG_A_SECOND * (double)(process - scan->process_before) / NS_PER_SECOND;
    scan->process_before = process;
    scan->idle_steps = 0;
    scan->is_new_tick = true;
    scan->next_ns = now_ns + tick_ns(scan);
}

bool link_scan_run(struct link_scan *scan, struct scan *pages, uint64_t key)
{
    if (scan->is_new_tick) {
        scan_enable(pages, true); /* it may be a machine that is new since the target came */
        unsigned whole = (unsigned)(scan->young < UINT16_MAX ? scan->young : UINT16_MAX);
        scan_tick(pages, whole);
        scan->young -= whole;
    }
    scan->is_new_tick = false;
    while (scan->offer_count + SCAN_STEP <= LINK_PAGES) {
        struct scan_offer found[SCAN_STEP];
        unsigned looked;
        if (scan->pages < 1 || scan->cpu_ns <= 0)
            return false;
        unsigned count = scan_step(pages, key, found, &looked);
        for (unsigned i = 0; i < count; i++)
            scan->offers[scan->offer_count++] =
                (struct link_offer){.hash = found[i].hash,
                                    .ppn = (uint32_t)found[i].ppn,
                                    .flags = found[i].fresh ? LINK_FRESH : 0};
        scan->pages -= looked;
        scan->idle_steps = looked != 0 ? 0 : scan->idle_steps + 1;
        pay(scan);
        if (scan->idle_steps >= IDLE_MOST)
            return false;
    }
    return true;
}

unsigned link_scan_offers(struct link_scan *scan)
{
    return scan->offer_count;
}
