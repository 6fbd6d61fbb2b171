#ifndef AEROSTAT_CPU_ENGINE_H
#define AEROSTAT_CPU_ENGINE_H

/* What every CPU engine offers. interp/run.c is the first, translate/engine.c the second. */

#include "cpu/vcpu.h"

struct engine_ops {
    const char *name;
    /* Per-vCPU caches; registers its code-drop function with the vCPU's MMU. */
    enum status (*attach)(struct vcpu *vcpu, struct error *err);
    void (*detach)(struct vcpu *vcpu);
    /* Runs the vCPU, unparked, until there is a reason to leave; returns parked. */
    enum vcpu_exit (*run)(struct vcpu *vcpu);
};

extern const struct engine_ops interp_engine, translate_engine;

#endif
