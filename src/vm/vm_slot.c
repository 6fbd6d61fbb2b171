#include "vm/vm_slot.h"

void vm_slot_init(struct vm_slot *slot)
{
    *slot = (struct vm_slot){0};
    pthread_mutex_init(&slot->lock, NULL);
    pthread_cond_init(&slot->changed, NULL);
}

void vm_slot_destroy(struct vm_slot *slot)
{
    pthread_cond_destroy(&slot->changed);
    pthread_mutex_destroy(&slot->lock);
}

void vm_slot_put(struct vm_slot *slot, struct machine *machine)
{
    pthread_mutex_lock(&slot->lock);
    slot->machine = machine;
    if (slot->stop_wanted)
        machine_stop(machine, slot->stop_value);
    if (slot->pause_wanted)
        machine_pause_begin(machine);
    pthread_cond_broadcast(&slot->changed);
    pthread_mutex_unlock(&slot->lock);
}

struct machine *vm_slot_take(struct vm_slot *slot)
{
    pthread_mutex_lock(&slot->lock);
    struct machine *machine = slot->machine;
    slot->machine = NULL; /* nobody takes hold of it any more */
    while (slot->holders != 0)
        pthread_cond_wait(&slot->changed, &slot->lock);
    if (!slot->closed)
        slot->resets++;
    pthread_cond_broadcast(&slot->changed);
    pthread_mutex_unlock(&slot->lock);
    return machine;
}

void vm_slot_close(struct vm_slot *slot)
{
    pthread_mutex_lock(&slot->lock);
    slot->closed = true;
    pthread_cond_broadcast(&slot->changed);
    pthread_mutex_unlock(&slot->lock);
}

void vm_slot_stop(struct vm_slot *slot, uint32_t value)
{
    pthread_mutex_lock(&slot->lock);
    if (!slot->stop_wanted) {
        slot->stop_wanted = true;
        slot->stop_value = value;
    }
    if (slot->machine != NULL)
        machine_stop(slot->machine, slot->stop_value);
    pthread_mutex_unlock(&slot->lock);
}

struct machine *vm_slot_hold(struct vm_slot *slot)
{
    pthread_mutex_lock(&slot->lock);
    while (slot->machine == NULL && !slot->closed)
        pthread_cond_wait(&slot->changed, &slot->lock);
    struct machine *machine = slot->closed ? NULL : slot->machine;
    if (machine != NULL)
        slot->holders++;
    pthread_mutex_unlock(&slot->lock);
    return machine;
}

void vm_slot_release(struct vm_slot *slot)
{
    pthread_mutex_lock(&slot->lock);
    slot->holders--;
    pthread_cond_broadcast(&slot->changed);
    pthread_mutex_unlock(&slot->lock);
}

static void wish_pause(struct vm_slot *slot, bool wanted)
{
    pthread_mutex_lock(&slot->lock);
    slot->pause_wanted = wanted;
    pthread_mutex_unlock(&slot->lock);
}

/* After the machine has ended: until it has been taken out. */
static void wait_for_next(struct vm_slot *slot, unsigned resets)
{
    pthread_mutex_lock(&slot->lock);
    while (slot->resets == resets && !slot->closed)
        pthread_cond_wait(&slot->changed, &slot->lock);
    pthread_mutex_unlock(&slot->lock);
}

bool vm_slot_pause(struct vm_slot *slot)
{
    wish_pause(slot, true);
    for (;;) {
        struct machine *machine = vm_slot_hold(slot);
        if (machine == NULL)
            return false;
        unsigned resets = vm_slot_resets(slot);
        bool paused = machine_pause(machine);
        vm_slot_release(slot);
        if (paused)
            return true;
        wait_for_next(slot, resets);
    }
}

bool vm_slot_resume(struct vm_slot *slot)
{
    wish_pause(slot, false);
    struct machine *machine = vm_slot_hold(slot);
    if (machine == NULL)
        return false;
    machine_resume(machine);
    vm_slot_release(slot);
    return true;
}

unsigned vm_slot_resets(struct vm_slot *slot)
{
    pthread_mutex_lock(&slot->lock);
    unsigned resets = slot->resets;
    pthread_mutex_unlock(&slot->lock);
    return resets;
}
