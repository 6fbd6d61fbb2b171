/* Making a machine and freeing it; machine.c runs it. */

#include <stdlib.h>

#include "boot/acpi.h"
#include "boot/boot.h"
#include "cpu/engine.h"
#include "dev/platform.h"
#include "mem/layer.h"
#include "util/bits.h"
#include "util/clock.h"
#include "util/log.h"
#include "vm/boot_state.h"
#include "vm/machine_private.h"
#include "vm/sharing.h"

static void on_power_off(void *context)
{
    machine_finish(context, MACHINE_POWER_OFF, 0);
}

static void on_reset(void *context)
{
    machine_finish(context, MACHINE_RESET, 0);
}

static void on_debug_exit(void *context, uint32_t value)
{
    machine_finish(context, MACHINE_DEBUG_EXIT, value);
}

static void on_lapic_kick(void *context, enum lapic_kick what, uint8_t vector)
{
    struct machine_cpu *cpu = context;
    switch (what) {
    case LAPIC_KICK_IRQ:
        vcpu_kick(cpu->vcpu, ATTENTION_IRQ);
        break;
    case LAPIC_KICK_NMI:
        vcpu_kick(cpu->vcpu, ATTENTION_NMI);
        break;
    case LAPIC_KICK_INIT:
        vcpu_kick(cpu->vcpu, ATTENTION_INIT);
        break;
    case LAPIC_KICK_SIPI:
        atomic_store(&cpu->vcpu->sipi_vector, vector);
        vcpu_kick(cpu->vcpu, ATTENTION_SIPI);
        break;
    }
}

static int64_t on_tsc_offset(void *context)
{
    const struct machine_cpu *cpu = context;
    return cpu->vcpu->tsc_offset + (int64_t)cpu->vcpu->tsc_lost;
}

static const struct vcpu_apic_ops apic_ops = {
    .pending = lapic_pending,
    .acknowledge = lapic_acknowledge,
    .read_tpr = lapic_read_tpr,
    .write_tpr = lapic_write_tpr,
    .read_msr = lapic_read_msr,
    .write_msr = lapic_write_msr,
    .tsc_changed = lapic_tsc_changed,
};

/* A page cannot be had now, or not any more: the guest must not go on without it. */
static void on_trouble(void *context, const struct error *err)
{
    if (err->status == STATUS_NO_MEMORY) {
        machine_pause_for_memory(context, err);
        return;
    }
    log_error("guest memory is lost: %s", err->text);
    machine_finish(context, MACHINE_FAILED, 0);
}

static unsigned ram_ranges(const struct vm_options *options, struct ram_range ranges[2])
{
    uint64_t size = options->memory;
    uint64_t low = size < PLATFORM_LOW_RAM_END ? size : PLATFORM_LOW_RAM_END;
    ranges[0] = (struct ram_range){0, low};
    ranges[1] = (struct ram_range){4 * GIB, size - low};
    return size > low ? 2 : 1;
}

uint64_t machine_span_pages(const struct vm_options *options)
{
    struct ram_range ranges[2];
    const struct ram_range *last = &ranges[ram_ranges(options, ranges) - 1];
    return (last->base + last->size) >> PAGE_SHIFT;
}

static enum status create_memory(struct machine *machine, struct error *err)
{
    const struct machine_host *host = machine->host;
    struct ram_range ranges[2];
    unsigned count = ram_ranges(host->options, ranges);
    struct mmu_config mmu = host->options->mmu;
    mmu.shadow_bytes /= host->options->cpus;
    enum status status = host->ram != NULL ? layer_clear(host->ram, err) : STATUS_OK;
    if (status == STATUS_OK)
        status = pmap_create_in(&machine->map, ranges, count, host->ram, err);
    if (status == STATUS_OK && host->sharing != NULL)
        sharing_join(host->sharing, machine->map);
    if (status == STATUS_OK) {
        pmap_set_trouble_hook(machine->map, on_trouble, machine);
        pmap_set_peeking(machine->map, !machine->host->options->double_paging);
        status = bus_create(&machine->mmio, NULL, err);
    }
    if (status == STATUS_OK)
        status = bus_create(&machine->ports, NULL, err);
    if (status == STATUS_OK)
        status = mmu_domain_create(&machine->domain, machine->map, &mmu, err);
    if (status == STATUS_OK)
        status = paging_create(&machine->paging, machine->map, machine->host->swap, err);
    if (status == STATUS_OK)
        machine_set_resident(machine, machine->host->resident);
    return status;
}

