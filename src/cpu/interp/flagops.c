/* PUSHF POPF LAHF SAHF, CLC STC CMC CLD STD, SALC. */

#include "cpu/access.h"
#include "cpu/exception.h"
#include "cpu/interp/flags.h"
#include "cpu/interp/interp.h"
#include "cpu/system/interrupt_flag.h"

static void check_virtual_8086(struct vcpu *vcpu)
{
    if ((vcpu->rflags & FLAG_VM) && (vcpu->rflags & FLAG_IOPL) != FLAG_IOPL)
        vcpu_raise_error(vcpu, VECTOR_GP, 0);
}

void exec_pushf(struct vcpu *vcpu, const struct insn *insn)
{
    check_virtual_8086(vcpu);
    uint64_t image = vcpu->rflags & ~(uint64_t)(FLAG_VM | FLAG_RF);
    access_push(vcpu, insn->operand_size, bits_truncate(image, insn->operand_size));
}

/* SDM vol. 2 POPF, the table of effects. RF is always cleared; VM, VIF and VIP keep their values.
 */
void exec_popf(struct vcpu *vcpu, const struct insn *insn)
{
    check_virtual_8086(vcpu);
    unsigned iopl = (unsigned)(vcpu->rflags >> 12) & 3;
    uint64_t mask = FLAGS_STATUS | FLAG_TF | FLAG_DF | FLAG_NT;
    if (insn->operand_size != 2)
        mask |= FLAG_AC | FLAG_ID;
    if (vcpu->cpl == 0)
        mask |= FLAG_IOPL;
    if (vcpu->cpl <= iopl)
        mask |= FLAG_IF;
    uint64_t value = access_pop(vcpu, insn->operand_size);
    uint64_t flags = (vcpu->rflags & ~(mask | FLAG_RF)) | (value & mask);
    enum mmu_privilege before = vcpu->privilege;
    vcpu_set_rflags(vcpu, flags);
    if (vcpu->privilege != before)
        vcpu->leave_block = true; /* the rest may have been translated for what it was */
}

#define LAHF_FLAGS (FLAG_CF | FLAG_PF | FLAG_AF | FLAG_ZF | FLAG_SF)

void exec_lahf(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t ah = (vcpu->rflags & LAHF_FLAGS) | FLAG_FIXED;
    vcpu->gpr[GPR_RAX] = (vcpu->gpr[GPR_RAX] & ~(uint64_t)0xff00) | ah << 8;
}

void exec_sahf(struct vcpu *vcpu, const struct insn *insn)
{
    uint64_t ah = vcpu->gpr[GPR_RAX] >> 8;
    vcpu->rflags = (vcpu->rflags & ~(uint64_t)LAHF_FLAGS) | (ah & LAHF_FLAGS);
}

void exec_clc(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu->rflags &= ~(uint64_t)FLAG_CF;
}

void exec_stc(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu->rflags |= FLAG_CF;
}

void exec_cmc(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu->rflags ^= FLAG_CF;
}

void exec_cld(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu->rflags &= ~(uint64_t)FLAG_DF;
}

void exec_std(struct vcpu *vcpu, const struct insn *insn)
{
    vcpu->rflags |= FLAG_DF;
}

void exec_salc(struct vcpu *vcpu, const struct insn *insn)
{
    insn_gpr_set(vcpu, GPR_RAX, 1, vcpu->rflags & FLAG_CF ? 0xff : 0);
}
