/* What the manager does when it is asked through its control socket. */

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "hostd/manager.h"
#include "util/bits.h"
#include "util/clock.h"

#define RESERVED_NS   (30 * NS_PER_SECOND)
#define RESERVED_MOST 4096u

static enum status admit(struct manager *manager, const struct control_request *request,
                         struct error *err)
{
    unsigned count = 0;
    struct reservation *it;
    if (request->max == 0 || request->min > request->max)
        return error_set(err, STATUS_INVALID,
                         "\"max\" must be more than 0 and no less than \"min\"");
    /* One that is not known yet has just taken its name, and may be the one that asks. */
    const struct vm *vm = registry_find(manager, request->name);
    if (vm != NULL && vm->is_known)
        return error_set(err, STATUS_BUSY, "a VM named %s is running already", request->name);
    TAILQ_FOREACH(it, &manager->reservations, entry)
    count++;
    if (count >= RESERVED_MOST)
        return error_set(err, STATUS_BUSY, "too many VMs are about to start");
    enum status status = balance_admit(manager, request, err);
    if (status != STATUS_OK)
        return status;
    it = reservation_find(manager, request->name);
    if (it == NULL) {
        it = calloc(1, sizeof *it);
        if (it == NULL)
            return error_set(err, STATUS_NO_MEMORY, "out of memory");
        TAILQ_INSERT_TAIL(&manager->reservations, it, entry);
    }
    it->request = *request;
    it->until = clock_monotonic_ns() + RESERVED_NS;
    return STATUS_OK;
}

/* The VM is asked anew, and gets the pool of the other group; it then makes private what it shares.
 */
static enum status move(struct vm *vm, const char *name, struct error *err)
{
    if (strcmp(vm->record->facts.name, name) == 0)
        return STATUS_OK;
    struct group_record *record = registry_group(vm->manager, name);
    if (record == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    enum status status = registry_move(vm, record, err);
    if (status != STATUS_OK) {
        registry_forget_empty(vm->manager);
        return status;
    }
    if (vm->stage != VM_CUT_OFF)
        vm_link_close(vm);
    return STATUS_OK;
}

static enum status set(struct manager *manager, const struct control_request *request,
                       struct error *err)
{
    struct vm *vm = registry_find(manager, request->name);
    if (vm == NULL || !vm->is_known)
        return error_set(err, STATUS_NOT_FOUND, "no VM named %s is managed", request->name);
    if ((request->has & (CONTROL_HAS_MIN | CONTROL_HAS_SHARES | CONTROL_HAS_GROUP)) == 0)
        return error_set(err, STATUS_INVALID, "\"set\" needs \"shares\", \"min\" or \"group\"");
    if ((request->has & CONTROL_HAS_MIN) != 0 && request->min > vm->max)
        return error_set(err, STATUS_INVALID,
                         "\"min\" can be at most %" PRIu64 "M, the VM's memory", vm->max / MIB);
    if ((request->has & CONTROL_HAS_MIN) != 0 && request->min > vm->min) {
        struct control_request more = {
            .has = CONTROL_HAS_SWAP, .min = request->min - vm->min, .max = request->min - vm->min};
        enum status status = balance_admit(manager, &more, err);
        if (status != STATUS_OK)
            return status;
    }
    if ((request->has & CONTROL_HAS_GROUP) != 0) {
        enum status status = move(vm, request->group, err);
        if (status != STATUS_OK)
            return status;
    }
    if ((request->has & CONTROL_HAS_MIN) != 0)
        vm->min = request->min;
    if ((request->has & CONTROL_HAS_SHARES) != 0)
        vm->shares = request->shares;
    return registry_save(manager);
}

json_t *answer_request(void *context, struct control_request *request, struct error *err)
{
    struct manager *manager = context;
    enum status status = STATUS_OK;
    error_set(err, STATUS_NO_MEMORY, "out of memory"); /* unless something better is said */
    switch (request->kind) {
    case CONTROL_ADMIT:
        status = admit(manager, request, err);
        break;
    case CONTROL_STATUS:
        return status_report(manager);
    case CONTROL_SET:
        status = set(manager, request, err);
        if (status == STATUS_OK)
            balance_soon(manager);
        break;
    case CONTROL_MEMORY:
        if (request->size == 0)
            status = error_set(err, STATUS_INVALID, "\"size\" must be more than 0");
        else {
            manager->memory_set = manager->host.memory = request->size;
            registry_save(manager);
            balance_soon(manager);
        }
        break;
    case CONTROL_QUIT:
        manager->quit(manager->quit_context);
        break;
    default: /* a VM's */
        status = STATUS_INTERNAL;
        break;
    }
    return status == STATUS_OK ? json_object() : NULL;
}