uint64_t machine_cpu_ns(void *context)
{
    struct machine *machine = context;
    uint64_t sum = 0;
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        clockid_t clock = atomic_load(&machine->cpus[i].clock);
        sum += clock != 0 ? clock_thread_cpu_ns(clock) : 0;
    }
    return sum;
}

static void chaos_balloon(void *context, uint64_t pages)
{
    machine_set_balloon(context, pages * PAGE_SIZE);
}

static bool chaos_stand_still(void *context)
{
    machine_pause(context);
    return true;
}

static void chaos_go_on(void *context)
{
    machine_resume(context);
}

static void chaos_wrong(void *context, const struct error *err)
{
    log_error("the page map is broken: %s", err->text);
    machine_finish(context, MACHINE_FAILED, 0);
}

static const struct chaos_ops chaos_ops = {
    .balloon = chaos_balloon,
    .stand_still = chaos_stand_still,
    .go_on = chaos_go_on,
    .wrong = chaos_wrong,
};

static enum status start_paging(struct machine *machine, struct error *err)
{
    const struct vm_options *options = machine->host->options;
    enum status status =
        paging_start(machine->paging, machine->loop, options, machine_cpu_ns, machine, err);
    if (status == STATUS_OK && options->chaos)
        status = paging_start_chaos(machine->paging, options->chaos_seed, &chaos_ops, machine, err);
    return status;
}

static enum status create_cpu(struct machine *machine, unsigned index,
                              const struct device_time *time, struct error *err)
{
    const struct features *features = &machine->host->features;
    struct machine_cpu *cpu = &machine->cpus[index];
    cpu->machine = machine;
    machine->cpu_count = index + 1;

    enum status status = bus_create(&cpu->bus, machine->mmio, err);
    if (status != STATUS_OK)
        return status;
    struct lapic_config lapic = {
        .bus = machine->apic_bus,
        .id = index,
        .boot_processor = index == 0,
        .x2apic = features_has(features, FEATURE_X2APIC),
        .tsc_deadline = features_has(features, FEATURE_TSC_DEADLINE),
        .time = *time,
        .hooks = {.context = cpu, .kick = on_lapic_kick, .tsc_offset = on_tsc_offset},
    };
    status = lapic_create(&cpu->lapic, &lapic, err);
    if (status == STATUS_OK)
        status = lapic_attach(cpu->lapic, cpu->bus, err);
    if (status != STATUS_OK)
        return status;

    struct vcpu_config vcpu = {
        .index = index,
        .cpu_count = machine->host->options->cpus,
        .features = features,
        .domain = machine->domain,
        .mmio = cpu->bus,
        .ports = machine->ports,
        .thunks = machine->host->thunks,
        .apic = &apic_ops,
        .apic_context = cpu->lapic,
    };
    status = vcpu_create(&cpu->vcpu, &vcpu, err);
    if (status != STATUS_OK)
        return status;
    cpu->vcpu->wait_for_sipi = index != 0;
    cpu->vcpu->code_pool = machine->host->code_pool;
    status = machine->engine->attach(cpu->vcpu, err);
    cpu->is_attached = status == STATUS_OK;
    return status;
}

static enum status create_interrupt_controllers(struct machine *machine, struct error *err)
{
    enum status status = apic_bus_create(&machine->apic_bus, machine->host->options->cpus, err);
    if (status == STATUS_OK)
        status = ioapic_create(&machine->ioapic, machine->apic_bus, err);
    if (status == STATUS_OK)
        status = ioapic_attach(machine->ioapic, machine->mmio, err);
    if (status != STATUS_OK)
        return status;
    apic_bus_set_eoi_hook(machine->apic_bus, ioapic_eoi, machine->ioapic);

    struct irq_line lint0 = {.set = apic_bus_set_lint0, .context = machine->apic_bus};
    status = pic_create(&machine->pic, lint0, err);
    if (status == STATUS_OK)
        status = pic_attach(machine->pic, machine->ports, err);
    if (status == STATUS_OK)
        apic_bus_set_pic(machine->apic_bus, pic_pending, pic_acknowledge, machine->pic);
    return status;
}

