/* The VMs and groups that the manager knows, and the state file that names them. */

#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "hostd/manager.h"
#include "util/clock.h"
#include "util/log.h"

/* How long VMs of a group wait for those of before to hand the pool back. */
#define POOL_WAIT_NS (10 * NS_PER_SECOND)

struct vm *registry_find(struct manager *manager, const char *name)
{
    struct vm *vm;
    TAILQ_FOREACH(vm, &manager->vms, entry)
    {
        if (strcmp(vm->name, name) == 0)
            return vm;
    }
    return NULL;
}

struct reservation *reservation_find(struct manager *manager, const char *name)
{
    struct reservation *it;
    TAILQ_FOREACH(it, &manager->reservations, entry)
    {
        if (strcmp(it->request.name, name) == 0)
            return it;
    }
    return NULL;
}

static void vm_free(struct vm *vm)
{
    if (vm->process_source != NULL)
        io_source_destroy(vm->process_source);
    charge_close(&vm->charge);
    free(vm);
}

static void on_end(void *context, uint32_t events)
{
    registry_end(context);
}

struct vm *registry_add(struct manager *manager, const char *name, pid_t pid)
{
    struct vm *vm = calloc(1, sizeof *vm);
    if (vm == NULL)
        return NULL;
    vm->manager = manager;
    vm->pid = pid;
    vm->fd = vm->control = -1;
    vm->is_settled = true;
    strcpy(vm->name, name);
    if (!charge_open(&vm->charge, pid)) {
        free(vm);
        return NULL;
    }
    if (vm->charge.process >= 0) /* where this fails, it is seen at the next step */
        io_source_create(&vm->process_source, manager->loop, vm->charge.process, EPOLLIN, on_end,
                         vm, NULL);
    TAILQ_INSERT_TAIL(&manager->vms, vm, entry);
    return vm;
}

static struct group_record *record_add(struct manager *manager, const struct state_group *facts)
{
    struct group_record *record = calloc(1, sizeof *record);
    if (record == NULL)
        return NULL;
    record->facts = *facts;
    record->waited_until = clock_monotonic_ns() + POOL_WAIT_NS;
    TAILQ_INSERT_TAIL(&manager->groups, record, entry);
    return record;
}

struct group_record *registry_group(struct manager *manager, const char *name)
{
    struct group_record *record;
    struct state_group facts = {0};
    TAILQ_FOREACH(record, &manager->groups, entry)
    {
        if (name[0] != '\0' && strcmp(record->facts.name, name) == 0)
            return record;
    }
    strcpy(facts.name, name);
    return record_add(manager, &facts);
}

void registry_join(struct vm *vm, struct group_record *record)
{
    vm->record = record;
    record->vms++;
}

void registry_settle(struct vm *vm)
{
    if (vm->is_settled)
        return;
    vm->is_settled = true;
    vm->record->unsettled--;
    if (vm->record->group != NULL)
        group_settle(vm->record->group);
}

static void sharer_end(struct sharer **sharer)
{
    if (*sharer != NULL)
        group_leave(*sharer);
    free(*sharer);
    *sharer = NULL;
}

static void record_release(struct manager *manager, struct group_record *record)
{
    if (record == NULL || --record->vms != 0)
        return;
    TAILQ_REMOVE(&manager->groups, record, entry);
    group_destroy(record->group);
    free(record);
}

void registry_forget_empty(struct manager *manager)
{
    for (struct group_record *it = TAILQ_FIRST(&manager->groups), *next; it != NULL; it = next) {
        next = TAILQ_NEXT(it, entry);
        it->vms++;
        record_release(manager, it);
    }
}

void registry_end_former(struct vm *vm)
{
    if (vm->former == NULL)
        return;
    sharer_end(&vm->former);
    record_release(vm->manager, vm->former_record);
    vm->former_record = NULL;
}

void registry_retire(struct vm *vm)
{
    if (vm->former != NULL) { /* what the link in between has heard was no more than this */
        sharer_end(&vm->sharer);
    } else if (vm->sharer != NULL) {
        vm->former = vm->sharer;
        vm->former_record = vm->record;
        vm->record->vms++;
        vm->sharer = NULL;
    }
}

enum status registry_move(struct vm *vm, struct group_record *record, struct error *err)
{
    if (!vm->is_settled || vm->former != NULL)
        return error_set(err, STATUS_BUSY, "%s is still on its way into its group", vm->name);
    registry_retire(vm);
    record->vms++;
    record_release(vm->manager, vm->record);
    vm->record = record;
    return STATUS_OK;
}

