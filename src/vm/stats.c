#include "vm/stats.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "util/clock.h"
#include "vm/options.h"
#include "vm/sharing.h"

static void add_count(json_t *object, const char *name, uint64_t value)
{
    json_object_set_new(object, name, json_integer((json_int_t)value));
}

/* A counter that its vCPU's thread may be adding to, without any ceremony, since it does so all the
 * time. It is aligned, so what is read is a value that it had. */
__attribute__((no_sanitize("thread"))) static uint64_t count_of(const uint64_t *counter)
{
    return *(const volatile uint64_t *)counter;
}

static void add_exceptions(json_t *faults, const struct vcpu_stats *cpu)
{
    static const struct {
        const char *name;
        enum vector vector;
    } kinds[] = {
        {"divide_error", VECTOR_DE}, {"debug", VECTOR_DB},        {"breakpoint", VECTOR_BP},
        {"overflow", VECTOR_OF},     {"bound_range", VECTOR_BR},  {"invalid_opcode", VECTOR_UD},
        {"no_fpu", VECTOR_NM},       {"double_fault", VECTOR_DF}, {"invalid_tss", VECTOR_TS},
        {"not_present", VECTOR_NP},  {"stack", VECTOR_SS},        {"protection", VECTOR_GP},
        {"page", VECTOR_PF},         {"fpu", VECTOR_MF},          {"alignment", VECTOR_AC},
        {"simd", VECTOR_XM},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        add_count(faults, kinds[i].name, cpu->exceptions[kinds[i].vector]);
}

struct counter {
    const char *name;
    size_t offset; /* of a uint64_t */
};

/* Each of the counters, summed over `count` structures. */
static void add_sums(json_t *stats, const struct counter *counters, size_t counter_count,
                     const void *const *structures, unsigned count)
{
    for (size_t n = 0; n < counter_count; n++) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < count; i++)
            sum += count_of((const uint64_t *)((const char *)structures[i] + counters[n].offset));
        add_count(stats, counters[n].name, sum);
    }
}

static void add_engine(json_t *stats, const struct engine_ops *engine, struct vcpu *const *vcpus,
                       unsigned count)
{
    static const struct counter counters[] = {
        {"translations", offsetof(struct engine_stats, translations)},
        {"evictions", offsetof(struct engine_stats, evictions)},
        {"dispatches", offsetof(struct engine_stats, dispatches)},
        {"slow_paths", offsetof(struct engine_stats, slow_paths)},
        {"slow_instructions", offsetof(struct engine_stats, slow_instructions)},
        {"blocks_interpreted", offsetof(struct engine_stats, interpreted)},
        {"code_cache", offsetof(struct engine_stats, code_bytes)},
        {"code_cache_max", offsetof(struct engine_stats, code_limit)},
        {"code_cache_trims", offsetof(struct engine_stats, trims)},
        {"windows", offsetof(struct engine_stats, windows)},
        {"window_faults", offsetof(struct engine_stats, window_faults)},
    };
    struct engine_stats each[OPTIONS_MAX_CPUS];
    const void *from[OPTIONS_MAX_CPUS];
    if (engine->get_stats == NULL)
        return;
    for (unsigned i = 0; i < count; i++) {
        engine->get_stats(vcpus[i], &each[i]);
        from[i] = &each[i];
    }
    add_sums(stats, counters, ARRAY_LENGTH(counters), from, count);
}

static enum link_mmu mmu_mode_of(struct vcpu *const *vcpus, unsigned count)
{
    unsigned shadowed = 0;
    for (unsigned i = 0; i < count; i++)
        shadowed += vcpus[i]->mmu.is_shadowed;
    return shadowed == 0 ? LINK_MMU_NESTED : shadowed == count ? LINK_MMU_SHADOW : LINK_MMU_MIXED;
}

