#ifndef AEROSTAT_TESTS_TRANSLATE_GUEST_H
#define AEROSTAT_TESTS_TRANSLATE_GUEST_H

/*
 * A bare guest that runs random programs in user mode, as native.h runs them on the host.
 *
 * Page tables map the arena for the user as the host has it; all else the user can name is missing.
 * The kernel is in the upper half: an IDT whose gates lead to a HLT each, so that the vCPU halts
 * with the vector in RIP and the exception's frame on the kernel's stack.
 */

#include "native.h"
#include "testvm.h"

struct guest {
    struct testvm vm;
    const char *name;
    uint64_t runs; /* begun and ended: odd while a program runs */
    uint64_t runs_at_tick;
    unsigned ticks; /* within this run */
};

/* `engine` is attached in place of the interpreter. */
void guest_create(struct guest *guest, const char *name, const struct engine_ops *engine);
void guest_destroy(struct guest *guest);

/* Runs code_size bytes at ARENA_CODE from *state on. */
void guest_run(struct guest *guest, const uint8_t *code, size_t code_size,
               struct machine_state *state, struct machine_memory *memory);
/* Where the arena is in the guest's RAM. */
uint64_t guest_gpa(uint64_t linear);

#endif
