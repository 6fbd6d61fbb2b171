#include "cli/plan.h"

#include <stdlib.h>

#include "control/footprint.h"

uint64_t plan_overhead(const struct vm_spec *vm)
{
    return footprint(vm->max, vm->code_cache);
}

enum status plan_make(struct plan *plan, const struct vm_file *file, uint64_t memory,
                      struct error *err)
{
    *plan = (struct plan){
        .file = file,
        .vms = calloc(file->count, sizeof *plan->vms),
        .list = calloc(file->count, sizeof(struct policy_vm *)),
    };
    if (plan->vms == NULL || plan->list == NULL) {
        plan_close(plan);
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    policy_host_init(&plan->host, memory);
    plan->host.swap = file->swap_size; /* POLICY_NO_LIMIT where it is not given */
    for (size_t i = 0; i < file->count; i++) {
        const struct vm_spec *spec = &file->vms[i];
        plan->vms[i] = (struct policy_vm){
            .min = spec->min,
            .max = spec->max,
            .shares = spec->shares != 0 ? spec->shares : policy_default_shares(spec->max),
            .swap = POLICY_NO_LIMIT,
            .active = spec->max,
            .overhead = plan_overhead(spec),
            .balloon_works = true,
        };
        plan->list[i] = &plan->vms[i];
    }
    return STATUS_OK;
}

void plan_close(struct plan *plan)
{
    free(plan->vms);
    free(plan->list);
    plan->vms = NULL;
    plan->list = NULL;
}

enum status plan_admit(const struct plan *plan, struct error *err)
{
    for (size_t i = 0; i < plan->file->count; i++) {
        struct error why = {0};
        const struct vm_spec *spec = &plan->file->vms[i];
        enum status status = policy_admit(&plan->host, plan->list, i, plan->list[i], &why);
        if (status != STATUS_OK)
            return error_set(err, status, "%s:%u: %s: %s", plan->file->path, spec->line, spec->name,
                             why.text);
    }
    return STATUS_OK;
}

void plan_divide(struct plan *plan, enum plan_use use, uint64_t *targets)
{
    size_t count = plan->file->count;
    bool is_alone = use == PLAN_BUSY_ALONE || use == PLAN_IDLE_ALONE;
    bool others_busy = use == PLAN_ALL_BUSY || use == PLAN_IDLE_ALONE;
    for (size_t i = 0; i < count; i++)
        plan->vms[i].active = others_busy ? plan->vms[i].max : 0;
    if (!is_alone)
        policy_divide(&plan->host, plan->list, count);
    for (size_t i = 0; i < count; i++) {
        uint64_t usual = plan->vms[i].active;
        if (is_alone) {
            plan->vms[i].active = plan->vms[i].max - usual;
            policy_divide(&plan->host, plan->list, count);
        }
        targets[i] = plan->vms[i].target;
        plan->vms[i].active = usual;
    }
}
