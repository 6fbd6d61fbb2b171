#ifndef AEROSTAT_TESTS_TRANSLATE_NATIVE_H
#define AEROSTAT_TESTS_TRANSLATE_NATIVE_H

/*
 * The host CPU as an oracle: runs a whole program in this process, on pages at the addresses of
 * arena.h, until it meets an exception, and tells all that is left of it.
 *
 * Every program ends in an exception (INT3, when all goes well), which the kernel turns into a
 * signal. The signal's frame has the registers, the vector state in the layout of XSAVE, vector
 * number, error code and CR2: what a guest's own handler would find. A program that does not end is
 * stopped by a timer.
 */

#include "cpu/thunk/xstate.h"
#include "cpu/vcpu.h"

/* A machine before and after a program. */
struct machine_state {
    uint64_t gpr[GPR_COUNT], rip, rflags;
    uint64_t fs_base, gs_base;
    struct xstate_image xstate;
    /* After it: */
    unsigned vector; /* MACHINE_ENDLESS: it was stopped */
    uint32_t error_code;
    uint64_t cr2; /* with VECTOR_PF */
};

#define MACHINE_ENDLESS 256u

/* Memory that a program can write: arena.h's pages of data, stack and control. */
struct machine_memory {
    uint8_t data[0x5000], stack[0x1000], control[0x1000];
};

/* False: this host cannot (no XSAVE). To be called after all guests have been made: a program's
 * signals must come here first, since the thunks' handlers cannot do with its fs base. */
bool native_open(void);
void native_close(void);
/* Programs may use RDFSBASE and RDGSBASE. */
bool native_has_fsgsbase(void);

/* Runs code_size bytes at ARENA_CODE from *state on. */
void native_run(const uint8_t *code, size_t code_size, struct machine_state *state,
                struct machine_memory *memory);

/* Calls `tick`, in a signal's handler, some times a second. Who is in the same run for NATIVE_TICKS
 * of them will not end: one or two may come at once when the host has had better things to do. */
void native_on_tick(void (*tick)(void));

#define NATIVE_TICKS 8u

#endif
