/* The answer to `status`. docs/statistics.md says what the numbers are. */

#include <string.h>

#include "hostd/manager.h"
#include "util/bits.h"

static const char *balloon_name(uint32_t state)
{
    static const char *const names[] = {"absent", "steady", "moving", "stalled"};
    return state < ARRAY_LENGTH(names) ? names[state] : "absent";
}

struct member {
    const char *name;
    uint64_t value;
};

/* Numbers that a VM may have made up must still be JSON's. */
static void add_numbers(json_t *object, const struct member *members, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t value = members[i].value > INT64_MAX ? INT64_MAX : members[i].value;
        json_object_set_new(object, members[i].name, json_integer((json_int_t)value));
    }
}

static json_t *vm_status(const struct vm *vm)
{
    const struct link_report *report = &vm->report;
    const struct policy_vm *policy = &vm->policy;
    uint64_t shared = vm->sharer == NULL ? 0 : vm->sharer->mirror.frames * PAGE_SIZE;
    /* As it was at the last step: by now it may hold less. */
    uint64_t part = policy->frames < shared ? policy->frames : shared;
    const struct member members[] = {
        {"pid", (uint64_t)vm->pid},
        {"min", vm->min},
        {"max", vm->max},
        {"shares", policy->shares},
        {"target", policy->target},
        {"resident", report->resident},
        {"charged", vm->charge.ram_bytes},
        {"active", report->active},
        {"balloon", report->balloon},
        {"balloon_target", vm->has_target ? vm->target.balloon : 0},
        {"zero", report->zero},
        {"shared", shared},
        {"shared_saved", shared - part},
        {"compressed", report->compressed},
        {"compressed_size", report->compressed_size},
        {"disk_backed", report->disk_backed},
        {"swapped", report->swapped},
        {"overhead", policy->overhead},
        {"pages_scanned", report->pages_scanned},
        {"pages_shared", report->pages_shared},
        {"cow_breaks", report->cow_breaks},
        {"scan_cpu_ns", report->scan_cpu_ns},
        {"swap_read", report->swap_read},
        {"swap_written", report->swap_written},
        {"faults_in", report->faults_in},
        {"stall_ns", report->stall_ns},
        {"cpu_ns", report->cpu_ns},
        {"tlb_misses", report->tlb_misses},
        {"walk_references", report->walk_references},
        {"hidden_faults", report->hidden_faults},
        {"traced_writes", report->traced_writes},
        {"shadow_memory", report->shadow_memory},
    };
    json_t *object = json_pack(
        "{s:s, s:s, s:b, s:s, s:b, s:s, s:b}", "name", vm->name, "group",
        vm->record == NULL ? "" : vm->record->facts.name, "paused", report->is_paused != 0,
        "balloon_state", balloon_name(report->balloon_state), "managed", vm->stage == VM_MANAGED,
        "mmu_mode", link_mmu_name(report->mmu_mode), "mmu_is_chosen", report->mmu_is_chosen != 0);
    add_numbers(object, members, ARRAY_LENGTH(members));
    return object;
}

static json_t *host_status(const struct manager *manager, uint64_t vms)
{
    const struct policy_host *host = &manager->host;
    uint64_t shared = 0, frames = 0, hints = 0, metadata = 0;
    const struct group_record *record;
    const struct vm *vm;
    TAILQ_FOREACH(record, &manager->groups, entry)
    {
        if (record->group == NULL)
            continue;
        frames += record->group->table.frame_count;
        hints += record->group->table.hint_count;
        metadata += group_metadata(record->group);
    }
    TAILQ_FOREACH(vm, &manager->vms, entry)
    {
        if (vm->sharer != NULL)
            shared += vm->sharer->mirror.frames * PAGE_SIZE;
    }
    const struct member members[] = {
        {"memory", host->memory}, {"free", host->free},   {"used", host->memory - host->free},
        {"shared", shared},       {"pool", host->frames}, {"frames", frames},
        {"hints", hints},         {"metadata", metadata}, {"vms", vms},
    };
    json_t *object =
        json_pack("{s:s, s:f}", "state", policy_state_name(host->state), "tax", host->tax);
    add_numbers(object, members, ARRAY_LENGTH(members));
    if (manager->swap_dir != NULL)
        json_object_set_new(object, "swap_dir", json_string(manager->swap_dir));
    return object;
}

json_t *status_report(struct manager *manager)
{
    json_t *vms = json_array();
    const struct vm *vm;
    TAILQ_FOREACH(vm, &manager->vms, entry)
    {
        if (vm->is_known)
            json_array_append_new(vms, vm_status(vm));
    }
    return json_pack("{s:o, s:o}", "host", host_status(manager, json_array_size(vms)), "vms", vms);
}
