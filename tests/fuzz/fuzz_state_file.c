/* manager.state as anybody may have left it: what is accepted is whole, and is read again as what
 * it was. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "hostd/state_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct state state, again;
    struct error err = {0};
    enum status status = state_decode((const char *)data, size, &state, &err);
    if (status != STATUS_OK) {
        must(err.status == status && err.text[0] != '\0' && state.groups == NULL);
        return 0;
    }
    for (uint32_t i = 0; i < state.vm_count; i++) {
        const struct state_vm *vm = &state.vms[i];
        must(vm->group < state.group_count && vm->min <= vm->max && vm->pid > 0);
        must(memchr(vm->name, '\0', sizeof vm->name) != NULL);
    }
    char *text = state_encode(&state);
    must(text != NULL && state_decode(text, strlen(text), &again, &err) == STATUS_OK);
    must(again.group_count == state.group_count && again.vm_count == state.vm_count);
    must(again.memory == state.memory && again.spare == state.spare);
    must(memcmp(again.groups, state.groups, state.group_count * sizeof *state.groups) == 0);
    must(memcmp(again.vms, state.vms, state.vm_count * sizeof *state.vms) == 0);
    free(text);
    state_free(&state);
    state_free(&again);
    return 0;
}