void stats_report_mmus(struct link_report *report, struct vcpu *const *vcpus, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct mmu *mmu = &vcpus[i]->mmu;
        const struct shadow_stats *shadow = shadow_get_stats(mmu->shadow);
        report->tlb_misses += count_of(&mmu->stats.tlb_misses);
        report->walk_references += count_of(&mmu->stats.walk_references);
        report->hidden_faults += count_of(&shadow->hidden_faults);
        report->traced_writes += count_of(&shadow->traced_writes);
        report->shadow_memory += shadow_bytes(mmu->shadow);
        report->mmu_is_chosen |= mmu->is_choosing;
    }
    report->mmu_mode = mmu_mode_of(vcpus, count);
}

/* Which MMU the vCPUs use, and what those that choose for themselves have seen. */
static void add_choices(json_t *stats, struct vcpu *const *vcpus, unsigned count)
{
    static const char *const reasons[] = {
        [AUTO_START] = "start", [AUTO_MISSES] = "misses", [AUTO_TABLES] = "tables"};
    uint64_t trials = 0, switches = 0, cost[2] = {0}, known[2] = {0};
    unsigned of_reason[ARRAY_LENGTH(reasons)] = {0}, reason = AUTO_START;
    bool is_choosing = false;
    for (unsigned i = 0; i < count; i++) {
        const struct mmu *mmu = &vcpus[i]->mmu;
        is_choosing |= mmu->is_choosing;
        trials += count_of(&mmu->choice.trials);
        switches += count_of(&mmu->choice.switches);
        of_reason[mmu->choice.reason]++;
        for (unsigned mode = MMU_NESTED; mode <= MMU_SHADOW; mode++) {
            uint64_t of_miss = count_of(&mmu->choice.cost[mode]) / 16;
            cost[mode] += of_miss;
            known[mode] += of_miss != 0;
        }
    }
    json_object_set_new(stats, "mmu_mode", json_string(link_mmu_name(mmu_mode_of(vcpus, count))));
    if (!is_choosing)
        return;
    for (unsigned i = AUTO_MISSES; i < ARRAY_LENGTH(reasons); i++) {
        if (of_reason[i] > (reason == AUTO_START ? 0 : of_reason[reason]))
            reason = i;
    }
    json_object_set_new(stats, "mmu_reason", json_string(reasons[reason]));
    add_count(stats, "mmu_trials", trials);
    add_count(stats, "mmu_switches", switches);
    add_count(stats, "nested_miss_cycles", known[0] == 0 ? 0 : cost[0] / known[0]);
    add_count(stats, "shadow_miss_cycles", known[1] == 0 ? 0 : cost[1] / known[1]);
}

/* Of all vCPUs, summed. */
static void add_mmus(json_t *stats, struct vcpu *const *vcpus, unsigned count)
{
    static const struct counter of_mmu[] = {
        {"mmio", offsetof(struct mmu_stats, mmio)},
        {"tlb_misses", offsetof(struct mmu_stats, tlb_misses)},
        {"walks", offsetof(struct mmu_stats, walks)},
        {"walk_references", offsetof(struct mmu_stats, walk_references)},
        {"nested_violations", offsetof(struct mmu_stats, nested_violations)},
        {"true_faults", offsetof(struct mmu_stats, page_faults)},
        {"tlb_flushes", offsetof(struct mmu_stats, flushes)},
        {"tlb_space_returns", offsetof(struct mmu_stats, space_returns)},
        {"tlb_page_flushes", offsetof(struct mmu_stats, page_flushes)},
        {"code_writes", offsetof(struct mmu_stats, code_writes)},
    };
    static const struct counter of_shadow[] = {
        {"hidden_faults", offsetof(struct shadow_stats, hidden_faults)},
        {"traced_writes", offsetof(struct shadow_stats, traced_writes)},
        {"shadow_resyncs", offsetof(struct shadow_stats, resyncs)},
        {"shadow_traces", offsetof(struct shadow_stats, traces)},
        {"shadow_evictions", offsetof(struct shadow_stats, evictions)},
        {"shadow_nodes", offsetof(struct shadow_stats, nodes)},
        {"address_space_switches", offsetof(struct shadow_stats, switches)},
    };
    const void *mmus[OPTIONS_MAX_CPUS], *shadows[OPTIONS_MAX_CPUS];
    uint64_t bytes = 0;
    for (unsigned i = 0; i < count; i++) {
        const struct mmu *mmu = &vcpus[i]->mmu;
        mmus[i] = &mmu->stats;
        shadows[i] = shadow_get_stats(mmu->shadow);
        bytes += shadow_bytes(mmu->shadow);
    }
    add_sums(stats, of_mmu, ARRAY_LENGTH(of_mmu), mmus, count);
    add_choices(stats, vcpus, count);
    add_count(stats, "shadow_memory", bytes);
    add_sums(stats, of_shadow, ARRAY_LENGTH(of_shadow), shadows, count);
}

