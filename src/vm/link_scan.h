#ifndef AEROSTAT_VM_LINK_SCAN_H
#define AEROSTAT_VM_LINK_SCAN_H

/*
 * How much the link's thread scans, and when: so many pages a second, and so much of its CPU time,
 * at most. In ticks of 100 ms, or up to a second where few pages are wanted. What is not used up is
 * lost after a second, and what was too much is paid back. Switched off, there are no ticks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "mem/scan.h"
#include "proto/link.h"

struct link_scan {
    bool is_on;
    uint64_t pages_a_second, ppm;
    uint64_t next_ns, last_ns; /* ticks */
    double pages, cpu_ns;      /* that may be spent; less than 0: overspent */
    uint64_t cpu_before;
    double young; /* scan_tick */
    uint64_t process_before;
    bool is_new_tick;
    unsigned idle_steps; /* that found nothing to look at */
    struct link_offer offers[LINK_PAGES];
    unsigned offer_count;
};

void link_scan_set(struct link_scan *scan, uint64_t pages_a_second, uint32_t ppm);
void link_scan_stop(struct link_scan *scan);

/* A tick begins, from which on pages are noted; the next one is at next_ns. Then run until it says
 * false: the tick is over. In between the offers are to be sent: it goes on only with room for
 * more. */
void link_scan_begin(struct link_scan *scan, uint64_t now_ns);
bool link_scan_run(struct link_scan *scan, struct scan *pages, uint64_t key);
/* Offers that are worth a message now. */
unsigned link_scan_offers(struct link_scan *scan);

/* CPU time of the calling thread. */
uint64_t link_scan_cpu_ns(void);

#endif
