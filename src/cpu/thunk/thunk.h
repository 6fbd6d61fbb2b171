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

enum status thunk_set_create(struct thunk_set **set, struct error *err);
void thunk_set_destroy(struct thunk_set *set);

/*
 * A handler for an instruction that neither integer_handlers nor system_handlers knows: sets
 * insn->exec and insn->extra and returns true; false where it is not one that may run on the host,
 * or its feature is not offered to the guest (then it is #UD).
 */
bool thunk_bind(struct thunk_set *set, const struct vcpu *vcpu,
                const ZydisDecodedInstruction *decoded, const ZydisDecodedOperand *operands,
                const uint8_t *bytes, struct insn *insn);

#endif
