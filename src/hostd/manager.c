#include "hostd/manager.h"

#include <stdlib.h>
#include <unistd.h>

#include "hostd/host_memory.h"
#include "util/clock.h"

/* Of what the host can spare, this part is left to others. */
#define LEAVE_PART 16u

static void on_step(void *context)
{
    balance_step(context);
}

static void on_pace(void *context)
{
    vm_link_refill(context);
}

enum status manager_create(struct manager **out, const struct manager_config *config,
                           struct error *err)
{
    struct manager *manager = calloc(1, sizeof *manager);
    *out = manager;
    if (manager == NULL)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    manager->folder = *config->folder;
    manager->loop = config->loop;
    manager->swap_dir = config->swap_dir;
    manager->memory_set = config->memory;
    manager->quit = config->quit;
    manager->quit_context = config->quit_context;
    manager->watch = -1;
    TAILQ_INIT(&manager->vms);
    TAILQ_INIT(&manager->groups);
    TAILQ_INIT(&manager->reservations);
    uint64_t memory = config->memory;
    if (memory == 0) {
        memory = host_memory_spare("");
        memory -= memory / LEAVE_PART;
    }
    enum status status = STATUS_OK;
    if (memory == 0)
        status = error_set(err, STATUS_INVALID, "cannot tell what memory there is; give --memory");
    policy_host_init(&manager->host, memory);
    manager->host.swap = config->swap;
    manager->host.tax = config->tax;
    manager->host.scan_ppm = config->scan_ppm;
    manager->host.scan_always = config->scan_always;
    registry_restore(manager);
    if (status == STATUS_OK)
        status = io_timer_create(&manager->step_timer, manager->loop, on_step, manager, err);
    if (status == STATUS_OK)
        status = io_timer_create(&manager->pace_timer, manager->loop, on_pace, manager, err);
    if (status == STATUS_OK)
        status = adoption_watch(manager, err);
    if (status != STATUS_OK) {
        manager_destroy(manager);
        *out = NULL;
        return status;
    }
    manager->stepped_at = clock_monotonic_ns();
    balance_soon(manager); /* looks at the folder as well */
    return STATUS_OK;
}

void manager_destroy(struct manager *manager)
{
    struct reservation *reservation;
    struct vm *vm;
    if (manager == NULL)
        return;
    /* The VMs have not ended: the state stays as it is, and so does what they have mapped. */
    manager->is_ending = true;
    if (TAILQ_EMPTY(&manager->vms))
        state_remove(&manager->folder);
    struct group_record *record;
    TAILQ_FOREACH(record, &manager->groups, entry)
    {
        if (record->group != NULL)
            pool_close(&record->group->pool);
    }
    while ((vm = TAILQ_FIRST(&manager->vms)) != NULL)
        registry_end(vm);
    while ((reservation = TAILQ_FIRST(&manager->reservations)) != NULL) {
        TAILQ_REMOVE(&manager->reservations, reservation, entry);
        free(reservation);
    }
    io_source_destroy(manager->watch_source);
    io_timer_destroy(manager->step_timer);
    io_timer_destroy(manager->pace_timer);
    if (manager->watch >= 0)
        close(manager->watch);
    free(manager);
}
