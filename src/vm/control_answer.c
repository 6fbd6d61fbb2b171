#include "vm/control_answer.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "util/bits.h"
#include "util/clock.h"
#include "vm/stats.h"

/* For what the guest's balloon driver tells: an answer takes a millisecond, unless it is busy. */
#define STATS_WAIT_NS (NS_PER_SECOND / 10)

static const char *state_of(struct machine *machine)
{
    return machine_is_paused(machine) ? "paused" : "running";
}

static json_t *answer_stats(struct control_answerer *self, struct machine *machine)
{
    if (!machine_is_paused(machine))
        machine_watch_guest(machine, STATS_WAIT_NS);
    json_t *stats = machine_stats(machine);
    if (stats == NULL)
        return NULL;
    json_object_set_new(stats, "name", json_string(self->options->name));
    json_object_set_new(stats, "pid", json_integer(getpid()));
    json_object_set_new(stats, "state", json_string(state_of(machine)));
    stats_add_run(stats, self->started_ns, vm_slot_resets(self->slot));
    return json_pack("{s:o}", "stats", stats);
}

/* The guest's own way out, where it listens for the power button; else the end, in good order. */
static json_t *answer_stop(struct control_answerer *self, struct machine *machine, bool force,
                           struct error *err)
{
    if (!force && machine_is_paused(machine)) {
        error_set(err, STATUS_BUSY,
                  "the VM is paused, so its guest cannot shut down: resume it first, or use force");
        return NULL;
    }
    const char *how = "ended";
    if (!force && machine_press_power(machine))
        how = "power button";
    else
        vm_slot_stop(self->slot, STOP_BY_USER);
    return json_pack("{s:s}", "how", how);
}

static json_t *answer_balloon(struct machine *machine, uint64_t size, uint64_t memory,
                              struct error *err)
{
    if (size >= memory) {
        error_set(err, STATUS_INVALID,
                  "the balloon must be less than the VM's memory, %" PRIu64 "M", memory / MIB);
        return NULL;
    }
    machine_set_balloon(machine, size);
    return json_object();
}

static json_t *answer_resident(struct machine *machine, uint64_t size, uint64_t memory,
                               struct error *err)
{
    if (size < OPTIONS_RESIDENT_LEAST || size > memory) {
        error_set(err, STATUS_INVALID, "resident memory can be %" PRIu64 "M to %" PRIu64 "M",
                  (uint64_t)OPTIONS_RESIDENT_LEAST / MIB, memory / MIB);
        return NULL;
    }
    machine_set_resident(machine, align_down(size, PAGE_SIZE));
    return json_object();
}

static json_t *answer_console(struct console_relay *relay, struct error *err)
{
    if (relay == NULL)
        error_set(err, STATUS_UNSUPPORTED,
                  "the console is where the VM was started; that of one in the background, without "
                  "--console, can be attached to");
    else if (!console_relay_has_room(relay))
        error_set(err, STATUS_BUSY, "the console is in use, by as many as it can serve");
    else
        return json_object();
    return NULL;
}

void control_take(void *context, const struct control_request *request, int fd,
                  const char *greeting, const char *typed, size_t length)
{
    struct control_answerer *self = context;
    char line[256];
    int size = snprintf(line, sizeof line, "%s\n", greeting);
    if ((size_t)size >= sizeof line ||
        console_relay_attach(self->relay, fd, line, typed, length) != STATUS_OK)
        close(fd);
}

json_t *control_answer(void *context, struct control_request *request, struct error *err)
{
    struct control_answerer *self = context;
    uint64_t memory = self->options->memory;
    json_t *answer = NULL;
    error_set(err, STATUS_NO_MEMORY, "out of memory"); /* unless something better is said */
    if (request->kind == CONTROL_CONSOLE) /* also of a VM that is between two machines */
        return answer_console(self->relay, err);
    if (request->kind == CONTROL_PAUSE)
        vm_slot_pause(self->slot);
    else if (request->kind == CONTROL_RESUME)
        vm_slot_resume(self->slot);
    struct machine *machine = vm_slot_hold(self->slot);
    if (machine == NULL) {
        error_set(err, STATUS_BUSY, "the VM is ending");
        return NULL;
    }
    switch (request->kind) {
    case CONTROL_STATS:
        answer = answer_stats(self, machine);
        break;
    case CONTROL_PAUSE:
    case CONTROL_RESUME:
        answer = json_pack("{s:s}", "state", state_of(machine));
        break;
    case CONTROL_STOP:
        answer = answer_stop(self, machine, request->force, err);
        break;
    case CONTROL_BALLOON:
        answer = answer_balloon(machine, request->size, memory, err);
        break;
    case CONTROL_RESIDENT:
        answer = answer_resident(machine, request->size, memory, err);
        break;
    case CONTROL_ADOPT:
        if (self->link == NULL)
            error_set(err, STATUS_UNSUPPORTED, "this VM cannot be managed");
        else if (manager_link_adopt(self->link, request->descriptor, err) == STATUS_OK)
            answer = json_object();
        if (self->link != NULL)
            request->descriptor = -1;
        break;
    default: /* the manager's */
        break;
    }
    vm_slot_release(self->slot);
    return answer;
}
