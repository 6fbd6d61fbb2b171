#ifndef AEROSTAT_CPU_THUNK_H
#define AEROSTAT_CPU_THUNK_H

/*
 * Running unprivileged instructions on the host CPU: exact semantics without writing them.
 *
 * See thunk.c for how. One cache of generated code a VM process would be enough; it is one a thunk
 * set, shared by the vCPUs of a VM, bounded, and never writable and executable through one mapping.
 */

#include <Zydis/Zydis.h>

#include "cpu/insn.h"

struct thunk_set;

struct thunk_set_stats {
    uint64_t thunks;        /* generated and kept */
    uint64_t code_bytes;    /* of generated code */
    uint64_t uncached_runs; /* executions that had to generate code because the set was full */
    uint64_t refused;       /* canonical instructions that no code could be generated for */
};

/* Installs process-wide handlers for SIGSEGV, SIGFPE, SIGILL and SIGBUS: faults in generated code
 * become the guest's exceptions, all others go where they went before. A thread that runs thunks
 * gets these signals unblocked. STATUS_NO_SPACE: too many sets in this process. */
enum status thunk_set_create(struct thunk_set **set, struct error *err);
/* No vCPU that uses the set may be running. */
void thunk_set_destroy(struct thunk_set *set);
void thunk_set_get_stats(struct thunk_set *set, struct thunk_set_stats *stats);

/*
 * A handler for an instruction that neither integer_handlers, system_handlers nor state_handlers
 * knows: sets insn->exec and insn->extra, everything about its memory operand, and for its own use
 * op[], immediate, condition and operand_size, so it is called after these have been filled in.
 * Returns true; false where it is not one that may run on the host, or its feature is not offered
 * to the guest (then it is #UD), and *insn is as it was.
 */
bool thunk_bind(struct thunk_set *set, const struct vcpu *vcpu,
                const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                const uint8_t *bytes, struct insn *insn);

#endif
