#ifndef AEROSTAT_TESTS_TESTVM_H
#define AEROSTAT_TESTS_TESTVM_H

/* A machine with one vCPU, some RAM and no devices, for tests that run guest code. Failures to set
 * up end the test (cmocka assertions). */

#include "cpu/engine.h"
#include "cpu/vcpu.h"
#include "mem/bus.h"
#include "mem/pmap.h"

struct testvm {
    struct features features;
    struct pmap *map;
    struct bus *mmio, *ports;
    struct mmu_domain *domain;
    struct thunk_set *thunks;
    struct vcpu *vcpu;
    const struct engine_ops *engine;
};

/* RAM of ram_size bytes at 0; the vCPU is in its reset state, with the interpreter attached. */
void testvm_create(struct testvm *vm, uint64_t ram_size);
void testvm_destroy(struct testvm *vm);
/* From now on this engine runs it. */
void testvm_use_engine(struct testvm *vm, const struct engine_ops *engine);

/* Flat segments and CPL 0 in the mode asked for. Real: segment bases 0. Protected: code_size is 2
 * or 4, paging off. Long and compatibility: the first GiB identity-mapped for user and supervisor
 * by 2 MiB pages in tables at 0x1000-0x3fff. A GDT is at 0x4000: 0x08 code64, 0x10 code32, 0x18
 * code16, 0x20 data, 0x28 user code32, 0x30 user data, 0x38 user code64, 0x40 a TSS at 0x5000 (16
 * bytes). IDT limit is 0: a test that wants exceptions delivered brings its own. */
void testvm_set_mode(struct testvm *vm, enum cpu_mode mode, unsigned code_size);

/* Puts bytes at a guest-physical address. */
void testvm_put(struct testvm *vm, uint64_t gpa, const void *bytes, size_t length);

/* Runs from rip until the engine leaves (HLT is the usual way to end a program). */
enum vcpu_exit testvm_run(struct testvm *vm, uint64_t rip);

#endif
