#ifndef AEROSTAT_CPU_SYSTEM_SYSTEM_H
#define AEROSTAT_CPU_SYSTEM_SYSTEM_H

/*
 * What the decoder must divert here because Zydis files it under a mnemonic that the integer
 * handlers own.
 *
 *   MOV with an OPERAND_SEGMENT, OPERAND_CONTROL or OPERAND_DEBUG among its operands
 *   PUSH, POP with an OPERAND_SEGMENT
 *   JMP, CALL with ZYDIS_BRANCH_TYPE_FAR (ptr16:16/32 or m16:16/32/64), RET far (with or without
 *   an immediate)
 *
 * All far transfers and all moves *to* control and debug registers end a block.
 */

#include "cpu/insn.h"

/* MOV to or from a segment register. */
void system_mov_segment(struct vcpu *vcpu, const struct insn *insn);
/* MOV to or from CR0, CR2, CR3, CR4, CR8. */
void system_mov_control(struct vcpu *vcpu, const struct insn *insn);
/* MOV to or from DR0-DR7. */
void system_mov_debug(struct vcpu *vcpu, const struct insn *insn);

void system_push_segment(struct vcpu *vcpu, const struct insn *insn);
void system_pop_segment(struct vcpu *vcpu, const struct insn *insn);

/* op[0] is OPERAND_IMMEDIATE (insn->immediate the offset, insn->displacement the selector) or
 * OPERAND_MEMORY; insn->operand_size (2, 4, 8) is the offset's size. */
void system_far_jump(struct vcpu *vcpu, const struct insn *insn);
void system_far_call(struct vcpu *vcpu, const struct insn *insn);
/* An OPERAND_IMMEDIATE as op[0], if any: bytes of parameters to release. */
void system_far_return(struct vcpu *vcpu, const struct insn *insn);

#endif