json_t *stats_of_machine(const struct pmap *map, const struct engine_ops *engine,
                         struct vcpu *const *vcpus, unsigned count)
{
    struct vcpu_stats cpu = {0};
    for (unsigned i = 0; i < count; i++) {
        const struct vcpu_stats *from = &vcpus[i]->stats;
        cpu.instructions += count_of(&from->instructions);
        cpu.blocks_decoded += count_of(&from->blocks_decoded);
        cpu.interrupts += count_of(&from->interrupts);
        cpu.port_io += count_of(&from->port_io);
        cpu.halts += count_of(&from->halts);
        for (unsigned vector = 0; vector < 32; vector++)
            cpu.exceptions[vector] += count_of(&from->exceptions[vector]);
    }
    struct pmap_stats pages;
    pmap_get_stats(map, &pages);

    json_t *stats = json_object();
    if (stats == NULL)
        return NULL;
    add_count(stats, "cpus", count);
    add_count(stats, "instructions", cpu.instructions);
    add_count(stats, "blocks_decoded", cpu.blocks_decoded);
    add_engine(stats, engine, vcpus, count);
    add_count(stats, "interrupts", cpu.interrupts);
    add_count(stats, "halts", cpu.halts);
    add_count(stats, "port_io", cpu.port_io);
    add_mmus(stats, vcpus, count);
    add_count(stats, "max", pages.max_pages * PAGE_SIZE);
    add_count(stats, "zero", pages.zero_pages * PAGE_SIZE);
    add_count(stats, "compressed", pages.compressed * PAGE_SIZE);
    add_count(stats, "disk_backed", pages.disk_backed * PAGE_SIZE);
    add_count(stats, "swapped", pages.swapped * PAGE_SIZE);
    add_count(stats, "shared", pages.shared * PAGE_SIZE);
    add_count(stats, "pages_shared", pages.pages_shared);
    add_count(stats, "cow_breaks", pages.cow_breaks);
    add_count(stats, "faults_zero", pages.faults_zero);
    add_count(stats, "faults_compressed", pages.faults_compressed);
    add_count(stats, "faults_disk", pages.faults_disk);
    add_count(stats, "faults_swap_in", pages.faults_swap_in);
    add_count(stats, "double_paging_seen", pages.double_paging_seen);
    add_count(stats, "double_paging_avoided", pages.double_paging_avoided);
    add_count(stats, "second_chances", pages.second_chances);
    add_count(stats, "overwritten", pages.overwritten);
    add_count(stats, "balloon_popped", pages.balloon_popped);
    add_count(stats, "revocations", pages.revocations);

    json_t *faults = json_object();
    json_object_set_new(stats, "faults", faults);
    add_exceptions(faults, &cpu);
    return stats;
}

void stats_add_balloon(json_t *stats, const struct balloon_info *balloon)
{
    add_count(stats, "balloon", balloon->actual_pages * PAGE_SIZE);
    add_count(stats, "balloon_target", balloon->target_pages * PAGE_SIZE);
    json_object_set_new(stats, "balloon_state", json_string(balloon_state_name(balloon->state)));
    json_object_set_new(stats, "balloon_still_seconds",
                        json_real((double)balloon->still_ns / (double)NS_PER_SECOND));
    add_count(stats, "balloon_taken", balloon->taken_pages * PAGE_SIZE);
    add_count(stats, "balloon_given", balloon->given_pages * PAGE_SIZE);
    add_count(stats, "free_reported", balloon->reported_pages * PAGE_SIZE);

    json_t *guest = json_object();
    json_object_set_new(stats, "guest", guest);
    for (unsigned stat = 0; stat < BALLOON_STATS; stat++) {
        if (balloon->stats_present & bit(stat))
            add_count(guest, balloon_stat_name(stat), balloon->stats[stat]);
    }
    if (balloon->stats_present != 0)
        json_object_set_new(guest, "age_seconds",
                            json_real((double)balloon->stats_age_ns / (double)NS_PER_SECOND));
}