static struct irq_line isa_line(struct machine *machine, struct isa_irq *irq, unsigned isa,
                                unsigned gsi)
{
    irq->pic = pic_line(machine->pic, isa);
    irq->ioapic = ioapic_line(machine->ioapic, gsi);
    return isa_irq_line(irq);
}

static enum status create_isa_devices(struct machine *machine, const struct device_time *time,
                                      struct error *err)
{
    const struct machine_host *host = machine->host;
    struct serial_config serial = {
        .loop = machine->loop,
        .irq = isa_line(machine, &machine->isa_serial, PLATFORM_GSI_SERIAL, PLATFORM_GSI_SERIAL),
        .output_fd = host->console_out,
        .input_fd = host->console_in,
        .filter = terminal_filter,
        .filter_context = host->terminal,
    };
    enum status status = serial_create(&machine->serial, &serial, err);
    if (status == STATUS_OK)
        status = serial_attach(machine->serial, machine->ports, err);
    if (status == STATUS_OK)
        status = pit_create(&machine->pit, time,
                            isa_line(machine, &machine->isa_pit, 0, PLATFORM_GSI_PIT), err);
    if (status == STATUS_OK)
        status = pit_attach(machine->pit, machine->ports, err);
    if (status == STATUS_OK)
        status = rtc_create(&machine->rtc, time,
                            isa_line(machine, &machine->isa_rtc, 8, PLATFORM_GSI_RTC), err);
    if (status == STATUS_OK)
        status = rtc_attach(machine->rtc, machine->ports, err);
    return status;
}

static enum status attach_exits(struct machine *machine, struct error *err)
{
    machine->acpi_pm =
        (struct acpi_pm){.power_off = on_power_off, .reset = on_reset, .context = machine};
    enum status status = acpi_pm_attach(&machine->acpi_pm, machine->ports, err);
    machine->keyboard.reset = on_reset;
    machine->keyboard.context = machine;
    if (status == STATUS_OK)
        status = keyboard_attach(&machine->keyboard, machine->ports, err);
    machine->debug_exit = (struct debug_exit){.exit = on_debug_exit, .context = machine};
    if (status == STATUS_OK && machine->host->options->debug_exit)
        status = debug_exit_attach(&machine->debug_exit, machine->ports, err);
    return status;
}

static enum status create_virtio(struct machine *machine, const struct device_time *time,
                                 struct error *err)
{
    const struct machine_host *host = machine->host;
    struct virtio_set_config config = {
        .options = host->options,
        .console = host->console_out,
        .balloon_target = host->balloon_target,
        .map = machine->map,
        .disks = paging_disks(machine->paging),
        .overlays = host->overlays,
        .mmio = machine->mmio,
        .ioapic = machine->ioapic,
        .loop = machine->loop,
        .time = time,
    };
    return virtio_set_create(&machine->virtio, &config, err);
}

/* VMs of a group that boot the same have these pages in common from the start. */
static void offer_loaded(struct machine *machine, struct boot_range range)
{
    uint64_t first = range.gpa >> PAGE_SHIFT;
    scan_image(paging_scan(machine->paging), first,
               (align_up(range.gpa + range.size, PAGE_SIZE) >> PAGE_SHIFT) - first);
}

static enum status load_kernel(struct machine *machine, struct error *err)
{
    const struct vm_options *options = machine->host->options;
    struct acpi_virtio virtio[PLATFORM_VIRTIO_MAX];
    struct acpi_config acpi = {
        .cpu_count = machine->cpu_count,
        .lapic_base = PLATFORM_LAPIC_BASE,
        .ioapic_base = PLATFORM_IOAPIC_BASE,
        .sleep_port = PLATFORM_PORT_SLEEP,
        .reset_port = PLATFORM_PORT_RESET,
        .reset_value = ACPI_PM_RESET_VALUE,
        .s5_type = ACPI_PM_S5_TYPE,
        .power_gsi = PLATFORM_GSI_POWER,
        .virtio = virtio,
        .virtio_count = virtio_set_describe(machine->virtio, virtio),
    };
    struct boot_config boot = {
        .kernel = options->kernel,
        .initrd = options->initrd,
        .append = options->append,
    };
    struct boot_entry entry;
    enum status status = acpi_write_tables(machine->map, &acpi, &boot.rsdp, err);
    if (status == STATUS_OK)
        status = boot_load(machine->map, &boot, &entry, err);
    if (status != STATUS_OK)
        return status;
    boot_state_apply(machine->cpus[0].vcpu, &entry);
    offer_loaded(machine, entry.kernel);
    offer_loaded(machine, entry.initrd);
    return STATUS_OK;
}

