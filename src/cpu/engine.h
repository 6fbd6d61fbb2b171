#ifndef AEROSTAT_CPU_ENGINE_H
#define AEROSTAT_CPU_ENGINE_H

/* What every CPU engine offers. interp/run.c is the first, translate/engine.c the second. */

#include "cpu/vcpu.h"

/* What an engine counts of its own since it was attached. */
struct engine_stats {
    uint64_t translations;      /* blocks of guest code translated */
    uint64_t evictions;         /* translations that gave way to others */
    uint64_t dispatches;        /* times that generated code was entered */
    uint64_t slow_paths;        /* accesses in generated code that C was called for, */
    uint64_t slow_instructions; /* and instructions that it ran for them */
    uint64_t interpreted;       /* blocks that the interpreter ran */
    uint64_t code_bytes;    /* memory of generated code and its tables that has been used, ... */
    uint64_t code_limit;    /* ... and that has been granted */
    uint64_t trims;         /* times that it was given back */
    uint64_t windows;       /* times that a window was opened for user code, ... */
    uint64_t window_faults; /* ... and accesses to it that found nothing */
};

struct engine_ops {
    const char *name;
    /* Per-vCPU caches; registers its code-drop function with the vCPU's MMU. */
    enum status (*attach)(struct vcpu *vcpu, struct error *err);
    void (*detach)(struct vcpu *vcpu);
    /* Runs the vCPU, unparked, until there is a reason to leave; returns parked. */
    enum vcpu_exit (*run)(struct vcpu *vcpu);
    /* Gives memory of caches back to the host, all that it can do without. The vCPU is parked.
     * NULL: there is none. */
    void (*trim)(struct vcpu *vcpu);
    /* NULL: nothing to count. Any thread, also while the vCPU runs: numbers that it had. */
    void (*get_stats)(const struct vcpu *vcpu, struct engine_stats *stats);
};

extern const struct engine_ops interp_engine, translate_engine;
/* The translator, checking each block that it can against the interpreter: slow, for tests. Says at
 * the end, in the log, how many there were and how many differed. */
extern const struct engine_ops translate_lockstep_engine;

#endif
