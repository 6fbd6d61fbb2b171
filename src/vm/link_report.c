#include "vm/link_report.h"

#include <stddef.h>
#include <string.h>

#include "control/footprint.h"
#include "cpu/engine.h"
#include "cpu/translate/code_pool.h"
#include "util/bits.h"
#include "util/clock.h"

#define CPU_WORTH_NS      (NS_PER_SECOND / 20) /* since the last look: then it is no idle guest */
#define SCANS_WORTH_PAGES 1024u                /* since the last report */
/* Since the last look: then it is asked what it could do without. An idle guest is not. */
#define STALL_WORTH_NS (NS_PER_SECOND / 100)
#define FAULTS_WORTH   64u

/* Counters, which a machine begins at 0. */
static const size_t counters[] = {
    offsetof(struct link_report, faults_in),     offsetof(struct link_report, stall_ns),
    offsetof(struct link_report, swap_read),     offsetof(struct link_report, swap_written),
    offsetof(struct link_report, pages_scanned), offsetof(struct link_report, pages_shared),
    offsetof(struct link_report, cow_breaks),    offsetof(struct link_report, cpu_ns),
    offsetof(struct link_report, tlb_misses),    offsetof(struct link_report, walk_references),
    offsetof(struct link_report, hidden_faults), offsetof(struct link_report, traced_writes),
};

static uint64_t *counter(struct link_report *report, size_t i)
{
    return (uint64_t *)(void *)((uint8_t *)report + counters[i]);
}

void link_reporter_fill(struct link_reporter *reporter, struct machine *machine,
                        struct sharing *sharing)
{
    struct link_report report = {0};
    machine_report_to(machine, &report);
    report.overhead += sharing_overhead(sharing);
    report.scan_cpu_ns = sharing_cpu_ns(sharing);
    struct link_report raw = report;
    bool is_another = false; /* some counter ran backwards: after a reset */
    for (size_t i = 0; i < ARRAY_LENGTH(counters); i++)
        is_another = is_another || *counter(&raw, i) < *counter(&reporter->raw, i);
    for (size_t i = 0; i < ARRAY_LENGTH(counters); i++) {
        if (is_another)
            *counter(&reporter->ended, i) += *counter(&reporter->raw, i);
        *counter(&report, i) += *counter(&reporter->ended, i);
    }
    reporter->raw = raw;
    reporter->last = report;
}

/* Without what changes of an idle VM. */
static struct link_report essence(const struct link_report *report)
{
    struct link_report rest = *report;
    rest.cpu_ns = rest.pages_scanned = rest.scan_cpu_ns = rest.stall_ns = rest.overhead = 0;
    rest.tlb_misses = rest.walk_references = rest.hidden_faults = rest.traced_writes = 0;
    rest.shadow_memory = 0;
    return rest;
}

bool link_reporter_look(struct link_reporter *reporter, struct machine *machine,
                        struct sharing *sharing)
{
    struct link_report last = reporter->last;
    link_reporter_fill(reporter, machine, sharing);
    if (reporter->last.stall_ns - last.stall_ns >= STALL_WORTH_NS ||
        reporter->last.faults_in - last.faults_in >= FAULTS_WORTH)
        machine_watch_guest(machine, 0);
    struct link_report now = essence(&reporter->last), before = essence(&reporter->said);
    if (memcmp(&now, &before, sizeof now) == 0 &&
        reporter->last.cpu_ns - last.cpu_ns < CPU_WORTH_NS &&
        reporter->last.pages_scanned - reporter->said.pages_scanned < SCANS_WORTH_PAGES)
        return false;
    reporter->said = reporter->last;
    return true;
}

_Static_assert(FOOTPRINT_CODE_CACHE == CODE_POOL_DEFAULT, "what plans and admission count with");

uint64_t link_report_overhead(const struct vm_options *options)
{
    uint64_t code = options->engine != &interp_engine ? options->code_cache : 0;
    return footprint(options->memory, code);
}
