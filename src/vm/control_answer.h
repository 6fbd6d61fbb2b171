#ifndef AEROSTAT_VM_CONTROL_ANSWER_H
#define AEROSTAT_VM_CONTROL_ANSWER_H

/* What a VM does when it is asked through its control socket. */

#include <jansson.h>

#include "control/request.h"
#include "vm/console_relay.h"
#include "vm/manager_link.h"
#include "vm/options.h"
#include "vm/vm_slot.h"

/* The end of a machine that its user asked for; other values are signals. */
#define STOP_BY_USER 0u

struct control_answerer {
    struct manager_link *link; /* NULL: it cannot be managed */
    struct vm_slot *slot;
    const struct vm_options *options;
    struct console_relay *relay; /* NULL: the console is elsewhere. Not owned. */
    uint64_t started_ns;         /* clock_monotonic_ns */
};

/* For control_server_config; context is a struct control_answerer. */
json_t *control_answer(void *context, struct control_request *request, struct error *err);
void control_take(void *context, const struct control_request *request, int fd,
                  const char *greeting, const char *typed, size_t length);

#endif
