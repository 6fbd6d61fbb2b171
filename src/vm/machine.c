/* A machine's life from its first instruction to its end; machine_build.c makes and frees it. */

#include "vm/machine.h"

#include "cpu/engine.h"
#include "dev/platform.h"
#include "proto/link.h"
#include "util/bits.h"
#include "util/clock.h"
#include "vm/machine_private.h"
#include "vm/stats.h"

#define SERIAL_FLUSH_NS  (2 * NS_PER_SECOND)
#define VCPU_STACK_BYTES (256 * KIB)
#define SPARE_AGE_NS     (2 * BALLOON_STATS_PERIOD_NS) /* then it is no news */

void machine_finish(struct machine *machine, enum machine_end end, uint32_t value)
{
    pthread_mutex_lock(&machine->lock);
    if (machine->end == MACHINE_RUNNING) {
        machine->end = end;
        machine->end_value = value;
        pthread_cond_signal(&machine->ended);
        pthread_cond_broadcast(&machine->pause_changed);
    }
    pthread_mutex_unlock(&machine->lock);
}

void machine_stop(struct machine *machine, uint32_t value)
{
    machine_finish(machine, MACHINE_STOPPED, value);
}

bool machine_press_power(struct machine *machine)
{
    if (!ioapic_pin_is_open(machine->ioapic, PLATFORM_GSI_POWER))
        return false;
    struct irq_line line = ioapic_line(machine->ioapic, PLATFORM_GSI_POWER);
    irq_set(&line, true);
    irq_set(&line, false);
    return true;
}

void machine_set_balloon(struct machine *machine, uint64_t size)
{
    atomic_store(&machine->is_balloon_wanted, size != 0);
    balloon_set_target(virtio_set_balloon(machine->virtio), size >> PAGE_SHIFT);
}

void machine_set_resident(struct machine *machine, uint64_t size)
{
    bool is_all = size >= machine->host->options->memory;
    atomic_store(&machine->is_resident_limited, !is_all);
    paging_set_resident(machine->paging, is_all ? UINT64_MAX : size);
}

struct pmap *machine_map(struct machine *machine)
{
    return machine->map;
}

struct scan *machine_scan(struct machine *machine)
{
    return paging_scan(machine->paging);
}

static void get_paging(const struct machine *machine, struct paging_info *info)
{
    paging_get(machine->paging, info);
    info->overhead += mmu_domain_overhead(machine->domain);
}

uint64_t machine_resident(const struct machine *machine)
{
    struct paging_info info;
    paging_get(machine->paging, &info);
    return info.target;
}

static void report_shutdown(struct machine *machine, struct vcpu *vcpu)
{
    pthread_mutex_lock(&machine->lock);
    if (machine->end == MACHINE_RUNNING)
        vcpu_describe(vcpu, machine->report, sizeof machine->report);
    pthread_mutex_unlock(&machine->lock);
    machine_finish(machine, MACHINE_SHUTDOWN, 0);
}

static bool machine_has_ended(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    bool has_ended = machine->end != MACHINE_RUNNING;
    pthread_mutex_unlock(&machine->lock);
    return has_ended;
}

/* Until something wakes it. An idle vCPU has no use of its translations, most of which are of its
 * guest's boot; where memory is short, others have. */
static void sleep_halted(struct machine_cpu *cpu)
{
    const struct machine *machine = cpu->machine;
    uint64_t from = clock_monotonic_ns();
    if (idle_look(&cpu->idle, from) && machine->engine->trim != NULL &&
        (machine->is_resident_limited || machine->is_balloon_wanted))
        machine->engine->trim(cpu->vcpu);
    vcpu_wait(cpu->vcpu);
    idle_slept(&cpu->idle, from, clock_monotonic_ns());
}

static void *cpu_thread(void *context)
{
    struct machine_cpu *cpu = context;
    struct machine *machine = cpu->machine;
    clockid_t clock;
    if (pthread_getcpuclockid(pthread_self(), &clock) == 0)
        atomic_store(&cpu->clock, clock);
    while (!atomic_load(&machine->stopping)) {
        if (atomic_load(&machine->pausing)) {
            machine_cpu_stands_still(machine);
            continue;
        }
        machine_cpu_waits_blocked(machine);
        switch (machine->engine->run(cpu->vcpu)) {
        case VCPU_EXIT_REQUESTED:
            break;
        case VCPU_EXIT_HALTED:
            sleep_halted(cpu);
            break;
        case VCPU_EXIT_SHUTDOWN:
            report_shutdown(machine, cpu->vcpu);
            goto out;
        case VCPU_EXIT_LOST: /* the trouble hook has been called */
            if (machine_has_ended(machine))
                goto out;
            break; /* paused, for want of memory: it tries again afterwards */
        }
    }
out:
    machine_cpu_ends(machine);
    return NULL;
}

static enum status start_cpus(struct machine *machine, struct error *err)
{
    enum status status = STATUS_OK;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, VCPU_STACK_BYTES);
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        struct machine_cpu *cpu = &machine->cpus[i];
        machine_cpu_begins(machine);
        if (pthread_create(&cpu->thread, &attributes, cpu_thread, cpu) != 0) {
            machine_cpu_ends(machine);
            status = error_set(err, STATUS_NO_MEMORY, "cannot start a thread for vCPU %u", i);
            break;
        }
        cpu->has_thread = true;
    }
    pthread_attr_destroy(&attributes);
    return status;
}