void stats_add_paging(json_t *stats, const struct paging_info *paging)
{
    add_count(stats, "reclaim_stall_ns", paging->stall_ns);
    add_count(stats, "resident", paging->resident);
    add_count(stats, "target", paging->target);
    add_count(stats, "active", paging->active);
    add_count(stats, "active_slow", paging->active_slow);
    add_count(stats, "active_fast", paging->active_fast);
    add_count(stats, "active_now", paging->active_now);
    add_count(stats, "sample_periods", paging->sample_periods);
    add_count(stats, "compressed_size", paging->cache.held_bytes);
    add_count(stats, "overhead", paging->overhead);
    add_count(stats, "swap_read", paging->swap.bytes_read);
    add_count(stats, "swap_written", paging->swap.bytes_written);
    add_count(stats, "swap_disk", paging->swap.disk_bytes);
    add_count(stats, "swap_errors", paging->swap.read_errors + paging->swap.write_errors);
    add_count(stats, "reclaim_chosen", paging->reclaim.chosen);
    add_count(stats, "reclaim_taken", paging->reclaim.taken);
    add_count(stats, "reclaim_given_up", paging->reclaim.given_up);
    add_count(stats, "reclaim_zero", paging->pager.zeroed);
    add_count(stats, "reclaim_disk_backed", paging->pager.disk_backed);
    add_count(stats, "reclaim_compressed", paging->pager.compressed);
    add_count(stats, "reclaim_swapped", paging->pager.swapped + paging->pager.demoted);
    add_count(stats, "reclaim_refused", paging->pager.refused + paging->pager.failed);
    if (paging->chaos.taken + paging->chaos.sampled + paging->chaos.checks != 0) {
        add_count(stats, "chaos_taken", paging->chaos.taken);
        add_count(stats, "chaos_brought", paging->chaos.brought);
        add_count(stats, "chaos_sampled", paging->chaos.sampled);
        add_count(stats, "chaos_checks", paging->chaos.checks);
    }
}

void stats_add_sharing(json_t *stats, const struct vm_options *options, struct sharing *sharing,
                       const struct paging_info *paging)
{
    add_count(stats, "shared_saved", sharing != NULL ? sharing_saved(sharing) * PAGE_SIZE : 0);
    add_count(stats, "pages_scanned", paging->scan.scanned);
    add_count(stats, "scan_cpu_ns", sharing != NULL ? sharing_cpu_ns(sharing) : 0);
    add_count(stats, "min", options->min);
    add_count(stats, "shares", options->shares);
    json_object_set_new(stats, "group", json_string(options->group != NULL ? options->group : ""));
}

void stats_add_run(json_t *stats, uint64_t started_ns, unsigned resets)
{
    double second = (double)NS_PER_SECOND;
    json_object_set_new(stats, "wall_seconds",
                        json_real((double)(clock_monotonic_ns() - started_ns) / second));
    json_object_set_new(stats, "cpu_seconds", json_real((double)clock_process_cpu_ns() / second));
    add_count(stats, "resets", resets);
}

enum status stats_write(int fd, const char *path, json_t *stats, struct error *err)
{
    enum status status = STATUS_OK;
    if (stats == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory for --stats");
    if (json_dumpfd(stats, fd, JSON_INDENT(2)) != 0 || write(fd, "\n", 1) != 1)
        status = error_set(err, STATUS_IO, "cannot write %s: %s", path, strerror(errno));
    json_decref(stats);
    return status;
}
