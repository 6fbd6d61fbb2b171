/* What has been promised must be there: who does not fit is not started. */

#include "policy/policy_private.h"

static unsigned long long mib_down(uint64_t bytes)
{
    return bytes / (1 << 20);
}

static unsigned long long mib_up(uint64_t bytes)
{
    return mib_down(bytes) + (bytes % (1 << 20) != 0);
}

enum status policy_admit(const struct policy_host *host, struct policy_vm *const *vms, size_t count,
                         const struct policy_vm *vm, struct error *err)
{
    if (vm->min > vm->max)
        return error_set(err, STATUS_INVALID, "min (%llu MiB) is more than max (%llu MiB)",
                         mib_up(vm->min), mib_up(vm->max));

    uint64_t taken = host->overhead, paged = 0;
    for (size_t i = 0; i < count; i++) {
        taken = plus(taken, plus(vms[i]->min, vms[i]->overhead));
        paged = plus(paged, above(vms[i]->max, vms[i]->min));
    }
    uint64_t memory = above(host->memory, policy_reserve(host->memory));
    uint64_t need = plus(vm->min, vm->overhead), left = above(memory, taken);
    if (need > left)
        return error_set(err, STATUS_NO_MEMORY,
                         "%llu MiB of memory short: it needs %llu MiB (min and overhead), and "
                         "%llu of the host's %llu MiB are not promised yet",
                         mib_up(need - left), mib_up(need), mib_down(left), mib_down(host->memory));

    need = vm->max - vm->min;
    left = host->swap == POLICY_NO_LIMIT ? POLICY_NO_LIMIT : above(host->swap, paged);
    left = least(left, vm->swap);
    if (need > left)
        return error_set(err, STATUS_NO_SPACE,
                         "%llu MiB of swap space short: it may have to page out %llu MiB (max less "
                         "min), and there are %llu MiB",
                         mib_up(need - left), mib_up(need), mib_down(left));
    return STATUS_OK;
}