static void stop_cpus(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->stopping = true;
    pthread_cond_broadcast(&machine->pause_changed);
    pthread_mutex_unlock(&machine->lock);
    paging_wake(machine->paging);
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        struct machine_cpu *cpu = &machine->cpus[i];
        if (!cpu->has_thread)
            continue;
        vcpu_kick(cpu->vcpu, ATTENTION_EXIT);
        pthread_join(cpu->thread, NULL);
        cpu->has_thread = false;
    }
}

enum status machine_run(struct machine *machine, enum machine_end *end, uint32_t *value,
                        struct error *err)
{
    enum status status = io_loop_start(machine->loop, err);
    if (status == STATUS_OK)
        status = start_cpus(machine, err);
    if (status == STATUS_OK) {
        pthread_mutex_lock(&machine->lock);
        while (machine->end == MACHINE_RUNNING)
            pthread_cond_wait(&machine->ended, &machine->lock);
        *end = machine->end;
        *value = machine->end_value;
        pthread_mutex_unlock(&machine->lock);
    }
    stop_cpus(machine);
    if (status == STATUS_OK)
        serial_flush(machine->serial, SERIAL_FLUSH_NS);
    io_loop_stop(machine->loop);
    return status;
}

const char *machine_report(const struct machine *machine)
{
    return machine->report;
}

uint64_t machine_balloon_target(const struct machine *machine)
{
    struct balloon_info info;
    balloon_get(virtio_set_balloon(machine->virtio), &info);
    return info.target_pages * PAGE_SIZE;
}

bool machine_watch_guest(struct machine *machine, uint64_t wait_ns)
{
    return balloon_watch(virtio_set_balloon(machine->virtio), wait_ns);
}

static void get_vcpus(const struct machine *machine, struct vcpu *vcpus[OPTIONS_MAX_CPUS])
{
    for (unsigned i = 0; i < machine->cpu_count; i++)
        vcpus[i] = machine->cpus[i].vcpu;
}

/* What it could do without: news only, for what it could do without a while ago it may use now. */
static uint64_t spare_of(const struct balloon_info *balloon)
{
    bool is_told = (balloon->stats_present & bit(BALLOON_STAT_AVAILABLE)) != 0;
    return is_told && balloon->stats_age_ns <= SPARE_AGE_NS ? balloon->stats[BALLOON_STAT_AVAILABLE]
                                                            : 0;
}

void machine_report_to(struct machine *machine, struct link_report *report)
{
    struct vcpu *vcpus[OPTIONS_MAX_CPUS];
    struct pmap_stats pages;
    struct paging_info paging;
    struct balloon_info balloon;
    pmap_get_stats(machine->map, &pages);
    get_paging(machine, &paging);
    balloon_get(virtio_set_balloon(machine->virtio), &balloon);
    *report = (struct link_report){
        .resident = paging.resident,
        .active = paging.active,
        .balloon = pages.ballooned * PAGE_SIZE,
        .zero = pages.zero_pages * PAGE_SIZE,
        .shared = pages.shared * PAGE_SIZE,
        .compressed = pages.compressed * PAGE_SIZE,
        .compressed_size = paging.cache.held_bytes,
        .disk_backed = pages.disk_backed * PAGE_SIZE,
        .swapped = pages.swapped * PAGE_SIZE,
        .swap_room = (paging.swap.slots - paging.swap.used) * PAGE_SIZE,
        .overhead = paging.overhead,
        .spare = spare_of(&balloon),
        .sample_periods = paging.sample_periods,
        .faults_in = pages.faults_compressed + pages.faults_swap_in + pages.faults_disk,
        .stall_ns = paging.stall_ns,
        .swap_read = paging.swap.bytes_read,
        .swap_written = paging.swap.bytes_written,
        .pages_scanned = paging.scan.scanned,
        .pages_shared = pages.pages_shared,
        .cow_breaks = pages.cow_breaks,
        .cpu_ns = machine_cpu_ns(machine),
        .balloon_state = balloon.state,
        .is_paused = machine_is_paused(machine),
    };
    get_vcpus(machine, vcpus);
    stats_report_mmus(report, vcpus, machine->cpu_count);
}

json_t *machine_stats(const struct machine *machine)
{
    struct vcpu *vcpus[OPTIONS_MAX_CPUS];
    get_vcpus(machine, vcpus);
    json_t *stats = stats_of_machine(machine->map, machine->engine, vcpus, machine->cpu_count);
    if (stats == NULL)
        return NULL;
    struct balloon_info balloon;
    balloon_get(virtio_set_balloon(machine->virtio), &balloon);
    stats_add_balloon(stats, &balloon);
    struct paging_info paging;
    get_paging(machine, &paging);
    stats_add_paging(stats, &paging);
    stats_add_sharing(stats, machine->host->options, machine->host->sharing, &paging);
    json_object_set_new(stats, "devices", virtio_set_stats(machine->virtio));
    return stats;
}