enum status machine_create(struct machine **out, const struct machine_host *host, struct error *err)
{
    struct machine *machine = calloc(1, sizeof *machine);
    if (machine == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    machine->host = host;
    machine->engine = host->options->engine;
    pthread_mutex_init(&machine->lock, NULL);
    pthread_cond_init(&machine->ended, NULL);
    pthread_cond_init(&machine->pause_changed, NULL);

    enum status status = create_memory(machine, err);
    if (status == STATUS_OK)
        status = io_loop_create(&machine->loop, "aerostat-io", err);
    if (status != STATUS_OK)
        goto out;
    status = guest_clock_create(&machine->clock, machine->loop, err);
    if (status != STATUS_OK)
        goto out;
    struct device_time time = guest_clock_time(machine->clock);
    status = create_interrupt_controllers(machine, err);
    for (unsigned i = 0; status == STATUS_OK && i < host->options->cpus; i++)
        status = create_cpu(machine, i, &time, err);
    if (status == STATUS_OK)
        status = create_isa_devices(machine, &time, err);
    if (status == STATUS_OK)
        status = attach_exits(machine, err);
    if (status == STATUS_OK)
        status = create_virtio(machine, &time, err);
    if (status == STATUS_OK)
        status = start_paging(machine, err);
    if (status == STATUS_OK)
        status = load_kernel(machine, err);
out:
    if (status != STATUS_OK) {
        machine_destroy(machine);
        machine = NULL;
    }
    *out = machine;
    return status;
}

/* Nobody else uses memory any more. */
static void stop_paging(struct machine *machine)
{
    struct error err = {0};
    if (machine->paging == NULL)
        return;
    paging_stop(machine->paging);
    if (machine->host->options->chaos && pmap_check(machine->map, &err) != STATUS_OK)
        log_error("the page map is broken: %s", err.text);
}

void machine_destroy(struct machine *machine)
{
    if (machine == NULL)
        return;
    if (machine->paging != NULL)
        paging_stop_chaos(machine->paging);
    if (machine->loop != NULL)
        io_loop_stop(machine->loop);
    virtio_set_destroy(machine->virtio);
    stop_paging(machine);
    rtc_destroy(machine->rtc);
    pit_destroy(machine->pit);
    serial_destroy(machine->serial);
    pic_destroy(machine->pic);
    ioapic_destroy(machine->ioapic);
    for (unsigned i = 0; i < machine->cpu_count; i++) {
        struct machine_cpu *cpu = &machine->cpus[i];
        if (cpu->is_attached)
            machine->engine->detach(cpu->vcpu);
        if (cpu->vcpu != NULL)
            vcpu_destroy(cpu->vcpu);
        lapic_destroy(cpu->lapic);
        if (cpu->bus != NULL)
            bus_destroy(cpu->bus);
    }
    if (machine->apic_bus != NULL)
        apic_bus_destroy(machine->apic_bus);
    guest_clock_destroy(machine->clock);
    io_loop_destroy(machine->loop);
    if (machine->domain != NULL)
        mmu_domain_destroy(machine->domain);
    if (machine->ports != NULL)
        bus_destroy(machine->ports);
    if (machine->mmio != NULL)
        bus_destroy(machine->mmio);
    if (machine->map != NULL && machine->host->sharing != NULL)
        sharing_leave(machine->host->sharing, machine->map);
    if (machine->map != NULL)
        pmap_destroy(machine->map);
    paging_destroy(machine->paging);
    pthread_cond_destroy(&machine->pause_changed);
    pthread_cond_destroy(&machine->ended);
    pthread_mutex_destroy(&machine->lock);
    free(machine);
}
