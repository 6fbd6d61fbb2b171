/* Operands as plain integers, for handlers that are not made for one form. */

#include "cpu/access.h"
#include "cpu/insn.h"

uint64_t insn_read(struct vcpu *vcpu, const struct insn *insn, unsigned n)
{
    const struct operand *op = &insn->op[n];
    switch (op->kind) {
    case OPERAND_GPR:
        return insn_gpr_get(vcpu, op->reg, op->size);
    case OPERAND_GPR_HIGH:
        return vcpu->gpr[op->reg] >> 8 & 0xff;
    case OPERAND_SEGMENT:
        return vcpu->seg[op->reg].selector;
    case OPERAND_MEMORY:
        return access_load(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn),
                           op->size);
    case OPERAND_IMMEDIATE:
        return bits_truncate(insn->immediate, op->size);
    default:
        return 0;
    }
}

void insn_write(struct vcpu *vcpu, const struct insn *insn, unsigned n, uint64_t value)
{
    const struct operand *op = &insn->op[n];
    switch (op->kind) {
    case OPERAND_GPR:
        insn_gpr_set(vcpu, op->reg, op->size, value);
        break;
    case OPERAND_GPR_HIGH:
        vcpu->gpr[op->reg] = (vcpu->gpr[op->reg] & ~(uint64_t)0xff00) | (value & 0xff) << 8;
        break;
    case OPERAND_MEMORY:
        access_store(vcpu, (enum segment_register)insn->seg, insn_address(vcpu, insn), op->size,
                     value);
        break;
    default:
        break;
    }
}