void registry_end(struct vm *vm)
{
    struct manager *manager = vm->manager;
    bool was_known = vm->is_known;
    vm_link_close(vm);
    adoption_end(vm);
    TAILQ_REMOVE(&manager->vms, vm, entry);
    sharer_end(&vm->sharer);
    registry_end_former(vm);
    if (vm->record != NULL)
        registry_settle(vm);
    record_release(manager, vm->record);
    vm_free(vm);
    if (manager->is_ending)
        return;
    if (was_known)
        registry_save(manager);
    balance_soon(manager);
}

/* A process of the state that still is the one it was. */
static void vm_restore(struct manager *manager, const struct state_vm *facts,
                       struct group_record *record)
{
    struct vm *vm = registry_add(manager, facts->name, (pid_t)facts->pid);
    if (vm == NULL)
        return;
    if (vm->charge.started != facts->started) { /* another process by now */
        TAILQ_REMOVE(&manager->vms, vm, entry);
        vm_free(vm);
        return;
    }
    vm->is_known = true;
    vm->min = facts->min;
    vm->max = facts->max;
    vm->shares = facts->shares;
    vm->swap = facts->swap;
    vm->overhead = facts->overhead;
    registry_join(vm, record);
    vm->is_settled = false;
    record->unsettled++;
}

static void groups_restore(struct manager *manager, const struct state *state)
{
    struct group_record **records = calloc((size_t)state->group_count + 1, sizeof(void *));
    for (uint32_t i = 0; records != NULL && i < state->group_count; i++)
        records[i] = record_add(manager, &state->groups[i]);
    for (uint32_t i = 0; records != NULL && i < state->vm_count; i++) {
        if (records[state->vms[i].group] != NULL)
            vm_restore(manager, &state->vms[i], records[state->vms[i].group]);
    }
    registry_forget_empty(manager);
    free(records);
}

void registry_restore(struct manager *manager)
{
    struct state state;
    struct error err;
    enum status status = state_load(&manager->folder, &state, &err);
    if (status == STATUS_OK) {
        groups_restore(manager, &state);
        /* What VMs use already is not spare any more, so what was is taken from then. */
        if (manager->memory_set == 0 && !TAILQ_EMPTY(&manager->vms)) {
            manager->memory_set = state.memory;
            manager->host.memory = state.memory != 0 ? state.memory : state.spare;
        }
        state_free(&state);
    } else if (status != STATUS_NOT_FOUND) {
        log_warning("%s; VMs that share pages will get pools of their own", err.text);
    }
}

static void state_collect(struct manager *manager, struct state *state)
{
    struct group_record *record;
    const struct vm *vm;
    TAILQ_FOREACH(record, &manager->groups, entry)
    {
        record->index = state->group_count;
        if (record->facts.key != 0)
            state->groups[state->group_count++] = record->facts;
    }
    TAILQ_FOREACH(vm, &manager->vms, entry)
    {
        if (!vm->is_known || vm->record == NULL || vm->record->facts.key == 0)
            continue;
        struct state_vm *facts = &state->vms[state->vm_count++];
        *facts = (struct state_vm){
            .pid = vm->pid,
            .started = vm->charge.started,
            .group = vm->record->index,
            .min = vm->min,
            .max = vm->max,
            .shares = vm->shares,
            .swap = vm->swap,
            .overhead = vm->overhead,
        };
        memcpy(facts->name, vm->name, sizeof facts->name);
    }
}

enum status registry_save(struct manager *manager)
{
    struct error err;
    struct state state = {.memory = manager->memory_set, .spare = manager->host.memory};
    size_t groups = 1, vms = 1;
    const struct group_record *record;
    const struct vm *vm;
    TAILQ_FOREACH(record, &manager->groups, entry)
    groups++;
    TAILQ_FOREACH(vm, &manager->vms, entry)
    vms++;
    state.groups = calloc(groups, sizeof *state.groups);
    state.vms = calloc(vms, sizeof *state.vms);
    enum status status;
    if (state.groups == NULL || state.vms == NULL) {
        status = error_set(&err, STATUS_NO_MEMORY, "no memory for %s", STATE_FILE_NAME);
    } else {
        state_collect(manager, &state);
        status = state_save(&manager->folder, &state, &err);
    }
    state_free(&state);
    if (status != STATUS_OK && !manager->state_failed)
        log_warning("%s; the next manager cannot take over what is shared", err.text);
    manager->state_failed = status != STATUS_OK;
    return status;
}
