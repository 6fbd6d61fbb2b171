#include "dev/apic_bus.h"

#include <stdlib.h>

#include "dev/lapic_internal.h"

struct apic_bus {
    unsigned capacity, count;
    _Atomic unsigned next_lowest; /* where the search for the lowest priority starts */
    void (*eoi)(void *context, uint8_t vector);
    void *eoi_context;
    int (*pic_pending)(void *context);
    int (*pic_acknowledge)(void *context);
    void *pic_context;
    struct lapic *lapics[];
};

enum status apic_bus_create(struct apic_bus **result, unsigned capacity, struct error *err)
{
    *result = NULL;
    if (capacity == 0 || capacity > 255)
        return error_set(err, STATUS_INVALID, "cannot have %u local APICs", capacity);
    struct apic_bus *bus = calloc(1, sizeof *bus + capacity * sizeof bus->lapics[0]);
    if (bus == NULL)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the APIC bus");
    bus->capacity = capacity;
    *result = bus;
    return STATUS_OK;
}

void apic_bus_destroy(struct apic_bus *bus)
{
    free(bus);
}

enum status apic_bus_join(struct apic_bus *bus, struct lapic *lapic, struct error *err)
{
    if (bus->count == bus->capacity)
        return error_set(err, STATUS_NO_SPACE, "no room for another local APIC");
    for (unsigned i = 0; i < bus->count; i++) {
        if (bus->lapics[i]->id == lapic->id)
            return error_set(err, STATUS_INVALID, "local APIC id %u is taken", lapic->id);
    }
    bus->lapics[bus->count++] = lapic;
    return STATUS_OK;
}

void apic_bus_leave(struct apic_bus *bus, struct lapic *lapic)
{
    for (unsigned i = 0; i < bus->count; i++) {
        if (bus->lapics[i] == lapic) {
            bus->lapics[i] = bus->lapics[--bus->count];
            return;
        }
    }
}

/* Of those that match, the one with the least to do; of equals, each in its turn. */
static bool deliver_lowest(struct apic_bus *bus, const struct apic_message *message)
{
    struct lapic *best = NULL;
    unsigned best_priority = 0;
    unsigned start = atomic_fetch_add(&bus->next_lowest, 1);
    for (unsigned i = 0; i < bus->count; i++) {
        struct lapic *lapic = bus->lapics[(start + i) % bus->count];
        if ((atomic_load(&lapic->svr) & SVR_ENABLED) == 0 || !lapic_matches(lapic, message))
            continue;
        unsigned priority = atomic_load(&lapic->ppr) >> 4;
        if (best == NULL || priority < best_priority) {
            best = lapic;
            best_priority = priority;
        }
    }
    return best != NULL && lapic_accept(best, APIC_FIXED, message->vector, message->level);
}

bool apic_bus_deliver(struct apic_bus *bus, const struct apic_message *message)
{
    if (message->delivery == APIC_LOWEST_PRIORITY)
        return deliver_lowest(bus, message);
    bool taken = false;
    for (unsigned i = 0; i < bus->count; i++) {
        struct lapic *lapic = bus->lapics[i];
        if (lapic_matches(lapic, message))
            taken |= lapic_accept(lapic, message->delivery, message->vector, message->level);
    }
    return taken;
}

void apic_bus_deliver_all(struct apic_bus *bus, struct lapic *except,
                          const struct apic_message *message)
{
    for (unsigned i = 0; i < bus->count; i++) {
        if (bus->lapics[i] != except)
            lapic_accept(bus->lapics[i], message->delivery, message->vector, message->level);
    }
}

void apic_bus_set_eoi_hook(struct apic_bus *bus, void (*eoi)(void *context, uint8_t vector),
                           void *context)
{
    bus->eoi = eoi;
    bus->eoi_context = context;
}

void apic_bus_set_pic(struct apic_bus *bus, int (*pending)(void *context),
                      int (*acknowledge)(void *context), void *context)
{
    bus->pic_pending = pending;
    bus->pic_acknowledge = acknowledge;
    bus->pic_context = context;
}

void apic_bus_set_lint0(void *context, unsigned pin, bool level)
{
    struct apic_bus *bus = context;
    for (unsigned i = 0; i < bus->count; i++)
        lapic_set_lint0(bus->lapics[i], level);
}

void apic_bus_eoi(struct apic_bus *bus, uint8_t vector)
{
    if (bus->eoi != NULL)
        bus->eoi(bus->eoi_context, vector);
}

int apic_bus_pic_pending(struct apic_bus *bus)
{
    return bus->pic_pending != NULL ? bus->pic_pending(bus->pic_context) : -1;
}

int apic_bus_pic_acknowledge(struct apic_bus *bus)
{
    return bus->pic_acknowledge != NULL ? bus->pic_acknowledge(bus->pic_context) : -1;
}
