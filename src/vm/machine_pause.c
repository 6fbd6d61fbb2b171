/*
 * Standing still. A pause is a wish that every vCPU's thread sees at its next safepoint: it leaves
 * the engine (parked, its TLB lent to whoever moves pages) and waits here. The last one to come
 * stops the guest's clock; nothing in the guest can see time pass after that, since nothing in it
 * runs. Devices finish what they were asked to do.
 *
 * Going on: the clock is started, and each vCPU's TSC is set back by what it stood still, before
 * any vCPU runs. KVM's clock is a function of the TSC that does not change (cpu/system/pvclock.c),
 * and timers have what they had left. So the guest finds itself in the very moment in which it was
 * stopped; only its idea of the date is late, until it asks somebody.
 *
 * Blocked, by a host that is out of memory (machine_set_blocked), a guest stands still as well,
 * each vCPU by itself, until the VM has what it may have and no more. Its clock goes on: for the
 * guest that is a host that was busy. It cannot last: reclaim gets there, or gives up.
 *
 * `cpus_running` counts threads that may touch guest state. All here is under machine->lock, with
 * the clock's locks and reclaim's below it.
 */

#include "util/log.h"
#include "vm/machine_private.h"

/* With the lock held, when a thread has stopped or the wish has come. */
static void settle(struct machine *machine)
{
    if (machine->pausing && machine->cpus_running == 0)
        guest_clock_stop(machine->clock);
    pthread_cond_broadcast(&machine->pause_changed);
}

void machine_cpu_begins(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->cpus_running++;
    pthread_mutex_unlock(&machine->lock);
}

void machine_cpu_ends(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->cpus_running--;
    settle(machine);
    pthread_mutex_unlock(&machine->lock);
}

void machine_cpu_stands_still(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    machine->cpus_running--;
    settle(machine);
    while (machine->pausing && !machine->stopping)
        pthread_cond_wait(&machine->pause_changed, &machine->lock);
    machine->cpus_running++;
    pthread_mutex_unlock(&machine->lock);
}

/* With the lock held. */
static void wish_pause(struct machine *machine)
{
    machine->pausing = true;
    settle(machine);
    for (unsigned i = 0; i < machine->cpu_count; i++)
        vcpu_kick(machine->cpus[i].vcpu, ATTENTION_EXIT);
    paging_wake(machine->paging);
}

void machine_pause_begin(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    if (!machine->pausing)
        wish_pause(machine);
    pthread_mutex_unlock(&machine->lock);
}

void machine_pause_for_memory(struct machine *machine, const struct error *err)
{
    pthread_mutex_lock(&machine->lock);
    bool begins = !machine->pausing && machine->cpus_running != 0;
    if (begins)
        wish_pause(machine);
    pthread_mutex_unlock(&machine->lock);
    if (begins)
        log_error("%s; the VM is paused: make room, then aerostat resume %s", err->text,
                  machine->host->options->name);
}

bool machine_pause(struct machine *machine)
{
    machine_pause_begin(machine);
    pthread_mutex_lock(&machine->lock);
    while (machine->pausing && machine->cpus_running != 0 && machine->end == MACHINE_RUNNING)
        pthread_cond_wait(&machine->pause_changed, &machine->lock);
    bool lives = machine->end == MACHINE_RUNNING;
    pthread_mutex_unlock(&machine->lock);
    return lives;
}

void machine_resume(struct machine *machine)
{
    pthread_mutex_lock(&machine->lock);
    if (machine->pausing) {
        guest_clock_start(machine->clock);
        uint64_t lost = guest_clock_ticks_lost(machine->clock);
        for (unsigned i = 0; i < machine->cpu_count; i++) {
            struct vcpu *vcpu = machine->cpus[i].vcpu;
            if (vcpu->tsc_lost == lost)
                continue; /* it may not have stopped yet: the wish comes and goes */
            vcpu->tsc_offset -= (int64_t)(lost - vcpu->tsc_lost);
            vcpu->tsc_lost = lost;
        }
        machine->pausing = false;
        pthread_cond_broadcast(&machine->pause_changed);
    }
    pthread_mutex_unlock(&machine->lock);
    paging_restore_resident(machine->paging);
    virtio_set_notify(machine->virtio); /* what was left in the rings for want of memory */
}

static bool is_wanted_elsewhere(void *context)
{
    struct machine *machine = context;
    return machine->pausing || machine->stopping;
}

void machine_cpu_waits_blocked(struct machine *machine)
{
    paging_wait_blocked(machine->paging, is_wanted_elsewhere, machine);
}

void machine_set_blocked(struct machine *machine, bool blocked)
{
    paging_set_blocked(machine->paging, blocked);
    for (unsigned i = 0; blocked && i < machine->cpu_count; i++)
        vcpu_kick(machine->cpus[i].vcpu, ATTENTION_EXIT);
}

bool machine_is_paused(struct machine *machine)
{
    return machine->pausing;
}
